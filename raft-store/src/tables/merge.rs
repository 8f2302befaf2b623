//! The merge operator of push sets: the union of bitmaps. A receipt is written as a small operand instead of the
//! whole set (measured: 0.03 CPU-µs per receipt instead of 2.8 for a row each).
//!
//! RocksDB calls this from reads, flushes and compactions, over whatever bytes are on disk: a panic or `None`
//! would block the database for good. What cannot be parsed becomes [`DAMAGED`], which reading reports.

use roaring::RoaringBitmap;
use rocksdb::MergeOperands;

use super::value;

/// The union of sets where at least one part was no set: not a set itself, so a reader sees the damage.
pub(super) const DAMAGED: &[u8] = &[0];

/// `existing ∪ operands`.
pub(super) fn union(_key: &[u8], existing: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    Some(union_of(existing.into_iter().chain(operands)))
}

fn union_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut all = RoaringBitmap::new();
    for part in parts {
        match value::parse_set(part) {
            Some(set) => all |= set,
            None => return DAMAGED.to_vec(),
        }
    }
    value::encode_set(&mut all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_union_of_sets_is_their_union_in_any_grouping() {
        let bytes = |range: std::ops::Range<u32>| value::encode_set(&mut range.collect());
        let (a, b, c) = (bytes(0..5), bytes(3..9), bytes(70_000..80_000));
        let left = union_of([&union_of([&a[..], &b].into_iter())[..], &c].into_iter());
        let right = union_of([&a[..], &union_of([&b[..], &c].into_iter())].into_iter());
        assert_eq!(left, right);
        assert_eq!(value::parse_set(&left).map(|set| set.len()), Some(9 + 10_000));
    }

    #[test]
    fn damage_stays_visible() {
        let good = value::encode_set(&mut RoaringBitmap::from_iter([1, 2]));
        let merged = union_of([&good[..], b"\x01 no bitmap"].into_iter());
        assert_eq!(merged, DAMAGED);
        assert_eq!(union_of([&merged[..], &good].into_iter()), DAMAGED);
        assert!(value::decode_set(b"k", &merged).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5)) {
            union_of(parts.iter().map(Vec::as_slice));
        }

        #[test]
        fn bitmaps_with_flipped_bytes_never_panic(
            values in prop::collection::vec(0u32..200_000, 1..300),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = value::encode_set(&mut values.into_iter().collect());
            for (at, with) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= with;
            }
            let merged = union_of([&bytes[..], &bytes].into_iter());
            prop_assert!(!merged.is_empty());
        }
    }
}
