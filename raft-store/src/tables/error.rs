//! What can go wrong with the tables.

use std::{io, path::PathBuf};

/// The tables cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Written by a newer version of this program.
    #[error("{} holds tables of version {found}; this program reads up to {known}", .path.display())]
    NewerVersion {
        /// Where.
        path: PathBuf,
        /// On disk.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// Written by a version of this program that was never released.
    #[error(
        "{} holds tables of version {found}; this program reads version {known}: start with an empty data directory",
        .path.display()
    )]
    OlderVersion {
        /// Where.
        path: PathBuf,
        /// On disk.
        found: u32,
        /// The only one known here.
        known: u32,
    },
    /// The directory cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The database or a value in it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The database failed or holds bytes that cannot be its own. Apply cannot go on: the process must end, and the
/// log replays what was not flushed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// RocksDB said so.
    #[error("RocksDB: {0}")]
    Rocks(String),
    /// A stored value does not decode.
    #[error("a stored {what} is damaged (key {key})")]
    Damaged {
        /// Which kind of value.
        what: &'static str,
        /// Its key, in hex.
        key: String,
    },
}

impl StoreError {
    pub(crate) fn damaged(what: &'static str, key: &[u8]) -> Self {
        Self::Damaged { what, key: key.iter().map(|byte| format!("{byte:02x}")).collect() }
    }
}

impl From<rocksdb::Error> for StoreError {
    fn from(error: rocksdb::Error) -> Self {
        Self::Rocks(error.into_string())
    }
}
