//! A snapshot on the wire: a header that lists the files, each file's bytes and checksum, then the answer.
//!
//! Memory: one buffer per side. The receiver writes to a directory of its own and syncs every file before it reports
//! the snapshot as received.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use openraft::raft::SnapshotResponse;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    fs::{self, File},
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    disk,
    snapshot::{SnapshotDir, SnapshotStore, sync_dir},
    transport::SnapshotStream,
    type_config::{SnapshotMeta, TypeConfig, Vote},
};

const VERSION: u8 = 1;
/// Small, so that a bulk stream does not sit on the connection's scheduler for long.
const BUFFER_LEN: usize = 256 * 1024;
const HEADER_LEN_MAX: usize = 16 * 1024 * 1024;
const FILES_MAX: usize = 200_000;
/// The peer may be stalled (or stopped) this long before the transfer is given up.
const STALL_MAX: Duration = Duration::from_secs(20);
/// The receiver opens the new tables and checkpoints them before it answers.
const INSTALL_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u8,
    vote: Vote,
    meta: SnapshotMeta,
    files: Vec<FileInfo>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FileInfo {
    name: String,
    len: u64,
}

/// What the receiver says in the end.
pub(crate) type Answer = Result<SnapshotResponse<TypeConfig>, String>;

/// A snapshot that arrived whole.
pub(crate) struct Received {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) dir: SnapshotDir,
}

/// Sends everything and waits for the answer.
pub(crate) async fn send(
    mut stream: SnapshotStream,
    vote: Vote,
    meta: SnapshotMeta,
    dir: &SnapshotDir,
) -> io::Result<Answer> {
    let db = dir.db_path();
    let header = Header { version: VERSION, vote, meta, files: list(&db).await? };
    write_frame(&mut stream.writer, &header).await?;
    let mut buffer = vec![0; BUFFER_LEN];
    for file in &header.files {
        send_file(&mut stream.writer, &db.join(&file.name), file.len, &mut buffer).await?;
    }
    stalled(stream.writer.flush()).await?;
    stalled(stream.writer.shutdown()).await?;
    timeout(INSTALL_MAX, read_frame(&mut stream.reader)).await.map_err(|_| stall())?
}

/// Receives a whole snapshot into a directory of its own.
pub(crate) async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    store: &SnapshotStore,
) -> io::Result<Received> {
    let header: Header = stalled(read_frame(reader)).await?;
    check(&header)?;
    let store = store.clone();
    let dir =
        tokio::task::spawn_blocking(move || store.new_dir("incoming")).await.map_err(io::Error::other)??;
    let db = dir.db_path();
    fs::create_dir_all(&db).await?;
    let len: u64 = header.files.iter().map(|file| file.len).sum();
    if disk::free_bytes(&db)? < len {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!("no room for a snapshot of {len} bytes"),
        ));
    }
    let mut buffer = vec![0; BUFFER_LEN];
    for file in &header.files {
        receive_file(reader, db.join(&file.name), file.len, &mut buffer).await?;
    }
    sync_dir(&db)?;
    Ok(Received { vote: header.vote, meta: header.meta, dir })
}

/// Tells the sender how it went.
pub(crate) async fn answer(writer: &mut (impl AsyncWrite + Unpin), answer: &Answer) -> io::Result<()> {
    stalled(write_frame(writer, answer)).await?;
    stalled(writer.flush()).await?;
    stalled(writer.shutdown()).await
}

async fn list(db: &Path) -> io::Result<Vec<FileInfo>> {
    let mut files = Vec::new();
    let mut entries = fs::read_dir(db).await?;
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push(FileInfo { name, len: entry.metadata().await?.len() });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// The header comes from a peer: names must stay inside the directory, and sizes inside reason.
fn check(header: &Header) -> io::Result<()> {
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= 128
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if header.version != VERSION {
        return Err(invalid(format!("snapshot format {}, this node reads {VERSION}", header.version)));
    }
    if header.files.len() > FILES_MAX {
        return Err(invalid(format!("a snapshot of {} files", header.files.len())));
    }
    match header.files.iter().find(|file| !plain(&file.name)) {
        Some(file) => Err(invalid(format!("a snapshot file named {:?}", file.name))),
        None => Ok(()),
    }
}

async fn send_file(
    writer: &mut (impl AsyncWrite + Unpin),
    path: &Path,
    len: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut file = File::open(path).await?;
    let mut hasher = Xxh3::new();
    let mut left = len;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let chunk = &mut buffer[..want];
        file.read_exact(chunk).await?;
        hasher.update(chunk);
        stalled(writer.write_all(chunk)).await?;
        left -= want as u64;
    }
    stalled(writer.write_all(&hasher.digest().to_be_bytes())).await
}

async fn receive_file(
    reader: &mut (impl AsyncRead + Unpin),
    path: PathBuf,
    len: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut file = File::create_new(&path).await?;
    let mut hasher = Xxh3::new();
    let mut left = len;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let chunk = &mut buffer[..want];
        stalled(reader.read_exact(chunk)).await?;
        hasher.update(chunk);
        file.write_all(chunk).await?;
        left -= want as u64;
    }
    let mut checksum = [0; 8];
    stalled(reader.read_exact(&mut checksum)).await?;
    if checksum != hasher.digest().to_be_bytes() {
        return Err(invalid(format!("{} fails its checksum", path.display())));
    }
    // DURABILITY: the snapshot may replace the tables only when its files are on disk.
    file.sync_all().await
}

async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), frame: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(frame).map_err(io::Error::other)?;
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    writer.write_all(&len.to_be_bytes()).await?;
    writer.write_all(&bytes).await
}

async fn read_frame<T: DeserializeOwned>(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let mut len = [0; 4];
    reader.read_exact(&mut len).await?;
    let len = u32::from_be_bytes(len) as usize;
    if len > HEADER_LEN_MAX {
        return Err(invalid(format!("a snapshot frame of {len} bytes")));
    }
    // Grows as bytes arrive, so that a length alone reserves nothing.
    let mut bytes = Vec::new();
    reader.take(len as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(&bytes).map_err(|e| invalid(format!("a snapshot frame: {e}")))
}

async fn stalled<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STALL_MAX, step).await.map_err(|_| stall())?
}

fn stall() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the snapshot transfer stalled")
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
