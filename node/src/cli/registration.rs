//! `carillon terminal register --from-file`: any number of terminals in one call, read as they are sent.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader, Lines},
    path::{Path, PathBuf},
};

use cluster_proto::admin;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tonic::Request;

use super::{
    Failure,
    client::{self, Client, Repeat},
    files,
    output::Out,
};

/// Terminals in one message.
const MESSAGE_LEN: usize = 1_000;

pub(super) async fn register_all(file: &Path, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    // Wrong lines are told before anything is registered.
    let total = check(file)?;
    let sent = (file.to_path_buf(), client.app.clone());
    let answer =
        client.call(Repeat::Never, sent, |channel, request: Request<(PathBuf, String)>| async move {
            let (metadata, extensions, (file, app)) = request.into_parts();
            let file = File::open(&file).map_err(|error| tonic::Status::aborted(error.to_string()))?;
            let messages = stream::iter(Messages { terminals: Terminals::new(file), app });
            let request = Request::from_parts(metadata, extensions, messages);
            client::terminals(channel).register_stream(request).await
        });
    let admin::RegisterStreamResponse { registered, updated, stopped } = answer.await?;
    let stop = stopped.map(|admin::Stop { item, code, message }| {
        format!(
            "stopped at terminal {} of {total}: {message} ({code}); those before it are registered, {registered} of them \
             new, {updated} updated; run it again for the rest",
            item + 1
        )
    });
    match stop {
        Some(stop) => Err(Failure::Refused(stop)),
        None if registered + updated < total as u64 => Err(Failure::Refused(format!(
            "{} was changed meanwhile: {registered} terminals are registered and {updated} updated of {total}",
            file.display()
        ))),
        None => out.result(&json!({ "registered": registered, "updated": updated }), || {
            format!("{registered} terminals are registered, {updated} were before and are updated")
        }),
    }
}

/// How many terminals a file has.
fn check(path: &Path) -> Result<usize, Failure> {
    let file = File::open(path).map_err(|error| files::named(path, &error))?;
    let mut total = 0;
    for terminal in Terminals::new(file) {
        terminal.map_err(|why| Failure::Refused(format!("{}: {why}", path.display())))?;
        total += 1;
    }
    match total {
        0 => Err(Failure::Refused(format!("{}: no terminal in it", path.display()))),
        total => Ok(total),
    }
}

/// The terminals of a file, line by line; empty lines are skipped.
struct Terminals {
    lines: Lines<BufReader<File>>,
    at: usize,
}

impl Terminals {
    fn new(file: File) -> Self {
        Self { lines: BufReader::new(file).lines(), at: 0 }
    }
}

impl Iterator for Terminals {
    type Item = Result<admin::NewTerminal, String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = self.lines.next()?;
            self.at += 1;
            let read = match line {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => terminal(line.trim()),
                Err(error) => Err(error.to_string()),
            };
            return Some(read.map_err(|why| format!("line {}: {why}", self.at)));
        }
    }
}

/// What is sent: a message for each thousand. The file was checked; should it have changed since, the stream ends before
/// the first line that is wrong now, and the numbers tell.
struct Messages {
    terminals: Terminals,
    app: String,
}

impl Iterator for Messages {
    type Item = admin::RegisterRequest;

    fn next(&mut self) -> Option<Self::Item> {
        let terminals: Vec<_> = self.terminals.by_ref().map_while(Result::ok).take(MESSAGE_LEN).collect();
        (!terminals.is_empty()).then(|| admin::RegisterRequest { app: self.app.clone(), terminals })
    }
}

/// A terminal as JSON has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    #[serde(default)]
    tags: HashMap<String, String>,
    alias: Option<String>,
}

fn terminal(line: &str) -> Result<admin::NewTerminal, String> {
    if line.starts_with('{') {
        let Written { id, tags, alias } = serde_json::from_str(line).map_err(|error| error.to_string())?;
        return Ok(admin::NewTerminal { id, tags, alias });
    }
    let mut words = line.split_whitespace();
    let id = words.next().unwrap_or_default().to_owned();
    let tag = |word: &str| match word.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(format!(
            "{word:?} is no tag: after the id come KEY=VALUE, and ids with spaces are written in JSON"
        )),
    };
    let tags = words.map(tag).collect::<Result<_, _>>()?;
    Ok(admin::NewTerminal { id, tags, alias: None })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn terminals_are_read_one_a_line_in_two_forms() {
        let read = terminal("tv-1 os=tv city=x=y").expect("valid");
        assert_eq!(
            (read.id.as_str(), read.tags["os"].as_str(), read.tags["city"].as_str()),
            ("tv-1", "tv", "x=y")
        );
        let read = terminal(r#"{"id": "tv 2", "tags": {"a": "b"}, "alias": "u 7"}"#).expect("valid");
        assert_eq!((read.id.as_str(), read.tags.len(), read.alias.as_deref()), ("tv 2", 1, Some("u 7")));
        assert!(terminal("tv 1").expect_err("no tag").contains("JSON"));
        assert!(terminal(r#"{"id": "a", "tag": {}}"#).expect_err("unknown").contains("tag"));
    }

    #[test]
    fn a_wrong_line_is_told_with_its_place_and_a_long_file_in_messages() {
        let mut file = tempfile::NamedTempFile::new().expect("temp");
        (0..2_500).for_each(|n| writeln!(file, "t{n}").expect("write"));
        assert_eq!(check(file.path()).expect("valid"), 2_500);
        let terminals = Terminals::new(file.reopen().expect("open"));
        let lens: Vec<_> =
            Messages { terminals, app: String::new() }.map(|message| message.terminals.len()).collect();
        assert_eq!(lens, [1_000, 1_000, 500]);
        writeln!(file, "\nt t").expect("write");
        match check(file.path()) {
            Err(Failure::Refused(why)) => assert!(why.contains("line 2502"), "{why}"),
            _ => panic!("not refused"),
        }
    }
}
