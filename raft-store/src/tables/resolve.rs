//! Whom a push is for: an audience expression to the set of terminals it means now.
//!
//! *The universe.* Every expression is a subset of one set, and `not` is what it leaves of that set. For a topic push it
//! is the subscribers of the topic, with those who are not registered and the shared groups; for an identity push, the
//! registered terminals of the app. So the laws of sets hold, and `a and not b` is a minus b.
//!
//! *The cost.* An identity push is looked at block by block, and only in blocks where the expression can have someone:
//! [`Plan::blocks`]. Each block is narrowed from left to right, and what is empty is not narrowed further.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cluster_proto::{
    AppId, Audience, Message, PushId, PushKind, Sample, State, TerminalId, TerminalNo, TerminalSet,
};
use roaring::RoaringBitmap;

use super::{
    blocks::by_block,
    broad,
    db::{Read, Snapshot, read},
    error::StoreError,
    keys::{self, Key},
    memory::Subscribers,
    push::PushSets,
    subscriptions,
    txn::Txn,
    value::{self, AudienceRow},
};
use crate::Refusal;

/// How many unknown terminals a refusal names.
const UNKNOWN_NAMED_MAX: usize = 8;

/// What an audience depends on besides the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) app: AppId,
    /// [`Audience::kind`].
    pub(crate) kind: PushKind,
    pub(crate) topic: &'a str,
    /// For No Local.
    pub(crate) publisher: Option<TerminalNo>,
    /// Who is connected, of all apps; absent: nobody.
    pub(crate) online: Option<&'a TerminalSet>,
}

impl<'a> About<'a> {
    pub(crate) fn message(message: &'a Message) -> Self {
        let Message { app, kind, ref topic, publisher, .. } = *message;
        Self { app, kind, topic, publisher, online: None }
    }
}

/// A resolved audience, by block.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) blocks: BTreeMap<u16, Part>,
    /// It is all subscribers of the topic, as the expression `topic` says.
    pub(crate) shown: bool,
}

/// One block of it.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Everyone.
    pub(crate) any: RoaringBitmap,
    /// Those whose matching subscriptions all granted QoS 0.
    pub(crate) qos0: RoaringBitmap,
}

impl Resolved {
    pub(crate) fn len(&self) -> u64 {
        self.blocks.values().map(|part| part.any.len()).sum()
    }

    pub(crate) fn union(&self, part: impl Fn(&Part) -> &RoaringBitmap) -> RoaringBitmap {
        self.blocks.values().fold(RoaringBitmap::new(), |all, block| all | part(block))
    }

    fn insert(&mut self, block: u16, any: RoaringBitmap, qos0: RoaringBitmap) {
        if !any.is_empty() {
            self.blocks.insert(block, Part { any, qos0 });
        }
    }
}

/// Where audiences are resolved: apply's transaction, or the committed tables.
pub(crate) trait Source: Read {
    /// The filters with wildcards that match a topic.
    fn wildcards_matching(&self, app: AppId, topic: &str) -> Result<Vec<Arc<str>>, StoreError>;

    /// All that subscribe with a filter, by block.
    fn subscribers(&mut self, app: AppId, filter: &str) -> Result<Subscribers, StoreError>;
}

impl Source for Txn<'_> {
    fn wildcards_matching(&self, app: AppId, topic: &str) -> Result<Vec<Arc<str>>, StoreError> {
        Ok(self.memory.wildcards.matching(app, topic))
    }

    fn subscribers(&mut self, app: AppId, filter: &str) -> Result<Subscribers, StoreError> {
        subscriptions::subscribers(self, app, filter)
    }
}

impl Source for Snapshot<'_> {
    fn wildcards_matching(&self, app: AppId, topic: &str) -> Result<Vec<Arc<str>>, StoreError> {
        subscriptions::read_wildcards(self, app, topic)
    }

    fn subscribers(&mut self, app: AppId, filter: &str) -> Result<Subscribers, StoreError> {
        subscriptions::read_subscribers(self, &keys::filter_blocks(app, filter))
    }
}

