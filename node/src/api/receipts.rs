//! `Pushes/Receipts`: the receipt stream of an app.

use std::time::{Duration, Instant};

use cluster_proto::{AppId, admin};
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use raft_store::{Positions, receipts::ReceiptCursor};
use tokio::sync::watch;
use tonic::Status;

use super::{Control, backend::Leadership, server::Services, status, validate};
use crate::receipts::{GoingDown, Reader, Told};

/// Once something happened, what follows is gathered for so long: a busy log wakes every stream only so often.
const GATHER: Duration = Duration::from_millis(20);
/// A stream outlives tokens and apps: its caller is looked at again this often.
const CALLER_EVERY: Duration = Duration::from_secs(5);

/// Whether the caller may still read what it reads.
pub(super) type Still = dyn Fn() -> Result<(), Status> + Send + Sync;

impl<C: Control> Services<C> {
    pub(super) async fn stream_receipts(
        &self,
        app: AppId,
        request: admin::ReceiptsRequest,
        still: Box<Still>,
    ) -> Result<BoxStream<'static, Result<admin::ReceiptsResponse, Status>>, Status> {
        self.control.linearize().await.map_err(status::no_leader)?;
        let place = match request.cursor.as_str() {
            "" if request.from_now => self.control.receipts_end(app),
            "" => self.control.receipts_begin(app),
            _ if request.from_now => {
                return Err(validate::invalid("cursor and from_now are both given: leave one out"));
            }
            text => self.cursor(app, text)?,
        };
        let end = self.control.receipts_end(app).index();
        let stream = Stream {
            reader: Reader::new(self.control.clone(), place, request.expand, Vec::new()),
            leadership: self.control.leadership(),
            positions: self.control.positions(),
            opening: Some(self.opening(app, place)),
            until: request.until_now.then_some(end),
            still,
            looked_at: Instant::now(),
            is_over: false,
        };
        Ok(unfold(stream, Stream::next).boxed())
    }

    /// A cursor that a caller brings back.
    pub(super) fn cursor(&self, app: AppId, text: &str) -> Result<ReceiptCursor, Status> {
        let advice =
            "give one as a message of this stream had it, or an empty one to begin with what is kept";
        let cursor: ReceiptCursor =
            text.parse().map_err(|error| validate::invalid(format!("cursor: {error}; {advice}")))?;
        if cursor.app() != app {
            return Err(validate::invalid(format!("cursor: it is of the stream of another app; {advice}")));
        }
        if cursor.index() > self.control.receipts_end(app).index() {
            return Err(validate::invalid(format!(
                "cursor: it is of log index {}, which this cluster has not reached: was its data lost, or is it \
                 another cluster? {advice}",
                cursor.index()
            )));
        }
        Ok(cursor)
    }

    /// What is said before anything else: where the stream begins.
    fn opening(&self, app: AppId, place: ReceiptCursor) -> admin::ReceiptsResponse {
        let begin = self.control.receipts_begin(app).index();
        admin::ReceiptsResponse {
            cursor: place.to_string(),
            log_index: self.control.position().index,
            began_at: if begin == 0 { 0 } else { begin + 1 },
            ..Default::default()
        }
    }
}

struct Stream<C> {
    reader: Reader<C>,
    leadership: watch::Receiver<Leadership>,
    positions: watch::Receiver<Positions>,
    opening: Option<admin::ReceiptsResponse>,
    /// Ends before deltas of this log index.
    until: Option<u64>,
    still: Box<Still>,
    looked_at: Instant,
    is_over: bool,
}

impl<C: Control> Stream<C> {
    async fn next(mut self) -> Option<(Result<admin::ReceiptsResponse, Status>, Self)> {
        if self.is_over {
            return None;
        }
        if let Some(opening) = self.opening.take() {
            return Some((Ok(opening), self));
        }
        let answer = self.told().await.transpose()?;
        self.is_over = answer.is_err();
        Some((answer, self))
    }

    async fn told(&mut self) -> Result<Option<admin::ReceiptsResponse>, Status> {
        loop {
            if !self.leadership.borrow().is_leader {
                return Err(status::unavailable("the leader changed: call again with the last cursor"));
            }
            if self.looked_at.elapsed() >= CALLER_EVERY {
                (self.still)()?;
                self.looked_at = Instant::now();
            }
            // Marked before the tables are read, so that nothing in between is slept through.
            self.positions.borrow_and_update();
            match self.reader.next().await {
                Ok(Some(told)) if !told.is_coalesced && self.until.is_some_and(|end| told.index >= end) => {
                    return Ok(None);
                }
                Ok(Some(told)) => return Ok(Some(response(told))),
                Ok(None) if self.until.is_some() => return Ok(None),
                Ok(None) => self.wait().await?,
                Err(GoingDown) => return Err(status::unavailable("this node is going down")),
            }
        }
    }

    async fn wait(&mut self) -> Result<(), Status> {
        let gone = || status::unavailable("this node is going down");
        tokio::select! {
            moved = self.positions.changed() => {
                moved.map_err(|_| gone())?;
                tokio::time::sleep(GATHER).await;
            }
            changed = self.leadership.changed() => changed.map_err(|_| gone())?,
            () = tokio::time::sleep(CALLER_EVERY) => {}
        }
        Ok(())
    }
}

fn response(told: Told) -> admin::ReceiptsResponse {
    let deltas = told.deltas.into_iter().map(|delta| admin::ReceiptDelta {
        push: delta.push,
        state: delta.state,
        reason: delta.reason.to_owned(),
        terminals: delta.terminals,
        set: delta.set,
        ids: delta.ids,
    });
    admin::ReceiptsResponse {
        cursor: told.next.to_string(),
        log_index: told.index,
        at_ms: told.at_ms,
        coalesced: told.is_coalesced,
        began_at: told.began_at,
        deltas: deltas.collect(),
    }
}
