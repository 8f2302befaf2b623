//! Random commands against a model made of plain maps: after every slice both must answer the same.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints its seed")]

#[path = "../world/mod.rs"]
mod world;

mod compare;
mod exchanges;
mod groups;
mod numbers;
mod pushes;
mod releases;
mod retained;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{
    AppId, DropReason, State, TerminalId, TerminalNo, TerminalSet,
    limits::SEEN_DAYS_MAX,
    link::{Lane, Origin},
};
use raft_store::{
    Applied, Command, CommandBody, Refusal,
    command::{NewTerminal, Quotas},
    tables::{self, TablesOptions},
};
use rand::Rng as _;
use world::{DAY_MS, Generator};

use self::{groups::Groups, numbers::Numbers, pushes::Pushes, retained::Retained, sessions::Session};

const QUOTA: usize = 6;
const RETAINED_MAX: u64 = 4;
const RETAINED_BYTES_MAX: u64 = 330;
const WILL_TTL_MS: u64 = 1_500;

#[test]
fn tables_agree_with_plain_maps() {
    let mut all = Seen::default();
    for (seed, cache_bytes) in [(5, 1 << 20), (2, 30_000), (3, 0), (4, 1 << 20)] {
        all.add(run(seed, cache_bytes, 300));
    }
    all.assert_was_interesting();
}

fn run(seed: u64, cache_bytes: usize, slices: usize) -> Seen {
    let directory = tempfile::tempdir().unwrap();
    let options = TablesOptions {
        owed_per_terminal_max: QUOTA,
        retained_max: RETAINED_MAX,
        retained_bytes_max: RETAINED_BYTES_MAX,
        will_ttl_default_ms: WILL_TTL_MS,
        cache_bytes,
    };
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
        model.seen.sparse += model.pushes.sparse();
        model.compare_audience(&tables, &generator.expression(), &generator.some_online());
        if slice % 60 == 30 {
            machine.flush().unwrap();
        }
    }
    assert_eq!(tables.failure(), None);
    let Model { numbers, mut seen, .. } = model;
    seen.returned = numbers.returned;
    println!("{} pushes, {seen:?}", model.pushes.last);
    seen
}

#[derive(Default)]
struct Model {
    at_ms: u64,
    commands: u64,
    numbers: Numbers,
    /// By terminal, registered or not.
    sessions: BTreeMap<TerminalId, Session>,
    last_session: u64,
    /// Incarnation, ended, last sequence by lane.
    edges: BTreeMap<u64, (u64, bool, BTreeMap<Lane, u64>)>,
    pushes: Pushes,
    retained: Retained,
    groups: Groups,
    steps: u64,
    quotas: Quotas,
    seen: Seen,
}

