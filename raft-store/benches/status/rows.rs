//! What one row for each (push, terminal) would cost: a pending row at accept and a state at each receipt, in a
//! database with the options of the tables.

use std::path::Path;

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use rocksdb::{Cache, DB, Env, Options, WriteBatch, WriteOptions};

use crate::{
    Result,
    clock::Cost,
    log::Log,
    report::{Report, mebi, millis},
};

/// One without a merge operator.
const FAMILY: &str = "owed";
const BATCH: usize = 10_000;
const CACHE_LEN: usize = 128 << 20;

pub(crate) fn measure(log: &Log, directory: &Path, terminals: u32, report: &mut Report) -> Result<()> {
    report.section(
        "For comparison: one row per (push, terminal)",
        "the same database options, no log, no digest",
    );
    let path = directory.join("rows");
    let db = open(log, &path)?;
    let mut without_log = WriteOptions::default();
    without_log.disable_wal(true);
    let family = db.cf_handle(FAMILY).ok_or("no such family")?;
    let put = |nos: &mut dyn Iterator<Item = u32>, state: u8| -> Result<()> {
        let mut batch = WriteBatch::default();
        nos.for_each(|no| batch.put_cf(family, key(no), [1, state]));
        Ok(db.write_opt(batch, &without_log)?)
    };
    let (accepted, accept) = Cost::of(|| put(&mut (1..=terminals), 0));
    accepted?;
    let mut order: Vec<u32> = (1..=terminals).collect();
    order.shuffle(&mut StdRng::seed_from_u64(2));
    let mut cost = Cost::default();
    for some in order.chunks(BATCH) {
        let mut sorted = some.to_vec();
        let (written, one) = Cost::of(|| {
            sorted.sort_unstable();
            put(&mut sorted.into_iter(), 1)
        });
        written?;
        cost.add(one);
    }
    db.flush_cf(family)?;
    let len =
        || db.property_int_value_cf(family, "rocksdb.live-sst-files-size").map(Option::unwrap_or_default);
    let uncompacted = len()?;
    db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    let compacted = len()?;
    drop(db);
    std::fs::remove_dir_all(&path)?;

    let count = u64::from(terminals);
    report.line("accept: a pending row for everyone", millis(accept.wall), "");
    let rate = format!("{:.2} million/s", cost.per_second(count) / 1e6);
    report.line(&format!("receipts in batches of {BATCH} by one core"), rate, "");
    let process = cost.process.as_nanos() as f64 / count as f64;
    report.line("CPU per receipt, compaction included", format!("{process:.0} ns"), "");
    report.line("status on disk, not compacted", mebi(uncompacted), "");
    report.line("status on disk, compacted", mebi(compacted), "");
    Ok(())
}

/// With the options the tables were opened with, of a family without a merge operator.
fn open(log: &Log, path: &Path) -> Result<DB> {
    let tables = std::fs::read_to_string(log.path().join("current"))?;
    let tables = log.path().join(tables.trim());
    let (mut options, families) =
        Options::load_latest(&tables, Env::new()?, true, Cache::new_lru_cache(CACHE_LEN))?;
    let family = families
        .into_iter()
        .find(|family| family.name() == FAMILY)
        .ok_or("the tables have no such family")?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    Ok(DB::open_cf_descriptors(&options, path, [family])?)
}

fn key(no: u32) -> [u8; 13] {
    let mut key = [0x50; 13];
    key[1..9].copy_from_slice(&7u64.to_be_bytes());
    key[9..].copy_from_slice(&no.to_be_bytes());
    key
}
