//! Which terminal is on which connection of this edge.

use std::collections::HashMap;

use cluster_proto::{AppId, Epoch, SessionId, TerminalId, TerminalNo, TerminalSet, link::Bound};

use crate::edge::messages::{ConnId, Targets};

/// One binding the leader gave to this edge.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) conn: ConnId,
    /// `Bind::connection`.
    pub(crate) holder: u64,
    pub(crate) no: Option<TerminalNo>,
    pub(crate) epoch: Epoch,
    pub(crate) session: Option<SessionId>,
    pub(crate) credential_issued_at: u64,
}

/// All bindings. A number is in the set of exactly the shard its terminal is on, so that splitting a Deliver is a
/// few bitmap intersections.
#[derive(Debug)]
pub(crate) struct Bindings {
    by_terminal: HashMap<(AppId, TerminalId), Binding>,
    by_no: HashMap<TerminalNo, ConnId>,
    /// How many of each app, for its limit.
    by_app: HashMap<AppId, usize>,
    shard_sets: Vec<TerminalSet>,
}

/// Up to this many targets are looked up one by one; more are intersected.
const LOOK_UP_MAX: u64 = 16;

impl Bindings {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            by_terminal: HashMap::new(),
            by_no: HashMap::new(),
            by_app: HashMap::new(),
            shard_sets: vec![TerminalSet::new(); shards],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_terminal.len()
    }

    /// How many terminals of an app are bound here.
    pub(crate) fn len_of(&self, app: AppId) -> usize {
        self.by_app.get(&app).copied().unwrap_or(0)
    }

    pub(crate) fn get(&self, app: AppId, terminal: &TerminalId) -> Option<&Binding> {
        self.by_terminal.get(&(app, terminal.clone()))
    }

    pub(crate) fn conn_of(&self, no: TerminalNo) -> Option<ConnId> {
        self.by_no.get(&no).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&(AppId, TerminalId), &Binding)> {
        self.by_terminal.iter()
    }

    /// Binds a terminal to `conn`; answers the binding of an older connection here.
    pub(crate) fn bind(
        &mut self,
        app: AppId,
        terminal: TerminalId,
        (conn, holder): (ConnId, u64),
        credential_issued_at: u64,
        bound: &Bound,
    ) -> Option<Binding> {
        let Bound { no, epoch, session, .. } = *bound;
        let binding = Binding { conn, holder, no, epoch, session, credential_issued_at };
        let old = self.by_terminal.insert((app, terminal), binding);
        match &old {
            Some(old) => old.no.into_iter().for_each(|old_no| self.remove_no(old_no)),
            None => *self.by_app.entry(app).or_insert(0) += 1,
        }
        if let Some(no) = no {
            self.insert_no(no, conn);
        }
        old
    }

    /// A terminal was lent a number, or its session changed.
    pub(crate) fn change(
        &mut self,
        app: AppId,
        terminal: &TerminalId,
        conn: ConnId,
        no: TerminalNo,
        session: SessionId,
    ) {
        let Some(binding) = self.by_terminal.get_mut(&(app, terminal.clone())) else { return };
        if binding.conn != conn {
            return;
        }
        binding.session = Some(session);
        if binding.no.replace(no) != Some(no) {
            self.insert_no(no, conn);
        }
    }

    /// A fresh credential took the place of the one it was bound with.
    pub(crate) fn reauthenticate(&mut self, app: AppId, terminal: &TerminalId, conn: ConnId, issued_at: u64) {
        let binding = self.by_terminal.get_mut(&(app, terminal.clone()));
        if let Some(binding) = binding.filter(|binding| binding.conn == conn) {
            binding.credential_issued_at = issued_at;
        }
    }

    /// A connection is gone; its binding, if it still had it.
    pub(crate) fn unbind(&mut self, app: AppId, terminal: &TerminalId, conn: ConnId) -> Option<Binding> {
        let key = (app, terminal.clone());
        self.by_terminal.get(&key).filter(|binding| binding.conn == conn)?;
        let binding = self.by_terminal.remove(&key)?;
        if let Some(bound) = self.by_app.get_mut(&app) {
            *bound -= 1;
            if *bound == 0 {
                self.by_app.remove(&app);
            }
        }
        if let Some(no) = binding.no {
            self.remove_no(no);
        }
        Some(binding)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.shard_sets.len());
    }

    /// The part of `targets` on each shard, and who is not here (any more).
    pub(crate) fn split(&self, targets: &TerminalSet) -> Vec<Targets> {
        if targets.len() > LOOK_UP_MAX {
            return self.shard_sets.iter().map(|set| targets_of(TerminalSet(&targets.0 & &set.0))).collect();
        }
        let mut parts: Vec<Targets> = self.shard_sets.iter().map(|_| Targets::None).collect();
        for no in targets.iter() {
            if let Some(conn) = self.by_no.get(&no) {
                parts[usize::from(conn.shard)].add(no);
            }
        }
        parts
    }

    /// Those of `targets` that are not on this edge.
    pub(crate) fn absent(&self, targets: &TerminalSet) -> TerminalSet {
        self.shard_sets.iter().fold(targets.clone(), |rest, set| TerminalSet(rest.0 - &set.0))
    }

    fn insert_no(&mut self, no: TerminalNo, conn: ConnId) {
        self.remove_no(no);
        self.by_no.insert(no, conn);
        self.shard_sets[usize::from(conn.shard)].insert(no);
    }

    fn remove_no(&mut self, no: TerminalNo) {
        if let Some(conn) = self.by_no.remove(&no) {
            self.shard_sets[usize::from(conn.shard)].remove(no);
        }
    }
}