/// What happened in a run.
#[derive(Debug, Default)]
struct Seen {
    states: BTreeSet<State>,
    purged: usize,
    /// Replaced at once, and while in flight.
    replaced: (usize, usize),
    broad: usize,
    /// Broad pushes with few pending, each as often as it was looked at.
    sparse: usize,
    /// Expressions that meant someone; how many of them only subscribers.
    expressions: (usize, usize),
    repeated: usize,
    resumed_outbound: usize,
    resumed_inbound: usize,
    waves: usize,
    low: usize,
    wills: usize,
    wills_discarded: usize,
    retained_refused: usize,
    groups_gone: usize,
    updated: usize,
    deleted: usize,
    stored_refused: usize,
    registrations_refused: usize,
    returned: usize,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.states.extend(&other.states);
        self.replaced.0 += other.replaced.0;
        self.replaced.1 += other.replaced.1;
        self.expressions.0 += other.expressions.0;
        self.expressions.1 += other.expressions.1;
        for (count, by) in [
            (&mut self.purged, other.purged),
            (&mut self.broad, other.broad),
            (&mut self.sparse, other.sparse),
            (&mut self.repeated, other.repeated),
            (&mut self.resumed_outbound, other.resumed_outbound),
            (&mut self.resumed_inbound, other.resumed_inbound),
            (&mut self.waves, other.waves),
            (&mut self.low, other.low),
            (&mut self.wills, other.wills),
            (&mut self.wills_discarded, other.wills_discarded),
            (&mut self.retained_refused, other.retained_refused),
            (&mut self.groups_gone, other.groups_gone),
            (&mut self.updated, other.updated),
            (&mut self.deleted, other.deleted),
            (&mut self.stored_refused, other.stored_refused),
            (&mut self.registrations_refused, other.registrations_refused),
            (&mut self.returned, other.returned),
        ] {
            *count += by;
        }
    }

    /// Runs in which something never happened prove little.
    fn assert_was_interesting(&self) {
        println!("all: {self:?}");
        assert!(self.broad > 40 && self.sparse > 40 && self.purged > 100 && self.states.len() >= 10);
        assert!(self.replaced.0 > 20 && self.replaced.1 > 5);
        assert!(self.waves > 80 && self.low > 8);
        assert!(self.expressions.0 > 60 && self.expressions.1 > 15);
        assert!(self.repeated > 1 && self.resumed_outbound > 20 && self.resumed_inbound > 4);
        assert!(self.updated > 40 && self.deleted > 12 && self.stored_refused > 4);
        assert!(self.wills > 40 && self.wills_discarded > 12);
        assert!(self.retained_refused > 4 && self.groups_gone > 12 && self.returned > 4);
    }
}

impl Model {
    fn apply(&mut self, command: &Command, answer: &Applied) {
        self.commands += 1;
        let origin = command.origin.as_ref();
        let expected = match origin.and_then(|origin| self.admit(origin)) {
            Some(refused) => refused,
            None => self.body(origin, &command.body),
        };
        assert_eq!(*answer, expected, "{command:?}");
    }

