//! Pushes and their states.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cluster_proto::{
    AppId, Audience, DropReason, Message, Outcome, PushId, PushKind, Qos, State, TerminalId, TerminalNo,
    TerminalSet, Will,
    limits::SMALL_AUDIENCE_MAX,
    link::{Origin, Receipt},
};
use fabric_core::subscriptions::filter;
use raft_store::{
    Applied, Refusal,
    command::{AcceptPush, IdempotencyKey, ReleasePlan},
    tables::Withdrawn,
};

use crate::{
    Model, QUOTA, WILL_TTL_MS,
    releases::{Release, Wave},
    world::{
        DAY_MS,
        audience::{Facts, Labels, meant},
    },
};

#[derive(Default)]
pub(crate) struct Pushes {
    pub(crate) kept: BTreeMap<PushId, Push>,
    pub(crate) waves: BTreeMap<PushId, Wave>,
    keys: BTreeMap<String, (u128, PushId, u64)>,
    pub(crate) last: u64,
    /// With older ones to replace.
    pub(crate) marked: BTreeSet<PushId>,
    /// No push before is kept; one less than in the tables, which begin at 1.
    oldest: u64,
}

#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) kind: PushKind,
    pub(crate) qos0: BTreeSet<u32>,
    pub(crate) states: BTreeMap<u32, State>,
    pub(crate) withdrawn: Option<Withdrawn>,
    pub(crate) expires_at_ms: u64,
    pub(crate) urgent: bool,
    pub(crate) collapse_key: Option<String>,
    pub(crate) replaced_by: Option<PushId>,
    /// Those for whom it was replaced while it was in flight; who is settled does not count any more.
    collapsing: BTreeSet<u32>,
    pub(crate) settled_at_ms: Option<u64>,
    pub(crate) release: Option<Release>,
    size: u64,
    key: Option<String>,
}

impl Pushes {
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest + 1
    }

    /// How many are broad and have few pending: those have rows of their own in the tables.
    pub(crate) fn sparse(&self) -> usize {
        let pending = |push: &Push| push.states.values().filter(|state| **state == State::Pending).count();
        let broad = self.kept.values().filter(|push| push.states.len() > SMALL_AUDIENCE_MAX);
        broad.filter(|push| (1..=8).contains(&pending(push))).count()
    }
}

impl Push {
    /// Those for whom it is replaced, and who may have it in flight.
    pub(crate) fn collapsing(&self) -> BTreeSet<u32> {
        let is_pending = |no: &&u32| self.states.get(no) == Some(&State::Pending);
        self.collapsing.iter().filter(is_pending).copied().collect()
    }
}

/// What an audience of a message depends on.
pub(crate) struct Told<'a> {
    pub(crate) model: &'a Model,
    pub(crate) message: &'a Message,
    pub(crate) online: Option<&'a TerminalSet>,
}

impl Facts for Told<'_> {
    fn registered(&self) -> HashSet<u32> {
        self.model.numbers.registered.values().copied().collect()
    }

    fn registered_as(&self, id: &TerminalId) -> Option<u32> {
        self.model.numbers.registered.get(id).copied()
    }

    fn labels(&self) -> &BTreeMap<u32, Labels> {
        &self.model.numbers.labels
    }

    fn subscribers(&self) -> HashSet<u32> {
        self.model.subscribers(self.message).0.into_iter().collect()
    }

    fn online(&self) -> HashSet<u32> {
        self.online.iter().flat_map(|online| online.0.iter()).collect()
    }

    fn seen(&self, days: u8) -> HashSet<u32> {
        let first = (self.model.at_ms / DAY_MS) as u32 - u32::from(days);
        let today = (self.model.at_ms / DAY_MS) as u32;
        let days = self.model.numbers.seen.range(first..=today);
        days.flat_map(|(_, seen)| seen.iter().copied()).collect()
    }

    fn in_state(&self, push: PushId, state: State) -> Option<HashSet<u32>> {
        let states = &self.model.pushes.kept.get(&self.model.whole(push))?.states;
        Some(states.iter().filter(|(_, of)| **of == state).map(|(no, _)| *no).collect())
    }
}

