//! How one log entry lies in the log database: key = index, big-endian; value = version, checksum, entry.
//!
//! The checksum covers the index too, so that a record under a wrong key is noticed. RocksDB checks its blocks, but
//! a bit that flips on the way to it would otherwise be replicated.

use std::io;

use xxhash_rust::xxh3::Xxh3;

use crate::type_config::Entry;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + 8;

/// Why a stored record cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("log record {index} is cut off")]
    Short { index: u64 },
    #[error("log record {index} has version {version}, this node reads {VERSION}")]
    Version { index: u64, version: u8 },
    #[error("log record {index} fails its checksum: the disk or memory damaged it")]
    Checksum { index: u64 },
    #[error("log record {index} does not decode: {source}")]
    Malformed { index: u64, source: postcard::Error },
}

impl From<RecordError> for io::Error {
    fn from(error: RecordError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

pub(crate) fn encode(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut record = vec![0; HEADER_LEN];
    record[0] = VERSION;
    let mut record = postcard::to_extend(entry, record).map_err(io::Error::other)?;
    let checksum = checksum(entry.log_id.index, &record[HEADER_LEN..]);
    record[1..HEADER_LEN].copy_from_slice(&checksum.to_be_bytes());
    Ok(record)
}

pub(crate) fn decode(index: u64, record: &[u8]) -> Result<Entry, RecordError> {
    let Some((header, body)) = record.split_first_chunk::<HEADER_LEN>() else {
        return Err(RecordError::Short { index });
    };
    if header[0] != VERSION {
        return Err(RecordError::Version { index, version: header[0] });
    }
    if header[1..] != checksum(index, body).to_be_bytes() {
        return Err(RecordError::Checksum { index });
    }
    postcard::from_bytes(body).map_err(|source| RecordError::Malformed { index, source })
}

fn checksum(index: u64, body: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&index.to_be_bytes());
    hasher.update(body);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::type_config::{Proposal, log_id};

    fn entry(index: u64) -> Entry {
        Entry { log_id: log_id(3, index), payload: EntryPayload::Normal(Proposal::join(7, &[])) }
    }

    #[test]
    fn a_record_survives_encoding() {
        assert_eq!(decode(9, &encode(&entry(9)).expect("encode")).expect("decode"), entry(9));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let record = encode(&entry(9)).expect("encode");
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(9, &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_under_another_index_is_noticed() {
        let record = encode(&entry(9)).expect("encode");
        assert!(matches!(decode(10, &record), Err(RecordError::Checksum { index: 10 })));
    }

    #[test]
    fn a_record_cut_anywhere_is_an_error_and_no_panic() {
        let record = encode(&entry(9)).expect("encode");
        for len in 0..record.len() {
            assert!(decode(9, &record[..len]).is_err(), "{len} bytes");
        }
    }
}
