//! The RocksDB behind the tables: its families, its options and why, and where it lies on disk.
//!
//! ```text
//! <path>/current        the name of the directory in use, replaced by rename
//! <path>/tables-<n>/    that database
//! <path>/incoming…      whatever a crash left of an installation: removed at open
//! ```

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use cluster_proto::PushId;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator,
    FlushOptions, Options, ReadOptions, WriteBatch, WriteOptions, checkpoint::Checkpoint,
};

use super::{
    blocks::BlockSets,
    error::{OpenError, StoreError},
    keys::{self, Family, Key},
    merge,
};

const MARKER: &str = "current";
const PREFIX: &str = "tables-";

/// Memtables of all families together. They are flushed together, so this is what a restart may have to replay
/// from the log.
const MEMTABLES_LEN_MAX: usize = 256 * 1024 * 1024;
const BLOCK_CACHE_LEN: usize = 128 * 1024 * 1024;

/// One open database directory.
pub(super) struct Db {
    rocks: DB,
    pub(super) directory: PathBuf,
}

impl Db {
    /// Opens the database in use under `path`, creating the first one.
    pub(super) fn open_current(path: &Path) -> Result<Self, OpenError> {
        let io = |error| OpenError::Io { path: path.to_path_buf(), error };
        fs::create_dir_all(path).map_err(io)?;
        let current = match read_marker(path).map_err(io)? {
            Some(name) => name,
            None => {
                // Nothing was ever in use: what lies there is what a crash left of the first open.
                let first = format!("{PREFIX}1");
                write_marker(path, &first).map_err(io)?;
                first
            }
        };
        let db = Self::open(&path.join(&current))?;
        remove_others(path, &current).map_err(io)?;
        Ok(db)
    }

    pub(super) fn open(directory: &Path) -> Result<Self, OpenError> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE_LEN);
        let families = Family::ALL
            .map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family, &cache)));
        let rocks = DB::open_cf_descriptors(&db_options(), directory, families).map_err(|error| {
            // RocksDB tells it in words only; they name its lock file.
            if error.as_ref().contains("/LOCK") {
                OpenError::InUse(directory.to_path_buf())
            } else {
                OpenError::Store(error.into())
            }
        })?;
        Ok(Self { rocks, directory: directory.to_path_buf() })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rocks.get_cf(self.family(Family::of(key))?, key)?)
    }

    /// An iterator at the first key of `from..end`; both must lie in one family.
    pub(super) fn iterator(&self, from: &[u8], end: Key) -> Result<DBRawIterator<'_>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mut iterator = self.rocks.raw_iterator_cf_opt(self.family(Family::of(from))?, options);
        iterator.seek(from);
        Ok(iterator)
    }

    /// All rows of one block of a broad push.
    pub(super) fn set_rows(&self, push: PushId, block: u16) -> Result<DBRawIterator<'_>, StoreError> {
        let prefix = keys::set_block(push, block);
        self.iterator(&prefix, keys::prefix_end(&prefix))
    }

    pub(super) fn family(&self, family: Family) -> Result<&ColumnFamily, StoreError> {
        let missing = || StoreError::Rocks(format!("column family {} is missing", family.name()));
        self.rocks.cf_handle(family.name()).ok_or_else(missing)
    }

    /// Not durable when it returns: the log has what was not flushed.
    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        Ok(self.rocks.write_opt(batch, &options)?)
    }

    /// Durable when it returns: everything written before the call.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        let families =
            Family::ALL.into_iter().map(|family| self.family(family)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.rocks.flush_cfs_opt(&families, &FlushOptions::default())?)
    }

    /// Hard links of all files, flushed first, into `directory`, which must not exist.
    pub(super) fn checkpoint(&self, directory: &Path) -> Result<(), StoreError> {
        Ok(Checkpoint::new(&self.rocks)?.create_checkpoint(directory)?)
    }

    /// The database as it is now, whatever is written later.
    pub(super) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { db: self, rocks: self.rocks.snapshot() }
    }
}

/// See [`Db::snapshot`].
pub(super) struct Snapshot<'a> {
    db: &'a Db,
    rocks: rocksdb::Snapshot<'a>,
}

impl Snapshot<'_> {
    fn iterator(&self, from: &[u8], end: Key) -> Result<DBRawIterator<'_>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mut iterator = self.rocks.raw_iterator_cf_opt(self.db.family(Family::of(from))?, options);
        iterator.seek(from);
        Ok(iterator)
    }

    /// Every key and value in order, one family after the other.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        for family in Family::ALL {
            let mut rows = self.rocks.raw_iterator_cf(self.db.family(family)?);
            rows.seek_to_first();
            while let Some((key, value)) = rows.item() {
                visit(key, value);
                rows.next();
            }
            rows.status()?;
        }
        Ok(())
    }
}

