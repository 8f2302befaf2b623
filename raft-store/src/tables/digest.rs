//! A hash of everything in the tables by content.

use xxhash_rust::xxh3::Xxh3;

use super::{
    db::Snapshot,
    error::StoreError,
    keys::{self, Family},
    value,
};

/// Hashes every key and value in order. Sets are hashed by their members: their bytes may depend on the order in
/// which the database merged them. The membership is left out: it belongs to Raft.
pub(super) fn scan(tables: &Snapshot<'_>) -> Result<u128, StoreError> {
    let mut hash = Xxh3::new();
    let mut damaged = None;
    tables.for_each(|key, bytes| {
        if key == keys::membership() {
            return;
        }
        part(&mut hash, key);
        if Family::of(key) != Family::Sets {
            return part(&mut hash, bytes);
        }
        match value::decode_set(key, bytes) {
            Ok(mut set) => part(&mut hash, &value::encode_set(&mut set)),
            Err(error) => damaged = Some(error),
        }
    })?;
    damaged.map_or(Ok(hash.digest128()), Err)
}

fn part(hash: &mut Xxh3, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}
