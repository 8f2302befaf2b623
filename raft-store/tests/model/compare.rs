//! What queries answer, against the model.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cluster_proto::{AppId, Audience, PushId, State, TerminalNo, TerminalSet, link::After};
use fabric_core::subscriptions::filter;
use raft_store::tables::{AppRecord, ReleasePhase, Tables};

use crate::{
    Model,
    pushes::{Push, Told},
    world::{DAY_MS, FILTERS, REGISTERED, TOPICS, audience::meant, message},
};

impl Model {
    pub(crate) fn compare(&self, tables: &Tables, all: bool) {
        self.compare_pushes(tables, all);
        self.compare_terminals(tables, all);
        self.compare_groups(tables);
        self.compare_retained(tables);
        self.compare_collapses(tables);
        assert_eq!(tables.sessions_len(), self.sessions.len() as u64);
        let due = self.sessions.values().filter_map(|session| session.will.as_ref()?.1);
        let first = due.min().unwrap_or(u64::MAX - 1);
        assert!(!tables.wills_due(first - 1) && tables.wills_due(first) == (first < u64::MAX - 1));
        assert_eq!(tables.command_index(), self.commands);
        let alive = |p: &&Push| p.settled_at_ms.is_none() && p.withdrawn.is_none();
        let due = tables.due(self.at_ms, usize::MAX);
        let expected: BTreeSet<_> = self
            .pushes
            .kept
            .iter()
            .filter(|(_, p)| alive(p) && p.expires_at_ms <= self.at_ms)
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(due.into_iter().collect::<BTreeSet<_>>(), expected);
        let asked =
            self.pushes.kept.iter().filter(|(_, p)| p.settled_at_ms.is_none() && p.withdrawn.is_some());
        assert_eq!(
            tables.unsettled_withdrawn(PushId(0), usize::MAX),
            asked.map(|(id, _)| *id).collect::<Vec<_>>()
        );
        let accepted = tables.accepted_after(PushId(0), usize::MAX);
        let plain = self.pushes.kept.iter().filter(|(_, p)| alive(p) && p.release.is_none());
        let waves = self.pushes.waves.iter().filter(|(_, wave)| alive(&&self.pushes.kept[&wave.push]));
        let expected: BTreeSet<_> = plain.map(|(id, _)| *id).chain(waves.map(|(id, _)| *id)).collect();
        assert_eq!(
            accepted.iter().map(|a| a.push).collect::<Vec<_>>(),
            expected.into_iter().collect::<Vec<_>>()
        );
        let halted = |p: &&Push| {
            alive(p) && matches!(p.release.as_ref().map(|r| r.phase), Some(ReleasePhase::Halted(_)))
        };
        let halted: Vec<_> =
            self.pushes.kept.iter().filter(|(_, p)| halted(p)).map(|(id, _)| (AppId::DEFAULT, *id)).collect();
        assert_eq!(tables.halted(usize::MAX), halted);
        for accepted in accepted {
            assert_eq!(accepted.pending, tables.targets(accepted.push, State::Pending).unwrap());
        }
    }

