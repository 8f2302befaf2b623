//! The data directory: who may use it, and what lies where.
//!
//! ```text
//! LOCK       held while a process uses the directory
//! VERSION    format of everything below
//! NODE       id of the node it belongs to
//! log/       RocksDB: log, vote
//! tables/    RocksDB: the replicated state
//! snapshots/ checkpoints of tables/
//! ```

use std::{
    cmp::Ordering,
    error::Error,
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use cluster_proto::NodeId;

/// Raised when an older node could not read what this one writes. Version 1 was never released.
pub const DATA_VERSION: u32 = 3;

/// Why a data directory cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "data directory {0} is in use by another process; stop it, or give this node a directory of its own"
    )]
    InUse(PathBuf),
    /// Written by a newer Carillon.
    #[error(
        "data directory {dir} has format {found}, this carillon reads up to {DATA_VERSION}; start the newer carillon that wrote it"
    )]
    Newer {
        /// Which directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Written by a Carillon that was never released.
    #[error(
        "data directory {dir} has format {found}, this carillon reads format {DATA_VERSION}; start with an empty data directory"
    )]
    Older {
        /// Which directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A VERSION or NODE file that is not a number.
    #[error(
        "{file} should hold a number and holds {found:?}; restore it, or start with an empty data directory"
    )]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What is in it.
        found: String,
    },
    /// It belongs to another node of the cluster.
    #[error(
        "data directory {dir} belongs to node {found}, not to node {node}; a node id must never get another node's data"
    )]
    OtherNode {
        /// Which directory.
        dir: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        node: NodeId,
    },
    /// Missing permission, no space, not a directory and the like.
    #[error(
        "data directory {dir} cannot be used ({action}: {source}); check that it is writable by this user and not full"
    )]
    Io {
        /// Which directory.
        dir: PathBuf,
        /// What failed.
        action: &'static str,
        /// How.
        source: io::Error,
    },
    /// A database that does not open.
    #[error("open {what} in {path}: {source}")]
    Database {
        /// Log or tables.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// How it failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Raft did not start.
    #[error("start raft: {0}")]
    Raft(String),
}

/// An open data directory; the lock is released when dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    _lock: File,
}

impl DataDir {
    pub(crate) fn open(root: &Path, node: NodeId) -> Result<Self, OpenError> {
        let io = |action| move |source| OpenError::Io { dir: root.to_owned(), action, source };
        fs::create_dir_all(root).map_err(io("create it"))?;
        let lock = File::create(root.join("LOCK")).map_err(io("create LOCK"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(root.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io("lock it")(source)),
        }
        let found = read_or_write(root, "VERSION", u64::from(DATA_VERSION))?;
        let (dir, found) = (root.to_owned(), u32::try_from(found).unwrap_or(u32::MAX));
        match found.cmp(&DATA_VERSION) {
            Ordering::Equal => {}
            Ordering::Greater => return Err(OpenError::Newer { dir, found }),
            // No older format was released; upgrades go here.
            Ordering::Less => return Err(OpenError::Older { dir, found }),
        }
        let found = NodeId(read_or_write(root, "NODE", node.0)?);
        if found != node {
            return Err(OpenError::OtherNode { dir: root.to_owned(), found, node });
        }
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// The number in a file, which gets `default` if it is not there. Synced, so that a directory is never without.
fn read_or_write(root: &Path, name: &str, default: u64) -> Result<u64, OpenError> {
    let path = root.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| OpenError::Damaged { file: path, found: text }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let io = |source| OpenError::Io { dir: root.to_owned(), action: "write to it", source };
            write_synced(root, name, default).map_err(io)?;
            Ok(default)
        }
        Err(source) => Err(OpenError::Io { dir: root.to_owned(), action: "read from it", source }),
    }
}

/// Under another name first: a crash must not leave an empty file.
fn write_synced(root: &Path, name: &str, value: u64) -> io::Result<()> {
    let temporary = root.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    writeln!(file, "{value}")?;
    file.sync_all()?;
    fs::rename(&temporary, root.join(name))?;
    File::open(root)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_refused_until_it_is_released() {
        let dir = tempfile::tempdir().expect("temp");
        let first = DataDir::open(dir.path(), NodeId(1)).expect("first");
        assert!(matches!(DataDir::open(dir.path(), NodeId(1)), Err(OpenError::InUse(_))));
        drop(first);
        assert!(DataDir::open(dir.path(), NodeId(1)).is_ok());
    }

    #[test]
    fn a_directory_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().expect("temp");
        fs::write(dir.path().join("VERSION"), "7\n").expect("write");
        assert!(matches!(DataDir::open(dir.path(), NodeId(1)), Err(OpenError::Newer { found: 7, .. })));
    }

    #[test]
    fn a_directory_of_an_older_version_is_refused_and_says_what_to_do() {
        let dir = tempfile::tempdir().expect("temp");
        fs::write(dir.path().join("VERSION"), "1\n").expect("write");
        let error = DataDir::open(dir.path(), NodeId(1)).expect_err("older");
        assert!(error.to_string().contains("start with an empty data directory"), "{error}");
    }

    #[test]
    fn a_directory_of_another_node_is_refused() {
        let dir = tempfile::tempdir().expect("temp");
        drop(DataDir::open(dir.path(), NodeId(1)).expect("first"));
        let error = DataDir::open(dir.path(), NodeId(2)).expect_err("other node");
        assert!(matches!(error, OpenError::OtherNode { found: NodeId(1), node: NodeId(2), .. }));
    }

    #[test]
    fn a_path_that_is_a_file_is_refused_with_its_name() {
        let file = tempfile::NamedTempFile::new().expect("temp");
        let error = DataDir::open(file.path(), NodeId(1)).expect_err("a file");
        assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
    }
}