/// Whom an audience means now.
pub(crate) fn audience(
    source: &mut impl Source,
    audience: &Audience,
    about: &About<'_>,
) -> Result<Result<Resolved, Refusal>, StoreError> {
    if *audience == Audience::Topic && about.kind == PushKind::Topic {
        return subscribers(source, about).map(Ok);
    }
    let plan = match Plan::new(source, audience, about) {
        Ok(plan) => plan,
        Err(Stop::Refused(refusal)) => return Ok(Err(refusal)),
        Err(Stop::Failed(error)) => return Err(error),
    };
    let mentioned = if audience.mentions_topic() { subscribers(source, about)? } else { Resolved::default() };
    let given = Given { app: about.app, subscribers: mentioned, online: online(about) };
    let resolved = match about.kind {
        PushKind::Topic => plan.among_subscribers(source, &given),
        PushKind::Identity => plan.among_registered(source, &given),
    };
    resolved.map(Ok)
}

/// Everyone who subscribes to the topic.
pub(crate) fn subscribers(source: &mut impl Source, about: &About<'_>) -> Result<Resolved, StoreError> {
    let mut resolved = Resolved { shown: true, ..Resolved::default() };
    // Granted more than QoS 0 by some filter: what is left of the audience is granted QoS 0 by all.
    let mut granted = RoaringBitmap::new();
    let wildcards = source.wildcards_matching(about.app, about.topic)?;
    for filter in wildcards.iter().map(AsRef::as_ref).chain([about.topic]) {
        for (block, chunk) in source.subscribers(about.app, filter)?.iter() {
            let mut any = chunk.any.clone();
            if let Some(publisher) = about.publisher.filter(|no| chunk.no_local.contains(no.0)) {
                any.remove(publisher.0);
            }
            granted |= &any - &chunk.qos0;
            resolved.blocks.entry(*block).or_default().any |= any;
        }
    }
    resolved.blocks.retain(|_, part| !part.any.is_empty());
    for part in resolved.blocks.values_mut() {
        part.qos0 = &part.any - &granted;
    }
    Ok(resolved)
}

/// What was read once for the whole expression.
struct Given {
    app: AppId,
    /// Of the topic, where the expression mentions it.
    subscribers: Resolved,
    online: BTreeMap<u16, RoaringBitmap>,
}

fn online(about: &About<'_>) -> BTreeMap<u16, RoaringBitmap> {
    about.online.map(|online| by_block(&online.0).into_iter().collect()).unwrap_or_default()
}

/// Why there is no plan.
enum Stop {
    Refused(Refusal),
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// An expression in which names are looked up.
enum Plan {
    /// A set.
    Set(BTreeMap<u16, RoaringBitmap>),
    /// A row of an index for each block.
    Rows(Key),
    /// Who of a broad push is in a state.
    Push(PushId, State),
    Registered,
    Subscribers,
    Online,
    Sample(Sample),
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
}

impl Plan {
    fn new(tables: &impl Read, audience: &Audience, about: &About<'_>) -> Result<Self, Stop> {
        let app = about.app;
        let one = |member: &Audience| Self::new(tables, member, about);
        Ok(match audience {
            Audience::Terminals(ids) => Self::Set(named(tables, app, ids)?),
            Audience::Aliases(aliases) => Self::Set(aliased(tables, app, aliases)?),
            Audience::Tag { key, value } => Self::Rows(keys::tagged_blocks(app, key, value)),
            Audience::All => Self::Registered,
            Audience::Topic => Self::Subscribers,
            Audience::Online => Self::Online,
            Audience::Offline => Self::Not(Box::new(Self::Online)),
            Audience::Delivered(push) => Self::of_push(tables, app, *push, State::Delivered)?,
            Audience::Pending(push) => Self::of_push(tables, app, *push, State::Pending)?,
            Audience::Sample(sample) => Self::Sample(*sample),
            Audience::And(members) => Self::And(members.iter().map(one).collect::<Result<_, _>>()?),
            Audience::Or(members) => Self::Or(members.iter().map(one).collect::<Result<_, _>>()?),
            Audience::Not(member) => Self::Not(Box::new(one(member)?)),
        })
    }

