//! Every key of the tables: a tag byte, then fixed-width big-endian fields, so that RocksDB's byte order is the
//! order we scan in. Tags ascend in the order of the column families, so a batch sorted by key is also sorted by
//! family.
//!
//! A text inside a key that is followed by another field carries its length, because nothing may be assumed about
//! its bytes.

use cluster_proto::{AppId, NodeId, PushId, TerminalId, TerminalNo};

/// One key, tag first.
pub(crate) type Key = Vec<u8>;

/// The column families, in the order of their tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Applied position, versions, apps, keys, edges: few and small.
    Meta,
    /// Terminals by id and number, revocations, numbers lent.
    Terminals,
    /// Sessions, what goes with them, shared subscription groups, and the index from filters to subscribers.
    Sessions,
    /// Pushes without their payloads, and the queues they wait in.
    Pushes,
    /// Payloads, of pushes and of retained messages: written once, read when an edge lacks one.
    Payloads,
    /// Which pushes are pending, by terminal and by block.
    Owed,
    /// Bitmaps of broad pushes; the only family with a merge operator.
    Sets,
    /// Which topics have a retained message, without the messages.
    Retained,
    /// Deltas of the receipt streams, and webhooks.
    Receipts,
}

impl Family {
    /// All, in order.
    pub(crate) const ALL: [Self; 9] = [
        Self::Meta,
        Self::Terminals,
        Self::Sessions,
        Self::Pushes,
        Self::Payloads,
        Self::Owed,
        Self::Sets,
        Self::Retained,
        Self::Receipts,
    ];

    /// The name on disk.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Terminals => "terminals",
            Self::Sessions => "sessions",
            Self::Pushes => "pushes",
            Self::Payloads => "payloads",
            Self::Owed => "owed",
            Self::Sets => "sets",
            Self::Retained => "retained",
            Self::Receipts => "receipts",
        }
    }

    /// The family a key lives in; its upper four bits say.
    pub(crate) fn of(key: &[u8]) -> Self {
        let tag = key.first().copied().unwrap_or_default();
        Self::ALL[usize::from(tag >> 4).min(Self::ALL.len() - 1)]
    }
}

/// The tags. Never reused for another meaning.
mod tag {
    pub(super) const HEAD: u8 = 0x00;
    pub(super) const FORMAT: u8 = 0x01;
    pub(super) const MEMBERSHIP: u8 = 0x02;
    pub(super) const APP: u8 = 0x03;
    pub(super) const APP_NAME: u8 = 0x04;
    pub(super) const SIGNING_KEY: u8 = 0x05;
    pub(super) const EDGE: u8 = 0x06;
    pub(super) const EDGE_REFUSED: u8 = 0x07;
    pub(super) const APP_COUNT: u8 = 0x08;

    pub(super) const TERMINAL_ID: u8 = 0x10;
    pub(super) const TERMINAL: u8 = 0x11;
    pub(super) const REVOKED: u8 = 0x12;
    pub(super) const REGISTERED: u8 = 0x13;
    pub(super) const LENT_FREE: u8 = 0x14;
    pub(super) const LENT_WAITING: u8 = 0x15;
    pub(super) const TAGGED: u8 = 0x16;
    pub(super) const ALIASED: u8 = 0x17;
    pub(super) const SEEN: u8 = 0x18;

    pub(super) const SESSION: u8 = 0x20;
    pub(super) const SUBSCRIPTION: u8 = 0x21;
    pub(super) const EDGE_SESSION: u8 = 0x22;
    pub(super) const SESSION_EXPIRY: u8 = 0x23;
    pub(super) const FILTER: u8 = 0x24;
    pub(super) const WILDCARD: u8 = 0x25;
    pub(super) const WILL: u8 = 0x26;
    pub(super) const WILL_DUE: u8 = 0x27;
    pub(super) const EXCHANGE: u8 = 0x28;
    pub(super) const GROUP_NO: u8 = 0x29;
    pub(super) const GROUP: u8 = 0x2a;
    pub(super) const GROUP_MEMBER: u8 = 0x2b;
    pub(super) const HANDED_OUT: u8 = 0x2c;

    pub(super) const PUSH: u8 = 0x30;
    pub(super) const IDEMPOTENCY: u8 = 0x31;
    pub(super) const EXPIRY: u8 = 0x32;
    pub(super) const RETENTION: u8 = 0x33;
    pub(super) const WITHDRAWN: u8 = 0x34;
    pub(super) const COLLAPSE_KEY: u8 = 0x35;
    pub(super) const COLLAPSE: u8 = 0x36;
    pub(super) const COLLAPSING: u8 = 0x37;
    pub(super) const RELEASE_DUE: u8 = 0x38;
    pub(super) const WAVE: u8 = 0x39;
    pub(super) const WAVE_OF: u8 = 0x3a;
    pub(super) const HALTED: u8 = 0x3b;

