//! Retained messages that new subscriptions ask for.

use std::collections::{HashMap, VecDeque};

use cluster_proto::{
    TerminalId,
    link::{RefuseReason, RetainedAsk, RetainedMessage, SessionReplyBody, SessionRequestBody},
};
use fabric_core::{
    link::SessionAnswer,
    mqtt::{Kept, RequestNo},
    sys,
};

use super::Hub;
use crate::edge::{
    codec::Outgoing,
    messages::{ConnId, RetainedPage, ToShard},
};

/// Pages asked for at once. A page may be 64 KiB, or one message ([`cluster_proto::limits::RETAINED_PAGE_LEN_MAX`]): with more, a wave
/// of subscribers would fill the edge's memory and the leader's time.
const UNDER_WAY_MAX: usize = 64;

/// Who asked for pages. What waits is bounded by the sessions: each asks for its next page when it has taken the last.
/// With the link all of it is forgotten: sessions ask again on the next one.
#[derive(Debug, Default)]
pub(super) struct RetainedAsks {
    under_way: HashMap<u64, (ConnId, RequestNo)>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    conn: ConnId,
    request: RequestNo,
    terminal: TerminalId,
    ask: RetainedAsk,
}

impl RetainedAsks {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Hub {
    pub(super) fn ask_retained(
        &mut self,
        conn: ConnId,
        request: RequestNo,
        terminal: TerminalId,
        ask: RetainedAsk,
    ) {
        if sys::is_sys(&ask.filter) {
            let messages = self.sys_messages(ask.app, &ask.filter);
            let page = RetainedPage { messages, next: None };
            return self.ports.push(conn.shard, ToShard::Retained(conn, request, Ok(page)));
        }
        self.retained.waiting.push_back(Waiting { conn, request, terminal, ask });
        self.ask_more_retained();
    }

    fn ask_more_retained(&mut self) {
        while self.retained.under_way.len() < UNDER_WAY_MAX {
            let Some(Waiting { conn, request, terminal, ask }) = self.retained.waiting.pop_front() else {
                return;
            };
            let is_here = self.bindings.get(ask.app, &terminal).is_some_and(|binding| binding.conn == conn);
            if !is_here {
                continue; // it left while it waited
            }
            match self.link.request(SessionRequestBody::Retained(ask)) {
                Some(number) => drop(self.retained.under_way.insert(number, (conn, request))),
                None => {
                    let refused = Err(RefuseReason::Unavailable);
                    self.ports.push(conn.shard, ToShard::Retained(conn, request, refused));
                }
            }
        }
    }

    /// Gives the answer back if it is not one to this.
    pub(super) fn answer_retained(&mut self, number: u64, answer: SessionAnswer) -> Option<SessionAnswer> {
        let Some((conn, request)) = self.retained.under_way.remove(&number) else { return Some(answer) };
        let page = match answer {
            SessionAnswer::Reply(SessionReplyBody::Retained { messages, next }) => {
                let messages = messages.into_iter().map(|message| self.retained_part(message)).collect();
                Ok(RetainedPage { messages, next })
            }
            SessionAnswer::Reply(SessionReplyBody::Refused(reason)) => Err(reason),
            _ => Err(RefuseReason::Unavailable),
        };
        self.ports.push(conn.shard, ToShard::Retained(conn, request, page));
        self.ask_more_retained();
        None
    }

    fn retained_part(&self, retained: RetainedMessage) -> Kept<Outgoing> {
        let RetainedMessage { id, message, expires_at_ms } = retained;
        let expires_at_ms = expires_at_ms.map(|expires| self.link.local_ms(expires));
        Kept { id, message: Outgoing::new(message), expires_at_ms }
    }
}