impl Model {
    pub(crate) fn accept(&mut self, origin: Option<&Origin>, accept: &AcceptPush) -> Applied {
        if let Some(key) = &accept.idempotency
            && let Some((digest, push, audience)) = self.pushes.keys.get(&key.key)
        {
            return if *digest == key.digest {
                Applied::Accepted { push: *push, audience: *audience, repeated: true }
            } else {
                Applied::Refused(Refusal::KeyReused)
            };
        }
        if let Some(answer) = accept.exchange.and_then(|exchange| self.taken(origin.unwrap(), &exchange)) {
            return answer;
        }
        let facts = Told { model: self, message: &accept.message, online: accept.online.as_ref() };
        let audience: BTreeSet<u32> = match meant(&accept.audience, &facts) {
            Ok(audience) => audience.into_iter().collect(),
            Err(refusal) => return Applied::Refused(refusal),
        };
        let qos0 = match accept.message.kind {
            PushKind::Topic => &self.subscribers(&accept.message).1 & &audience,
            PushKind::Identity => BTreeSet::new(),
        };
        if !matches!(accept.audience, Audience::All | Audience::Topic | Audience::Terminals(_)) {
            self.seen.expressions.0 += usize::from(!audience.is_empty());
            let is_topic = accept.message.kind == PushKind::Topic;
            self.seen.expressions.1 += usize::from(is_topic && !audience.is_empty());
        }
        let len = audience.len() as u64;
        let key = accept.idempotency.as_ref();
        let is_kept = len > 0
            || accept.message.kind == PushKind::Identity
            || origin.is_none()
            || accept.idempotency.is_some();
        let size = if is_kept { accept.message.size() as u64 } else { 0 };
        let bytes = self.stored_bytes() + size + self.retained_bytes();
        if size > 0 && self.quotas.stored_bytes > 0 && bytes > self.quotas.stored_bytes {
            self.seen.stored_refused += 1;
            return Applied::Refused(Refusal::StoredQuota(self.quotas.stored_bytes));
        }
        if accept.message.retain
            && let Err(refusal) = self.retain(&accept.message, accept.retained_ttl_ms, self.commands, size)
        {
            return Applied::Refused(refusal);
        }
        let push = self.push(
            &accept.message,
            (audience, qos0),
            (accept.ttl_ms, accept.options.release.as_ref()),
            key,
            origin.is_none() || key.is_some(),
        );
        if let Some(push) = self.pushes.kept.get_mut(&push) {
            push.urgent = accept.options.urgent;
            push.collapse_key.clone_from(&accept.options.collapse_key);
        }
        if accept.options.release.is_none()
            || self.pushes.kept.get(&push).is_some_and(|p| p.release.is_none())
        {
            self.mark(push);
        }
        if let Some(exchange) = &accept.exchange {
            self.take(exchange, push, len);
        }
        Applied::Accepted { push, audience: len, repeated: false }
    }

    pub(crate) fn publish(&mut self, wills: Vec<Will>) {
        for will in wills {
            self.seen.wills += 1;
            let audience = self.subscribers(&will.message);
            if will.message.retain {
                let _ = self.retain(&will.message, will.ttl_ms, self.commands, 0);
            }
            self.push(&will.message, audience, (will.ttl_ms.unwrap_or(WILL_TTL_MS), None), None, false);
        }
    }

