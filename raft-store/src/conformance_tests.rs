//! openraft's own storage suite over our log and tables.

use std::sync::{Arc, atomic::AtomicU64};

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{
    log_db::LogDb,
    log_store::LogStore,
    snapshot::SnapshotStore,
    state_machine::{ApplyProgress, ApplyThread, RaftTables},
    tables::{self, TablesOptions},
    type_config::TypeConfig,
};

struct Builder {
    tail_len_max: usize,
}

/// Ends the threads before the directory goes.
struct Guard {
    log: LogStore,
    apply: ApplyThread,
    threads: Vec<std::thread::JoinHandle<()>>,
    _dir: TempDir,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.log.close();
        self.apply.stop();
        for thread in self.threads.drain(..) {
            thread.join().expect("thread");
        }
    }
}

impl StoreBuilder<TypeConfig, LogStore, RaftTables, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, RaftTables), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("temp");
        let path = |name: &str| dir.path().join(name);
        let db = LogDb::open(&path("log")).expect("log");
        // Not bound to the tables here: the suite purges logs that it never applied.
        let durable = Arc::new(AtomicU64::new(u64::MAX));
        let (log, log_thread) = LogStore::open(db, self.tail_len_max, durable).expect("log store");
        let options = TablesOptions { cache_bytes: 1024 * 1024, ..TablesOptions::default() };
        let (_, machine) = tables::open(&path("tables"), options).expect("tables");
        let snapshots = SnapshotStore::open(path("snapshots")).expect("snapshots");
        let (effects, _) = mpsc::channel(1);
        let (apply, apply_thread) =
            ApplyThread::spawn(machine, snapshots.clone(), effects, ApplyProgress::default()).expect("apply");
        let machine = RaftTables::new(apply.clone(), snapshots);
        let guard = Guard { log: log.clone(), apply, threads: vec![log_thread, apply_thread], _dir: dir };
        Ok((guard, log, machine))
    }
}

#[test]
fn the_store_passes_openrafts_suite_from_memory() {
    run(usize::MAX);
}

#[test]
fn the_store_passes_openrafts_suite_from_disk() {
    run(0);
}

fn run(tail_len_max: usize) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(Suite::test_all(Builder { tail_len_max })).expect("suite");
}
