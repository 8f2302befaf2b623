//! The `$SYS` topics: made here, for the terminals of this edge, and never sent to the leader.

use cluster_proto::{AppId, Message, MessageProperties, PushId, PushKind, Qos, link::Stats};
use fabric_core::{
    mqtt::Kept,
    subscriptions::filter,
    sys::{SysTopics, Values},
};

use super::Hub;
use crate::edge::{codec::Outgoing, messages::ToShard};

/// When the topics are looked at again. Without it there are none.
#[derive(Debug)]
pub(super) struct Sys {
    topics: SysTopics,
    interval_ms: u64,
    pub(super) next_ms: u64,
}

impl Sys {
    pub(super) fn new(
        node: cluster_proto::NodeId,
        interval: std::time::Duration,
        now_ms: u64,
    ) -> Option<Self> {
        let interval_ms = interval.as_millis() as u64;
        let topics = SysTopics::new(node, env!("CARGO_PKG_VERSION"), now_ms);
        (interval_ms > 0).then_some(Self { topics, interval_ms, next_ms: now_ms + interval_ms })
    }
}

impl Hub {
    /// Of this edge.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.shared.stats();
        stats.publishes_dropped += self.publishes_dropped;
        stats
    }

    /// Shows what has changed to whoever subscribes. Nothing is encoded where nobody does.
    pub(super) fn show_sys(&mut self) {
        if self.sys.as_ref().is_none_or(|sys| self.now_ms < sys.next_ms) {
            return;
        }
        let (own, cluster) = (self.stats(), self.link.cluster_stats());
        let Some(sys) = &mut self.sys else { return };
        sys.next_ms = self.now_ms + sys.interval_ms;
        let changed = sys.topics.sample(self.now_ms, own, cluster);
        for app in self.filters.sys_apps() {
            for message in messages(app, &changed, "$SYS/#") {
                for shard in (0u16..).take(self.ports.len()) {
                    self.show(shard, ToShard::Transient(message.clone(), None));
                }
            }
        }
    }

    /// What a new subscription is shown at once.
    pub(super) fn sys_messages(&self, app: AppId, filter: &str) -> Vec<Kept<Outgoing>> {
        let Some(sys) = &self.sys else { return Vec::new() };
        let values = sys.topics.values(self.now_ms, self.stats(), self.link.cluster_stats());
        // Of QoS 0: nothing goes on with one.
        let kept = |message| Kept { id: PushId::retained(0), message, expires_at_ms: None };
        messages(app, &values, filter).map(kept).collect()
    }
}

fn messages<'a>(app: AppId, values: &'a Values, filter: &'a str) -> impl Iterator<Item = Outgoing> + 'a {
    let matching = values.iter().filter(move |(topic, _)| filter::matches(topic, filter));
    matching.map(move |(topic, value)| {
        Outgoing::new(Message {
            app,
            kind: PushKind::Topic,
            topic: topic.clone(),
            qos: Qos::AtMostOnce,
            payload: value.clone().into(),
            properties: MessageProperties::default(),
            retain: true,
            publisher: None,
            tells_expiry: false,
        })
    })
}
