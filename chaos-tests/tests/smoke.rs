//! A short chaos run in the gate: every fault once. `make chaos SEED=... MINUTES=...` runs the same for long.

use std::{env, fs};

use chaos_tests::scenario::{self, Length, Options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept_while_nodes_are_killed_and_paused() {
    let seed = env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(scenario::random_seed);
    let dir = env::temp_dir().join(format!("carillon-smoke-{}", std::process::id()));
    println!(
        "seed {seed}; to replay: SEED={seed} cargo test -p chaos-tests --test smoke; nodes in {}",
        dir.display()
    );
    let length = Length::Faults(chaos_tests::faults::Fault::ALL.len());
    let options = Options { seed, length, terminals: 96, dir: dir.clone() };
    let report = scenario::run(&options, |line| println!("{line}")).await.unwrap();
    assert!(report.violations.is_empty(), "seed {seed}:\n  {}", report.violations.join("\n  "));
    assert!(report.accepted > 0 && report.receptions > 0, "nothing happened: {report:?}");
    fs::remove_dir_all(dir).unwrap();
}
