//! One long-lived stream of calls: many on their way at once, answers in any order.

use std::collections::HashMap;

use bytes::Bytes;
use cluster_proto::raft_rpc::{RaftAnswer, RaftFrame, RaftRequest};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::transport::frames::{FrameError, FrameReceiver, FrameSender};

/// Calls waiting to be written. When full, callers wait, no longer than their own timeout.
pub(super) const QUEUE_MAX: usize = 64;
/// Calls written and not answered. When full, the queue waits.
const WAITING_MAX: usize = 256;
/// Bytes encoded and not taken by QUIC. When reached, the queue waits; one call may exceed it by its own size.
const UNFLUSHED_MAX: usize = 64 * 1024;

/// A call and where its answer goes. A dropped receiver means that the caller gave up.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) frame: RaftFrame,
    pub(super) answer: oneshot::Sender<Result<Bytes, String>>,
}

/// Serves a stream until the last caller is gone or the stream breaks; then the connection is closed, since a
/// link with half its lanes is of no use, and the calls on their way break.
pub(super) async fn run(
    connection: quinn::Connection,
    sender: FrameSender<RaftRequest>,
    receiver: FrameReceiver<RaftAnswer>,
    queue: mpsc::Receiver<Call>,
) {
    let lane = Lane { sender, waiting: HashMap::new(), last_id: 0 };
    if let Err(reason) = lane.serve(receiver, queue).await {
        debug!(%reason, "Raft stream ended");
        connection.close(reason.close_code(), b"a Raft stream ended");
    }
}

struct Lane {
    sender: FrameSender<RaftRequest>,
    waiting: HashMap<u64, oneshot::Sender<Result<Bytes, String>>>,
    last_id: u64,
}

impl Lane {
    async fn serve(
        mut self,
        mut receiver: FrameReceiver<RaftAnswer>,
        mut queue: mpsc::Receiver<Call>,
    ) -> Result<(), FrameError> {
        loop {
            tokio::select! {
                answer = receiver.recv() => match answer? {
                    Some(answer) => self.complete(answer),
                    None => return Err(FrameError::Closed),
                },
                call = queue.recv(), if self.has_room() => match call {
                    Some(call) => {
                        self.write(call)?;
                        self.write_queued(&mut queue)?;
                    }
                    None => return Ok(()),
                },
                flushed = self.sender.flush(), if self.sender.unflushed() > 0 => flushed?,
            }
        }
    }

    fn has_room(&mut self) -> bool {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.retain(|_, answer| !answer.is_closed());
        }
        self.waiting.len() < WAITING_MAX && self.sender.unflushed() < UNFLUSHED_MAX
    }

    /// All that waits goes out in one write.
    fn write_queued(&mut self, queue: &mut mpsc::Receiver<Call>) -> Result<(), FrameError> {
        while self.has_room() {
            let Ok(call) = queue.try_recv() else { break };
            self.write(call)?;
        }
        Ok(())
    }

    fn write(&mut self, call: Call) -> Result<(), FrameError> {
        if call.answer.is_closed() {
            return Ok(());
        }
        self.last_id += 1;
        match self.sender.push(&RaftRequest { id: self.last_id, frame: call.frame }) {
            Ok(()) => drop(self.waiting.insert(self.last_id, call.answer)),
            // Too long for a frame: this call fails, the stream is as it was.
            Err(FrameError::Codec(error)) => drop(call.answer.send(Err(error.to_string()))),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn complete(&mut self, answer: RaftAnswer) {
        // Unknown: the caller gave up and was forgotten.
        if let Some(waiting) = self.waiting.remove(&answer.id) {
            let _ = waiting.send(answer.result);
        }
    }
}
