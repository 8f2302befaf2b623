//! Random commands against a model made of plain maps: after every slice both must answer the same.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints its seed")]

mod world;

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{
    AppId, DropReason, Outcome, PushId, PushKind, Qos, State, TerminalId, TerminalNo,
    limits::SMALL_AUDIENCE_MAX,
    link::{Lane, Origin},
};
use fabric_core::subscriptions::filter;
use raft_store::{
    Applied, Command, CommandBody, Refusal,
    command::{AcceptPush, Audience, Holder},
    tables::{self, Tables, TablesOptions, Withdrawn},
};
use rand::Rng as _;
use world::Generator;

const QUOTA: usize = 6;

#[test]
fn tables_agree_with_plain_maps() {
    for (seed, cache_bytes) in [(1, 1 << 20), (2, 30_000), (3, 0)] {
        run(seed, cache_bytes, 160);
    }
}

fn run(seed: u64, cache_bytes: usize, slices: usize) {
    let directory = tempfile::tempdir().unwrap();
    let options = TablesOptions { owed_per_terminal_max: QUOTA, cache_bytes };
    let (tables, mut machine) = tables::open(directory.path(), options).unwrap();
    let mut generator = Generator::new(seed, tables.clone());
    let mut model = Model::default();
    for slice in 0..slices {
        let mut entries = Vec::new();
        if slice == 0 {
            entries.push(generator.world());
        }
        entries.extend((0..generator.rng.random_range(1..4)).map(|_| generator.entry()));
        let commands = entries.clone();
        let answers = machine.apply(entries, None, &mut Vec::new()).unwrap();
        for ((_, batch), answers) in commands.into_iter().zip(answers) {
            let Some(batch) = batch else { continue };
            model.at_ms = batch.at_ms;
            for (command, answer) in batch.commands.into_iter().zip(answers) {
                model.apply(&command, &answer);
            }
        }
        model.compare(&tables, slice % 20 == 0);
        if slice % 60 == 30 {
            machine.flush().unwrap();
        }
    }
    assert_eq!(tables.failure(), None);
    model.assert_was_interesting();
}

#[derive(Default)]
struct Model {
    at_ms: u64,
    registered: BTreeMap<TerminalId, u32>,
    /// By terminal, registered or not.
    sessions: BTreeMap<TerminalId, Session>,
    /// Incarnation, ended, last sequence by lane.
    edges: BTreeMap<u64, (u64, bool, BTreeMap<Lane, u64>)>,
    pushes: BTreeMap<PushId, Push>,
    keys: BTreeMap<String, (u128, PushId, u64)>,
    last_push: u64,
    last_session: u64,
    seen: BTreeSet<State>,
    purged: usize,
    broad: usize,
}

#[derive(Clone, Debug)]
struct Session {
    no: u32,
    id: u64,
    holder: (u64, u64, u64),
    expiry_s: u32,
    detached_at_ms: Option<u64>,
    present: bool,
    subscriptions: BTreeMap<String, (Qos, bool)>,
}

#[derive(Debug)]
struct Push {
    kind: PushKind,
    qos0: BTreeSet<u32>,
    states: BTreeMap<u32, State>,
    withdrawn: Option<Withdrawn>,
    expires_at_ms: u64,
    settled_at_ms: Option<u64>,
    key: Option<String>,
}

impl Model {
    fn apply(&mut self, command: &Command, answer: &Applied) {
        let expected = match command.origin.and_then(|origin| self.admit(&origin)) {
            Some(refused) => refused,
            None => self.body(&command.body, answer),
        };
        assert_eq!(*answer, expected, "{command:?}");
    }

