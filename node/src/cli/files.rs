//! Secrets on disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// A file that only its owner can read. Appears under its name when it is complete, and not before.
#[derive(Debug)]
pub(super) struct PrivateFile {
    path: PathBuf,
    partial: PathBuf,
    file: Option<io::BufWriter<File>>,
}

impl PrivateFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
        let file = file.map_err(|error| named(&partial, &error))?;
        Ok(Self { path: path.to_owned(), partial, file: Some(io::BufWriter::new(file)) })
    }

    /// Makes it appear.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if let Some(mut file) = self.file.take() {
            file.flush()?;
            file.get_ref().sync_all()?;
        }
        fs::rename(&self.partial, &self.path).map_err(|error| named(&self.path, &error))
    }
}

impl Write for PrivateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().map_or(Ok(bytes.len()), |file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Unfinished: what is there is of no use, and nobody is left to hear of a failure.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Writes one line to a file that only its owner can read.
pub fn write_secret(path: &Path, secret: &str) -> io::Result<()> {
    let mut file = PrivateFile::create(path)?;
    writeln!(file, "{secret}")?;
    file.finish()
}

/// An error of the file system, with the file.
pub(super) fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Reads a file; the error names it.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| named(path, &error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_its_owners_alone_and_complete_or_absent() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("admin.token");
        let mut unfinished = PrivateFile::create(&path).expect("create");
        unfinished.write_all(b"half").expect("write");
        drop(unfinished);
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
        write_secret(&path, "secret").expect("write");
        assert_eq!(fs::read_to_string(&path).expect("read"), "secret\n");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
    }
}
