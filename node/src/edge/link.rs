//! The streams of one link to the leader, each by duty.

use anyhow::{Context as _, Result, bail};
use cluster_proto::link::{
    Committed, Deliver, EdgeControl, Fetch, LeaderControl, Payload, Publish, Published, Receipts,
    SessionReply, SessionRequest, StreamHeader, Transient,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::mpsc, task::JoinSet};

use crate::transport::{
    Endpoint, FrameReceiver, FrameSender,
    frames::{accept_uni, open_bi},
    quic::{Alpn, close},
};

/// Frames read and not handled, for all duties but deliveries. When full, readers wait: QUIC slows the leader down.
const FRAMES_MAX: usize = 4_096;
/// Deliveries read and not handled. When full, the deliver stream waits, and the other duties go on.
const DELIVERS_MAX: usize = 1_024;
/// QoS 0 messages on their way out. When full they are dropped and counted.
const TRANSIENT_MAX: usize = 4_096;
/// Frames written between two flushes.
const FRAMES_PER_FLUSH: usize = 512;
/// Control before data: a heartbeat must not wait behind a payload.
const CONTROL_PRIORITY: i32 = 10;

/// A frame of the leader.
#[derive(Debug)]
pub(crate) enum FromLeader {
    Control(LeaderControl),
    Session(SessionReply),
    Published(Published),
    Committed(Committed),
    Payload(Payload),
    Transient(Transient),
    /// The connection is of no use any more; the last frame.
    Closed(String),
}

/// An open link. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct LinkStreams {
    quic: quinn::Connection,
    // Unbounded channels, bounded by what feeds them: heartbeats and a Resume; one request per terminal; the lanes,
    // which keep everything until it is answered anyway; one fetch per payload that deliveries wait for.
    pub(crate) control: mpsc::UnboundedSender<EdgeControl>,
    pub(crate) session: mpsc::UnboundedSender<SessionRequest>,
    pub(crate) publish: mpsc::UnboundedSender<Publish>,
    pub(crate) receipts: mpsc::UnboundedSender<Receipts>,
    pub(crate) fetch: mpsc::UnboundedSender<Fetch>,
    pub(crate) transient: mpsc::Sender<Transient>,
    pub(crate) frames: mpsc::Receiver<FromLeader>,
    pub(crate) delivers: mpsc::Receiver<Deliver>,
    /// Aborted with the link.
    _tasks: JoinSet<()>,
}

impl Drop for LinkStreams {
    fn drop(&mut self) {
        self.quic.close(close::DONE, b"");
    }
}

/// Dials and opens every stream. The leader sees the control stream first.
pub(crate) async fn open(endpoint: &Endpoint, address: &str) -> Result<LinkStreams> {
    let connection = endpoint.connect(address, Alpn::Link).await?;
    let quic = connection.quic;
    let (frames_tx, frames) = mpsc::channel(FRAMES_MAX);
    let (delivers_tx, delivers) = mpsc::channel(DELIVERS_MAX);
    let (transient, transient_rx) = mpsc::channel(TRANSIENT_MAX);
    let mut duties = Duties { quic: quic.clone(), frames: frames_tx, tasks: JoinSet::new() };
    let control = duties.open(StreamHeader::Control, FromLeader::Control).await?;
    let session = duties.open(StreamHeader::Session, FromLeader::Session).await?;
    let publish = duties.open(StreamHeader::Publish, FromLeader::Published).await?;
    let receipts = duties.open(StreamHeader::Receipts, FromLeader::Committed).await?;
    let fetch = duties.open(StreamHeader::Payload, FromLeader::Payload).await?;
    duties.open_transient(transient_rx).await?;
    duties.accept_delivers(delivers_tx);
    Ok(LinkStreams {
        quic,
        control,
        session,
        publish,
        receipts,
        fetch,
        transient,
        frames,
        delivers,
        _tasks: duties.tasks,
    })
}

struct Duties {
    quic: quinn::Connection,
    frames: mpsc::Sender<FromLeader>,
    tasks: JoinSet<()>,
}