impl Read for Snapshot<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rocks.get_cf(self.db.family(Family::of(key))?, key)?)
    }

    fn scan(&self, from: &[u8], end: Key, visit: Visit<'_>) -> Result<(), StoreError> {
        visit_rows(self.iterator(from, end)?, visit)
    }

    fn block(&self, push: PushId, block: u16) -> Result<Arc<BlockSets>, StoreError> {
        let prefix = keys::set_block(push, block);
        BlockSets::load(self.iterator(&prefix, keys::prefix_end(&prefix))?).map(Arc::new)
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Makes the checkpoint in `incoming` the database in use under `path`, and opens it. A crash leaves either the
/// old or the new one in use, whole: the marker is replaced by rename after the directory is in place.
pub(super) fn install(path: &Path, incoming: &Path) -> Result<Db, OpenError> {
    let io = |error| OpenError::Io { path: path.to_path_buf(), error };
    let name = next_name(path).map_err(io)?;
    let directory = path.join(&name);
    fs::rename(incoming, &directory).map_err(io)?;
    sync_files(&directory).map_err(io)?;
    sync_directory(path).map_err(io)?;
    // Opened before it is in use, so that a damaged checkpoint changes nothing.
    let db = Db::open(&directory)?;
    write_marker(path, &name).map_err(io)?;
    Ok(db)
}

/// Removes a database that is no longer in use and closed.
pub(super) fn remove(directory: &Path) {
    // Whatever stays is removed at the next open.
    if let Err(error) = fs::remove_dir_all(directory) {
        tracing::warn!(directory = %directory.display(), %error, "old tables were not removed");
    }
}

fn db_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Without a WAL the families must reach the disk together, or a restart would find a mixture.
    options.set_atomic_flush(true);
    options.set_db_write_buffer_size(MEMTABLES_LEN_MAX);
    options.set_max_background_jobs(2);
    // Push sets, indexes and queues are many small files at most; keep them open, one process has 20,000.
    options.set_max_open_files(4096);
    options.set_keep_log_file_num(4);
    options
}

fn family_options(family: Family, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // Most reads are of one key, and many ask for what is not there.
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(MEMTABLES_LEN_MAX / 4);
    match family {
        Family::Sets => {
            options.set_merge_operator_associative("carillon.set-union", merge::union);
            // Bounds what a read has to merge before a flush (measured: 8 instead of 195 ms per listing).
            options.set_max_successive_merges(64);
        }
        Family::Payloads => {
            // Payloads are never changed: large ones stay out of compaction.
            options.set_enable_blob_files(true);
            options.set_min_blob_size(4 * 1024);
            options.set_blob_compression_type(DBCompressionType::Lz4);
            options.set_enable_blob_gc(true);
        }
        Family::Meta
        | Family::Terminals
        | Family::Sessions
        | Family::Pushes
        | Family::Owed
        | Family::Retained
        | Family::Receipts => {}
    }
    options
}

fn read_marker(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path.join(MARKER)) {
        Ok(name) => Ok(Some(name.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Durable when it returns.
fn write_marker(path: &Path, name: &str) -> io::Result<()> {
    let draft = path.join("incoming-marker");
    let mut file = fs::File::create(&draft)?;
    file.write_all(name.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path.join(MARKER))?;
    sync_directory(path)
}

/// A name no directory under `path` has or had since the one in use.
fn next_name(path: &Path) -> io::Result<String> {
    let mut last = 0;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok());
        last = last.max(number.unwrap_or(0));
    }
    Ok(format!("{PREFIX}{}", last + 1))
}

fn remove_others(path: &Path, current: &str) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) || name.starts_with("incoming"));
        if !ours || name.to_str() == Some(current) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn sync_files(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        fs::File::open(entry?.path())?.sync_all()?;
    }
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

/// Reads that both the committed tables and a transaction offer.
pub(crate) trait Read {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits `from..end` in order until `visit` answers `false`.
    fn scan(&self, from: &[u8], end: Key, visit: Visit<'_>) -> Result<(), StoreError>;

    /// What is known of one block of a broad push.
    fn block(&self, push: PushId, block: u16) -> Result<Arc<BlockSets>, StoreError>;

    /// Visits everything with a prefix in order until `visit` answers `false`.
    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        self.scan(prefix, keys::prefix_end(prefix), visit)
    }

    /// The keys with a prefix, at most `limit`.
    fn keys(&self, prefix: &[u8], limit: usize) -> Result<Vec<Key>, StoreError> {
        let mut found = Vec::new();
        if limit > 0 {
            self.scan_prefix(prefix, &mut |key, _| {
                found.push(key.to_vec());
                Ok(found.len() < limit)
            })?;
        }
        Ok(found)
    }
}

/// Visits what is left of an iterator, as [`Read::scan`].
pub(super) fn visit_rows(mut rows: DBRawIterator<'_>, visit: Visit<'_>) -> Result<(), StoreError> {
    while let Some((key, value)) = rows.item() {
        if !visit(key, value)? {
            return Ok(());
        }
        rows.next();
    }
    Ok(rows.status()?)
}

/// Called with key and value; answers whether to go on.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError>;

/// Decodes what [`Read::get`] finds.
pub(crate) fn read<T: super::value::Stored>(tables: &impl Read, key: &[u8]) -> Result<Option<T>, StoreError> {
    tables.get(key)?.map(|bytes| T::decode(key, &bytes)).transpose()
}
