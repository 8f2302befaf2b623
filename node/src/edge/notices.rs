//! What is said when a limit is enforced: a metric for each time, and a log line now and then.

use cluster_proto::TerminalId;
use metrics::counter;

use super::metrics as names;

/// Between two log lines about the same limit; what happens meanwhile is counted in the next.
const LINE_EVERY_MS: u64 = 10_000;

/// A limit, and what is done about whoever is over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// CONNECT is refused: quota exceeded.
    ConnectionsPerApp,
    /// Nothing is read from the connection for a while.
    PublishRate,
    /// The same.
    PublishBytesRate,
    /// The connection is closed: it does not read what it must be told.
    Output,
}

/// Log lines of one thread. One place per limit.
#[derive(Debug, Default)]
pub(crate) struct Notices([Notice; 4]);

/// One limit's log lines.
#[derive(Debug, Default)]
pub(crate) struct Notice {
    next_ms: u64,
    silent: u64,
}

impl Limit {
    fn name(self) -> &'static str {
        match self {
            Self::ConnectionsPerApp => "connections-per-app",
            Self::PublishRate => "publish-rate",
            Self::PublishBytesRate => "publish-bytes-rate",
            Self::Output => "output",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::ConnectionsPerApp => "CONNECT is refused",
            Self::PublishRate | Self::PublishBytesRate => "it is not read from for a while",
            Self::Output => "it does not read, and is closed",
        }
    }
}

impl Notices {
    /// A limit was enforced.
    pub(crate) fn limited(&mut self, now_ms: u64, limit: Limit, terminal: Option<&TerminalId>) {
        counter!(names::LIMITED, "limit" => limit.name()).increment(1);
        let Some(silent) = self.0[limit as usize].take(now_ms) else { return };
        let terminal = terminal.map(TerminalId::as_str);
        tracing::warn!(
            limit = limit.name(),
            terminal,
            silent,
            "a terminal is over a limit: {}",
            limit.done()
        );
    }
}

impl Notice {
    /// Whether to write a line, and for how many it stands besides.
    pub(crate) fn take(&mut self, now_ms: u64) -> Option<u64> {
        if now_ms < self.next_ms {
            self.silent += 1;
            return None;
        }
        self.next_ms = now_ms + LINE_EVERY_MS;
        Some(std::mem::take(&mut self.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_one_line_and_the_next_tells_how_many() {
        let mut notice = Notice::default();
        assert_eq!(notice.take(5), Some(0));
        assert_eq!(notice.take(6), None);
        assert_eq!(notice.take(10_004), None);
        assert_eq!(notice.take(10_005), Some(2));
    }
}