impl Duties {
    async fn open<Out, In>(
        &mut self,
        header: StreamHeader,
        wrap: fn(In) -> FromLeader,
    ) -> Result<mpsc::UnboundedSender<Out>>
    where
        Out: Serialize + Send + Sync + 'static,
        In: DeserializeOwned + Send + 'static,
    {
        let (sender, receiver) = open_bi::<_, Out, In>(&self.quic, &header).await?;
        if header == StreamHeader::Control {
            sender.set_priority(CONTROL_PRIORITY);
        }
        let (queue, queued) = mpsc::unbounded_channel();
        self.tasks.spawn(until_closed(self.frames.clone(), write_all(sender, queued)));
        self.tasks.spawn(until_closed(self.frames.clone(), read_all(receiver, self.frames.clone(), wrap)));
        Ok(queue)
    }

    async fn open_transient(&mut self, queued: mpsc::Receiver<Transient>) -> Result<()> {
        let (sender, receiver) =
            open_bi::<_, Transient, Transient>(&self.quic, &StreamHeader::Transient).await?;
        self.tasks.spawn(until_closed(self.frames.clone(), write_transient(sender, queued)));
        let read = read_all(receiver, self.frames.clone(), FromLeader::Transient);
        self.tasks.spawn(until_closed(self.frames.clone(), read));
        Ok(())
    }

    /// The leader opens one deliver stream, or several for parts of the terminals: each in order by itself.
    fn accept_delivers(&mut self, delivers: mpsc::Sender<Deliver>) {
        let (quic, frames) = (self.quic.clone(), self.frames.clone());
        self.tasks.spawn(until_closed(frames, async move {
            let mut readers = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = accept_uni::<StreamHeader>(&quic) => {
                        let accepted = accepted.context("accept a deliver stream")?;
                        if accepted.header != StreamHeader::Deliver {
                            bail!("the leader opened a stream for {:?}", accepted.header);
                        }
                        readers.spawn(read_delivers(accepted.into_uni(), delivers.clone()));
                    }
                    Some(ended) = readers.join_next() => ended??,
                }
            }
        }));
    }
}

/// Any stream that ends, ends the link.
async fn until_closed(frames: mpsc::Sender<FromLeader>, duty: impl Future<Output = Result<()>>) {
    let reason = match duty.await {
        Ok(()) => "a stream ended".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    // Without a receiver the link is gone already.
    let _ = frames.send(FromLeader::Closed(reason)).await;
}

async fn read_all<In: DeserializeOwned>(
    mut receiver: FrameReceiver<In>,
    frames: mpsc::Sender<FromLeader>,
    wrap: fn(In) -> FromLeader,
) -> Result<()> {
    while let Some(frame) = receiver.recv().await? {
        frames.send(wrap(frame)).await?;
    }
    Ok(())
}

async fn read_delivers(mut receiver: FrameReceiver<Deliver>, delivers: mpsc::Sender<Deliver>) -> Result<()> {
    while let Some(frame) = receiver.recv().await? {
        delivers.send(frame).await?;
    }
    bail!("the deliver stream ended")
}

async fn write_all<Out: Serialize>(
    mut sender: FrameSender<Out>,
    mut queued: mpsc::UnboundedReceiver<Out>,
) -> Result<()> {
    let mut batch = Vec::new();
    while queued.recv_many(&mut batch, FRAMES_PER_FLUSH).await > 0 {
        for frame in batch.drain(..) {
            sender.feed(&frame).await?;
        }
        sender.flush().await?;
    }
    Ok(())
}

async fn write_transient(
    mut sender: FrameSender<Transient>,
    mut queued: mpsc::Receiver<Transient>,
) -> Result<()> {
    let mut batch = Vec::new();
    while queued.recv_many(&mut batch, FRAMES_PER_FLUSH).await > 0 {
        for frame in batch.drain(..) {
            sender.feed(&frame).await?;
        }
        sender.flush().await?;
    }
    Ok(())
}