    fn push(
        &mut self,
        message: &Message,
        (audience, qos0): (BTreeSet<u32>, BTreeSet<u32>),
        (ttl_ms, plan): (u64, Option<&ReleasePlan>),
        key: Option<&IdempotencyKey>,
        by_back_end: bool,
    ) -> PushId {
        self.pushes.last += 1;
        let (push, len) = (PushId(self.pushes.last), audience.len() as u64);
        let is_small = audience.len() <= SMALL_AUDIENCE_MAX;
        self.seen.broad += usize::from(!is_small);
        let state = |no: u32| match is_small && self.owed_small(no) >= QUOTA {
            true => State::Dropped(DropReason::OverQuota),
            false => State::Pending,
        };
        let states: BTreeMap<_, _> = audience.into_iter().map(|no| (no, state(no))).collect();
        if let Some(key) = key {
            self.pushes.keys.insert(key.key.clone(), (key.digest, push, len));
        }
        if len > 0 || message.kind == PushKind::Identity || by_back_end {
            let release = Release::of(plan, self.at_ms);
            let begins_at_ms = release.as_ref().map_or(self.at_ms, |release| release.due_ms);
            let (kind, size) = (message.kind, message.size() as u64);
            let expires_at_ms = begins_at_ms + ttl_ms;
            let key = key.map(|key| key.key.clone());
            let (withdrawn, settled_at_ms, urgent) = (None, None, false);
            let (collapse_key, replaced_by, collapsing) = Default::default();
            let entry = Push {
                kind,
                qos0,
                states,
                withdrawn,
                expires_at_ms,
                urgent,
                collapse_key,
                replaced_by,
                collapsing,
                settled_at_ms,
                release,
                size,
                key,
            };
            self.pushes.kept.insert(push, entry);
            self.settle(push, [], State::Delivered);
        } else if self.pushes.oldest() == push.0 {
            self.pushes.oldest += 1;
        }
        push
    }

