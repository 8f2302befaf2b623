//! Sessions and their wills.

use std::collections::BTreeMap;

use cluster_proto::{
    PushId, Qos, SessionId, TerminalId, TerminalNo, Will,
    link::{OutboundStage, Subscription, SubscriptionOptions, Unacknowledged, WillFate},
};
use raft_store::{
    Applied, Refusal,
    command::{Holder, OpenSession},
};

use crate::{Model, exchanges::Delivery};

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) no: u32,
    pub(crate) id: u64,
    pub(crate) holder: (u64, u64, u64),
    pub(crate) expiry_s: u32,
    pub(crate) detached_at_ms: Option<u64>,
    present: bool,
    /// Shared ones included.
    pub(crate) subscriptions: BTreeMap<String, (Qos, bool)>,
    pub(crate) outbound: BTreeMap<u16, Delivery>,
    pub(crate) inbound: BTreeMap<u16, (PushId, u64)>,
    /// With the time it is due once its connection is lost.
    pub(crate) will: Option<(Will, Option<u64>)>,
}

impl Session {
    /// All subscriptions, by filter.
    pub(crate) fn subscriptions(&self) -> Vec<Subscription> {
        let subscription = |(filter, (qos, no_local)): (&String, &(Qos, bool))| Subscription {
            filter: filter.clone(),
            qos: *qos,
            options: SubscriptionOptions { no_local: *no_local, ..Default::default() },
        };
        self.subscriptions.iter().map(subscription).collect()
    }

    /// The connection is lost: the will, if it is published at once.
    fn lose(&mut self, at_ms: u64, expiry_s: u32) -> Option<Will> {
        let (will, due) = self.will.as_mut()?;
        let delay_s = will.delay_s.min(expiry_s);
        if due.is_some() {
            return None;
        }
        *due = Some(at_ms + u64::from(delay_s) * 1000);
        if delay_s == 0 { self.will.take().map(|(will, _)| will) } else { None }
    }
}

impl Model {
    pub(crate) fn open(&mut self, open: &OpenSession) -> Applied {
        let (holder, at_ms) = (&open.holder, self.at_ms);
        if let Some(refusal) = self.refusal(holder, false) {
            return refusal;
        }
        let is_own = self.is_own(holder);
        let session = self.sessions.get_mut(&holder.terminal);
        let will = open.will.clone().map(|will| (will, None));
        if let Some(session) = session.filter(|s| is_own || (!open.clean_start && s.expiry_s > 0)) {
            let before = session.will.take();
            session.present |= !is_own;
            session.holder = (holder.edge.0, holder.incarnation.0, holder.connection);
            (session.expiry_s, session.detached_at_ms, session.will) = (open.expiry_s, None, will);
            let (is_present, inbound) = (session.present, session.inbound.len());
            if is_present {
                self.put_sent(&holder.terminal, &open.unacknowledged, is_own);
            }
            let answer = self.opened(&holder.terminal);
            if !is_own {
                let is_due = |(will, due): &(Will, Option<u64>)| match due {
                    Some(due) => *due <= at_ms,
                    None => will.delay_s == 0,
                };
                self.seen.resumed_inbound += inbound;
                self.seen.wills_discarded += usize::from(before.as_ref().is_some_and(|will| !is_due(will)));
                self.publish(before.filter(is_due).into_iter().map(|(will, _)| will).collect());
            }
            return answer;
        }
        self.end(std::slice::from_ref(&holder.terminal));
        if open.expiry_s == 0 && will.is_none() {
            return self.no_session(&holder.terminal);
        }
        self.create(holder, open.expiry_s).will = will;
        self.changed(&holder.terminal)
    }