    fn of_push(tables: &impl Read, app: AppId, push: PushId, state: State) -> Result<Self, Stop> {
        let sets = PushSets::open(tables, push)?.filter(|sets| sets.row.app == app);
        let sets = sets.ok_or(Stop::Refused(Refusal::UnknownPush(push)))?;
        Ok(match sets.row.audience {
            AudienceRow::Small(_) => Self::Set(by_block(&sets.whole(tables, state)?).into_iter().collect()),
            AudienceRow::Broad(_) => Self::Push(sets.id, state),
        })
    }

    fn among_subscribers(&self, tables: &impl Read, given: &Given) -> Result<Resolved, StoreError> {
        let mut resolved = Resolved::default();
        for (block, part) in &given.subscribers.blocks {
            let any = self.narrow(tables, given, *block, &part.any)?;
            let qos0 = &part.qos0 & &any;
            resolved.insert(*block, any, qos0);
        }
        Ok(resolved)
    }

    fn among_registered(&self, tables: &impl Read, given: &Given) -> Result<Resolved, StoreError> {
        if let Self::Set(sets) = self {
            return Ok(registered_of(sets));
        }
        let registered = keys::registered_blocks(given.app);
        let blocks = match self.blocks(tables, given)? {
            Some(blocks) => blocks,
            None => row_blocks(tables, &registered)?,
        };
        let mut resolved = Resolved::default();
        for block in blocks {
            let registered = row(tables, &registered, block)?;
            let any = self.narrow(tables, given, block, &registered)?;
            resolved.insert(block, any, RoaringBitmap::new());
        }
        Ok(resolved)
    }

    /// Blocks outside of which nobody is meant; absent: it says nothing about that.
    fn blocks(&self, tables: &impl Read, given: &Given) -> Result<Option<BTreeSet<u16>>, StoreError> {
        Ok(match self {
            Self::Set(set) => Some(set.keys().copied().collect()),
            Self::Rows(prefix) => Some(row_blocks(tables, prefix)?),
            Self::Push(push, _) => Some(broad::blocks(tables, *push)?.into_iter().collect()),
            Self::Subscribers => Some(given.subscribers.blocks.keys().copied().collect()),
            Self::Online => Some(given.online.keys().copied().collect()),
            Self::Registered | Self::Sample(_) | Self::Not(_) => None,
            Self::And(members) => {
                let mut all = None::<BTreeSet<u16>>;
                for member in members {
                    if let Some(blocks) = member.blocks(tables, given)? {
                        all = Some(all.map_or(blocks.clone(), |all| &all & &blocks));
                    }
                }
                all
            }
            Self::Or(members) => {
                let mut any = BTreeSet::new();
                for member in members {
                    match member.blocks(tables, given)? {
                        Some(blocks) => any.extend(blocks),
                        None => return Ok(None),
                    }
                }
                Some(any)
            }
        })
    }

