//! Snapshots on disk: each a directory with a checkpoint of the tables (`db/`, hard links) and a `META` file.
//!
//! A directory is complete exactly when it bears its final name; everything else is what a crash left behind and is
//! removed at the next start. A superseded snapshot is removed when the last transfer that reads it ends.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use xxhash_rust::xxh3::xxh3_64;

use crate::type_config::SnapshotMeta;

const COMPLETE: &str = "snapshot-";
const META: &str = "META";
const DB: &str = "db";
const META_VERSION: u8 = 1;

/// The snapshots of this node: one current, others only while somebody reads them.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    counter: AtomicU64,
    current: Mutex<Option<Stored>>,
}

/// A complete snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) meta: SnapshotMeta,
    pub(crate) dir: SnapshotDir,
}

/// A directory that holds a snapshot, or will; removed when dropped, unless it is the current snapshot.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotDir(Arc<Dir>);

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    keep: AtomicBool,
}

impl SnapshotDir {
    fn new(path: PathBuf, keep: bool) -> Self {
        Self(Arc::new(Dir { path, keep: AtomicBool::new(keep) }))
    }

    /// Where the checkpoint lies.
    pub(crate) fn db_path(&self) -> PathBuf {
        self.0.path.join(DB)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Acquire) {
            remove(&self.path);
        }
    }
}

impl SnapshotStore {
    /// Removes what a crash left and finds the current snapshot.
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        let mut newest: Option<Stored> = None;
        for item in fs::read_dir(&root)? {
            let path = item?.path();
            let complete = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(COMPLETE));
            match complete.then(|| read_meta(&path)) {
                Some(Ok(meta)) if newest.as_ref().is_none_or(|n| n.meta.last_log_id < meta.last_log_id) => {
                    if let Some(older) = newest.replace(Stored { meta, dir: SnapshotDir::new(path, true) }) {
                        older.dir.0.keep.store(false, Ordering::Release);
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(path = %path.display(), %error, "unreadable snapshot removed");
                    remove(&path);
                }
                Some(Ok(_)) | None => remove(&path),
            }
        }
        let shared = Shared { root, counter: AtomicU64::new(start_counter()), current: Mutex::new(newest) };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) fn current(&self) -> Option<Stored> {
        self.lock().clone()
    }

    pub(crate) fn is_current(&self, dir: &SnapshotDir) -> bool {
        self.lock().as_ref().is_some_and(|current| Arc::ptr_eq(&current.dir.0, &dir.0))
    }

    /// An empty directory for a snapshot in the making.
    pub(crate) fn new_dir(&self, purpose: &str) -> io::Result<SnapshotDir> {
        let number = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.shared.root.join(format!("{purpose}-{number}"));
        fs::create_dir_all(&path)?;
        Ok(SnapshotDir::new(path, false))
    }

    /// Makes `dir` the current snapshot; the one before goes when nobody reads it any more.
    pub(crate) fn publish(&self, dir: SnapshotDir, meta: SnapshotMeta) -> io::Result<Stored> {
        write_meta(&dir.0.path, &meta)?;
        sync_dir(&dir.db_path())?;
        sync_dir(&dir.0.path)?;
        let number = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        let index = meta.last_log_id.map_or(0, |last| last.index);
        let path = self.shared.root.join(format!("{COMPLETE}{index:020}-{number}"));
        fs::rename(&dir.0.path, &path)?;
        // DURABILITY: from here on a restart finds this snapshot.
        sync_dir(&self.shared.root)?;
        let stored = Stored { meta, dir: SnapshotDir::new(path, true) };
        if let Some(before) = self.lock().replace(stored.clone()) {
            before.dir.0.keep.store(false, Ordering::Release);
        }
        Ok(stored)
    }

    /// A copy that may be opened as a database: table files never change and are linked, the others are copied.
    pub(crate) fn copy(&self, from: &SnapshotDir) -> io::Result<SnapshotDir> {
        let to = self.new_dir("copy")?;
        fs::create_dir_all(to.db_path())?;
        for item in fs::read_dir(from.db_path())? {
            let item = item?;
            let target = to.db_path().join(item.file_name());
            if item.path().extension().is_some_and(|extension| extension == "sst") {
                fs::hard_link(item.path(), target)?;
            } else {
                fs::copy(item.path(), target)?;
            }
        }
        Ok(to)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stored>> {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_meta(dir: &Path, meta: &SnapshotMeta) -> io::Result<()> {
    let body = postcard::to_stdvec(meta).map_err(io::Error::other)?;
    let mut file = File::create(dir.join(META))?;
    file.write_all(&[META_VERSION])?;
    file.write_all(&xxh3_64(&body).to_be_bytes())?;
    file.write_all(&body)?;
    file.sync_all()
}

fn read_meta(dir: &Path) -> io::Result<SnapshotMeta> {
    let bytes = fs::read(dir.join(META))?;
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("snapshot META: {what}"));
    let (header, body) = bytes.split_first_chunk::<9>().ok_or_else(|| damaged("too short"))?;
    if header[0] != META_VERSION {
        return Err(damaged("unknown version"));
    }
    if header[1..] != xxh3_64(body).to_be_bytes() {
        return Err(damaged("checksum"));
    }
    postcard::from_bytes(body).map_err(|e| damaged(&e.to_string()))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn remove(path: &Path) {
    let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = gone
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "an old snapshot could not be removed");
    }
}

/// Names are not reused across restarts: what an earlier life left may still be in the way.
fn start_counter() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::type_config::{StoredMembership, log_id};

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta { last_log_id: Some(log_id(1, index)), last_membership: StoredMembership::default() }
    }

    fn publish(store: &SnapshotStore, index: u64) -> Stored {
        let dir = store.new_dir("building").expect("directory");
        fs::create_dir_all(dir.db_path()).expect("db");
        store.publish(dir, meta(index)).expect("publish")
    }

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).expect("list");
        entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_restart_finds_the_newest_snapshot_and_removes_the_rest() {
        let root = tempfile::tempdir().expect("temp");
        let store = SnapshotStore::open(root.path().to_owned()).expect("open");
        publish(&store, 7);
        fs::create_dir_all(root.path().join("incoming-3")).expect("left over");
        fs::create_dir_all(root.path().join("snapshot-00000000000000000009-1")).expect("without META");
        drop(store);
        let store = SnapshotStore::open(root.path().to_owned()).expect("reopen");
        assert_eq!(store.current().expect("current").meta, meta(7));
        assert_eq!(names(root.path()).len(), 1);
    }

    #[test]
    fn a_superseded_snapshot_stays_while_it_is_read() {
        let root = tempfile::tempdir().expect("temp");
        let store = SnapshotStore::open(root.path().to_owned()).expect("open");
        let first = publish(&store, 7);
        publish(&store, 8);
        assert_eq!(names(root.path()).len(), 2);
        drop(first);
        assert_eq!(names(root.path()).len(), 1);
    }

    #[test]
    fn a_snapshot_given_up_in_the_making_is_removed() {
        let root = tempfile::tempdir().expect("temp");
        let store = SnapshotStore::open(root.path().to_owned()).expect("open");
        drop(store.new_dir("building").expect("directory"));
        assert_eq!(names(root.path()).len(), 0);
    }
}