    fn admit(&mut self, origin: &Origin) -> Option<Applied> {
        let (incarnation, ended, seqs) = self.edges.get_mut(&origin.edge.0)?;
        if origin.incarnation.0 < *incarnation || (origin.incarnation.0 == *incarnation && *ended) {
            return Some(Applied::IncarnationOver);
        }
        if origin.incarnation.0 > *incarnation {
            return Some(Applied::Gap(0));
        }
        let last = seqs.entry(origin.lane).or_default();
        if origin.seq <= *last {
            return Some(Applied::Duplicate);
        }
        if origin.seq > *last + 1 {
            return Some(Applied::Gap(*last));
        }
        *last += 1;
        None
    }

    fn body(&mut self, body: &CommandBody, answer: &Applied) -> Applied {
        match body {
            CommandBody::CreateApp { .. } => Applied::App(AppId(2)),
            CommandBody::RegisterTerminals { terminals, .. } => {
                let before = self.registered.len();
                let nos = terminals.iter().map(|terminal| self.register(&terminal.id)).collect();
                Applied::Registered { nos, new: (self.registered.len() - before) as u64 }
            }
            CommandBody::EdgeStarted { edge, incarnation } => {
                self.end_life(edge.0, incarnation.0 - 1);
                self.edges.insert(edge.0, (incarnation.0, false, BTreeMap::new()));
                Applied::Done
            }
            CommandBody::EdgeEnded { edge, incarnation } => {
                self.end_life(edge.0, incarnation.0);
                self.edges.get_mut(&edge.0).unwrap().1 = true;
                Applied::Done
            }
            CommandBody::OpenSession(open) => {
                self.open(&open.holder, open.clean_start, open.expiry_s, answer)
            }
            CommandBody::DetachSession { holder, expiry_s, .. } => {
                let at_ms = self.at_ms;
                if self.refusal(holder, false).is_some() || !self.is_own(holder) {
                    return Applied::Done;
                }
                if *expiry_s == 0 {
                    self.end(&holder.terminal);
                } else if let Some(session) = self.sessions.get_mut(&holder.terminal)
                    && session.detached_at_ms.is_none()
                {
                    (session.detached_at_ms, session.expiry_s) = (Some(at_ms), *expiry_s);
                }
                Applied::Done
            }
            CommandBody::Subscribe { holder, subscriptions } => {
                if let Some(refusal) = self.refusal(holder, true) {
                    return refusal;
                }
                if !self.is_own(holder) {
                    self.end(&holder.terminal);
                    self.create(holder, 0, answer);
                }
                let session = self.sessions.get_mut(&holder.terminal).unwrap();
                for s in subscriptions {
                    session.subscriptions.insert(s.filter.clone(), (s.qos, s.options.no_local));
                }
                self.answer(&holder.terminal, false)
            }
            CommandBody::Unsubscribe { holder, filters } => {
                if let Some(refusal) = self.refusal(holder, true) {
                    return refusal;
                }
                if !self.is_own(holder) {
                    return self.no_session(&holder.terminal);
                }
                let session = self.sessions.get_mut(&holder.terminal).unwrap();
                session.subscriptions.retain(|filter, _| !filters.contains(filter));
                self.answer(&holder.terminal, false)
            }
            CommandBody::ExpireSessions { limit } => {
                let ends = |s: &Session| s.detached_at_ms.map(|at| at + u64::from(s.expiry_s) * 1000);
                let due = self.sessions.iter().filter_map(|(id, s)| Some((ends(s)?, s.no, id.clone())));
                let mut due: Vec<_> = due.filter(|(at, ..)| *at <= self.at_ms).collect();
                due.sort();
                due.into_iter().take(*limit as usize).for_each(|(_, _, id)| self.end(&id));
                Applied::Done
            }
            CommandBody::AcceptPush(push) => self.accept(push),
            CommandBody::RecordReceipts { items, .. } => {
                for item in items {
                    let Some(push) = self.pushes.get(&item.push) else { continue };
                    let state = match item.outcome {
                        Outcome::Delivered => Some(State::Delivered),
                        Outcome::Sent => Some(State::Sent),
                        Outcome::Dropped(reason) => Some(State::Dropped(reason)),
                        Outcome::NotWritten => push.withdrawn.map(|why| why.state()),
                    };
                    if let Some(state) = state {
                        self.settle(item.push, item.terminals.iter().map(|no| no.0), state);
                    }
                }
                Applied::Done
            }
            CommandBody::ExpirePushes { pushes } => {
                for (push, in_flight) in pushes {
                    self.withdraw(*push, Withdrawn::Expired, |no| in_flight.contains(TerminalNo(no)));
                }
                Applied::Done
            }
            CommandBody::CancelPush { app, push, in_flight } => {
                if *app != AppId::DEFAULT || !self.pushes.contains_key(push) {
                    return Applied::Refused(Refusal::UnknownPush);
                }
                self.withdraw(*push, Withdrawn::Cancelled, |no| in_flight.contains(TerminalNo(no)));
                Applied::Done
            }
            CommandBody::PurgePushes { settled_before_ms, limit } => {
                let old = self.pushes.iter().filter_map(|(id, p)| Some((p.settled_at_ms?, *id)));
                let mut old: Vec<_> = old.filter(|(at, _)| at < settled_before_ms).collect();
                old.sort();
                for (_, id) in old.into_iter().take(*limit as usize) {
                    let push = self.pushes.remove(&id).unwrap();
                    push.key.map(|key| self.keys.remove(&key));
                    self.purged += 1;
                }
                Applied::Done
            }
            CommandBody::Revoke { .. } | CommandBody::InstallKey(_) => Applied::Done,
        }
    }

