//! What the application on a terminal reports of pushes it got: a PUBLISH to `$carillon/displayed` or `$carillon/opened`.
//!
//! Its payload names the pushes, one a line: the push id in decimal, or `key:` and the idempotency key of the push.

use cluster_proto::{
    AppReceipt, PushId,
    limits::{APP_RECEIPTS_PER_PUBLISH_MAX, IDEMPOTENCY_KEY_LEN_MAX},
    link::PushName,
};

use crate::subscriptions::filter;

/// What a report to this topic says; `None`: no such topic.
pub(super) fn of_topic(topic: &str) -> Option<AppReceipt> {
    let name = topic.strip_prefix(filter::OWN_LEVEL)?.strip_prefix('/')?;
    AppReceipt::ALL.into_iter().find(|what| what.name() == name)
}

/// The pushes a payload names, at least one; `None`: it is not of that form, or names too many.
pub(super) fn names(payload: &[u8]) -> Option<Vec<PushName>> {
    let text = std::str::from_utf8(payload).ok()?;
    let mut names = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if names.len() == APP_RECEIPTS_PER_PUBLISH_MAX {
            return None;
        }
        names.push(name(line)?);
    }
    (!names.is_empty()).then_some(names)
}

fn name(line: &str) -> Option<PushName> {
    if let Some(key) = line.strip_prefix("key:") {
        return (!key.is_empty() && key.len() <= IDEMPOTENCY_KEY_LEN_MAX)
            .then(|| PushName::Key(key.to_owned()));
    }
    // Not what `parse` takes besides: a sign.
    let is_decimal = line.bytes().all(|byte| byte.is_ascii_digit());
    is_decimal.then(|| line.parse().ok()).flatten().map(|id| PushName::Id(PushId(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_names_pushes_by_id_and_by_key() {
        let key = |key: &str| PushName::Key(key.to_owned());
        assert_eq!(names(b"7"), Some(vec![PushName::Id(PushId(7))]));
        let several = names(b"7\r\nkey:order 4711\n\nkey:key:x\n");
        assert_eq!(several, Some(vec![PushName::Id(PushId(7)), key("order 4711"), key("key:x")]));
        let most = "7\n".repeat(APP_RECEIPTS_PER_PUBLISH_MAX);
        assert_eq!(names(most.as_bytes()).map(|names| names.len()), Some(APP_RECEIPTS_PER_PUBLISH_MAX));
    }

    #[test]
    fn what_is_no_name_spoils_the_payload() {
        let long = format!("key:{}", "x".repeat(IDEMPOTENCY_KEY_LEN_MAX + 1));
        let many = "7\n".repeat(APP_RECEIPTS_PER_PUBLISH_MAX + 1);
        for wrong in ["", "\n", "x", "-1", "+1", "7 8", "key:", "18446744073709551616", &long, &many] {
            assert_eq!(names(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(names(&[0xff]), None);
    }

    #[test]
    fn only_two_topics_take_reports() {
        assert_eq!(of_topic("$carillon/displayed"), Some(AppReceipt::Displayed));
        assert_eq!(of_topic("$carillon/opened"), Some(AppReceipt::Opened));
        for other in ["$carillon", "$carillon/", "$carillon/opened/x", "carillon/opened", "$carillonopened"] {
            assert_eq!(of_topic(other), None, "{other}");
        }
    }
}