    pub(super) const PAYLOAD: u8 = 0x40;
    pub(super) const RETAINED_MESSAGE: u8 = 0x41;

    pub(super) const OWED: u8 = 0x50;
    pub(super) const BLOCK_PENDING: u8 = 0x51;
    pub(super) const URGENT_OWED: u8 = 0x52;
    pub(super) const URGENT_BLOCK_PENDING: u8 = 0x53;
    pub(super) const OWED_BROAD: u8 = 0x54;
    pub(super) const URGENT_OWED_BROAD: u8 = 0x55;

    pub(super) const SET: u8 = 0x60;

    pub(super) const RETAINED: u8 = 0x70;
    pub(super) const RETAINED_EXPIRY: u8 = 0x71;
    pub(super) const RETAINED_COUNT: u8 = 0x72;
    pub(super) const RETAINED_ID: u8 = 0x73;

    pub(super) const RECEIPTS: u8 = 0x80;
    pub(super) const RECEIPT_COUNT: u8 = 0x81;
    pub(super) const WEBHOOK: u8 = 0x82;
    pub(super) const WEBHOOK_PLACE: u8 = 0x83;
}

/// The directions of QoS 2 exchanges, and of QoS 1 deliveries that go on with a session.
mod direction {
    pub(super) const OUTBOUND: u8 = 0;
    pub(super) const INBOUND: u8 = 1;
}

struct Builder(Key);

impl Builder {
    fn new(tag: u8) -> Self {
        let mut key = Vec::with_capacity(24);
        key.push(tag);
        Self(key)
    }

    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Last field only: its end is the key's end.
    fn tail(mut self, text: &str) -> Key {
        self.0.extend(text.as_bytes());
        self.0
    }

    fn text(self, text: &str) -> Self {
        let mut builder = self.u32(text.len() as u32);
        builder.0.extend(text.as_bytes());
        builder
    }

    fn done(self) -> Key {
        self.0
    }
}

/// The applied position, digest and counters.
pub(crate) fn head() -> Key {
    Builder::new(tag::HEAD).done()
}

/// The version of the tables as a whole.
pub(crate) fn format() -> Key {
    Builder::new(tag::FORMAT).done()
}

/// The Raft membership, opaque here.
pub(crate) fn membership() -> Key {
    Builder::new(tag::MEMBERSHIP).done()
}

/// app → its row.
pub(crate) fn app(app: AppId) -> Key {
    Builder::new(tag::APP).u32(app.0).done()
}

/// All apps.
pub(crate) fn apps() -> Key {
    Builder::new(tag::APP).done()
}

/// app → how much it has.
pub(crate) fn app_count(app: AppId) -> Key {
    Builder::new(tag::APP_COUNT).u32(app.0).done()
}

/// name → app.
pub(crate) fn app_name(name: &str) -> Key {
    Builder::new(tag::APP_NAME).tail(name)
}

/// ordinal → signing key; the last one signs.
pub(crate) fn signing_key(ordinal: u32) -> Key {
    Builder::new(tag::SIGNING_KEY).u32(ordinal).done()
}

/// All signing keys, oldest first.
pub(crate) fn signing_keys() -> Key {
    Builder::new(tag::SIGNING_KEY).done()
}

/// edge → its life and lane sequences.
pub(crate) fn edge(edge: NodeId) -> Key {
    Builder::new(tag::EDGE).u64(edge.0).done()
}

/// All edges.
pub(crate) fn edges() -> Key {
    Builder::new(tag::EDGE).done()
}

/// (edge, lane) → numbers that were refused.
pub(crate) fn edge_refused(edge: NodeId, lane: u8) -> Key {
    Builder::new(tag::EDGE_REFUSED).u64(edge.0).u8(lane).done()
}

/// (app, terminal id) → number.
pub(crate) fn terminal_id(app: AppId, id: &TerminalId) -> Key {
    Builder::new(tag::TERMINAL_ID).u32(app.0).tail(id.as_str())
}

/// All terminals of an app, by id.
pub(crate) fn terminal_ids(app: AppId) -> Key {
    Builder::new(tag::TERMINAL_ID).u32(app.0).done()
}

/// number → terminal.
pub(crate) fn terminal(no: TerminalNo) -> Key {
    Builder::new(tag::TERMINAL).u32(no.0).done()
}

/// (app, terminal id) → credentials issued up to this are void. By id: it may be revoked before it is registered.
pub(crate) fn revoked(app: AppId, id: &TerminalId) -> Key {
    Builder::new(tag::REVOKED).u32(app.0).tail(id.as_str())
}

/// All revocations of an app's terminals.
pub(crate) fn revocations(app: AppId) -> Key {
    Builder::new(tag::REVOKED).u32(app.0).done()
}

/// (day, block) → registered terminals of all apps that were connected on that day.
pub(crate) fn seen(day: u32, block: u16) -> Key {
    Builder::new(tag::SEEN).u32(day).u16(block).done()
}