    fn register(&mut self, id: &TerminalId) -> TerminalNo {
        if !self.registered.contains_key(id) {
            self.end(id);
            self.registered.insert(id.clone(), self.registered.len() as u32 + 1);
        }
        TerminalNo(self.registered[id])
    }

    fn open(&mut self, holder: &Holder, clean_start: bool, expiry_s: u32, answer: &Applied) -> Applied {
        if let Some(refusal) = self.refusal(holder, false) {
            return refusal;
        }
        let is_own = self.is_own(holder);
        let survives = self.sessions.get(&holder.terminal).is_some_and(|s| !clean_start && s.expiry_s > 0);
        if is_own || survives {
            let session = self.sessions.get_mut(&holder.terminal).unwrap();
            session.present |= !is_own;
            session.holder = (holder.edge.0, holder.incarnation.0, holder.connection);
            (session.expiry_s, session.detached_at_ms) = (expiry_s, None);
            return self.answer(&holder.terminal, true);
        }
        self.end(&holder.terminal);
        if expiry_s == 0 {
            return self.no_session(&holder.terminal);
        }
        self.create(holder, expiry_s, answer);
        self.answer(&holder.terminal, true)
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

    /// A number lent must not be in use: that is what is asked of it, not which one it is.
    fn create(&mut self, holder: &Holder, expiry_s: u32, answer: &Applied) {
        let no = self.registered.get(&holder.terminal).copied().unwrap_or_else(|| {
            let Applied::Session { no: Some(no), .. } = answer else { panic!("no number in {answer:?}") };
            assert!(!no.is_registered());
            assert!(self.sessions.values().all(|session| session.no != no.0), "{no} is lent already");
            no.0
        });
        self.last_session += 1;
        let session = Session {
            no,
            id: self.last_session,
            holder: (holder.edge.0, holder.incarnation.0, holder.connection),
            expiry_s,
            detached_at_ms: None,
            present: false,
            subscriptions: BTreeMap::new(),
        };
        self.sessions.insert(holder.terminal.clone(), session);
    }

    fn answer(&self, terminal: &TerminalId, with_subscriptions: bool) -> Applied {
        let session = &self.sessions[terminal];
        let subscriptions = if with_subscriptions { subscriptions(session) } else { Vec::new() };
        Applied::Session {
            no: Some(TerminalNo(session.no)),
            session: Some(cluster_proto::SessionId(session.id)),
            present: session.present,
            expiry_s: session.expiry_s,
            subscriptions,
            inbound: Vec::new(),
            index: 0,
            outbound: Vec::new(),
        }
    }

    fn no_session(&self, terminal: &TerminalId) -> Applied {
        let no = self.registered.get(terminal).copied().map(TerminalNo);
        Applied::Session {
            no,
            session: None,
            present: false,
            expiry_s: 0,
            subscriptions: Vec::new(),
            inbound: Vec::new(),
            index: 0,
            outbound: Vec::new(),
        }
    }

    fn end_life(&mut self, edge: u64, upto: u64) {
        let at_ms = self.at_ms;
        let held = self
            .sessions
            .iter_mut()
            .filter(|(_, s)| s.holder.0 == edge && s.holder.1 <= upto && s.detached_at_ms.is_none());
        let mut ending = Vec::new();
        for (id, session) in held {
            if session.expiry_s == 0 {
                ending.push(id.clone());
            } else {
                session.detached_at_ms = Some(at_ms);
            }
        }
        ending.iter().for_each(|id| self.end(id));
    }

    fn end(&mut self, terminal: &TerminalId) {
        let Some(session) = self.sessions.remove(terminal) else { return };
        let topic = self.pushes.iter().filter(|(_, push)| push.kind == PushKind::Topic);
        let owed: Vec<_> = topic.map(|(id, _)| *id).collect();
        for push in owed {
            self.settle(push, [session.no], State::Dropped(DropReason::SessionGone));
        }
    }

    fn accept(&mut self, accept: &AcceptPush) -> Applied {
        if let Some(key) = &accept.idempotency
            && let Some((digest, push, audience)) = self.keys.get(&key.key)
        {
            return if *digest == key.digest {
                Applied::Accepted { push: *push, audience: *audience, repeated: true }
            } else {
                Applied::Refused(Refusal::KeyReused)
            };
        }
        let (audience, qos0) = match self.audience(accept) {
            Ok(audience) => audience,
            Err(refused) => return refused,
        };
        self.last_push += 1;
        let (push, len) = (PushId(self.last_push), audience.len() as u64);
        let is_small = audience.len() <= SMALL_AUDIENCE_MAX;
        self.broad += usize::from(!is_small);
        let state = |no: u32| match is_small && self.owed_small(no) >= QUOTA {
            true => State::Dropped(DropReason::OverQuota),
            false => State::Pending,
        };
        let states: BTreeMap<_, _> = audience.into_iter().map(|no| (no, state(no))).collect();
        let key = accept.idempotency.as_ref().map(|key| key.key.clone());
        if let Some(key) = &accept.idempotency {
            self.keys.insert(key.key.clone(), (key.digest, push, len));
        }
        if len > 0 || accept.message.kind == PushKind::Identity || key.is_some() {
            let (kind, expires_at_ms) = (accept.message.kind, self.at_ms + accept.ttl_ms);
            let entry = Push { kind, qos0, states, withdrawn: None, expires_at_ms, settled_at_ms: None, key };
            self.pushes.insert(push, entry);
            self.settle(push, [], State::Delivered);
        }
        Applied::Accepted { push, audience: len, repeated: false }
    }

    fn audience(&self, accept: &AcceptPush) -> Result<(BTreeSet<u32>, BTreeSet<u32>), Applied> {
        match &accept.audience {
            Audience::All => Ok((self.registered.values().copied().collect(), BTreeSet::new())),
            Audience::Terminals(ids) => {
                let (known, unknown): (Vec<_>, Vec<_>) =
                    ids.iter().partition(|id| self.registered.contains_key(id));
                if unknown.is_empty() {
                    return Ok((known.into_iter().map(|id| self.registered[id]).collect(), BTreeSet::new()));
                }
                Err(Applied::Refused(Refusal::UnknownTerminals(
                    unknown.into_iter().take(8).cloned().collect(),
                )))
            }
            Audience::Topic => {
                let (mut all, mut qos0) = (BTreeSet::new(), BTreeSet::new());
                for session in self.sessions.values() {
                    let is_publisher = accept.message.publisher == Some(TerminalNo(session.no));
                    let matching = session.subscriptions.iter().filter(|(filter, (_, no_local))| {
                        filter::matches(&accept.message.topic, filter) && !(is_publisher && *no_local)
                    });
                    if let Some(qos) = matching.map(|(_, (qos, _))| *qos).max() {
                        all.insert(session.no);
                        if qos == Qos::AtMostOnce {
                            qos0.insert(session.no);
                        }
                    }
                }
                Ok((all, qos0))
            }
        }
    }

    fn owed_small(&self, no: u32) -> usize {
        let small = self.pushes.values().filter(|push| push.states.len() <= SMALL_AUDIENCE_MAX);
        small.filter(|push| push.states.get(&no) == Some(&State::Pending)).count()
    }

    fn settle(&mut self, push: PushId, nos: impl IntoIterator<Item = u32>, state: State) {
        let Some(push) = self.pushes.get_mut(&push) else { return };
        for no in nos {
            if let Some(before) = push.states.get_mut(&no).filter(|before| before.may_become(state)) {
                *before = state;
            }
        }
        let is_settled = push.states.values().all(|state| *state != State::Pending);
        if is_settled && push.settled_at_ms.is_none() {
            push.settled_at_ms = Some(self.at_ms);
        }
        self.seen.extend(push.states.values());
    }

    fn withdraw(&mut self, id: PushId, why: Withdrawn, is_in_flight: impl Fn(u32) -> bool) {
        let Some(push) = self.pushes.get_mut(&id).filter(|push| push.settled_at_ms.is_none()) else { return };
        let why = *push.withdrawn.get_or_insert(why);
        let rest: Vec<_> = push.states.keys().copied().filter(|no| !is_in_flight(*no)).collect();
        let pending = |no: &u32| push.states[no] == State::Pending;
        let rest: Vec<_> = rest.into_iter().filter(pending).collect();
        self.settle(id, rest, why.state());
    }

    fn compare(&self, tables: &Tables, all: bool) {
        self.compare_pushes(tables, all);
        self.compare_terminals(tables, all);
        let alive = |p: &&Push| p.settled_at_ms.is_none() && p.withdrawn.is_none();
        let due = tables.due(self.at_ms, usize::MAX);
        let expected: BTreeSet<_> = self
            .pushes
            .iter()
            .filter(|(_, p)| alive(p) && p.expires_at_ms <= self.at_ms)
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(due.into_iter().collect::<BTreeSet<_>>(), expected);
        let asked = self.pushes.iter().filter(|(_, p)| p.settled_at_ms.is_none() && p.withdrawn.is_some());
        assert_eq!(tables.unsettled_withdrawn(usize::MAX), asked.map(|(id, _)| *id).collect::<Vec<_>>());
        let accepted = tables.accepted_after(PushId(0), usize::MAX);
        let expected = self.pushes.iter().filter(|(_, p)| alive(p)).map(|(id, _)| *id);
        assert_eq!(accepted.iter().map(|a| a.push).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        for accepted in accepted {
            assert_eq!(accepted.pending, tables.targets(accepted.push, State::Pending).unwrap());
        }
    }

    fn compare_pushes(&self, tables: &Tables, all: bool) {
        let recent = self.last_push.saturating_sub(12);
        for (id, push) in self.pushes.iter().filter(|(id, _)| all || id.0 > recent) {
            let record = tables.push(*id).unwrap();
            assert_eq!(
                (record.withdrawn, record.settled_at_ms),
                (push.withdrawn, push.settled_at_ms),
                "{id}"
            );
            let counts = tables.counts(*id).unwrap();
            assert_eq!(counts.by_state.iter().map(|(_, n)| n).sum::<u64>(), counts.audience, "conservation");
            assert_eq!(counts.audience, push.states.len() as u64);
            for state in State::ALL {
                let expected: BTreeSet<_> =
                    push.states.iter().filter(|(_, s)| **s == state).map(|(no, _)| *no).collect();
                let found: BTreeSet<_> = tables.targets(*id, state).unwrap().iter().map(|no| no.0).collect();
                assert_eq!(found, expected, "{state:?} of {id}");
                let count = counts.by_state.iter().find(|(s, _)| *s == state).map_or(0, |(_, count)| *count);
                assert_eq!(count, expected.len() as u64);
            }
            let qos0: BTreeSet<_> = tables.audience_qos0(*id).iter().map(|no| no.0).collect();
            assert_eq!(qos0, push.qos0);
        }
        assert!(tables.push(PushId(self.last_push + 1)).is_none());
        for id in (1..=self.last_push).map(PushId).filter(|id| !self.pushes.contains_key(id)) {
            assert!(tables.counts(id).is_none(), "{id} is purged");
        }
    }

    fn compare_terminals(&self, tables: &Tables, all: bool) {
        for (n, (id, session)) in self.sessions.iter().enumerate() {
            let no = TerminalNo(session.no);
            let record = tables.terminal_by_id(AppId::DEFAULT, id).unwrap();
            assert_eq!((record.no, &record.id), (no, id));
            let found = tables.session(no).unwrap();
            assert_eq!((found.session.0, found.expiry_s), (session.id, session.expiry_s));
            assert_eq!((found.edge.0, found.incarnation.0, found.connection), session.holder);
            assert_eq!(found.detached_at_ms, session.detached_at_ms);
            assert_eq!(tables.subscriptions(no), subscriptions(session));
            if all || n % 8 == 0 {
                self.compare_owed(tables, no);
            }
        }
        for no in (1..=4).map(TerminalNo) {
            self.compare_owed(tables, no);
        }
        let registered = tables.list_terminals(AppId::DEFAULT, None, usize::MAX);
        assert_eq!(registered.len(), self.registered.len());
    }

    fn compare_owed(&self, tables: &Tables, no: TerminalNo) {
        let pending = self.pushes.iter().filter(|(_, push)| push.states.get(&no.0) == Some(&State::Pending));
        assert_eq!(tables.owed_len(no, usize::MAX), pending.clone().count());
        let live = pending.filter(|(_, push)| push.withdrawn.is_none() && push.expires_at_ms > self.at_ms);
        let expected: Vec<_> =
            live.map(|(id, push)| (*id, push.qos0.contains(&no.0), push.expires_at_ms)).collect();
        let found = tables.owed(no, PushId(0), PushId(u64::MAX), self.at_ms, usize::MAX);
        let found: Vec<_> = found.into_iter().map(|row| (row.push, row.qos0, row.expires_at_ms)).collect();
        assert_eq!(found, expected, "owed to {no}");
        if let Some((middle, ..)) = expected.get(expected.len() / 2) {
            let page = tables.owed(no, *middle, PushId(u64::MAX), self.at_ms, 2);
            let rest = expected.iter().filter(|(id, ..)| id > middle).take(2);
            assert_eq!(
                page.iter().map(|row| row.push).collect::<Vec<_>>(),
                rest.map(|row| row.0).collect::<Vec<_>>()
            );
        }
    }

    /// A run that met no broad push, or never ran into the quota, proves little.
    fn assert_was_interesting(&self) {
        println!(
            "{} pushes, {} broad, {} purged, states {:?}",
            self.last_push, self.broad, self.purged, self.seen
        );
        assert!(self.broad > 10 && self.purged > 20 && self.seen.len() >= 8);
    }
}

fn subscriptions(session: &Session) -> Vec<cluster_proto::link::Subscription> {
    let subscription =
        |(filter, (qos, no_local)): (&String, &(Qos, bool))| cluster_proto::link::Subscription {
            filter: filter.clone(),
            qos: *qos,
            options: cluster_proto::link::SubscriptionOptions { no_local: *no_local, ..Default::default() },
        };
    session.subscriptions.iter().map(subscription).collect()
}
