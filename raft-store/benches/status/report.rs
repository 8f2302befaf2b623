//! The results: printed as they come, and written into the documentation.

use std::{fmt::Write as _, path::Path, time::Duration};

use crate::{Arguments, Result};

const BEGIN: &str = "<!-- make bench-status: begin -->";
const END: &str = "<!-- make bench-status: end -->";

#[derive(Debug, Default)]
pub(crate) struct Report {
    text: String,
}

impl Report {
    /// What follows is about this.
    pub(crate) fn section(&mut self, title: &str, about: &str) {
        println!("\n{title}: {about}");
        let _ = write!(
            self.text,
            "\n### {title}\n\n{}.\n\n| | measured | aim |\n| --- | --- | --- |\n",
            capital(about)
        );
    }

    pub(crate) fn line(&mut self, what: &str, measured: impl AsRef<str>, aim: &str) {
        let measured = measured.as_ref();
        println!("  {what:<75} {measured:>20}   {aim}");
        if self.text.is_empty() {
            self.text.push_str("\n| | measured | aim |\n| --- | --- | --- |\n");
        }
        let _ = writeln!(self.text, "| {what} | {measured} | {aim} |");
    }

    /// Replaces what stands between the marks of the document.
    pub(crate) fn finish(self, arguments: &Arguments) -> Result<()> {
        let Some(path) = &arguments.docs else { return Ok(()) };
        let document = std::fs::read_to_string(path)?;
        let (before, rest) = document.split_once(BEGIN).ok_or("the document has no mark to write behind")?;
        let (_, after) = rest.split_once(END).ok_or("the document has no mark to end at")?;
        let conditions = conditions(arguments);
        std::fs::write(path, format!("{before}{BEGIN}\n{conditions}{}\n{END}{after}", self.text))?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }
}

/// Where and of what this was measured.
fn conditions(arguments: &Arguments) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let model = field(&read("/proc/cpuinfo"), "model name");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory =
        field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0u64) >> 20;
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    let Arguments { terminals, pushes, reconnect, .. } = arguments;
    format!(
        "{terminals} terminals, {pushes} live pushes, {reconnect} reconnecting.\n\
         {cores} cores ({model}), {memory} GiB of memory, load {load} at the end; {} on {}.\n",
        version(Path::new("/proc/version")),
        commit(),
    )
}

fn version(path: &Path) -> String {
    let version = std::fs::read_to_string(path).unwrap_or_default();
    version.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The commit this was built from, as far as git knows.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let answer = std::process::Command::new("git").args(arguments).output().ok()?;
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "an unknown commit".into());
    let changed = git(&["status", "--porcelain", "--", "*.rs"]).is_some_and(|files| !files.is_empty());
    if changed { format!("commit {commit} with changes") } else { format!("commit {commit}") }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

pub(crate) fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

pub(crate) fn kibi(bytes: u64) -> String {
    format!("{:.1} KiB", bytes as f64 / 1024.0)
}

pub(crate) fn mebi(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0)
}