    fn compare_pushes(&self, tables: &Tables, all: bool) {
        let recent = self.pushes.last.saturating_sub(12);
        for (id, push) in self.pushes.kept.iter().filter(|(id, _)| all || id.0 > recent) {
            let record = tables.push(*id).unwrap();
            assert_eq!(
                (record.withdrawn, record.settled_at_ms),
                (push.withdrawn, push.settled_at_ms),
                "{id}"
            );
            let release = push.release.as_ref().map(|release| (release.phase, release.released));
            assert_eq!(record.release.map(|release| (release.phase, release.released)), release, "{id}");
            if let Some(waiting) = push.release.as_ref().filter(|r| r.phase == ReleasePhase::Waiting) {
                assert_eq!(record.release.map(|release| release.due_ms), Some(waiting.due_ms));
            }
            let counts = tables.counts(*id).unwrap();
            assert_eq!(counts.by_state.iter().map(|(_, n)| n).sum::<u64>(), counts.audience, "conservation");
            assert_eq!(counts.audience, push.states.len() as u64);
            for state in State::ALL {
                let expected: BTreeSet<_> =
                    push.states.iter().filter(|(_, s)| **s == state).map(|(no, _)| *no).collect();
                let found: BTreeSet<_> = tables.targets(*id, state).unwrap().iter().map(|no| no.0).collect();
                assert_eq!(found, expected, "{state:?} of {id}");
                assert!(expected.iter().all(|no| tables.state_of(*id, TerminalNo(*no)) == Some(state)));
                let count = counts.by_state.iter().find(|(s, _)| *s == state).map_or(0, |(_, count)| *count);
                assert_eq!(count, expected.len() as u64);
            }
            let qos0: BTreeSet<_> = tables.audience_qos0(*id).iter().map(|no| no.0).collect();
            assert_eq!(qos0, push.qos0);
        }
        for (id, wave) in &self.pushes.waves {
            let pending = self.pushes.kept[&wave.push].states.iter().filter(|(_, s)| **s == State::Pending);
            let expected: BTreeSet<_> =
                pending.map(|(no, _)| *no).filter(|no| wave.part.contains(no)).collect();
            let found = tables.targets(*id, State::Pending).unwrap();
            assert_eq!(found.iter().map(|no| no.0).collect::<BTreeSet<_>>(), expected, "{id}");
        }
        assert!(tables.push(PushId(self.pushes.last + 1)).is_none());
        let is_kept = |id: &PushId| self.pushes.kept.contains_key(&self.whole(*id));
        for id in (1..=self.pushes.last).map(PushId).filter(|id| !is_kept(id)) {
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
            assert_eq!(tables.subscriptions(no), session.subscriptions());
            assert_eq!(tables.outbound(no), self.outbound(session));
            assert_eq!(tables.groups_of(no), self.groups.of(no.0));
            if all || n % 8 == 0 {
                self.compare_owed(tables, no);
            }
        }
        for no in (1..=if all { REGISTERED } else { 4 }).map(TerminalNo) {
            self.compare_owed(tables, no);
        }
        let registered = tables.list_terminals(AppId::DEFAULT, None, usize::MAX);
        let labels = registered.into_iter().map(|record| (record.no.0, (record.tags, record.alias)));
        assert_eq!(labels.collect::<BTreeMap<_, _>>(), self.numbers.labels);
        let record = tables.app_record(AppId::DEFAULT).unwrap();
        let stored_bytes = self.stored_bytes() + self.retained_bytes();
        let terminals = self.numbers.labels.len() as u64;
        assert_eq!(record, AppRecord { quotas: self.quotas, terminals, stored_bytes });
        let everyone: TerminalSet = self.numbers.labels.keys().copied().map(TerminalNo).collect();
        let mut last = BTreeMap::new();
        for (day, seen) in self.numbers.seen.range(..=(self.at_ms / DAY_MS) as u32) {
            last.extend(seen.iter().map(|no| (TerminalNo(*no), *day)));
        }
        assert_eq!(tables.last_seen(&everyone, self.at_ms), last);
    }

    /// What a dry run answers.
    pub(crate) fn compare_audience(&self, tables: &Tables, audience: &Audience, online: &TerminalSet) {
        for topic in TOPICS {
            let message = message(audience.kind(), topic, None);
            let facts = Told { model: self, message: &message, online: Some(online) };
            let found = tables.resolve(audience, AppId::DEFAULT, topic, Some(online), self.at_ms);
            let found = found.map(|meant| meant.0.iter().collect::<HashSet<_>>());
            assert_eq!(found, meant(audience, &facts), "{audience:?} of {topic}");
        }
    }

    fn compare_owed(&self, tables: &Tables, no: TerminalNo) {
        let pending =
            self.pushes.kept.iter().filter(|(_, push)| push.states.get(&no.0) == Some(&State::Pending));
        assert_eq!(tables.owed_len(no, usize::MAX), pending.clone().count());
        let live = pending.filter(|(_, push)| {
            let is_replaced = push.collapsing().contains(&no.0);
            push.withdrawn.is_none() && push.expires_at_ms > self.at_ms && !is_replaced
        });
        let released = live.map(|(id, push)| (self.owed_as(*id, push, no.0), push));
        let mut expected: Vec<_> = released
            .filter(|((_, is_released), _)| *is_released)
            .map(|((id, _), push)| (id, push.qos0.contains(&no.0), push.expires_at_ms))
            .collect();
        expected.sort_unstable();
        let found = tables.owed(no, PushId(0), PushId(u64::MAX), self.at_ms, usize::MAX);
        let found: Vec<_> = found.into_iter().map(|row| (row.push, row.qos0, row.expires_at_ms)).collect();
        assert_eq!(found, expected, "owed to {no}");
        self.compare_owed_pages(tables, no, expected.iter().map(|row| row.0).collect());
        if let Some((middle, ..)) = expected.get(expected.len() / 2) {
            let page = tables.owed(no, *middle, PushId(u64::MAX), self.at_ms, 2);
            let rest = expected.iter().filter(|(id, ..)| id > middle).take(2);
            assert_eq!(
                page.iter().map(|row| row.push).collect::<Vec<_>>(),
                rest.map(|row| row.0).collect::<Vec<_>>()
            );
        }
    }

