//! Which terminal is on which edge: the leader's memory, rebuilt by Resume after a leader change.
//!
//! Terminals with a number live in pages of a dense array, so that a binding costs 32 bytes and a look-up two
//! indexings; clients without a number (anonymous, nothing replicated) are found by name.

use std::collections::BTreeMap;

use cluster_proto::{AppId, Epoch, NodeId, TerminalId, TerminalNo};

/// "This terminal is on that edge".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Whose.
    pub app: AppId,
    /// Where.
    pub edge: NodeId,
    /// Fences it: the higher wins (I6).
    pub epoch: Epoch,
    /// Live Delivers reach it; otherwise it is catching up.
    pub live: bool,
}

/// Who a binding belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A terminal with a number.
    Numbered(TerminalNo),
    /// A client without one.
    Named(AppId, TerminalId),
}

const PAGE_LEN: usize = 1 << 16;

#[derive(Debug)]
struct Page {
    slots: Box<[Option<Binding>]>,
    used: usize,
}

/// All bindings.
#[derive(Debug, Default)]
pub struct Presence {
    /// By the upper 16 bits of the number; a page exists while it holds a binding.
    pages: BTreeMap<u16, Page>,
    named: BTreeMap<(AppId, TerminalId), Binding>,
    /// How many there are of each app that has any.
    by_app: BTreeMap<AppId, u64>,
}

impl Presence {
    /// How many terminals of an app are bound.
    pub fn connected(&self, app: AppId) -> u64 {
        self.by_app.get(&app).copied().unwrap_or(0)
    }

    /// Some bindings of an app, at most `limit`. Looks at those of all apps.
    pub fn of_app(&self, app: AppId, limit: usize) -> Vec<(Who, Binding)> {
        let named = self.named.iter().map(|((app, id), binding)| (Who::Named(*app, id.clone()), *binding));
        let numbered = self.pages.iter().flat_map(|(block, page)| {
            let first = u32::from(*block) << 16;
            let slots = page.slots.iter().zip(first..);
            slots.filter_map(|(slot, no)| Some((Who::Numbered(TerminalNo(no)), (*slot)?)))
        });
        named.chain(numbered).filter(|(_, binding)| binding.app == app).take(limit).collect()
    }

    fn count(&mut self, added: Option<AppId>, removed: Option<AppId>) {
        if let Some(app) = added {
            *self.by_app.entry(app).or_default() += 1;
        }
        if let Some(app) = removed
            && let Some(count) = self.by_app.get_mut(&app)
        {
            *count -= 1;
            if *count == 0 {
                self.by_app.remove(&app);
            }
        }
    }

    /// The binding of `who`, if it is online.
    pub fn get(&self, who: &Who) -> Option<&Binding> {
        match who {
            Who::Numbered(no) => self.numbered(*no),
            Who::Named(app, terminal) => self.named.get(&(*app, terminal.clone())),
        }
    }

    /// The binding of a numbered terminal.
    pub fn numbered(&self, no: TerminalNo) -> Option<&Binding> {
        self.pages.get(&no.block())?.slots[slot(no)].as_ref()
    }

    /// Binds `who`, unless it has a binding with a higher epoch; answers the binding that lost.
    pub fn bind(&mut self, who: Who, binding: Binding) -> Result<Option<Binding>, Binding> {
        let existing = self.get(&who).copied();
        if let Some(newer) = existing.filter(|b| b.epoch > binding.epoch) {
            return Err(newer);
        }
        match who {
            Who::Numbered(no) => {
                let page = self.pages.entry(no.block()).or_insert_with(Page::new);
                page.used += usize::from(page.slots[slot(no)].is_none());
                page.slots[slot(no)] = Some(binding);
            }
            Who::Named(app, terminal) => {
                self.named.insert((app, terminal), binding);
            }
        }
        self.count(Some(binding.app), existing.map(|binding| binding.app));
        Ok(existing)
    }

    /// Removes the binding of `who` if it still has this epoch.
    pub fn unbind(&mut self, who: &Who, epoch: Epoch) -> Option<Binding> {
        let app = self.get(who).filter(|b| b.epoch == epoch)?.app;
        self.count(None, Some(app));
        match who {
            Who::Named(app, terminal) => self.named.remove(&(*app, terminal.clone())),
            Who::Numbered(no) => {
                let page = self.pages.get_mut(&no.block())?;
                let gone = page.slots[slot(*no)].take();
                page.used -= usize::from(gone.is_some());
                if page.used == 0 {
                    self.pages.remove(&no.block());
                }
                gone
            }
        }
    }

    /// Marks a numbered terminal live or catching up; answers its edge if it is bound with this epoch.
    pub fn set_live(&mut self, no: TerminalNo, epoch: Epoch, live: bool) -> Option<NodeId> {
        let binding = self.pages.get_mut(&no.block())?.slots[slot(no)].as_mut()?;
        (binding.epoch == epoch).then(|| {
            binding.live = live;
            binding.edge
        })
    }

