//! The nearest known key to a mistyped one.

use super::options::{SETTINGS, split};

/// The known key that `key` most likely means.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let (section, name) = split(key);
    let allowed = (key.len() / 4).max(2);
    let by_distance = SETTINGS
        .iter()
        .map(|setting| (distance(key, setting.key), setting.key))
        .filter(|(distance, _)| *distance <= allowed)
        .min();
    let by_name = || {
        let same_name = |setting: &&super::options::Setting| split(setting.key).1 == name;
        SETTINGS.iter().find(same_name).map(|setting| setting.key)
    };
    let by_part = || {
        let alike =
            |known: &str| split(known).0 == section && !name.is_empty() && part_of(split(known).1, name);
        SETTINGS.iter().map(|setting| setting.key).find(|known| alike(known))
    };
    by_distance.map(|(_, known)| known).or_else(by_name).or_else(by_part)
}

/// `cert` for `tls_cert`, `max_connections` for `connections_max`.
fn part_of(known: &str, asked: &str) -> bool {
    let words = |s: &str| {
        let mut words: Vec<_> = s.split('_').map(str::to_owned).collect();
        words.sort();
        words
    };
    known.contains(asked) || asked.contains(known) || words(known) == words(asked)
}

/// Edit distance in which swapping two neighbours is one step (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_finds_its_neighbour() {
        for (wrong, right) in [
            ("mqtt.adress", "mqtt.address"),
            ("mqqt.address", "mqtt.address"),
            ("node.datadir", "node.data_dir"),
            ("raft.hearbeat", "raft.heartbeat"),
            ("mqtt.max_connections", "mqtt.connections_max"),
            ("mqtt.retention", "push.retention"),
            ("mqtt.cert", "tls.cert"),
        ] {
            assert_eq!(nearest(wrong), Some(right), "{wrong}");
        }
        assert_eq!(nearest("flux.capacitor_gigawatts"), None);
    }
}