    /// What a terminal pulls, two at a time: everything, urgent pushes first, each priority in its order.
    fn compare_owed_pages(&self, tables: &Tables, no: TerminalNo, mut expected: Vec<PushId>) {
        expected.sort_by_key(|push| (!self.pushes.kept[&self.whole(*push)].urgent, *push));
        let (mut after, mut pulled) = (After::default(), Vec::new());
        loop {
            let page = tables.owed_page(no, after, PushId(u64::MAX), self.at_ms, 2);
            for row in &page {
                assert_eq!(row.urgent, self.pushes.kept[&row.of].urgent);
                *if row.urgent { &mut after.urgent } else { &mut after.ordinary } = row.push;
                pulled.push(row.push);
            }
            if page.len() < 2 {
                break;
            }
        }
        assert_eq!(pulled, expected, "pulled by {no}");
        if let Some((last, before)) = expected.split_last() {
            let urgent = self.pushes.kept[&self.whole(*last)].urgent;
            // Those that may not be handed out any more do not count.
            let count = tables.owed_before(no, *last, urgent, usize::MAX);
            assert!(count >= before.len(), "{no} gets {before:?} before {last}");
        }
    }

    fn compare_collapses(&self, tables: &Tables) {
        let marked: BTreeSet<_> = tables.collapses(usize::MAX).into_iter().collect();
        assert_eq!(marked, self.pushes.marked);
        let held = |(id, push): (&PushId, &Push)| (!push.collapsing().is_empty()).then_some(*id);
        let held: Vec<_> = self.pushes.kept.iter().filter_map(held).collect();
        assert_eq!(tables.collapsing_after(PushId(0), usize::MAX), held);
        for (id, push) in &self.pushes.kept {
            let collapsing: BTreeSet<_> = tables.collapsing(*id).0.iter().collect();
            assert_eq!(collapsing, push.collapsing(), "in flight and replaced: {id}");
            assert_eq!(tables.push(*id).unwrap().replaced_by, push.replaced_by);
        }
        for by in marked {
            let told = tables.to_collapse(by, usize::MAX).unwrap();
            let naive = self.replaces(by);
            for (push, nos) in &told.replaced {
                assert_eq!(nos.0.iter().collect::<BTreeSet<_>>(), naive[push], "{by} replaces {push}");
            }
            // Those the leader has been through are told again only where they are in flight.
            let told: BTreeSet<_> = told.replaced.into_iter().map(|(push, _)| push).collect();
            for (push, nos) in &naive {
                let decided = self.pushes.kept[push].collapsing();
                assert!(told.contains(push) || nos.is_subset(&decided), "{by} forgets {push}");
            }
        }
    }

    fn compare_groups(&self, tables: &Tables) {
        assert_eq!(tables.has_groups(), !self.groups.0.is_empty());
        for (filter, group) in &self.groups.0 {
            let no = TerminalNo(group.no);
            assert!(tables.is_group(no));
            assert_eq!(tables.terminal_by_no(no).unwrap().id.as_str(), filter);
            let members: Vec<_> = group.members.iter().map(|(no, qos)| (TerminalNo(*no), *qos)).collect();
            assert_eq!(tables.group_members(no), members);
            self.compare_owed(tables, no);
        }
        assert!(self.sessions.values().all(|session| !tables.is_group(TerminalNo(session.no))));
        for topic in TOPICS {
            let matching: Vec<_> = self.groups.matching(topic).into_iter().map(TerminalNo).collect();
            assert_eq!(tables.groups_matching(AppId::DEFAULT, topic), matching);
        }
    }

    fn compare_retained(&self, tables: &Tables) {
        assert_eq!(tables.retained_len(AppId::DEFAULT), self.retained.len() as u64);
        let upto = [u64::MAX, self.commands.saturating_sub(20)];
        for (filter, upto) in FILTERS.iter().flat_map(|filter| upto.map(|upto| (filter, upto))) {
            let page = tables.retained(AppId::DEFAULT, filter, upto, None, self.at_ms);
            let live = self.retained.iter().filter(|(topic, (_, kept_at, expires_at_ms))| {
                filter::matches(topic, filter)
                    && *kept_at <= upto
                    && expires_at_ms.is_none_or(|at_ms| at_ms > self.at_ms)
            });
            let expected: Vec<_> = live.map(|(_, (message, _, at_ms))| (message.clone(), *at_ms)).collect();
            assert_eq!(page.next, None);
            for kept in &page.messages {
                assert_eq!(tables.retained_by_id(kept.id).as_ref(), Some(kept));
            }
            let found: Vec<_> =
                page.messages.into_iter().map(|kept| (kept.message, kept.expires_at_ms)).collect();
            assert_eq!(found, expected, "{filter}");
        }
        let due = self.retained.values().any(|(.., at_ms)| at_ms.is_some_and(|at_ms| at_ms <= self.at_ms));
        assert_eq!(tables.retained_due(self.at_ms), due);
    }
}