    /// Moves the binding of a client that was just lent a number.
    pub fn give_number(&mut self, app: AppId, terminal: &TerminalId, no: TerminalNo) -> bool {
        let Some(binding) = self.named.remove(&(app, terminal.clone())) else { return false };
        self.count(None, Some(binding.app));
        self.bind(Who::Numbered(no), binding).is_ok()
    }

    /// Removes every binding of clients without a number on `edge`.
    pub fn unbind_named_of(&mut self, edge: NodeId) {
        let gone: Vec<_> = self.named.values().filter(|b| b.edge == edge).map(|b| b.app).collect();
        self.named.retain(|_, binding| binding.edge != edge);
        gone.into_iter().for_each(|app| self.count(None, Some(app)));
    }
}

impl Page {
    fn new() -> Self {
        Self { slots: vec![None; PAGE_LEN].into_boxed_slice(), used: 0 }
    }
}

fn slot(no: TerminalNo) -> usize {
    no.0 as usize % PAGE_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(edge: u64, counter: u64) -> Binding {
        Binding { app: AppId::DEFAULT, edge: NodeId(edge), epoch: Epoch { term: 1, counter }, live: false }
    }

    #[test]
    fn a_binding_with_a_lower_epoch_never_replaces_a_higher_one() {
        let mut presence = Presence::default();
        let who = Who::Numbered(TerminalNo(7));
        assert_eq!(presence.bind(who.clone(), binding(1, 5)), Ok(None));
        assert_eq!(presence.bind(who.clone(), binding(2, 4)), Err(binding(1, 5)));
        assert_eq!(presence.bind(who.clone(), binding(2, 6)), Ok(Some(binding(1, 5))));
        assert_eq!(presence.get(&who).map(|b| b.edge), Some(NodeId(2)));
    }

    #[test]
    fn unbind_with_an_old_epoch_changes_nothing() {
        let mut presence = Presence::default();
        let who = Who::Numbered(TerminalNo(7));
        presence.bind(who.clone(), binding(1, 5)).expect("bind");
        assert_eq!(presence.unbind(&who, Epoch { term: 1, counter: 4 }), None);
        assert!(presence.unbind(&who, Epoch { term: 1, counter: 5 }).is_some());
        assert!(presence.pages.is_empty(), "an empty page is given back");
    }

    #[test]
    fn a_client_that_is_lent_a_number_keeps_its_binding() {
        let mut presence = Presence::default();
        let terminal = TerminalId::new("guest").expect("id");
        presence.bind(Who::Named(AppId::DEFAULT, terminal.clone()), binding(1, 5)).expect("bind");
        let no = TerminalNo::UNREGISTERED_FIRST;
        assert!(presence.give_number(AppId::DEFAULT, &terminal, no));
        assert_eq!(presence.numbered(no), Some(&binding(1, 5)));
        assert_eq!(presence.get(&Who::Named(AppId::DEFAULT, terminal)), None);
    }

    #[test]
    fn the_bindings_of_an_app_are_counted_whatever_becomes_of_them() {
        let mut presence = Presence::default();
        let named = |name: &str| Who::Named(AppId::DEFAULT, TerminalId::new(name).expect("id"));
        let (numbered, count) = (Who::Numbered(TerminalNo(7)), |p: &Presence| p.connected(AppId::DEFAULT));
        presence.bind(numbered.clone(), binding(1, 5)).expect("bind");
        presence.bind(numbered.clone(), binding(2, 6)).expect("a takeover");
        presence.bind(numbered.clone(), binding(1, 1)).expect_err("an older one");
        presence.bind(named("a"), binding(1, 7)).expect("bind");
        presence.bind(named("b"), binding(1, 8)).expect("bind");
        assert_eq!((count(&presence), presence.connected(AppId(2))), (3, 0));
        assert_eq!(
            (presence.of_app(AppId::DEFAULT, 9).len(), presence.of_app(AppId::DEFAULT, 2).len()),
            (3, 2)
        );
        assert!(presence.of_app(AppId(2), 9).is_empty());
        presence.give_number(
            AppId::DEFAULT,
            &TerminalId::new("a").expect("id"),
            TerminalNo::UNREGISTERED_FIRST,
        );
        assert_eq!(count(&presence), 3);
        presence.unbind_named_of(NodeId(1));
        presence.unbind(&numbered, Epoch { term: 1, counter: 5 });
        assert_eq!(count(&presence), 2);
        presence.unbind(&numbered, Epoch { term: 1, counter: 6 });
        assert_eq!(count(&presence), 1);
        presence.unbind(&Who::Numbered(TerminalNo::UNREGISTERED_FIRST), Epoch { term: 1, counter: 7 });
        assert!(presence.by_app.is_empty());
    }
}
