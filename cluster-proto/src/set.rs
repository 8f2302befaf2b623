//! Sets of terminals.

use std::fmt;

use roaring::RoaringBitmap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::TerminalNo;

/// A set of terminals: a compressed bitmap of terminal numbers. Travels as a short list when it is small.
#[derive(Clone, PartialEq, Default)]
pub struct TerminalSet(pub RoaringBitmap);

/// Sets up to this size are shorter as a list of varints.
const LIST_LEN_MAX: u64 = 32;

#[derive(Serialize, Deserialize)]
enum Wire {
    List(Vec<u32>),
    Bitmap(Vec<u8>),
}

impl TerminalSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The set of one terminal.
    pub fn one(no: TerminalNo) -> Self {
        Self(RoaringBitmap::from_iter([no.0]))
    }

    /// Whether `no` is in the set.
    pub fn contains(&self, no: TerminalNo) -> bool {
        self.0.contains(no.0)
    }

    /// Adds `no`; says whether it was new.
    pub fn insert(&mut self, no: TerminalNo) -> bool {
        self.0.insert(no.0)
    }

    /// Removes `no`; says whether it was there.
    pub fn remove(&mut self, no: TerminalNo) -> bool {
        self.0.remove(no.0)
    }

    /// How many terminals.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The terminals in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = TerminalNo> + '_ {
        self.0.iter().map(TerminalNo)
    }
}

impl FromIterator<TerminalNo> for TerminalSet {
    fn from_iter<I: IntoIterator<Item = TerminalNo>>(nos: I) -> Self {
        Self(nos.into_iter().map(|no| no.0).collect())
    }
}

impl fmt::Debug for TerminalSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TerminalSet(len={})", self.0.len())
    }
}

impl Serialize for TerminalSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = if self.0.len() <= LIST_LEN_MAX {
            Wire::List(self.0.iter().collect())
        } else {
            let mut bytes = Vec::with_capacity(self.0.serialized_size());
            self.0.serialize_into(&mut bytes).map_err(ser::Error::custom)?;
            Wire::Bitmap(bytes)
        };
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TerminalSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Wire::deserialize(deserializer)? {
            Wire::List(nos) => Ok(Self(nos.into_iter().collect())),
            // The checked reader: bytes from a peer must not build a bitmap that panics later.
            Wire::Bitmap(bytes) => {
                RoaringBitmap::deserialize_from(&bytes[..]).map(Self).map_err(de::Error::custom)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_sets_survive_the_wire() {
        for n in [0, 1, 32, 33, 100_000] {
            let set: TerminalSet = (0..n).map(|i| TerminalNo(i * 3)).collect();
            let bytes = postcard::to_allocvec(&set).expect("serialize");
            assert_eq!(postcard::from_bytes::<TerminalSet>(&bytes).expect("deserialize"), set);
        }
    }

    #[test]
    fn damaged_bitmap_bytes_are_an_error() {
        let bytes = postcard::to_allocvec(&Wire::Bitmap(vec![0xff; 40])).expect("serialize");
        assert!(postcard::from_bytes::<TerminalSet>(&bytes).is_err());
    }
}
