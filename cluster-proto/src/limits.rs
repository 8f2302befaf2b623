//! Every maximum that both sides of a boundary rely on. Operators lower some of them in the config; none can be
//! raised beyond what stands here.

use std::time::Duration;

/// Longest terminal id, bytes.
pub const TERMINAL_ID_LEN_MAX: usize = 256;
/// Longest topic or filter, bytes. [MQTT-4.7.3-3] allows 65,535; every table key carries it, so less is kept.
pub const TOPIC_LEN_MAX: usize = 1_024;
/// Most levels in a topic or filter: bounds the work of one match.
pub const TOPIC_LEVELS_MAX: usize = 64;
/// Largest payload of a push or PUBLISH, bytes.
pub const PAYLOAD_LEN_MAX: usize = 1024 * 1024;
/// Largest sum of user property bytes, content type, response topic and correlation data of one message.
pub const PROPERTIES_LEN_MAX: usize = 16 * 1024;
/// Largest MQTT packet an edge accepts: a full payload, topic and properties.
pub const MQTT_PACKET_LEN_MAX: usize = PAYLOAD_LEN_MAX + 64 * 1024;
/// Largest frame on the link and on Raft's streams (snapshot files travel outside frames).
pub const FRAME_LEN_MAX: usize = 8 * 1024 * 1024;
/// Most terminals and aliases named in one audience, and most terminals in one bulk call frame.
pub const TERMINALS_PER_CALL_MAX: usize = 100_000;
/// Longest alias of a terminal, bytes.
pub const ALIAS_LEN_MAX: usize = 256;
/// Most tags of a terminal.
pub const TAGS_MAX: usize = 64;
/// Longest key of a tag, bytes.
pub const TAG_KEY_LEN_MAX: usize = 64;
/// Longest value of a tag, bytes.
pub const TAG_VALUE_LEN_MAX: usize = 256;
/// Most parts of an audience expression, operators included: bounds what apply does for one block of terminals.
pub const AUDIENCE_NODES_MAX: usize = 256;
/// Most slices (`sample`) and states of pushes (`delivered`, `pending`) in an audience expression: each is looked at terminal
/// by terminal, or read whole.
pub const AUDIENCE_SCANS_MAX: usize = 16;
/// Most days back that an audience may ask who was connected (`seen`); who was on which day is kept that long.
pub const SEEN_DAYS_MAX: u8 = 90;
/// Deepest audience expression: bounds every recursion over it.
pub const AUDIENCE_DEPTH_MAX: usize = 16;
/// An audience up to this size is stored as one row with a state byte each; above, as bitmaps.
pub const SMALL_AUDIENCE_MAX: usize = 64;

/// Stages of a roll-out.
pub const STAGES_MAX: usize = 32;

/// How far ahead a push may be scheduled.
pub const SCHEDULE_AHEAD_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// Most subscriptions of one session.
pub const SUBSCRIPTIONS_PER_SESSION_MAX: usize = 1_000;
/// Most filters in one SUBSCRIBE or UNSUBSCRIBE.
pub const FILTERS_PER_PACKET_MAX: usize = 256;
/// Most pushes a terminal may be owed; beyond, it gets dropped(over quota).
pub const OWED_PER_TERMINAL_MAX: usize = 10_000;
/// Pushes handed out to one terminal and not acknowledged: the bound on duplicates after the loss of an edge.
/// A terminal's own Receive Maximum lowers it.
pub const INFLIGHT_PER_TERMINAL_MAX: usize = 64;
/// Pushes an edge keeps queued for one terminal behind its in-flight window; over it, the terminal is catching up.
pub const QUEUED_PER_TERMINAL_MAX: usize = 128;
/// Urgent pushes queued beyond that.
pub const URGENT_BEYOND_MAX: usize = 32;
/// Most pushes in one answer to a pull.
pub const OWED_PER_PULL_MAX: usize = 64;
/// A proposal batch is closed at this size, bytes (measured: 3.9 instead of 14 CPU-s per million commands).
pub const PROPOSAL_BATCH_LEN_MAX: usize = 256 * 1024;
/// Payloads up to this size ride with the first Deliver to an edge; larger ones are fetched.
pub const INLINE_PAYLOAD_LEN_MAX: usize = 64 * 1024;
/// Most pushes named in one report of an application.
pub const APP_RECEIPTS_PER_PUBLISH_MAX: usize = 1_000;
/// Longest idempotency key of a push, bytes.
pub const IDEMPOTENCY_KEY_LEN_MAX: usize = 128;
/// Default time a push stays deliverable.
pub const PUSH_TTL_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// Longest time a push stays deliverable.
pub const PUSH_TTL_MAX: Duration = Duration::from_secs(28 * 24 * 3600);
/// Longest session expiry; a terminal that asks for more (or for ever) gets this, and is told (MQTT 5).
pub const SESSION_EXPIRY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most bytes of retained messages in one answer, unless one alone is larger. A subscriber that does not read holds one
/// answer: no more than what is on its way to its socket.
pub const RETAINED_PAGE_LEN_MAX: usize = 64 * 1024;
