//! The thread of a shard and its tasks.

use std::{cell::RefCell, io, net::TcpListener, rc::Rc, sync::Arc, thread, time::Duration};

use tokio::{
    net::TcpListener as TokioListener,
    runtime,
    sync::{Notify, mpsc},
    task::{LocalSet, spawn_local},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Shard, TICK_MS, inbox::Flow, opening::Entrance};
use crate::edge::{
    listener::Bound,
    messages::{ToHub, ToShard},
    shared::EdgeShared,
};

/// Batches handled before sockets are written: what comes together leaves together.
const BATCHES_MAX: usize = 64;
/// After an accept that failed for want of resources (file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a shard begins with.
pub(crate) struct ShardParts {
    pub(crate) index: u16,
    pub(crate) shared: Arc<EdgeShared>,
    pub(crate) listeners: Vec<Bound>,
    pub(crate) inbox: mpsc::Receiver<Vec<ToShard>>,
    pub(crate) hub: mpsc::Sender<Vec<ToHub>>,
    pub(crate) peers: Vec<(u16, mpsc::Sender<Vec<ToShard>>)>,
}

/// Starts the thread.
pub(crate) fn spawn(parts: ShardParts) -> io::Result<thread::JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(format!("edge-shard-{}", parts.index)).spawn(move || {
        LocalSet::new().block_on(&runtime, run(parts));
    })
}

async fn run(parts: ShardParts) {
    let ShardParts { index, shared, listeners, mut inbox, hub, peers } = parts;
    let hub_news = Rc::new(Notify::new());
    let shard = Shard::new(index, Arc::clone(&shared), peers, Rc::clone(&hub_news));
    let shard = Rc::new(RefCell::new(shard));
    spawn_local(tell_hub(Rc::clone(&shard), hub_news, hub));
    spawn_local(tick(Rc::clone(&shard)));
    let accept = |Bound { kind, socket, proxy_protocol, tls }| {
        let (shard, shared) = (Rc::clone(&shard), Arc::clone(&shared));
        spawn_local(accept(Entrance { shard, shared, kind, proxy_protocol, tls }, socket))
    };
    let acceptors: Vec<_> = listeners.into_iter().map(accept).collect();
    while let Some(batch) = inbox.recv().await {
        match handle(&shard, batch, &mut inbox) {
            Flow::Continue => {}
            Flow::StopListening => acceptors.iter().for_each(tokio::task::JoinHandle::abort),
            Flow::Stop => break,
        }
    }
}

/// Handles a batch and what came behind it; then writes each socket once.
fn handle(shard: &RefCell<Shard>, first: Vec<ToShard>, inbox: &mut mpsc::Receiver<Vec<ToShard>>) -> Flow {
    let mut shard = shard.borrow_mut();
    shard.begin();
    let mut flow = Flow::Continue;
    let mut handle_all = |shard: &mut Shard, batch: Vec<ToShard>| {
        for message in batch {
            let wanted = shard.handle(message);
            if wanted != Flow::Continue {
                flow = wanted;
            }
        }
    };
    handle_all(&mut shard, first);
    for _ in 1..BATCHES_MAX {
        let Ok(batch) = inbox.try_recv() else { break };
        handle_all(&mut shard, batch);
    }
    shard.finish();
    flow
}

/// Sends the hub everything that was gathered since it last took something: the busier it is, the larger the batches.
async fn tell_hub(shard: Rc<RefCell<Shard>>, news: Rc<Notify>, hub: mpsc::Sender<Vec<ToHub>>) {
    loop {
        news.notified().await;
        // The hub has ended: the shard will be told to.
        let Ok(permit) = hub.reserve().await else { return };
        let batch = std::mem::take(&mut shard.borrow_mut().to_hub);
        if !batch.is_empty() {
            permit.send(batch);
        }
    }
}

async fn tick(shard: Rc<RefCell<Shard>>) {
    let mut ticks = interval(Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shard.borrow_mut().tick();
    }
}

async fn accept(entrance: Entrance, listener: TcpListener) {
    let listener = match TokioListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("listen: {error}"),
    };
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => entrance.admit(tcp, peer),
            Err(error) => {
                entrance.failed(&error);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