/// All such sets of a day, or of all days before it, from [`seen_all`] on.
pub(crate) fn seen_on(day: u32) -> Key {
    Builder::new(tag::SEEN).u32(day).done()
}

/// All such sets, the oldest day first.
pub(crate) fn seen_all() -> Key {
    Builder::new(tag::SEEN).done()
}

/// (app, block) → registered terminals.
pub(crate) fn registered(app: AppId, block: u16) -> Key {
    Builder::new(tag::REGISTERED).u32(app.0).u16(block).done()
}

/// All blocks of an app's registered terminals.
pub(crate) fn registered_blocks(app: AppId) -> Key {
    Builder::new(tag::REGISTERED).u32(app.0).done()
}

/// (app, key and value of a tag), all blocks: the terminals that have it.
pub(crate) fn tagged_blocks(app: AppId, key: &str, value: &str) -> Key {
    Builder::new(tag::TAGGED).u32(app.0).text(key).text(value).done()
}

/// (app, alias), all blocks: its terminals.
pub(crate) fn aliased_blocks(app: AppId, alias: &str) -> Key {
    Builder::new(tag::ALIASED).u32(app.0).text(alias).done()
}

/// One block of what has a key for each.
pub(crate) fn in_block(blocks: Key, block: u16) -> Key {
    Builder(blocks).u16(block).done()
}

/// Numbers that may be lent again.
pub(crate) fn lent_free(no: TerminalNo) -> Key {
    Builder::new(tag::LENT_FREE).u32(no.0).done()
}

/// All numbers that may be lent again.
pub(crate) fn lent_free_all() -> Key {
    Builder::new(tag::LENT_FREE).done()
}

/// (last push that may name it, number): waits until that push is purged.
pub(crate) fn lent_waiting(upto: PushId, no: TerminalNo) -> Key {
    Builder::new(tag::LENT_WAITING).u64(upto.0).u32(no.0).done()
}

/// All numbers that wait, the first to return first.
pub(crate) fn lent_waiting_all() -> Key {
    Builder::new(tag::LENT_WAITING).done()
}

/// number → session.
pub(crate) fn session(no: TerminalNo) -> Key {
    Builder::new(tag::SESSION).u32(no.0).done()
}

/// (number, filter) → subscription.
pub(crate) fn subscription(no: TerminalNo, filter: &str) -> Key {
    Builder::new(tag::SUBSCRIPTION).u32(no.0).tail(filter)
}

/// All subscriptions of a session.
pub(crate) fn subscriptions(no: TerminalNo) -> Key {
    Builder::new(tag::SUBSCRIPTION).u32(no.0).done()
}

/// (edge, number): the edge holds this session's connection.
pub(crate) fn edge_session(edge: NodeId, no: TerminalNo) -> Key {
    Builder::new(tag::EDGE_SESSION).u64(edge.0).u32(no.0).done()
}

/// All sessions an edge holds.
pub(crate) fn edge_sessions(edge: NodeId) -> Key {
    Builder::new(tag::EDGE_SESSION).u64(edge.0).done()
}

/// (time, number): a detached session ends then.
pub(crate) fn session_expiry(at_ms: u64, no: TerminalNo) -> Key {
    Builder::new(tag::SESSION_EXPIRY).u64(at_ms).u32(no.0).done()
}

/// All detached sessions, the first to end first.
pub(crate) fn session_expiries() -> Key {
    Builder::new(tag::SESSION_EXPIRY).done()
}

/// (app, filter, block) → its subscribers.
pub(crate) fn filter(app: AppId, filter: &str, block: u16) -> Key {
    Builder::new(tag::FILTER).u32(app.0).text(filter).u16(block).done()
}

/// All blocks of a filter.
pub(crate) fn filter_blocks(app: AppId, filter: &str) -> Key {
    Builder::new(tag::FILTER).u32(app.0).text(filter).done()
}

/// (app, filter with wildcards) → how many subscribe; all of them are in memory too.
pub(crate) fn wildcard(app: AppId, filter: &str) -> Key {
    Builder::new(tag::WILDCARD).u32(app.0).tail(filter)
}

/// All wildcard filters of an app that begin with a text.
pub(crate) fn wildcards_of(app: AppId, first: &str) -> Key {
    Builder::new(tag::WILDCARD).u32(app.0).tail(first)
}

/// All wildcard filters.
pub(crate) fn wildcards() -> Key {
    Builder::new(tag::WILDCARD).done()
}

/// number → the will of its session.
pub(crate) fn will(no: TerminalNo) -> Key {
    Builder::new(tag::WILL).u32(no.0).done()
}

/// (time, number): the delay of a will is over then.
pub(crate) fn will_due(at_ms: u64, no: TerminalNo) -> Key {
    Builder::new(tag::WILL_DUE).u64(at_ms).u32(no.0).done()
}

