//! The same log gives the same tables, however it is sliced, cached, flushed, interrupted or started from a
//! checkpoint (I8).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints its seed")]

mod world;

use std::path::Path;

use cluster_proto::AppId;
use raft_store::tables::{self, EntryPosition, StateMachine, Tables, TablesOptions};
use tempfile::TempDir;
use world::{Entry, Generator};

const ENTRIES: usize = 220;

fn options(cache_bytes: usize) -> TablesOptions {
    TablesOptions { owed_per_terminal_max: 20, retained_max: 4, cache_bytes, ..TablesOptions::default() }
}

/// A log, and the digests of the run that made it: of the chain after every entry, and of a scan at the end.
struct Reference {
    log: Vec<Entry>,
    chain: Vec<u128>,
    scan: u128,
}

impl Reference {
    fn new(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (tables, mut machine) = tables::open(directory.path(), options(1 << 20)).unwrap();
        let mut generator = Generator::new(seed, tables.clone());
        let (mut log, mut chain) = (Vec::new(), Vec::new());
        for n in 0..ENTRIES {
            let entry = if n == 0 { generator.world() } else { generator.entry() };
            machine.apply(vec![entry.clone()], None, &mut Vec::new()).unwrap();
            log.push(entry);
            chain.push(tables.applied().digest);
        }
        Self { log, chain, scan: tables.scan_digest().unwrap() }
    }

    fn check(&self, tables: &Tables) {
        let applied = tables.applied();
        assert_eq!(applied.digest, self.chain[applied.index as usize - 1], "after entry {}", applied.index);
    }

    fn check_end(&self, tables: &Tables) {
        assert_eq!(tables.applied().index, ENTRIES as u64);
        self.check(tables);
        assert_eq!(tables.scan_digest().unwrap(), self.scan);
        assert_eq!(tables.failure(), None);
    }
}

fn replay(machine: &mut StateMachine, log: &[Entry], slice: usize) {
    for entries in log.chunks(slice) {
        machine.apply(entries.to_vec(), None, &mut Vec::new()).unwrap();
    }
}

fn open(path: &Path, cache_bytes: usize) -> (Tables, StateMachine) {
    tables::open(path, options(cache_bytes)).unwrap()
}

#[test]
fn any_slicing_and_any_cache_give_the_same_digests() {
    for seed in [11, 12] {
        let reference = Reference::new(seed);
        for (slice, cache_bytes) in [(1, 0), (2, 2_000), (7, 0), (50, 1 << 20), (ENTRIES, 0)] {
            let directory = tempfile::tempdir().unwrap();
            let (tables, mut machine) = open(directory.path(), cache_bytes);
            for entries in reference.log.chunks(slice) {
                machine.apply(entries.to_vec(), None, &mut Vec::new()).unwrap();
                reference.check(&tables);
            }
            reference.check_end(&tables);
        }
    }
}

#[test]
fn what_was_not_flushed_is_replayed_after_a_restart() {
    let reference = Reference::new(21);
    let directory = tempfile::tempdir().unwrap();
    let mut done = 0;
    for (flush_at, stop_at) in [(40, 55), (90, 90), (150, 170)] {
        let (tables, mut machine) = open(directory.path(), 1 << 20);
        replay(&mut machine, &reference.log[done..flush_at], 3);
        let durable = machine.flush().unwrap();
        assert_eq!(durable, EntryPosition { term: 1, index: flush_at as u64 });
        replay(&mut machine, &reference.log[flush_at..stop_at], 4);
        assert_eq!(machine.durable_position(), durable);
        drop((tables, machine));
        let (tables, machine) = open(directory.path(), 0);
        // Closing may flush more than was asked for; never less, and never part of a slice.
        done = tables.applied().index as usize;
        assert!((flush_at..=stop_at).contains(&done), "{done}");
        assert_eq!(machine.durable_position(), machine.applied_position());
        reference.check(&tables);
    }
    let (tables, mut machine) = open(directory.path(), 1 << 20);
    replay(&mut machine, &reference.log[done..], 9);
    reference.check_end(&tables);
}

#[test]
fn a_checkpoint_and_the_tail_equal_the_whole_log() {
    let reference = Reference::new(31);
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, mut source) = open(there.path(), 1 << 20);
    replay(&mut source, &reference.log[..120], 5);
    source.apply(Vec::new(), Some(b"members".to_vec()), &mut Vec::new()).unwrap();
    let incoming = here.path().join("incoming-1");
    let contents = source.checkpoint(&incoming).unwrap();
    assert_eq!((contents.position.index, contents.membership.as_deref()), (120, Some(&b"members"[..])));

    let target = here.path().join("tables");
    let (tables, mut machine) = open(&target, 1 << 20);
    replay(&mut machine, &reference.log[..30], 5);
    let installed = machine.replace_with(&incoming).unwrap();
    assert_eq!(installed, contents);
    assert_eq!(machine.durable_position().index, 120);
    // The handle from before sees the new tables.
    reference.check(&tables);
    assert_eq!(tables.applied().index, 120);
    replay(&mut machine, &reference.log[120..200], 8);
    assert_eq!(directories(&target), ["tables-2"]);

    drop((tables, machine));
    let (tables, mut machine) = open(&target, 0);
    let done = tables.applied().index as usize;
    assert!((120..=200).contains(&done));
    assert_eq!(machine.membership().unwrap().as_deref(), Some(&b"members"[..]));
    replay(&mut machine, &reference.log[done..], 8);
    reference.check_end(&tables);
}

#[test]
fn an_installation_that_did_not_finish_leaves_the_old_tables() {
    let reference = Reference::new(41);
    let directory = tempfile::tempdir().unwrap();
    let (tables, mut machine) = open(directory.path(), 1 << 20);
    replay(&mut machine, &reference.log[..100], 5);
    machine.flush().unwrap();
    // What a crash between the move and the marker leaves.
    machine.checkpoint(&directory.path().join("tables-2")).unwrap();
    std::fs::write(directory.path().join("incoming-marker"), "tables-2").unwrap();
    drop((tables, machine));
    let (tables, _machine) = open(directory.path(), 1 << 20);
    assert_eq!(tables.applied().index, 100);
    reference.check(&tables);
    assert_eq!(directories(directory.path()), ["tables-1"]);
}

#[test]
fn a_damaged_checkpoint_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (tables, mut machine) = open(&directory.path().join("tables"), 1 << 20);
    let incoming = directory.path().join("incoming");
    std::fs::create_dir(&incoming).unwrap();
    std::fs::write(incoming.join("CURRENT"), "MANIFEST-000007\n").unwrap();
    assert!(machine.replace_with(&incoming).is_err());
    assert!(tables.app_by_name("default") == Some(AppId::DEFAULT));
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let directory: TempDir = tempfile::tempdir().unwrap();
    let _held = open(directory.path(), 0);
    let error = tables::open(directory.path(), options(0)).unwrap_err();
    assert!(matches!(error, tables::OpenError::InUse(_)), "{error}");
}

fn directories(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let directories = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    directories.map(|entry| entry.file_name().into_string().unwrap()).collect()
}