    /// Those of a part of one block that are meant.
    fn narrow(
        &self,
        tables: &impl Read,
        given: &Given,
        block: u16,
        part: &RoaringBitmap,
    ) -> Result<RoaringBitmap, StoreError> {
        if part.is_empty() {
            return Ok(RoaringBitmap::new());
        }
        let of =
            |sets: &BTreeMap<u16, RoaringBitmap>| sets.get(&block).map(|set| part & set).unwrap_or_default();
        Ok(match self {
            Self::Set(sets) => of(sets),
            Self::Online => of(&given.online),
            Self::Rows(prefix) => part & row(tables, prefix, block)?,
            Self::Push(push, state) => part & tables.block(*push, block)?.in_state(*state),
            // A block is registered or lent as a whole, and nobody loses a registration.
            Self::Registered if TerminalNo(u32::from(block) << 16).is_registered() => part.clone(),
            Self::Registered => RoaringBitmap::new(),
            Self::Subscribers => {
                given.subscribers.blocks.get(&block).map(|of| part & &of.any).unwrap_or_default()
            }
            Self::Sample(sample) if sample.is_everyone() => part.clone(),
            Self::Sample(sample) => part.iter().filter(|no| sample.contains(TerminalNo(*no))).collect(),
            Self::And(members) => {
                let mut left = part.clone();
                for member in members {
                    left = member.narrow(tables, given, block, &left)?;
                }
                left
            }
            Self::Or(members) => {
                let mut any = RoaringBitmap::new();
                for member in members {
                    any |= member.narrow(tables, given, block, &(part - &any))?;
                }
                any
            }
            Self::Not(member) => part - member.narrow(tables, given, block, part)?,
        })
    }
}

/// A set of numbers of this app, without those that are lent. For the push to a few terminals: nothing else is read.
fn registered_of(sets: &BTreeMap<u16, RoaringBitmap>) -> Resolved {
    let mut resolved = Resolved::default();
    for (block, set) in sets {
        let registered = set.iter().filter(|no| TerminalNo(*no).is_registered()).collect();
        resolved.insert(*block, registered, RoaringBitmap::new());
    }
    resolved
}

fn named(tables: &impl Read, app: AppId, ids: &[TerminalId]) -> Result<BTreeMap<u16, RoaringBitmap>, Stop> {
    let (mut sets, mut unknown) = (BTreeMap::<u16, RoaringBitmap>::new(), Vec::new());
    for id in ids {
        let no = read::<TerminalNo>(tables, &keys::terminal_id(app, id))?;
        match no.filter(|no| no.is_registered()) {
            Some(no) => drop(sets.entry(no.block()).or_default().insert(no.0)),
            None if unknown.len() < UNKNOWN_NAMED_MAX => unknown.push(id.clone()),
            None => {}
        }
    }
    if unknown.is_empty() { Ok(sets) } else { Err(Stop::Refused(Refusal::UnknownTerminals(unknown))) }
}

fn aliased(
    tables: &impl Read,
    app: AppId,
    aliases: &[String],
) -> Result<BTreeMap<u16, RoaringBitmap>, StoreError> {
    let mut sets = BTreeMap::<u16, RoaringBitmap>::new();
    // Whoever names one twice means it once: reading it again would hold apply up for nothing.
    for alias in aliases.iter().collect::<BTreeSet<_>>() {
        tables.scan_prefix(&keys::aliased_blocks(app, alias), &mut |key, bytes| {
            *sets.entry(block_of(key)?).or_default() |= value::decode_set(key, bytes)?;
            Ok(true)
        })?;
    }
    Ok(sets)
}

fn row(tables: &impl Read, prefix: &Key, block: u16) -> Result<RoaringBitmap, StoreError> {
    let key = keys::in_block(prefix.clone(), block);
    let set = tables.get(&key)?.map(|bytes| value::decode_set(&key, &bytes)).transpose()?;
    Ok(set.unwrap_or_default())
}

fn row_blocks(tables: &impl Read, prefix: &Key) -> Result<BTreeSet<u16>, StoreError> {
    let mut blocks = BTreeSet::new();
    tables.scan_prefix(prefix, &mut |key, _| {
        blocks.insert(block_of(key)?);
        Ok(true)
    })?;
    Ok(blocks)
}

fn block_of(key: &[u8]) -> Result<u16, StoreError> {
    keys::block_of(key).ok_or_else(|| StoreError::damaged("set", key))
}