/// All wills that wait, the first to be published first.
pub(crate) fn wills_due() -> Key {
    Builder::new(tag::WILL_DUE).done()
}

/// (number, packet id) → a delivery the session goes on with.
pub(crate) fn outbound(no: TerminalNo, packet_id: u16) -> Key {
    Builder::new(tag::EXCHANGE).u32(no.0).u8(direction::OUTBOUND).u16(packet_id).done()
}

/// All deliveries a session goes on with.
pub(crate) fn outbounds(no: TerminalNo) -> Key {
    Builder::new(tag::EXCHANGE).u32(no.0).u8(direction::OUTBOUND).done()
}

/// (number, packet id) → a QoS 2 PUBLISH that was accepted and not released.
pub(crate) fn inbound(no: TerminalNo, packet_id: u16) -> Key {
    Builder::new(tag::EXCHANGE).u32(no.0).u8(direction::INBOUND).u16(packet_id).done()
}

/// All QoS 2 PUBLISH of a session that are not released.
pub(crate) fn inbounds(no: TerminalNo) -> Key {
    Builder::new(tag::EXCHANGE).u32(no.0).u8(direction::INBOUND).done()
}

/// (push, target, number, packet id) → nothing: a session goes on with this delivery, which was handed out.
pub(crate) fn handed_out(push: PushId, target: TerminalNo, no: TerminalNo, packet_id: u16) -> Key {
    Builder::new(tag::HANDED_OUT).u64(push.0).u32(target.0).u32(no.0).u16(packet_id).done()
}

/// All such of a push.
pub(crate) fn all_handed_out(push: PushId) -> Key {
    Builder::new(tag::HANDED_OUT).u64(push.0).done()
}

/// The target of a key of [`handed_out`].
pub(crate) fn handed_out_target_of(key: &[u8]) -> Option<TerminalNo> {
    key.get(9..)?.first_chunk().map(|bytes| TerminalNo(u32::from_be_bytes(*bytes)))
}

/// (app, name, filter) → the number of a shared subscription group.
pub(crate) fn group_no(app: AppId, name: &str, filter: &str) -> Key {
    Builder::new(tag::GROUP_NO).u32(app.0).text(name).tail(filter)
}

/// number → shared subscription group.
pub(crate) fn group(no: TerminalNo) -> Key {
    Builder::new(tag::GROUP).u32(no.0).done()
}

/// All shared subscription groups.
pub(crate) fn groups() -> Key {
    Builder::new(tag::GROUP).done()
}

/// (group, member) → what it is granted.
pub(crate) fn group_member(group: TerminalNo, member: TerminalNo) -> Key {
    Builder::new(tag::GROUP_MEMBER).u32(group.0).u32(member.0).done()
}

/// All members of a group.
pub(crate) fn group_members(group: TerminalNo) -> Key {
    Builder::new(tag::GROUP_MEMBER).u32(group.0).done()
}

/// push → its row.
pub(crate) fn push(push: PushId) -> Key {
    Builder::new(tag::PUSH).u64(push.0).done()
}

/// (app, key) → the push first accepted under it.
pub(crate) fn idempotency(app: AppId, key: &str) -> Key {
    Builder::new(tag::IDEMPOTENCY).u32(app.0).tail(key)
}

/// (time, push): its time to live ends then; present while it has pending terminals and is not withdrawn.
pub(crate) fn expiry(at_ms: u64, push: PushId) -> Key {
    Builder::new(tag::EXPIRY).u64(at_ms).u64(push.0).done()
}

/// All live pushes, the first to expire first.
pub(crate) fn expiries() -> Key {
    Builder::new(tag::EXPIRY).done()
}

/// (time, push): it settled then.
pub(crate) fn retention(settled_at_ms: u64, push: PushId) -> Key {
    Builder::new(tag::RETENTION).u64(settled_at_ms).u64(push.0).done()
}

/// All settled pushes, the first to be purged first.
pub(crate) fn retentions() -> Key {
    Builder::new(tag::RETENTION).done()
}

/// A push that is withdrawn and still pending somewhere.
pub(crate) fn withdrawn(push: PushId) -> Key {
    Builder::new(tag::WITHDRAWN).u64(push.0).done()
}

/// All of them.
pub(crate) fn withdrawns() -> Key {
    Builder::new(tag::WITHDRAWN).done()
}

/// (app, collapse key, terminal, push): pending, of a small audience; a broad push has one row, with another number.
pub(crate) fn collapse_key(app: AppId, key: &str, no: TerminalNo, push: PushId) -> Key {
    Builder::new(tag::COLLAPSE_KEY).u32(app.0).text(key).u32(no.0).u64(push.0).done()
}

/// All pushes with a collapse key.
pub(crate) fn collapse_keys(app: AppId, key: &str) -> Key {
    Builder::new(tag::COLLAPSE_KEY).u32(app.0).text(key).done()
}