    fn admit(&mut self, origin: &Origin) -> Option<Applied> {
        let Some((incarnation, ended, seqs)) = self.edges.get_mut(&origin.edge.0) else {
            return Some(Applied::Gap(0));
        };
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

    fn body(&mut self, origin: Option<&Origin>, body: &CommandBody) -> Applied {
        match body {
            CommandBody::CreateApp { .. } => Applied::App(AppId(2)),
            CommandBody::RegisterTerminals { terminals, .. } => {
                let before = self.numbers.registered.len();
                let new = terminals.iter().filter(|new| !self.numbers.registered.contains_key(&new.id));
                let most = self.quotas.terminals;
                if most > 0 && new.clone().count() > 0 && (before + new.count()) as u64 > most {
                    self.seen.registrations_refused += 1;
                    return Applied::Refused(Refusal::TerminalQuota(most));
                }
                let nos = terminals.iter().map(|terminal| self.register(terminal)).collect();
                Applied::Registered { nos, new: (self.numbers.registered.len() - before) as u64 }
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
            CommandBody::OpenSession(open) => self.open(open),
            CommandBody::DetachSession { holder, expiry_s, will, unacknowledged } => {
                self.detach(holder, *expiry_s, *will, unacknowledged)
            }
            CommandBody::Subscribe { holder, subscriptions } => self.subscribe(holder, subscriptions),
            CommandBody::Unsubscribe { holder, filters } => self.unsubscribe(holder, filters),
            CommandBody::ExpireSessions { limit } => self.expire_sessions(*limit),
            CommandBody::AcceptPush(push) => self.accept(origin, push),
            CommandBody::RecordReceipts { items, steps } => {
                items.iter().for_each(|item| self.receipt(item));
                steps.iter().for_each(|step| self.step(origin.unwrap(), step));
                Applied::Done
            }
            CommandBody::ExpirePushes { pushes } => self.expire_pushes(pushes),
            CommandBody::CancelPush { app, push, in_flight } => self.cancel(*app, *push, in_flight),
            CommandBody::PurgePushes { settled_before_ms, limit } => self.purge(*settled_before_ms, *limit),
            CommandBody::Retain { message, ttl_ms } => match self.retain(message, *ttl_ms, 0, 0) {
                Ok(()) => Applied::Done,
                Err(refusal) => Applied::Refused(refusal),
            },
            CommandBody::Release(exchange) => self.release(origin.unwrap(), exchange),
            CommandBody::PublishWills { limit } => self.publish_wills(*limit),
            CommandBody::ExpireRetained { limit } => self.expire_retained(*limit),
            CommandBody::Collapse { by, pushes, released, next } => {
                self.collapse(*by, pushes, *released, next.is_some())
            }
            CommandBody::ReleasePushes { limit } => self.release_pushes(*limit),
            CommandBody::HoldPush { app, push } => self.hold(*app, *push),
            CommandBody::ResumePush { app, push } => self.resume(*app, *push),
            // Looked at by the tests of receipts.
            CommandBody::PurgeReceipts { .. }
            | CommandBody::SetWebhook { .. }
            | CommandBody::RemoveWebhook { .. }
            | CommandBody::AdvanceWebhook { .. } => Applied::Done,
            CommandBody::SetQuotas { change, .. } => {
                self.quotas = self.quotas.changed(change);
                Applied::Done
            }
            CommandBody::UpdateTerminals { terminals, change, .. } => {
                let changed = terminals.iter().filter(|no| self.numbers.change(*no, change)).count();
                self.seen.updated += changed;
                Applied::Changed { changed: changed as u64, full: 0 }
            }
            CommandBody::DeleteTerminals { terminals, .. } => self.delete(terminals),
            CommandBody::RecordSeen { day, terminals } => {
                let today = (self.at_ms / DAY_MS) as u32;
                if (today - u32::from(SEEN_DAYS_MAX)..=today + 1).contains(day) {
                    let registered = |no: &u32| self.numbers.labels.contains_key(no);
                    let some: Vec<_> = terminals.iter().map(|no| no.0).filter(registered).collect();
                    self.numbers.seen.entry(*day).or_default().extend(some);
                }
                Applied::Done
            }
            CommandBody::Revoke { .. } | CommandBody::InstallKey(_) | CommandBody::Nothing => Applied::Done,
            CommandBody::DeleteApp { .. } | CommandBody::RemoveApp { .. } => unreachable!("is not drawn"),
            CommandBody::RecordAppReceipts(_) => panic!("never drawn: tests/app_receipts.rs has their model"),
        }
    }

    fn register(&mut self, terminal: &NewTerminal) -> TerminalNo {
        let id = &terminal.id;
        if !self.numbers.registered.contains_key(id) {
            self.end(std::slice::from_ref(id));
            self.numbers.register(id);
            let (day, no) = ((self.at_ms / DAY_MS) as u32, self.numbers.registered[id]);
            self.numbers.seen.entry(day).or_default().insert(no);
        }
        self.numbers.label(terminal);
        TerminalNo(self.numbers.registered[id])
    }

    /// What they are owed is dropped for that reason, and no will is published.
    fn delete(&mut self, terminals: &TerminalSet) -> Applied {
        let ids: Vec<_> = terminals.iter().filter_map(|no| self.numbers.id_of_registered(no.0)).collect();
        for push in self.pushes.kept.keys().copied().collect::<Vec<_>>() {
            let nos: Vec<_> = ids.iter().map(|id| self.numbers.registered[id]).collect();
            self.settle(push, nos, State::Dropped(DropReason::TerminalDeleted));
        }
        for id in &ids {
            if let Some(session) = self.sessions.get_mut(id) {
                session.will = None;
            }
        }
        self.end(&ids);
        ids.iter().for_each(|id| self.numbers.delete(id));
        self.seen.deleted += ids.len();
        Applied::Changed { changed: ids.len() as u64, full: 0 }
    }
}
