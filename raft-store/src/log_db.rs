//! The log's own RocksDB: entries in one column family, vote and pointers in another.

use std::{io, path::Path};

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, IteratorMode, Options,
    ReadOptions, WriteBatch, WriteOptions,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    log_record,
    type_config::{Entry, LogId, Vote},
};

const META: &str = "meta";
const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// Small, so that RocksDB's own log files are recycled early and a restart replays little.
const WRITE_BUFFER_LEN: usize = 32 * 1024 * 1024;
/// Two full buffers may wait for their flush before writes stall.
const WRITE_BUFFERS: i32 = 4;

/// See the module. Blocking: called from the writer thread, and for reads from blocking tasks.
pub(crate) struct LogDb {
    db: DB,
}

/// Everything that is not an entry, as found on disk.
#[derive(Debug, Default)]
pub(crate) struct LogMeta {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    /// All up to here, inclusive, is gone.
    pub(crate) purged: Option<LogId>,
    /// Index of the first entry, if there is any.
    pub(crate) first: Option<u64>,
    /// The last entry; `purged` if there is none.
    pub(crate) last: Option<LogId>,
}

/// What a read found.
pub(crate) struct Found {
    pub(crate) entries: Vec<Entry>,
    /// It stopped at the byte limit; otherwise there is nothing more in the range.
    pub(crate) limited: bool,
}

impl LogDb {
    pub(crate) fn open(dir: &Path) -> Result<Self, rocksdb::Error> {
        let families = ["default", META].map(|name| ColumnFamilyDescriptor::new(name, family_options()));
        let db = DB::open_cf_descriptors(&db_options(), dir, families)?;
        Ok(Self { db })
    }

    pub(crate) fn load(&self) -> io::Result<LogMeta> {
        let purged: Option<LogId> = self.meta(PURGED)?;
        let first = self.db.iterator(IteratorMode::Start).next().transpose().map_err(io::Error::other)?;
        let first = first.map(|(key, _)| index_of(&key)).transpose()?;
        if let (Some(purged), Some(first)) = (purged, first)
            && first > purged.index + 1
        {
            return Err(damaged(format!("the log is purged up to {} and begins at {first}", purged.index)));
        }
        let last = self.db.iterator(IteratorMode::End).next().transpose().map_err(io::Error::other)?;
        let last = match last {
            Some((key, record)) => Some(log_record::decode(index_of(&key)?, &record)?.log_id),
            None => None,
        };
        Ok(LogMeta {
            vote: self.meta(VOTE)?,
            committed: self.meta(COMMITTED)?,
            purged,
            first,
            last: last.max(purged),
        })
    }

    /// Entries of `[start, end)` that are there, in order, each checked, until `bytes_max` is passed. A hole inside is
    /// an error.
    pub(crate) fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Found> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start.to_be_bytes());
        options.set_iterate_upper_bound(end.to_be_bytes());
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for item in self.db.iterator_opt(IteratorMode::Start, options) {
            let (key, record) = item.map_err(io::Error::other)?;
            let index = index_of(&key)?;
            if entries.last().is_some_and(|last| last.log_id.index + 1 != index) {
                return Err(damaged(format!("log record {} is missing", index - 1)));
            }
            bytes += record.len();
            entries.push(log_record::decode(index, &record)?);
            if bytes >= bytes_max {
                return Ok(Found { entries, limited: true });
            }
        }
        Ok(Found { entries, limited: false })
    }

    pub(crate) fn batch(&self) -> LogBatch<'_> {
        LogBatch { db: self, batch: WriteBatch::default(), sync: false }
    }

    /// Gives files that hold nothing but purged entries back to the file system at once, without a compaction.
    pub(crate) fn drop_files(&self, upto: u64) -> Result<(), rocksdb::Error> {
        self.db.delete_file_in_range(0u64.to_be_bytes(), upto.to_be_bytes())
    }

    fn meta<T: DeserializeOwned>(&self, key: &[u8]) -> io::Result<Option<T>> {
        let Some(bytes) = self.db.get_cf(self.meta_family()?, key).map_err(io::Error::other)? else {
            return Ok(None);
        };
        postcard::from_bytes(&bytes).map(Some).map_err(|e| damaged(format!("{}: {e}", key.escape_ascii())))
    }

    fn meta_family(&self) -> io::Result<&ColumnFamily> {
        self.db
            .cf_handle(META)
            .ok_or_else(|| damaged("the log has no column family for its pointers".to_owned()))
    }
}

/// Writes that become visible together.
pub(crate) struct LogBatch<'a> {
    db: &'a LogDb,
    batch: WriteBatch,
    sync: bool,
}

impl LogBatch<'_> {
    pub(crate) fn put(&mut self, entry: &Entry) -> io::Result<()> {
        self.batch.put(entry.log_id.index.to_be_bytes(), log_record::encode(entry)?);
        self.sync = true;
        Ok(())
    }

    pub(crate) fn truncate(&mut self, from: u64) {
        self.batch.delete_range(from.to_be_bytes(), u64::MAX.to_be_bytes());
        self.sync = true;
    }

    pub(crate) fn vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.sync = true;
        self.put_meta(VOTE, vote)
    }

    /// A hint for the next start: what was committed is found again by the next leader, so no sync of its own.
    pub(crate) fn committed(&mut self, committed: &LogId) -> io::Result<()> {
        self.put_meta(COMMITTED, committed)
    }

    /// Synced: files are dropped afterwards, and must not be gone while the pointer says that they are needed.
    pub(crate) fn purge(&mut self, upto: &LogId) -> io::Result<()> {
        self.sync = true;
        self.batch.delete_range(0u64.to_be_bytes(), (upto.index + 1).to_be_bytes());
        self.put_meta(PURGED, upto)
    }

    /// DURABILITY: when this returns after a put, truncate or vote, RocksDB has fsynced its write-ahead log. Nothing
    /// about these operations may be reported before.
    pub(crate) fn commit(self) -> Result<(), rocksdb::Error> {
        let mut options = WriteOptions::default();
        options.set_sync(self.sync);
        self.db.db.write_opt(self.batch, &options)
    }

    fn put_meta(&mut self, key: &[u8], value: &impl Serialize) -> io::Result<()> {
        let bytes = postcard::to_stdvec(value).map_err(io::Error::other)?;
        self.batch.put_cf(self.db.meta_family()?, key, bytes);
        Ok(())
    }
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    let key = key.try_into().map_err(|_| damaged(format!("log key of {} bytes", key.len())))?;
    Ok(u64::from_be_bytes(key))
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn db_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // The write that a power loss cut off was never reported, and may be missing. Damage before it may not: by
    // default RocksDB would drop all that follows, and this member would silently forget what it promised.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Entries are written once, read rarely and deleted in order: one background thread keeps up, and leaves the
    // cores to Raft.
    options.set_max_background_jobs(2);
    // Both families have one write-ahead log, which a small, rarely written family would keep alive for ever.
    options.set_max_total_wal_size(2 * WRITE_BUFFER_LEN as u64);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * 1024 * 1024);
    options
}

fn family_options() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_LEN);
    options.set_max_write_buffer_number(WRITE_BUFFERS);
    // Keys only grow, so files never overlap and move down the levels without being rewritten; lz4 costs little on
    // the one flush and halves typical JSON payloads.
    options.set_compression_type(DBCompressionType::Lz4);
    options
}