/// Those of one terminal.
pub(crate) fn collapse_keys_of(app: AppId, key: &str, no: TerminalNo) -> Key {
    Builder::new(tag::COLLAPSE_KEY).u32(app.0).text(key).u32(no.0).done()
}

/// Terminal and push of a [`collapse_key`].
pub(crate) fn collapse_key_of(key: &[u8]) -> Option<(TerminalNo, PushId)> {
    Some((no_of(key.get(..key.len().checked_sub(8)?)?)?, push_of(key)?))
}

/// push → how far the older ones it replaces were looked for.
pub(crate) fn collapse(push: PushId) -> Key {
    Builder::new(tag::COLLAPSE).u64(push.0).done()
}

/// All of them.
pub(crate) fn collapses() -> Key {
    Builder::new(tag::COLLAPSE).done()
}

/// push → terminals for which it is replaced, and that have it in flight.
pub(crate) fn collapsing(push: PushId) -> Key {
    Builder::new(tag::COLLAPSING).u64(push.0).done()
}

/// All of them.
pub(crate) fn all_collapsing() -> Key {
    Builder::new(tag::COLLAPSING).done()
}

/// (time, push): its release goes on then.
pub(crate) fn release_due(at_ms: u64, push: PushId) -> Key {
    Builder::new(tag::RELEASE_DUE).u64(at_ms).u64(push.0).done()
}

/// All releases that wait, the first to go on first.
pub(crate) fn releases_due() -> Key {
    Builder::new(tag::RELEASE_DUE).done()
}

/// wave → the push it is of, and which part.
pub(crate) fn wave(wave: PushId) -> Key {
    Builder::new(tag::WAVE).u64(wave.0).done()
}

/// (push, wave): the waves of a push, in the order of their release.
pub(crate) fn wave_of(push: PushId, wave: PushId) -> Key {
    Builder::new(tag::WAVE_OF).u64(push.0).u64(wave.0).done()
}

/// All waves of a push.
pub(crate) fn waves_of(push: PushId) -> Key {
    Builder::new(tag::WAVE_OF).u64(push.0).done()
}

/// A push whose roll-out went badly, and that is to be recalled.
pub(crate) fn halted(push: PushId) -> Key {
    Builder::new(tag::HALTED).u64(push.0).done()
}

/// All of them.
pub(crate) fn halteds() -> Key {
    Builder::new(tag::HALTED).done()
}

/// push → message.
pub(crate) fn payload(push: PushId) -> Key {
    Builder::new(tag::PAYLOAD).u64(push.0).done()
}

/// (app, topic) → the message retained for it.
pub(crate) fn retained_message(app: AppId, topic: &str) -> Key {
    Builder::new(tag::RETAINED_MESSAGE).u32(app.0).tail(topic)
}

/// (terminal, push): pending, of a small audience.
pub(crate) fn owed(urgent: bool, no: TerminalNo, push: PushId) -> Key {
    owed_tag(urgent).u32(no.0).u64(push.0).done()
}

/// All small pushes of a priority pending for a terminal.
pub(crate) fn owed_by(urgent: bool, no: TerminalNo) -> Key {
    owed_tag(urgent).u32(no.0).done()
}

/// (terminal, push): pending, of a broad audience that is sparse in the terminal's block.
pub(crate) fn owed_broad(urgent: bool, no: TerminalNo, push: PushId) -> Key {
    owed_broad_tag(urgent).u32(no.0).u64(push.0).done()
}

/// All broad pushes of a priority pending for a terminal, but those that are not sparse in its block.
pub(crate) fn owed_broad_by(urgent: bool, no: TerminalNo) -> Key {
    owed_broad_tag(urgent).u32(no.0).done()
}

/// (block, push): a broad push with many pending terminals in the block.
pub(crate) fn block_pending(urgent: bool, block: u16, push: PushId) -> Key {
    block_pending_tag(urgent).u16(block).u64(push.0).done()
}

/// All broad pushes of a priority with many pending terminals in a block.
pub(crate) fn block_pendings(urgent: bool, block: u16) -> Key {
    block_pending_tag(urgent).u16(block).done()
}

/// Urgent pushes lie apart, so that they are read first and ordinary reads never meet them.
fn owed_tag(urgent: bool) -> Builder {
    Builder::new(if urgent { tag::URGENT_OWED } else { tag::OWED })
}

fn block_pending_tag(urgent: bool) -> Builder {
    Builder::new(if urgent { tag::URGENT_BLOCK_PENDING } else { tag::BLOCK_PENDING })
}

fn owed_broad_tag(urgent: bool) -> Builder {
    Builder::new(if urgent { tag::URGENT_OWED_BROAD } else { tag::OWED_BROAD })
}

/// (push, block, kind) → bitmap. The block comes before the kind, so that all that is known of one block of
/// terminals, which is what a CONNECT or a receipt needs, is one short scan.
pub(crate) fn set(push: PushId, block: u16, kind: u8) -> Key {
    Builder::new(tag::SET).u64(push.0).u16(block).u8(kind).done()
}

