//! What `$SYS` topics show: names and values as other brokers have them, of the whole cluster below `$SYS/broker`, and
//! of one node below `$SYS/brokers/NODE`.

use std::collections::BTreeMap;

use cluster_proto::{NodeId, link::Stats};

/// Topics and what they show, by topic.
pub type Values = BTreeMap<String, String>;

/// Whether all topics a valid filter matches are `$SYS` topics; no other filter matches one ([MQTT-4.7.2-1]).
pub fn is_sys(filter: &str) -> bool {
    filter == "$SYS" || filter.starts_with("$SYS/")
}

/// The machine behind the `$SYS` topics of one edge. Times are milliseconds of the caller's clock.
#[derive(Clone, Debug)]
pub struct SysTopics {
    node: NodeId,
    version: &'static str,
    started_ms: u64,
    sampled_ms: u64,
    /// Most connections at once, as sampled.
    maximum: [u64; 2],
    loads: [Loads; 2],
    told: Values,
}

/// Which of the two: indexes of `maximum` and `loads`.
const CLUSTER: usize = 0;
const OWN: usize = 1;

/// Averages over time.
#[derive(Clone, Debug, Default)]
struct Loads {
    messages_received: Load,
    messages_sent: Load,
    publishes_received: Load,
    publishes_sent: Load,
    bytes_received: Load,
    bytes_sent: Load,
    connections: Load,
}

/// Events per minute, as averages over the last minutes: each moves towards the present rate, the shorter the faster.
#[derive(Clone, Debug, Default)]
struct Load {
    total: u64,
    per_minute: [f64; MINUTES.len()],
}

const MINUTES: [u32; 3] = [1, 5, 15];

impl SysTopics {
    /// Nothing has happened yet.
    pub fn new(node: NodeId, version: &'static str, now_ms: u64) -> Self {
        Self {
            node,
            version,
            started_ms: now_ms,
            sampled_ms: now_ms,
            maximum: [0; 2],
            loads: Default::default(),
            told: Values::new(),
        }
    }

    /// Looks at the counters: averages move on. Answers the topics whose value is another than last time.
    pub fn sample(&mut self, now_ms: u64, own: Stats, cluster: Stats) -> Values {
        let elapsed_ms = now_ms.saturating_sub(self.sampled_ms);
        self.sampled_ms = now_ms;
        for (which, stats) in [(CLUSTER, cluster), (OWN, own)] {
            self.maximum[which] = self.maximum[which].max(stats.connected);
            self.loads[which].sample(stats, elapsed_ms);
        }
        let values = self.values(now_ms, own, cluster);
        let changed = |(topic, value): &(&String, &String)| self.told.get(*topic) != Some(*value);
        let changed = values.iter().filter(changed).map(|(topic, value)| (topic.clone(), value.clone()));
        let changed = changed.collect();
        self.told = values;
        changed
    }

    /// What every topic shows now.
    pub fn values(&self, now_ms: u64, own: Stats, cluster: Stats) -> Values {
        let mut values = Values::new();
        let uptime_s = now_ms.saturating_sub(self.started_ms) / 1_000;
        let node = format!("$SYS/brokers/{}", self.node);
        for (prefix, which, stats) in [("$SYS/broker", CLUSTER, cluster), (node.as_str(), OWN, own)] {
            let mut put = |name: &str, value: String| drop(values.insert(format!("{prefix}/{name}"), value));
            put("version", format!("carillon {}", self.version));
            put("uptime", format!("{uptime_s} seconds"));
            counters(stats, self.maximum[which].max(stats.connected), &mut put);
            self.loads[which].put(&mut put);
        }
        // Sessions and retained messages are the cluster's: no node has its own.
        clients_total(cluster, |name, count| drop(values.insert(name.to_owned(), count.to_string())));
        values
    }
}

fn counters(stats: Stats, maximum: u64, put: &mut impl FnMut(&str, String)) {
    let counts = [
        ("clients/connected", stats.connected),
        ("clients/active", stats.connected),
        ("clients/maximum", maximum),
        ("messages/received", stats.packets_received),
        ("messages/sent", stats.packets_sent),
        ("publish/messages/received", stats.publishes_received),
        ("publish/messages/sent", stats.publishes_sent),
        ("publish/messages/dropped", stats.publishes_dropped),
        ("bytes/received", stats.bytes_received),
        ("bytes/sent", stats.bytes_sent),
        ("subscriptions/count", stats.subscriptions),
    ];
    for (name, count) in counts {
        put(name, count.to_string());
    }
}

/// Clients without a session to keep are in `connected` alone, so that the others are at least the rest of the sessions.
fn clients_total(cluster: Stats, mut put: impl FnMut(&str, u64)) {
    let disconnected = cluster.sessions.saturating_sub(cluster.connected);
    put("$SYS/broker/clients/disconnected", disconnected);
    put("$SYS/broker/clients/inactive", disconnected);
    put("$SYS/broker/clients/total", cluster.connected + disconnected);
    put("$SYS/broker/retained messages/count", cluster.retained);
    put("$SYS/broker/messages/stored", cluster.retained);
}

