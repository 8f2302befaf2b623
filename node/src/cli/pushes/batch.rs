//! `carillon push --batch`: a line of JSON for each push, a line of output for each answer.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    time::{Duration, Instant},
};

use cluster_proto::{Audience, admin};
use fabric_core::audience::{self, Text};
use prost::Message as _;
use serde::Deserialize;
use serde_json::json;
use tonic::Code;

use super::{Client, Failure, Out, Repeat, client, files, priority, random_key, ttl_ms};
use crate::{api::status::code_name, config::parse_duration};

/// Of one call; the server takes as many.
const PUSHES_MAX: usize = 1_000;
/// Less than the server takes, so that what a call adds fits.
const LEN_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;
/// The longest line: a payload of 1 MiB in which every character is escaped.
const LINE_LEN_MAX: usize = 8 * 1024 * 1024;
/// Before what was not done is pushed again.
const PAUSE: Duration = Duration::from_millis(100);

/// One line, with the names of the options of `carillon push`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Line {
    to: String,
    topic: String,
    #[serde(default)]
    payload: String,
    #[serde(default = "at_least_once")]
    qos: u32,
    ttl: Option<String>,
    content_type: Option<String>,
    response_topic: Option<String>,
    /// NAME=VALUE, as --user-property.
    #[serde(default)]
    user_properties: Vec<String>,
    #[serde(default)]
    urgent: bool,
    #[serde(default)]
    collapse_key: String,
    idempotency_key: Option<String>,
}

fn at_least_once() -> u32 {
    1
}

/// A push, and the line it was on.
#[derive(Clone)]
struct Asked {
    line: usize,
    request: admin::PushRequest,
}

/// How many pushes ended how.
#[derive(Debug, Default)]
struct Tally {
    accepted: usize,
    refused: usize,
    unknown: usize,
}

pub(super) async fn push(path: &Path, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let mut lines = open(path)?;
    let (mut tally, mut count) = (Tally::default(), 0);
    let mut asked = Vec::new();
    let mut len = 0;
    while let Some(text) = next_line(&mut *lines, count + 1)? {
        count += 1;
        if text.trim().is_empty() {
            continue;
        }
        let request = match request(&text, &client.app) {
            Ok(request) => request,
            Err(why) => {
                // What came before is pushed, and its outcome told.
                call(asked, client, out, &mut tally).await?;
                let why = format!("line {count}: {why}; neither it nor what follows is pushed");
                return Err(Failure::Usage(why));
            }
        };
        let more = request.encoded_len() + 16;
        if asked.len() == PUSHES_MAX || (len + more > LEN_MAX && !asked.is_empty()) {
            call(std::mem::take(&mut asked), client, out, &mut tally).await?;
            len = 0;
        }
        len += more;
        asked.push(Asked { line: count, request });
    }
    call(asked, client, out, &mut tally).await?;
    tally.end()
}

