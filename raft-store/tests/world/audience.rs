//! Random audience expressions, and what they mean to somebody who knows only sets.

use std::collections::{BTreeMap, HashSet};

use cluster_proto::{
    Audience, PushId, PushKind, Sample, State, TerminalId, TerminalNo, limits::SEEN_DAYS_MAX,
};
use raft_store::Refusal;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

pub const TAGS: [(&str, &str); 4] = [("os", "tv"), ("os", "phone"), ("vip", "yes"), ("vip", "")];
pub const ALIASES: [&str; 3] = ["u1", "u2", "u 3"];

/// Tags and alias of a terminal.
pub type Labels = (Vec<(String, String)>, Option<String>);

/// Any labels, each key once.
pub fn labels(rng: &mut StdRng) -> Labels {
    let tags: BTreeMap<&str, &str> = TAGS.iter().filter(|_| rng.random_ratio(1, 3)).copied().collect();
    let tags = tags.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let alias = rng.random_ratio(1, 3).then(|| (*ALIASES.choose(rng).unwrap()).to_owned());
    (tags, alias)
}

/// An expression over what `terminal` and `push` give.
pub fn expression(
    rng: &mut StdRng,
    depth: usize,
    terminal: &mut impl FnMut(&mut StdRng) -> TerminalId,
    push: &mut impl FnMut(&mut StdRng) -> PushId,
) -> Audience {
    let mut several = |rng: &mut StdRng| {
        (0..rng.random_range(2..4)).map(|_| expression(rng, depth - 1, terminal, push)).collect()
    };
    match rng.random_range(0..5) {
        0 | 1 if depth > 0 => Audience::And(several(rng)),
        2 if depth > 0 => Audience::Or(several(rng)),
        3 if depth > 0 => Audience::Not(Box::new(expression(rng, depth - 1, terminal, push))),
        _ => leaf(rng, terminal, push),
    }
}

fn leaf(
    rng: &mut StdRng,
    terminal: &mut impl FnMut(&mut StdRng) -> TerminalId,
    push: &mut impl FnMut(&mut StdRng) -> PushId,
) -> Audience {
    match rng.random_range(0..17) {
        0 => Audience::Terminals((0..rng.random_range(1..4)).map(|_| terminal(rng)).collect()),
        1 | 2 => Audience::Aliases(
            ALIASES.iter().filter(|_| rng.random_bool(0.5)).map(|alias| (*alias).to_owned()).collect(),
        ),
        3 => Audience::All,
        4..7 => Audience::Topic,
        7 => Audience::Online,
        8 => Audience::Offline,
        9 => Audience::Delivered(push(rng)),
        10 => Audience::Pending(push(rng)),
        11 | 12 => {
            let from = rng.random_range(0..Sample::BUCKETS);
            Audience::Sample(Sample::new(from, rng.random_range(from..Sample::BUCKETS) + 1).unwrap())
        }
        13 => Audience::Seen(*[1, 7, 30, SEEN_DAYS_MAX].choose(rng).unwrap()),
        _ => {
            let (key, value) = *TAGS.choose(rng).unwrap();
            Audience::Tag { key: key.to_owned(), value: value.to_owned() }
        }
    }
}

/// What an audience depends on.
pub trait Facts {
    fn registered(&self) -> HashSet<u32>;
    fn registered_as(&self, id: &TerminalId) -> Option<u32>;
    /// Of those that are registered, by number.
    fn labels(&self) -> &BTreeMap<u32, Labels>;
    /// Of the topic of the push, registered or not.
    fn subscribers(&self) -> HashSet<u32>;
    fn online(&self) -> HashSet<u32>;
    /// On the day it is, or on one of so many before it.
    fn seen(&self, days: u8) -> HashSet<u32>;
    /// Of a push that is kept.
    fn in_state(&self, push: PushId, state: State) -> Option<HashSet<u32>>;
}

/// Everyone who is meant.
pub fn meant(audience: &Audience, facts: &impl Facts) -> Result<HashSet<u32>, Refusal> {
    let universe = match audience.kind() {
        PushKind::Topic => facts.subscribers(),
        PushKind::Identity => facts.registered(),
    };
    let meant = set(audience, facts, &universe)?;
    Ok(&meant & &universe)
}

fn set(audience: &Audience, facts: &impl Facts, universe: &HashSet<u32>) -> Result<HashSet<u32>, Refusal> {
    let labelled = |has: &dyn Fn(&Labels) -> bool| {
        facts.labels().iter().filter(|(_, labels)| has(labels)).map(|(no, _)| *no).collect()
    };
    let of_push = |push, state| facts.in_state(push, state).ok_or(Refusal::UnknownPush(push));
    Ok(match audience {
        Audience::Terminals(ids) => {
            let unknown: Vec<_> =
                ids.iter().filter(|id| facts.registered_as(id).is_none()).take(8).cloned().collect();
            if !unknown.is_empty() {
                return Err(Refusal::UnknownTerminals(unknown));
            }
            ids.iter().filter_map(|id| facts.registered_as(id)).collect()
        }
        Audience::All => facts.registered(),
        Audience::Topic => facts.subscribers(),
        Audience::Aliases(names) => {
            labelled(&|(_, alias)| alias.as_ref().is_some_and(|alias| names.contains(alias)))
        }
        Audience::Tag { key, value } => labelled(&|(tags, _)| tags.contains(&(key.clone(), value.clone()))),
        Audience::Online => facts.online(),
        Audience::Offline => universe - &facts.online(),
        Audience::Delivered(push) => of_push(*push, State::Delivered)?,
        Audience::Pending(push) => of_push(*push, State::Pending)?,
        Audience::Sample(sample) => {
            universe.iter().copied().filter(|no| sample.contains(TerminalNo(*no))).collect()
        }
        Audience::And(members) => {
            let mut sets = Vec::new();
            for member in members {
                sets.push(set(member, facts, universe)?);
            }
            sets.into_iter().reduce(|all, member| &all & &member).unwrap()
        }
        Audience::Or(members) => {
            let mut any = HashSet::new();
            for member in members {
                any.extend(set(member, facts, universe)?);
            }
            any
        }
        Audience::Not(member) => universe - &set(member, facts, universe)?,
        Audience::Seen(days) => facts.seen(*days),
    })
}