fn targets_of(set: TerminalSet) -> Targets {
    match set.len() {
        0 => Targets::None,
        1 => set.iter().next().map_or(Targets::None, Targets::One),
        _ => Targets::Many(set),
    }
}

impl Targets {
    fn add(&mut self, no: TerminalNo) {
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(no),
            Self::One(first) => Self::Many([first, no].into_iter().collect()),
            Self::Many(mut set) => {
                set.insert(no);
                Self::Many(set)
            }
        };
    }

    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(shard: u16, connection: u64) -> ConnId {
        ConnId { shard, slot: connection as u32, connection }
    }

    fn bound(no: u32, counter: u64) -> Bound {
        Bound {
            no: Some(TerminalNo(no)),
            epoch: Epoch { term: 1, counter },
            session_present: false,
            session: None,
            session_expiry_s: 0,
            subscriptions: Vec::new(),
            outbound: Vec::new(),
            inbound: Vec::new(),
        }
    }

    fn bind(bindings: &mut Bindings, no: u32, conn: ConnId) -> Option<Binding> {
        let terminal = TerminalId::new(format!("t{no}")).unwrap();
        bindings.bind(AppId::DEFAULT, terminal, (conn, 1), 0, &bound(no, conn.connection))
    }

    fn nos(targets: &Targets) -> Vec<u32> {
        match targets {
            Targets::None => Vec::new(),
            Targets::One(no) => vec![no.0],
            Targets::Many(set) => set.iter().map(|no| no.0).collect(),
        }
    }

    #[test]
    fn few_and_many_targets_are_split_alike() {
        let mut bindings = Bindings::new(2);
        for no in 0..100 {
            bind(&mut bindings, no, conn((no % 2) as u16, u64::from(no)));
        }
        for n in [1u32, 2, 10, 16, 17, 100, 150] {
            let targets: TerminalSet = (0..n).map(TerminalNo).collect();
            let parts = bindings.split(&targets);
            for (shard, part) in parts.iter().enumerate() {
                let expected: Vec<u32> = (0..n.min(100)).filter(|no| *no as usize % 2 == shard).collect();
                assert_eq!(nos(part), expected, "{n} targets, shard {shard}");
            }
            assert_eq!(bindings.absent(&targets).len(), u64::from(n.saturating_sub(100)));
        }
    }

    #[test]
    fn a_second_connection_takes_the_terminal_over_and_the_end_of_the_first_changes_nothing() {
        let mut bindings = Bindings::new(2);
        let terminal = TerminalId::new("t7").unwrap();
        assert!(bind(&mut bindings, 7, conn(0, 1)).is_none());
        let old = bind(&mut bindings, 7, conn(1, 2)).expect("the first");
        assert_eq!(bindings.len_of(AppId::DEFAULT), 1);
        assert_eq!(old.conn, conn(0, 1));
        assert!(bindings.unbind(AppId::DEFAULT, &terminal, conn(0, 1)).is_none());
        assert_eq!(bindings.conn_of(TerminalNo(7)), Some(conn(1, 2)));
        let parts = bindings.split(&TerminalSet::one(TerminalNo(7)));
        assert!(parts[0].is_none() && nos(&parts[1]) == [7]);
        assert!(bindings.unbind(AppId::DEFAULT, &terminal, conn(1, 2)).is_some());
        assert_eq!(bindings.conn_of(TerminalNo(7)), None);
        assert_eq!((bindings.len(), bindings.len_of(AppId::DEFAULT)), (0, 0));
    }

    #[test]
    fn a_number_lent_later_counts_from_then_on() {
        let mut bindings = Bindings::new(1);
        let terminal = TerminalId::new("guest").unwrap();
        let unnumbered = Bound { no: None, ..bound(0, 1) };
        bindings.bind(AppId::DEFAULT, terminal.clone(), (conn(0, 1), 1), 0, &unnumbered);
        bindings.change(AppId::DEFAULT, &terminal, conn(0, 1), TerminalNo(9), SessionId(3));
        assert_eq!(bindings.conn_of(TerminalNo(9)), Some(conn(0, 1)));
        assert_eq!(bindings.get(AppId::DEFAULT, &terminal).and_then(|b| b.session), Some(SessionId(3)));
    }
}