impl Loads {
    fn sample(&mut self, stats: Stats, elapsed_ms: u64) {
        self.messages_received.sample(stats.packets_received, elapsed_ms);
        self.messages_sent.sample(stats.packets_sent, elapsed_ms);
        self.publishes_received.sample(stats.publishes_received, elapsed_ms);
        self.publishes_sent.sample(stats.publishes_sent, elapsed_ms);
        self.bytes_received.sample(stats.bytes_received, elapsed_ms);
        self.bytes_sent.sample(stats.bytes_sent, elapsed_ms);
        self.connections.sample(stats.connects, elapsed_ms);
    }

    fn put(&self, put: &mut impl FnMut(&str, String)) {
        let loads = [
            ("messages/received", &self.messages_received),
            ("messages/sent", &self.messages_sent),
            ("publish/received", &self.publishes_received),
            ("publish/sent", &self.publishes_sent),
            ("bytes/received", &self.bytes_received),
            ("bytes/sent", &self.bytes_sent),
            ("connections", &self.connections),
        ];
        for (name, load) in loads {
            for (minutes, average) in MINUTES.iter().zip(load.per_minute) {
                put(&format!("load/{name}/{minutes}min"), format!("{average:.2}"));
            }
        }
    }
}

impl Load {
    fn sample(&mut self, total: u64, elapsed_ms: u64) {
        // An edge that left took its share of the cluster's total along: that is no negative load.
        let events = total.saturating_sub(self.total);
        self.total = total;
        if elapsed_ms == 0 {
            return;
        }
        let per_minute = events as f64 * 60_000.0 / elapsed_ms as f64;
        for (minutes, average) in MINUTES.iter().zip(&mut self.per_minute) {
            let kept = (-(elapsed_ms as f64) / (f64::from(*minutes) * 60_000.0)).exp();
            *average = per_minute + kept * (*average - per_minute);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> SysTopics {
        SysTopics::new(NodeId(7), "1.2.3", 1_000)
    }

    #[test]
    fn every_topic_is_told_once_and_then_only_what_changed() {
        let mut topics = topics();
        let stats = Stats { connected: 2, sessions: 5, ..Stats::default() };
        let first = topics.sample(11_000, stats, stats);
        assert_eq!(first["$SYS/broker/version"], "carillon 1.2.3");
        assert_eq!(first["$SYS/broker/uptime"], "10 seconds");
        assert_eq!(first["$SYS/broker/clients/total"], "5");
        assert_eq!(first["$SYS/broker/clients/disconnected"], "3");
        assert_eq!(first["$SYS/brokers/7/clients/connected"], "2");
        let second = topics.sample(21_000, stats, Stats { connected: 1, ..stats });
        assert_eq!(second["$SYS/broker/clients/connected"], "1");
        assert!(!second.contains_key("$SYS/broker/version"));
        assert!(!second.contains_key("$SYS/brokers/7/clients/connected"));
        assert_eq!(topics.values(21_000, stats, stats)["$SYS/broker/clients/maximum"], "2");
    }

    #[test]
    fn a_steady_rate_becomes_the_average_of_one_minute_before_that_of_fifteen() {
        let mut topics = topics();
        let mut stats = Stats::default();
        for n in 1..=12 {
            stats.packets_received += 100;
            topics.sample(1_000 + n * 10_000, stats, Stats::default());
        }
        let values = topics.values(121_000, stats, Stats::default());
        let average =
            |name: &str| values[&format!("$SYS/brokers/7/load/{name}")].parse::<f64>().expect("number");
        let (one, fifteen) = (average("messages/received/1min"), average("messages/received/15min"));
        assert!((500.0..600.0).contains(&one) && (50.0..100.0).contains(&fifteen), "{one} {fifteen}");
        assert!(average("connections/1min").abs() < f64::EPSILON);
    }

    #[test]
    fn an_edge_that_left_is_no_negative_load() {
        let mut topics = topics();
        topics.sample(2_000, Stats::default(), Stats { packets_sent: 1_000, ..Stats::default() });
        topics.sample(3_000, Stats::default(), Stats { packets_sent: 10, ..Stats::default() });
        assert!(!topics.told["$SYS/broker/load/messages/sent/1min"].starts_with('-'));
    }

    #[test]
    fn only_filters_below_sys_match_sys_topics() {
        assert!(is_sys("$SYS") && is_sys("$SYS/#") && is_sys("$SYS/broker/+"));
        assert!(!is_sys("#") && !is_sys("$SYSTEM/#") && !is_sys("+/broker"));
    }

    #[test]
    fn every_topic_may_be_published_to() {
        let stats = Stats::default();
        for topic in topics().values(5_000, stats, stats).keys() {
            assert_eq!(crate::subscriptions::filter::validate_topic(topic), Ok(()));
        }
    }
}