/// All bitmaps of one block of a push.
pub(crate) fn set_block(push: PushId, block: u16) -> Key {
    Builder::new(tag::SET).u64(push.0).u16(block).done()
}

/// All bitmaps of a push.
pub(crate) fn set_blocks(push: PushId) -> Key {
    Builder::new(tag::SET).u64(push.0).done()
}

/// (app, topic) → what is known of its retained message.
pub(crate) fn retained(app: AppId, topic: &str) -> Key {
    Builder::new(tag::RETAINED).u32(app.0).tail(topic)
}

/// (time, app, topic): the time to live of a retained message ends then.
pub(crate) fn retained_expiry(at_ms: u64, app: AppId, topic: &str) -> Key {
    Builder::new(tag::RETAINED_EXPIRY).u64(at_ms).u32(app.0).tail(topic)
}

/// All retained messages with a time to live, the first to expire first.
pub(crate) fn retained_expiries() -> Key {
    Builder::new(tag::RETAINED_EXPIRY).done()
}

/// All that expire before a time.
pub(crate) fn retained_expiries_before(at_ms: u64) -> Key {
    Builder::new(tag::RETAINED_EXPIRY).u64(at_ms).done()
}

/// id → app and topic of a retained message.
pub(crate) fn retained_id(id: PushId) -> Key {
    Builder::new(tag::RETAINED_ID).u64(id.0).done()
}

/// All retained messages of an app, by topic.
pub(crate) fn retained_of(app: AppId) -> Key {
    Builder::new(tag::RETAINED).u32(app.0).done()
}

/// app → how much is retained.
pub(crate) fn retained_count(app: AppId) -> Key {
    Builder::new(tag::RETAINED_COUNT).u32(app.0).done()
}

/// (app, log index, part) → what became of terminals in that entry.
pub(crate) fn receipts(app: AppId, index: u64, part: u32) -> Key {
    Builder::new(tag::RECEIPTS).u32(app.0).u64(index).u32(part).done()
}

/// All such of an app, oldest first.
pub(crate) fn receipts_of(app: AppId) -> Key {
    Builder::new(tag::RECEIPTS).u32(app.0).done()
}

/// Log index and part of a key of [`receipts`].
pub(crate) fn receipts_place_of(key: &[u8]) -> Option<(u64, u32)> {
    let (index, part) = key.get(5..)?.split_first_chunk()?;
    Some((u64::from_be_bytes(*index), u32::from_be_bytes(part.try_into().ok()?)))
}

/// app → how many deltas are kept, and from where.
pub(crate) fn receipt_count(app: AppId) -> Key {
    Builder::new(tag::RECEIPT_COUNT).u32(app.0).done()
}

/// All such.
pub(crate) fn receipt_counts() -> Key {
    Builder::new(tag::RECEIPT_COUNT).done()
}

/// app → its webhook.
pub(crate) fn webhook(app: AppId) -> Key {
    Builder::new(tag::WEBHOOK).u32(app.0).done()
}

/// All webhooks.
pub(crate) fn webhooks() -> Key {
    Builder::new(tag::WEBHOOK).done()
}

/// app → how far its webhook is.
pub(crate) fn webhook_place(app: AppId) -> Key {
    Builder::new(tag::WEBHOOK_PLACE).u32(app.0).done()
}

/// The first key after all that begin with `prefix`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// The key right after `key`.
pub(crate) fn after(mut key: Key) -> Key {
    key.push(0);
    key
}

/// The last eight bytes: the push of every key that ends with one.
pub(crate) fn push_of(key: &[u8]) -> Option<PushId> {
    key.last_chunk().map(|bytes| PushId(u64::from_be_bytes(*bytes)))
}

/// The last four bytes: the terminal number of every key that ends with one.
pub(crate) fn no_of(key: &[u8]) -> Option<TerminalNo> {
    key.last_chunk().map(|bytes| TerminalNo(u32::from_be_bytes(*bytes)))
}