/// One call, and others for what certainly was not done, or perhaps: its keys make the repetition harmless.
async fn call(
    mut asked: Vec<Asked>,
    client: &mut Client,
    out: &mut Out,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let began = Instant::now();
    while !asked.is_empty() {
        let requests = asked.iter().map(|asked| asked.request.clone()).collect();
        let request = admin::PushBatchRequest { requests };
        let answer = client.call(Repeat::Same, request, |channel, request| async move {
            client::pushes(channel).push_batch(request).await
        });
        let results = match answer.await {
            Ok(answer) => answer.results,
            Err(Failure::Unknown(why)) => {
                for asked in &asked {
                    let key = &asked.request.idempotency_key;
                    tally.unknown += 1;
                    out.result(
                        &json!({ "line": asked.line, "code": "UNKNOWN", "idempotency_key": key }),
                        || format!("line {}: unknown: {why} (key {key})", asked.line),
                    )?;
                }
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        let is_over = began.elapsed() >= client.within();
        let mut again = Vec::new();
        for (asked, result) in asked.into_iter().zip(results) {
            let code = Code::from(i32::try_from(result.code).unwrap_or(2));
            if matches!(code, Code::Unavailable | Code::Unknown) && !is_over {
                again.push(asked);
            } else {
                tally.count(&asked, code, &result, out)?;
            }
        }
        asked = again;
        if !asked.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

impl Tally {
    fn count(
        &mut self,
        asked: &Asked,
        code: Code,
        result: &admin::PushResult,
        out: &mut Out,
    ) -> Result<(), Failure> {
        let line = asked.line;
        if let Some(answer) = result.response.filter(|_| code == Code::Ok) {
            self.accepted += 1;
            let admin::PushResponse { push, audience, repeated } = answer;
            let json = json!({ "line": line, "push": push, "audience": audience, "repeated": repeated });
            return out.result(&json, || format!("line {line}: push {push} is accepted for {audience}"));
        }
        let (counter, word) = match code {
            Code::Unknown => (&mut self.unknown, "unknown"),
            _ => (&mut self.refused, "refused"),
        };
        *counter += 1;
        let (code, message) = (code_name(code), &result.message);
        let key = &asked.request.idempotency_key;
        let json = json!({ "line": line, "code": code, "message": message, "idempotency_key": key });
        out.result(&json, || format!("line {line}: {word}: {message} ({code})"))
    }

    fn end(self) -> Result<(), Failure> {
        let Self { accepted, refused, unknown } = self;
        let told = format!("{accepted} accepted, {refused} refused, {unknown} unknown");
        match (refused, unknown) {
            (0, 0) => Ok(()),
            (_, 0) => Err(Failure::Refused(told)),
            _ => Err(Failure::Unknown(told)),
        }
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, Failure> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = std::fs::File::open(path).map_err(|error| files::named(path, &error))?;
    Ok(Box::new(BufReader::new(file)))
}

fn next_line(lines: &mut dyn BufRead, line: usize) -> Result<Option<String>, Failure> {
    let mut text = Vec::new();
    std::io::Read::take(&mut *lines, LINE_LEN_MAX as u64).read_until(b'\n', &mut text)?;
    if text.len() == LINE_LEN_MAX {
        return Err(Failure::Usage(format!("line {line} is longer than {LINE_LEN_MAX} bytes")));
    }
    if text.is_empty() {
        return Ok(None);
    }
    String::from_utf8(text).map(Some).map_err(|_| Failure::Usage(format!("line {line} is not UTF-8")))
}

fn request(text: &str, app: &str) -> Result<admin::PushRequest, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let to: Audience = audience::parse(&line.to).map_err(|error| format!("to: {error}"))?;
    let ttl = line.ttl.as_deref().map(parse_duration).transpose().map_err(|error| format!("ttl: {error}"))?;
    let user_properties = line.user_properties.iter().map(|text| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok(admin::UserProperty { name: name.to_owned(), value: value.to_owned() })
        }
        _ => Err(format!("user-properties: {text:?} is not NAME=VALUE")),
    });
    Ok(admin::PushRequest {
        app: app.to_owned(),
        audience: Some(admin::Audience { of: Some(admin::audience::Of::Expression(Text(&to).to_string())) }),
        topic: line.topic,
        payload: line.payload.into_bytes(),
        qos: line.qos,
        ttl_ms: ttl_ms(ttl),
        idempotency_key: line.idempotency_key.unwrap_or_else(random_key),
        properties: Some(admin::Properties {
            content_type: line.content_type,
            response_topic: line.response_topic,
            user_properties: user_properties.collect::<Result<_, _>>()?,
            ..Default::default()
        }),
        priority: priority(line.urgent),
        collapse_key: line.collapse_key,
        // One push is scheduled at a time.
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_the_options_say_and_nothing_else() {
        let text = r#"{"to": "tag:os=tv", "topic": "news", "payload": "hi", "qos": 2, "ttl": "1h", "urgent": true,
            "content-type": "text/plain", "user-properties": ["a=b"], "collapse-key": "score"}"#;
        let request = request(text, "shop").expect("a line");
        assert_eq!((request.app.as_str(), request.qos, request.ttl_ms), ("shop", 2, 3_600_000));
        assert_eq!((request.priority(), request.collapse_key.as_str()), (admin::Priority::Urgent, "score"));
        assert!(!request.idempotency_key.is_empty());
        for wrong in [
            "{}",
            r#"{"to": "all"}"#,
            r#"{"to": "al", "topic": "t"}"#,
            r#"{"to": "all", "topic": "t", "typo": 1}"#,
            r#"{"to": "all", "topic": "t", "user-properties": ["x"]}"#,
            r#"{"to": "all", "topic": "t", "ttl": "soon"}"#,
        ] {
            assert!(super::request(wrong, "shop").is_err(), "{wrong}");
        }
    }
}