    fn subscribers(&self, message: &Message) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let (mut all, mut qos0) = (BTreeSet::new(), BTreeSet::new());
        for session in self.sessions.values() {
            let is_publisher = message.publisher == Some(TerminalNo(session.no));
            let matching = session.subscriptions.iter().filter(|(filter, (_, no_local))| {
                !filter.starts_with("$share/")
                    && filter::matches(&message.topic, filter)
                    && !(is_publisher && *no_local)
            });
            if let Some(qos) = matching.map(|(_, (qos, _))| *qos).max() {
                all.insert(session.no);
                if qos == Qos::AtMostOnce {
                    qos0.insert(session.no);
                }
            }
        }
        all.extend(self.groups.matching(&message.topic));
        (all, qos0)
    }

    /// Of pushes.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.pushes.kept.values().map(|push| push.size).sum()
    }

    fn owed_small(&self, no: u32) -> usize {
        let small = self.pushes.kept.values().filter(|push| push.states.len() <= SMALL_AUDIENCE_MAX);
        small.filter(|push| push.states.get(&no) == Some(&State::Pending)).count()
    }

    pub(crate) fn is_pending(&self, push: PushId, no: u32) -> bool {
        let is_in = self.pushes.waves.get(&push).is_none_or(|wave| wave.part.contains(&no));
        let push = self.pushes.kept.get(&self.whole(push));
        is_in && push.is_some_and(|push| push.states.get(&no) == Some(&State::Pending))
    }

    pub(crate) fn settle(&mut self, push: PushId, nos: impl IntoIterator<Item = u32>, state: State) {
        let push = self.whole(push);
        let Some(push) = self.pushes.kept.get_mut(&push) else { return };
        for no in nos {
            if let Some(before) = push.states.get_mut(&no).filter(|before| before.may_become(state)) {
                *before = state;
            }
        }
        let is_settled = push.states.values().all(|state| *state != State::Pending);
        if is_settled && push.settled_at_ms.is_none() {
            push.settled_at_ms = Some(self.at_ms);
            push.release.iter_mut().for_each(Release::stop);
        }
        self.seen.states.extend(push.states.values());
    }

    /// Sessions and groups of these numbers ended.
    pub(crate) fn settle_gone(&mut self, nos: &[u32]) {
        let topic = self.pushes.kept.iter().filter(|(_, push)| push.kind == PushKind::Topic);
        for push in topic.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.settle(push, nos.iter().copied(), State::Dropped(DropReason::SessionGone));
        }
    }

    pub(crate) fn receipt(&mut self, item: &Receipt) {
        let Some(push) = self.pushes.kept.get(&self.whole(item.push)) else { return };
        let state = match item.outcome {
            Outcome::Delivered => Some(State::Delivered),
            Outcome::Sent => Some(State::Sent),
            Outcome::Dropped(reason) => Some(State::Dropped(reason)),
            Outcome::NotWritten => {
                let replaced = push.collapsing();
                let here = item.terminals.iter().map(|no| no.0);
                let (replaced, others): (Vec<_>, Vec<_>) = here.partition(|no| replaced.contains(no));
                let handed_out = self.handed_out(item.push);
                let was_sent = |no: &&u32| handed_out.contains(no);
                self.settle(
                    item.push,
                    replaced.iter().filter(was_sent).copied().collect::<Vec<_>>(),
                    State::Sent,
                );
                self.settle(item.push, replaced, State::Collapsed);
                if let Some(why) = self.pushes.kept[&self.whole(item.push)].withdrawn {
                    self.settle(
                        item.push,
                        others.iter().filter(was_sent).copied().collect::<Vec<_>>(),
                        State::Sent,
                    );
                    self.settle(item.push, others, why.state());
                }
                return;
            }
        };
        if let Some(state) = state {
            self.settle(item.push, item.terminals.iter().map(|no| no.0), state);
        }
    }

    pub(crate) fn expire_pushes(&mut self, pushes: &[(PushId, TerminalSet)]) -> Applied {
        for (push, in_flight) in pushes {
            self.withdraw(*push, Withdrawn::Expired, in_flight);
        }
        Applied::Done
    }

    pub(crate) fn cancel(&mut self, app: AppId, push: PushId, in_flight: &TerminalSet) -> Applied {
        let id = self.whole(push);
        if app != AppId::DEFAULT || !self.pushes.kept.contains_key(&id) {
            return Applied::Refused(Refusal::UnknownPush(push));
        }
        self.withdraw(id, Withdrawn::Cancelled, in_flight);
        Applied::Done
    }

    fn withdraw(&mut self, id: PushId, why: Withdrawn, in_flight: &TerminalSet) {
        let Some(push) = self.pushes.kept.get_mut(&id).filter(|push| push.settled_at_ms.is_none()) else {
            return;
        };
        let why = *push.withdrawn.get_or_insert(why);
        push.release.iter_mut().for_each(Release::stop);
        let push = &self.pushes.kept[&id];
        let pending = push.states.iter().filter(|(_, state)| **state == State::Pending);
        let is_in_flight = |no| in_flight.contains(TerminalNo(no)) && self.owed_as(id, push, no).1;
        let rest: Vec<_> = pending.map(|(no, _)| *no).filter(|no| !is_in_flight(*no)).collect();
        let replaced = push.collapsing();
        let handed_out = self.handed_out_all(id);
        let (sent, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|no| handed_out.contains(no));
        let (replaced, never): (Vec<_>, Vec<_>) = rest.into_iter().partition(|no| replaced.contains(no));
        self.settle(id, sent, State::Sent);
        self.settle(id, replaced, State::Collapsed);
        self.settle(id, never, why.state());
    }

    /// Whom a connection handed it to, under any of its ids.
    fn handed_out_all(&self, id: PushId) -> BTreeSet<u32> {
        let waves = self.pushes.waves.iter().filter(|(_, wave)| wave.push == id).map(|(wave, _)| *wave);
        waves.chain([id]).flat_map(|id| self.handed_out(id)).collect()
    }

    /// Whether something older with its key might be replaced.
    fn mark(&mut self, id: PushId) {
        let Some(push) = self.pushes.kept.get(&id) else { return };
        let is_small = |push: &Push| push.states.len() <= SMALL_AUDIENCE_MAX;
        let may_replace = |old: &Push| {
            old.collapse_key == push.collapse_key
                && old.settled_at_ms.is_none()
                && (!is_small(push)
                    || !is_small(old)
                    || push.states.keys().any(|no| old.states.get(no) == Some(&State::Pending)))
        };
        let has_key = push.collapse_key.is_some() && !push.states.is_empty();
        if has_key && self.pushes.kept.range(..id).any(|(_, old)| may_replace(old)) {
            self.pushes.marked.insert(id);
        }
    }

    /// What `by` replaces, and for whom.
    pub(crate) fn replaces(&self, by: PushId) -> BTreeMap<PushId, BTreeSet<u32>> {
        let Some(new) = self.pushes.kept.get(&by) else { return BTreeMap::new() };
        let gets = |no: &u32| {
            matches!(new.states.get(no), Some(State::Pending | State::Delivered | State::Sent))
                && self.owed_as(by, new, *no).1
        };
        let older = self
            .pushes
            .kept
            .range(..by)
            .filter(|(_, old)| old.collapse_key == new.collapse_key && old.withdrawn.is_none());
        let overlap = |(id, old): (&PushId, &Push)| {
            let pending = old.states.iter().filter(|(_, state)| **state == State::Pending);
            (*id, pending.map(|(no, _)| *no).filter(gets).collect::<BTreeSet<_>>())
        };
        older.map(overlap).filter(|(_, nos)| !nos.is_empty()).collect()
    }

    pub(crate) fn collapse(
        &mut self,
        by: PushId,
        pushes: &[(PushId, TerminalSet)],
        released: u64,
        more: bool,
    ) -> Applied {
        let of = |push: &Push| push.release.as_ref().map_or(0, |release| release.released);
        let is_stale = self.pushes.kept.get(&by).is_some_and(|push| of(push) != released);
        if !self.pushes.marked.contains(&by) || is_stale {
            return Applied::Done;
        }
        let replaces = self.replaces(by);
        for (id, in_flight) in pushes {
            let Some(nos) = replaces.get(id) else { continue };
            let handed_out = self.handed_out_all(*id);
            let old = &self.pushes.kept[id];
            let is_held = |no: &u32| in_flight.contains(TerminalNo(*no)) && self.owed_as(*id, old, *no).1;
            let (held, free): (BTreeSet<u32>, BTreeSet<u32>) = nos.iter().copied().partition(is_held);
            self.seen.replaced.0 += free.len();
            self.seen.replaced.1 += held.len();
            let (sent, never): (Vec<_>, Vec<_>) = free.into_iter().partition(|no| handed_out.contains(no));
            self.settle(*id, sent, State::Sent);
            self.settle(*id, never, State::Collapsed);
            let old = self.pushes.kept.get_mut(id).unwrap();
            old.replaced_by = old.replaced_by.max(Some(by));
            old.collapsing.extend(held);
        }
        if !more {
            self.pushes.marked.remove(&by);
        }
        Applied::Done
    }

    pub(crate) fn purge(&mut self, settled_before_ms: u64, limit: u32) -> Applied {
        let old = self.pushes.kept.iter().filter_map(|(id, p)| Some((p.settled_at_ms?, *id)));
        let mut old: Vec<_> = old.filter(|(at, _)| *at < settled_before_ms).collect();
        old.sort();
        for (_, id) in old.into_iter().take(limit as usize) {
            let push = self.pushes.kept.remove(&id).unwrap();
            push.key.map(|key| self.pushes.keys.remove(&key));
            self.pushes.waves.retain(|_, wave| wave.push != id);
            self.pushes.marked.remove(&id);
            self.seen.purged += 1;
        }
        let oldest = self.pushes.kept.first_key_value().map_or(self.pushes.last + 1, |(id, _)| id.0);
        self.pushes.oldest = oldest - 1;
        self.numbers.give_back_purged(oldest, limit as usize);
        Applied::Done
    }
}