/// The last two bytes: the block of every key that ends with one.
pub(crate) fn block_of(key: &[u8]) -> Option<u16> {
    key.last_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// The last two bytes: the packet id of an exchange.
pub(crate) fn packet_id_of(key: &[u8]) -> Option<u16> {
    key.last_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// App and topic of a key of the expiry of retained messages.
pub(crate) fn retained_topic_of(key: &[u8]) -> Option<(AppId, &str)> {
    let (app, topic) = key.get(9..)?.split_first_chunk()?;
    Some((AppId(u32::from_be_bytes(*app)), std::str::from_utf8(topic).ok()?))
}

/// The `u64` right after the tag: the time of every queue key.
pub(crate) fn time_of(key: &[u8]) -> Option<u64> {
    key.get(1..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The text after `(tag, u32)`: terminal id, filter or name.
pub(crate) fn text_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(5..)?).ok()
}

/// The app after the tag.
pub(crate) fn app_of(key: &[u8]) -> Option<AppId> {
    key.get(1..)?.first_chunk().map(|bytes| AppId(u32::from_be_bytes(*bytes)))
}

/// Block and kind at the end of a set key.
pub(crate) fn block_and_kind_of(key: &[u8]) -> Option<(u16, u8)> {
    let [high, low, kind] = *key.last_chunk()?;
    Some((u16::from_be_bytes([high, low]), kind))
}

/// Push, block and kind of a set key.
pub(crate) fn set_of(key: &[u8]) -> Option<(PushId, u16, u8)> {
    let (block, kind) = block_and_kind_of(key)?;
    Some((PushId(time_of(key)?), block, kind))
}

/// The edge after the tag.
pub(crate) fn edge_of(key: &[u8]) -> Option<NodeId> {
    time_of(key).map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TerminalId {
        TerminalId::new(text).expect("valid")
    }

    #[test]
    fn keys_sort_in_scan_order() {
        let (app_1, no, p) = (AppId(1), TerminalNo(7), PushId(9));
        let ascending = [
            vec![
                owed(false, no, PushId(255)),
                owed(false, no, PushId(256)),
                owed(false, TerminalNo(8), PushId(0)),
            ],
            vec![block_pending(false, 1, PushId(u64::MAX)), block_pending(false, 2, PushId(0))],
            vec![set(p, 0, 5), set(p, 1, 0), set(p, 256, 0), set(PushId(10), 0, 0)],
            vec![expiry(999, PushId(u64::MAX)), expiry(1000, PushId(0))],
            vec![terminal_id(app_1, &id("a")), terminal_id(app_1, &id("b")), terminal_id(AppId(2), &id("a"))],
            vec![filter(app_1, "b", 0), filter(app_1, "b", 9), filter(app_1, "aa", 0)],
            vec![push(PushId(255)), push(PushId(256))],
            vec![
                collapse_key(app_1, "b", no, PushId(9)),
                collapse_key(app_1, "b", TerminalNo(u32::MAX), PushId(0)),
                collapse_key(app_1, "aa", no, PushId(0)),
            ],
            vec![receipts(app_1, 255, 9), receipts(app_1, 256, 0), receipts(app_1, 256, 1)],
            vec![seen_all(), seen(255, 9), seen_on(256), seen(256, 0), seen(256, 256)],
            [0, 9, 256].map(|block| in_block(tagged_blocks(app_1, "k", "v"), block)).to_vec(),
            vec![outbound(no, 255), outbound(no, 256), inbound(no, 0), outbound(TerminalNo(8), 0)],
            vec![retained(app_1, "a"), retained(app_1, "a/b"), retained(app_1, "b"), retained(AppId(2), "a")],
            vec![
                retained_expiry(999, AppId(9), "z"),
                retained_expiries_before(1000),
                retained_expiry(1000, app_1, "a"),
            ],
        ];
        for keys in ascending {
            assert!(keys.is_sorted(), "{keys:x?}");
        }
    }

    #[test]
    fn no_filter_s_blocks_contain_another_filter() {
        let prefix = filter_blocks(AppId(1), "a");
        for other in ["a\0", "a/b", "aa", "a\0\0\0\0\0"] {
            assert!(!filter(AppId(1), other, 0).starts_with(&prefix), "{other:?}");
        }
    }

    #[test]
    fn no_tag_s_or_alias_s_blocks_contain_another_s() {
        let app = AppId(1);
        let all = [
            tagged_blocks(app, "a", "b"),
            tagged_blocks(app, "a", "bc"),
            tagged_blocks(app, "ab", "c"),
            tagged_blocks(app, "a", ""),
            aliased_blocks(app, "a"),
            aliased_blocks(app, "a\0"),
            aliased_blocks(AppId(2), "a"),
        ];
        for (n, blocks) in all.iter().enumerate() {
            let inside = |key: &Key| in_block(key.clone(), 0).starts_with(blocks);
            assert!(all.iter().enumerate().all(|(other, key)| inside(key) == (n == other)));
        }
    }

    #[test]
    fn tags_lie_in_the_order_of_their_families() {
        let keys = [
            head(),
            lent_waiting_all(),
            wildcards(),
            withdrawns(),
            retained_message(AppId(1), "a"),
            owed_by(false, TerminalNo(0)),
            set_blocks(PushId(1)),
            retained_count(AppId(1)),
            webhooks(),
        ];
        let families: Vec<_> = keys.iter().map(|key| Family::of(key)).collect();
        assert_eq!(families, Family::ALL);
    }

    #[test]
    fn fields_come_back_out() {
        let key = set(PushId(4), 0x0102, 16);
        assert_eq!(block_and_kind_of(&key), Some((0x0102, 16)));
        assert_eq!(push_of(&owed(false, TerminalNo(1), PushId(77))), Some(PushId(77)));
        let key = collapse_key(AppId(1), "k", TerminalNo(3), PushId(4));
        assert_eq!(collapse_key_of(&key), Some((TerminalNo(3), PushId(4))));
        assert_eq!(no_of(&session_expiry(5, TerminalNo(6))), Some(TerminalNo(6)));
        assert_eq!(time_of(&session_expiry(5, TerminalNo(6))), Some(5));
        assert_eq!(text_of(&terminal_id(AppId(3), &id("tv-1"))), Some("tv-1"));
        assert_eq!(app_of(&wildcard(AppId(3), "a/#")), Some(AppId(3)));
        assert_eq!(block_of(&filter(AppId(1), "x", 513)), Some(513));
        assert_eq!(block_of(&in_block(aliased_blocks(AppId(1), "x"), 513)), Some(513));
        assert_eq!(packet_id_of(&inbound(TerminalNo(1), 513)), Some(513));
        assert_eq!(retained_topic_of(&retained_expiry(5, AppId(3), "a/b")), Some((AppId(3), "a/b")));
        assert_eq!(no_of(&group_member(TerminalNo(1), TerminalNo(2))), Some(TerminalNo(2)));
        let key = handed_out(PushId(1), TerminalNo(2), TerminalNo(3), 4);
        assert_eq!(handed_out_target_of(&key), Some(TerminalNo(2)));
        assert_eq!(receipts_place_of(&receipts(AppId(1), 258, 3)), Some((258, 3)));
        assert_eq!(receipts_place_of(&receipts_of(AppId(1))), None);
    }

    #[test]
    fn the_end_of_a_prefix_is_after_all_its_keys() {
        assert_eq!(prefix_end(&[1, 2]), [1, 3]);
        assert_eq!(prefix_end(&[1, 0xff]), [2]);
    }

    /// What is on disk must stay readable: a change here is a new tag, not a new expectation.
    #[test]
    fn stored_keys_stay_as_they_are() {
        let golden = [
            (terminal_id(AppId(1), &id("tv")), "10000000017476"),
            (filter(AppId(1), "a/b", 2), "240000000100000003612f620002"),
            (in_block(tagged_blocks(AppId(1), "k", "v"), 2), "1600000001000000016b00000001760002"),
            (in_block(aliased_blocks(AppId(1), "u"), 2), "170000000100000001750002"),
            (seen(258, 2), "18000001020002"),
            (app_count(AppId(1)), "0800000001"),
            (push(PushId(258)), "300000000000000102"),
            (owed(false, TerminalNo(3), PushId(4)), "50000000030000000000000004"),
            (owed(true, TerminalNo(3), PushId(4)), "52000000030000000000000004"),
            (block_pending(false, 3, PushId(4)), "5100030000000000000004"),
            (block_pending(true, 3, PushId(4)), "5300030000000000000004"),
            (owed_broad(false, TerminalNo(3), PushId(4)), "54000000030000000000000004"),
            (owed_broad(true, TerminalNo(3), PushId(4)), "55000000030000000000000004"),
            (
                collapse_key(AppId(1), "k", TerminalNo(3), PushId(4)),
                "3500000001000000016b000000030000000000000004",
            ),
            (collapse(PushId(4)), "360000000000000004"),
            (collapsing(PushId(4)), "370000000000000004"),
            (set(PushId(5), 6, 7), "600000000000000005000607"),
            (release_due(258, PushId(3)), "3800000000000001020000000000000003"),
            (wave(PushId(3)), "390000000000000003"),
            (wave_of(PushId(5), PushId(6)), "3a00000000000000050000000000000006"),
            (halted(PushId(3)), "3b0000000000000003"),
            (will_due(258, TerminalNo(3)), "27000000000000010200000003"),
            (outbound(TerminalNo(3), 4), "2800000003000004"),
            (inbound(TerminalNo(3), 4), "2800000003010004"),
            (group_no(AppId(1), "g", "a"), "2900000001000000016761"),
            (group_member(TerminalNo(3), TerminalNo(4)), "2b0000000300000004"),
            (
                handed_out(PushId(5), TerminalNo(3), TerminalNo(4), 6),
                "2c000000000000000500000003000000040006",
            ),
            (retained(AppId(1), "a/b"), "7000000001612f62"),
            (retained_expiry(5, AppId(1), "a"), "7100000000000000050000000161"),
            (retained_id(PushId::retained(5)), "73ff00000000000005"),
            (receipts(AppId(1), 258, 3), "8000000001000000000000010200000003"),
            (receipt_count(AppId(1)), "8100000001"),
            (webhook(AppId(1)), "8200000001"),
            (webhook_place(AppId(1)), "8300000001"),
        ];
        for (key, hex) in golden {
            assert_eq!(key.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex);
        }
    }
}
