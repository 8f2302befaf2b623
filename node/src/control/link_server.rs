//! QUIC connections of edges: one set of streams each, by duty (see `cluster_proto::link`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use cluster_proto::link::{
    Committed, Deliver, EdgeControl, Fetch, Hello, LeaderControl, Payload, Published, SessionReply,
    StreamHeader, Transient,
};
use raft_store::Tables;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use super::{
    ControlHandle,
    actor::{ActorHandle, LinkEvent},
    leader::{Event, LinkId},
};
use crate::transport::{
    Connection, FrameReceiver, FrameSender, Identity,
    frames::{self, Accepted},
    quic::close,
};

/// Frames waiting per stream and link, except deliveries. When full, the link is closed and the edge resumes.
const QUEUE_MAX: usize = 16 * 1024;
/// Deliveries waiting per link: an edge this far behind is better served from the tables.
const DELIVER_QUEUE_MAX: usize = 64 * 1024;
/// QoS 0 messages waiting per link; when full they are dropped and counted.
const TRANSIENT_QUEUE_MAX: usize = 4 * 1024;
/// Frames written between two flushes.
const FRAMES_PER_FLUSH: usize = 512;
/// A refused or redirected edge has this long to take note.
const FAREWELL: Duration = Duration::from_secs(2);

static NEXT_LINK: AtomicU64 = AtomicU64::new(1);

/// The queues of one link towards its edge. Dropping it lets the writers finish what is queued and closes the
/// connection.
#[derive(Debug)]
pub(crate) struct LinkSender {
    pub(crate) control: mpsc::Sender<LeaderControl>,
    pub(crate) session: mpsc::Sender<SessionReply>,
    pub(crate) published: mpsc::Sender<Published>,
    pub(crate) committed: mpsc::Sender<Committed>,
    pub(crate) deliver: mpsc::Sender<Deliver>,
    pub(crate) transient: mpsc::Sender<Transient>,
}

impl LinkSender {
    /// Closes the connection once what is queued on the control stream is written.
    pub(crate) fn close(self) {}
}

/// The other ends, each taken by the writer of its stream.
struct Queues {
    session: Option<mpsc::Receiver<SessionReply>>,
    published: Option<mpsc::Receiver<Published>>,
    committed: Option<mpsc::Receiver<Committed>>,
    transient: Option<mpsc::Receiver<Transient>>,
}

/// Serves one connection of an edge until either side closes it.
pub(crate) async fn serve(handle: ControlHandle, connection: Connection) {
    let link = LinkId(NEXT_LINK.fetch_add(1, Ordering::Relaxed));
    let Connection { peer, quic, .. } = connection;
    if let Err(error) = serve_streams(&handle, link, &peer, &quic).await {
        tracing::debug!(edge = %peer.node, "link ended: {error:#}");
    }
    quic.close(close::BUSY, b"resume");
    // Bounded queue: waits for the actor rather than losing the news. An error means the node is stopping.
    let _ = handle.actor().links.send(LinkEvent::Said(Event::LinkClosed(link))).await;
}

async fn serve_streams(
    handle: &ControlHandle,
    link: LinkId,
    peer: &Identity,
    connection: &quinn::Connection,
) -> anyhow::Result<()> {
    let control: Accepted = frames::accept_bi(connection).await.context("wait for the control stream")?;
    if control.header != StreamHeader::Control {
        bail!("the first stream is not the control stream");
    }
    let (mut to_edge, mut from_edge) = control.into_bi::<LeaderControl, EdgeControl>()?;
    let Some(EdgeControl::Hello(hello)) = from_edge.recv().await? else {
        bail!("the first frame is not Hello")
    };
    if let Some(answer) = not_welcome(handle, peer, &hello) {
        to_edge.send(&answer).await?;
        to_edge.finish().await?;
        // Closing now would discard what was just said; the edge hangs up when it has read it.
        let _ = tokio::time::timeout(FAREWELL, connection.closed()).await;
        return Ok(());
    }
    let (sender, control, deliver, queues) = queues();
    handle.actor().links.send(LinkEvent::Opened(link, sender, hello)).await?;
    let deliver_stream: FrameSender<Deliver> = frames::open_uni(connection, &StreamHeader::Deliver).await?;
    // Binds and heartbeats must not wait behind a broadcast.
    to_edge.set_priority(1);
    let actor = handle.actor();
    tokio::try_join!(
        write_control(to_edge, control, connection),
        write_all(deliver_stream, deliver),
        read_all(actor, from_edge, |frame| Event::Control(link, frame)),
        accept_streams(handle, link, connection, queues),
    )?;
    Ok(())
}

/// Who is not served here: edges whose certificate does not say so, and everybody where this node does not lead.
fn not_welcome(handle: &ControlHandle, peer: &Identity, hello: &Hello) -> Option<LeaderControl> {
    if peer.node != hello.edge || !peer.roles.edge {
        let reason = format!("certificate of node {} does not allow edge {}", peer.node, hello.edge);
        return Some(LeaderControl::Refused { reason, incarnation_over: false });
    }
    let leadership = handle.group().leadership();
    let leadership = leadership.borrow();
    if leadership.is_leader {
        return None;
    }
    let members = handle.group().members();
    let leader = members.iter().find(|member| Some(member.id) == leadership.leader);
    Some(LeaderControl::Redirect { leader: leader.map(|member| member.addresses.link.clone()) })
}

