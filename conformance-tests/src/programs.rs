//! The clients of others: programs that are run against a cluster and say `OK` line by line.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where `scripts/setup.sh --interop` installs clients.
pub fn installed() -> PathBuf {
    let cache = std::env::var_os("CARILLON_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/carillon");
    cache.unwrap_or_else(home).join("interop")
}

/// A script of `interop/`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name)
}

/// Runs a program that prints `OK name` for each check it passed; these and no others must come, in this order.
pub fn passes(program: &Path, arguments: &[String], checks: &[&str]) {
    assert!(program.is_file(), "{} is not installed: run scripts/setup.sh --interop", program.display());
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?} {arguments:?}: {}\n{said}{complained}", output.status);
    let passed: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("OK ")).collect();
    assert_eq!(passed, checks, "{said}{complained}");
}
