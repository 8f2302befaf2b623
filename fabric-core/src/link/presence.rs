//! Which terminal is on which edge: the leader's memory, rebuilt by Resume after a leader change.
//!
//! Terminals with a number live in pages of a dense array, so that a binding costs 32 bytes and a look-up two
//! indexings; clients without a number (anonymous, nothing replicated) are found by name.

use std::collections::BTreeMap;

use cluster_proto::{AppId, Epoch, NodeId, TerminalId, TerminalNo};

/// "This terminal is on that edge".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
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
}

impl Presence {
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
        Ok(existing)
    }

    /// Removes the binding of `who` if it still has this epoch.
    pub fn unbind(&mut self, who: &Who, epoch: Epoch) -> Option<Binding> {
        self.get(who).filter(|b| b.epoch == epoch)?;
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
        self.bind(Who::Numbered(no), binding).is_ok()
    }

    /// Removes every binding of clients without a number on `edge`.
    pub fn unbind_named_of(&mut self, edge: NodeId) {
        self.named.retain(|_, binding| binding.edge != edge);
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
        Binding { edge: NodeId(edge), epoch: Epoch { term: 1, counter }, live: false }
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
}