fn queues() -> (LinkSender, mpsc::Receiver<LeaderControl>, mpsc::Receiver<Deliver>, Queues) {
    let (control, control_rx) = mpsc::channel(QUEUE_MAX);
    let (session, session_rx) = mpsc::channel(QUEUE_MAX);
    let (published, published_rx) = mpsc::channel(QUEUE_MAX);
    let (committed, committed_rx) = mpsc::channel(QUEUE_MAX);
    let (deliver, deliver_rx) = mpsc::channel(DELIVER_QUEUE_MAX);
    let (transient, transient_rx) = mpsc::channel(TRANSIENT_QUEUE_MAX);
    let queues = Queues {
        session: Some(session_rx),
        published: Some(published_rx),
        committed: Some(committed_rx),
        transient: Some(transient_rx),
    };
    (
        LinkSender { control, session, published, committed, deliver, transient },
        control_rx,
        deliver_rx,
        queues,
    )
}

/// The edge opens one stream per duty; each is served by a task of its own, which ends with the connection.
async fn accept_streams(
    handle: &ControlHandle,
    link: LinkId,
    connection: &quinn::Connection,
    mut queues: Queues,
) -> anyhow::Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let stream: Accepted = tokio::select! {
            stream = frames::accept_bi(connection) => stream?,
            Some(ended) = tasks.join_next() => {
                // A duty's stream ended: without it the link is of no use.
                let ended: anyhow::Result<()> = ended?;
                return ended.and(Err(anyhow::anyhow!("a stream was closed")));
            }
        };
        let actor = handle.actor().clone();
        match stream.header {
            StreamHeader::Session => {
                let queue = queues.session.take().context("second session stream")?;
                tasks.spawn(duty(actor, stream, queue, move |frame| Event::Session(link, frame)));
            }
            StreamHeader::Publish => {
                let queue = queues.published.take().context("second publish stream")?;
                tasks.spawn(duty(actor, stream, queue, move |frame| Event::Publish(link, frame)));
            }
            StreamHeader::Receipts => {
                let queue = queues.committed.take().context("second receipts stream")?;
                tasks.spawn(duty(actor, stream, queue, move |frame| Event::Receipts(link, frame)));
            }
            StreamHeader::Transient => {
                let queue = queues.transient.take().context("second transient stream")?;
                tasks.spawn(duty(actor, stream, queue, move |frame| Event::Transient(link, frame)));
            }
            StreamHeader::Payload => {
                tasks.spawn(serve_payloads(handle.group().tables(), stream));
            }
            StreamHeader::Control | StreamHeader::Deliver => bail!("an edge may not open this stream"),
        }
    }
}

async fn duty<In, Out>(
    actor: ActorHandle,
    stream: Accepted,
    queue: mpsc::Receiver<Out>,
    event: impl Fn(In) -> Event,
) -> anyhow::Result<()>
where
    In: DeserializeOwned,
    Out: Serialize,
{
    let (send, recv) = stream.into_bi::<Out, In>()?;
    tokio::try_join!(read_all(&actor, recv, event), write_all(send, queue))?;
    Ok(())
}

async fn read_all<In: DeserializeOwned>(
    actor: &ActorHandle,
    mut frames: FrameReceiver<In>,
    event: impl Fn(In) -> Event,
) -> anyhow::Result<()> {
    while let Some(frame) = frames.recv().await? {
        actor.links.send(LinkEvent::Said(event(frame))).await?;
    }
    bail!("the edge closed a stream")
}

/// Writes whatever waits in one flush: many small frames make one packet.
async fn write_all<Out: Serialize>(
    mut frames: FrameSender<Out>,
    mut queue: mpsc::Receiver<Out>,
) -> anyhow::Result<()> {
    let mut batch = Vec::with_capacity(FRAMES_PER_FLUSH);
    while queue.recv_many(&mut batch, FRAMES_PER_FLUSH).await > 0 {
        for frame in batch.drain(..) {
            frames.feed(&frame).await?;
        }
        frames.flush().await?;
    }
    // The link is being closed. The edge takes the end of any stream for the end of the link, so this one stays open
    // until the control stream has said its last word.
    std::future::pending().await
}

/// The control stream's end is the link's end.
async fn write_control(
    mut frames: FrameSender<LeaderControl>,
    mut queue: mpsc::Receiver<LeaderControl>,
    connection: &quinn::Connection,
) -> anyhow::Result<()> {
    while let Some(frame) = queue.recv().await {
        frames.send(&frame).await?;
    }
    frames.finish().await?;
    // Closing now would discard what was just said; the edge hangs up when it has read it.
    let _ = tokio::time::timeout(FAREWELL, connection.closed()).await;
    bail!("the link was closed here")
}

/// Payloads an edge lacks are read off the leader's task, from the tables.
async fn serve_payloads(tables: Tables, stream: Accepted) -> anyhow::Result<()> {
    let (mut answers, mut asked) = stream.into_bi::<Payload, Fetch>()?;
    while let Some(Fetch { push }) = asked.recv().await? {
        let message = if push.is_retained() {
            tables.retained_by_id(push).map(|kept| kept.message)
        } else {
            tables.push(push).map(|record| Arc::unwrap_or_clone(record.message))
        };
        answers.send(&Payload { push, message }).await?;
    }
    bail!("the edge closed a stream")
}
