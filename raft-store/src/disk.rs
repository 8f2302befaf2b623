//! Room on the data directory's file system.

use std::{io, path::Path};

/// Bytes that this process may still write.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