    pub(crate) fn detach(
        &mut self,
        holder: &Holder,
        expiry_s: u32,
        fate: WillFate,
        unacknowledged: &[Unacknowledged],
    ) -> Applied {
        if self.refusal(holder, false).is_some() || !self.is_own(holder) {
            return Applied::Done;
        }
        let at_ms = self.at_ms;
        let session = self.sessions.get_mut(&holder.terminal).unwrap();
        let is_attached = session.detached_at_ms.is_none();
        if is_attached && fate == WillFate::Discard && session.will.take().is_some() {
            self.seen.wills_discarded += 1;
        }
        if expiry_s == 0 {
            self.end(std::slice::from_ref(&holder.terminal));
        } else if is_attached {
            let will = session.lose(at_ms, expiry_s);
            (session.detached_at_ms, session.expiry_s) = (Some(at_ms), expiry_s);
            session.outbound.retain(|_, (_, _, stage, _)| *stage != OutboundStage::Sent);
            self.put_sent(&holder.terminal, unacknowledged, false);
            self.publish(will.into_iter().collect());
        }
        Applied::Done
    }

    pub(crate) fn subscribe(&mut self, holder: &Holder, subscriptions: &[Subscription]) -> Applied {
        if let Some(refusal) = self.refusal(holder, true) {
            return refusal;
        }
        if !self.is_own(holder) {
            self.end(std::slice::from_ref(&holder.terminal));
            self.create(holder, 0);
        }
        for s in subscriptions {
            let session = self.sessions.get_mut(&holder.terminal).unwrap();
            session.subscriptions.insert(s.filter.clone(), (s.qos, s.options.no_local));
            if s.filter.starts_with("$share/") {
                let no = session.no;
                self.join(&s.filter, no, s.qos);
            }
        }
        self.changed(&holder.terminal)
    }

    pub(crate) fn unsubscribe(&mut self, holder: &Holder, filters: &[String]) -> Applied {
        if let Some(refusal) = self.refusal(holder, true) {
            return refusal;
        }
        if !self.is_own(holder) {
            return self.no_session(&holder.terminal);
        }
        for filter in filters {
            let session = self.sessions.get_mut(&holder.terminal).unwrap();
            let no = session.no;
            if session.subscriptions.remove(filter).is_some()
                && let Some(group) = self.leave(filter, no)
            {
                self.retire(&[(group, None)]);
            }
        }
        self.changed(&holder.terminal)
    }

    pub(crate) fn expire_sessions(&mut self, limit: u32) -> Applied {
        let ends = |s: &Session| s.detached_at_ms.map(|at| at + u64::from(s.expiry_s) * 1000);
        let due = self.sessions.iter().filter_map(|(id, s)| Some((ends(s)?, s.no, id.clone())));
        let mut due: Vec<_> = due.filter(|(at, ..)| *at <= self.at_ms).collect();
        due.sort();
        let due: Vec<_> = due.into_iter().take(limit as usize).map(|(_, _, id)| id).collect();
        self.end(&due);
        Applied::Done
    }

    pub(crate) fn publish_wills(&mut self, limit: u32) -> Applied {
        let mut due = Vec::new();
        for (id, session) in &self.sessions {
            if let Some((_, Some(at_ms))) = session.will
                && at_ms <= self.at_ms
            {
                due.push((at_ms, session.no, id.clone()));
            }
        }
        due.sort();
        for (.., id) in due.into_iter().take(limit as usize) {
            let will = self.sessions.get_mut(&id).unwrap().will.take();
            self.publish(will.into_iter().map(|(will, _)| will).collect());
        }
        Applied::Done
    }

    pub(crate) fn end_life(&mut self, edge: u64, upto: u64) {
        let at_ms = self.at_ms;
        let held = self.sessions.iter_mut();
        let held = held.filter(|(_, s)| s.holder.0 == edge && s.holder.1 <= upto);
        let mut held: Vec<_> = held.filter(|(_, s)| s.detached_at_ms.is_none()).collect();
        held.sort_by_key(|(_, session)| session.no);
        let (mut ending, mut wills) = (Vec::new(), Vec::new());
        for (id, session) in held {
            if session.expiry_s == 0 {
                ending.push(id.clone());
            } else {
                let expiry_s = session.expiry_s;
                wills.extend(session.lose(at_ms, expiry_s));
                session.detached_at_ms = Some(at_ms);
            }
        }
        self.end(&ending);
        self.publish(wills);
    }

    /// Ends sessions together: none is sent the will of another.
    pub(crate) fn end(&mut self, terminals: &[TerminalId]) {
        let (mut gone, mut wills) = (Vec::new(), Vec::new());
        for terminal in terminals {
            let Some(session) = self.sessions.remove(terminal) else { continue };
            let shared = session.subscriptions.keys().filter(|filter| filter.starts_with("$share/"));
            let emptied: Vec<_> = shared.filter_map(|filter| self.leave(filter, session.no)).collect();
            gone.extend(emptied.into_iter().map(|group| (group, None)));
            gone.push((session.no, Some(terminal.clone())));
            wills.extend(session.will.map(|(will, _)| will));
        }
        self.retire(&gone);
        self.publish(wills);
    }

    /// Sessions and groups that are gone: numbers, with the clients they were lent to.
    fn retire(&mut self, gone: &[(u32, Option<TerminalId>)]) {
        self.settle_gone(&gone.iter().map(|(no, _)| *no).collect::<Vec<_>>());
        for (no, id) in gone {
            self.numbers.release(*no, id.as_ref(), self.pushes.oldest(), self.pushes.last);
        }
    }

    fn refusal(&self, holder: &Holder, must_own: bool) -> Option<Applied> {
        let edge = self.edges.get(&holder.edge.0);
        let is_over = edge.is_some_and(|(incarnation, ended, _)| {
            *incarnation > holder.incarnation.0 || (*incarnation == holder.incarnation.0 && *ended)
        });
        let session = self.sessions.get(&holder.terminal);
        let is_older = session.is_some_and(|s| {
            (s.holder.0, s.holder.1) == (holder.edge.0, holder.incarnation.0)
                && s.holder.2 > holder.connection
        });
        let is_foreign = must_own && !self.is_own(holder) && session.is_some_and(|s| s.expiry_s > 0);
        (is_over || is_older || is_foreign).then_some(Applied::Refused(Refusal::Stale))
    }

    fn is_own(&self, holder: &Holder) -> bool {
        let holds = (holder.edge.0, holder.incarnation.0, holder.connection);
        self.sessions.get(&holder.terminal).is_some_and(|session| session.holder == holds)
    }

    fn create(&mut self, holder: &Holder, expiry_s: u32) -> &mut Session {
        let no = self.numbers.find_or_lend(&holder.terminal);
        assert!(self.sessions.values().all(|session| session.no != no), "{no} is lent already");
        self.last_session += 1;
        let session = Session {
            no,
            id: self.last_session,
            holder: (holder.edge.0, holder.incarnation.0, holder.connection),
            expiry_s,
            detached_at_ms: None,
            present: false,
            subscriptions: BTreeMap::new(),
            outbound: BTreeMap::new(),
            inbound: BTreeMap::new(),
            will: None,
        };
        self.sessions.entry(holder.terminal.clone()).insert_entry(session).into_mut()
    }

    /// The answer to CONNECT in a session that goes on.
    fn opened(&mut self, terminal: &TerminalId) -> Applied {
        let session = &self.sessions[terminal];
        let outbound = self.outbound(session);
        self.seen.resumed_outbound += outbound.len();
        Applied::Session {
            no: Some(TerminalNo(session.no)),
            session: Some(SessionId(session.id)),
            present: session.present,
            expiry_s: session.expiry_s,
            subscriptions: session.subscriptions(),
            outbound,
            inbound: session.inbound.keys().copied().collect(),
            index: self.commands,
        }
    }

    fn changed(&self, terminal: &TerminalId) -> Applied {
        let session = &self.sessions[terminal];
        Applied::Session {
            no: Some(TerminalNo(session.no)),
            session: Some(SessionId(session.id)),
            present: session.present,
            expiry_s: session.expiry_s,
            subscriptions: Vec::new(),
            outbound: Vec::new(),
            inbound: Vec::new(),
            index: self.commands,
        }
    }

    fn no_session(&self, terminal: &TerminalId) -> Applied {
        Applied::Session {
            no: self.numbers.registered.get(terminal).copied().map(TerminalNo),
            session: None,
            present: false,
            expiry_s: 0,
            subscriptions: Vec::new(),
            outbound: Vec::new(),
            inbound: Vec::new(),
            index: self.commands,
        }
    }
}
