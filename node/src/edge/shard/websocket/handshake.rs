//! The HTTP request that begins a WebSocket, and its answer.

use tungstenite::handshake::derive_accept_key;

/// Where MQTT is served.
const PATH: &str = "/mqtt";
/// Subprotocols, ours first: clients name `mqtt` [MQTT-6.0.0-3], those of MQTT 3.1 sometimes the other alone.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// Longest request. Browsers send cookies.
const LEN_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;
const END: &[u8] = b"\r\n\r\n";

/// A request as far as it has come.
#[derive(Debug, Default)]
pub(in crate::edge::shard) struct Request {
    bytes: Vec<u8>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {why}")]
pub(in crate::edge::shard) struct Refused {
    status: &'static str,
    /// A header that must go with the status, or empty.
    header: &'static str,
    why: &'static str,
}

impl Refused {
    const fn bad(why: &'static str) -> Self {
        Self { status: "400 Bad Request", header: "", why }
    }

    /// What the client is told.
    pub(in crate::edge::shard) fn response(self) -> Vec<u8> {
        let Self { status, header, why } = self;
        let len = why.len() + 1;
        format!(
            "HTTP/1.1 {status}\r\n{header}Connection: close\r\nContent-Type: text/plain\r\n\
             Content-Length: {len}\r\n\r\n{why}\n"
        )
        .into_bytes()
    }
}

impl Request {
    /// Takes what came; answers once the request is complete.
    pub(in crate::edge::shard) fn push(&mut self, bytes: &[u8]) -> Option<Result<Vec<u8>, Refused>> {
        // Looked for where it can be new, so that a request in single bytes is not read again and again.
        let from = self.bytes.len().saturating_sub(END.len() - 1);
        self.bytes.extend_from_slice(bytes);
        let end = self.bytes[from..].windows(END.len()).position(|four| four == END);
        match end {
            Some(at) if from + at + END.len() < self.bytes.len() => {
                Some(Err(Refused::bad("nothing may follow the request before its answer")))
            }
            Some(_) => Some(answer(&self.bytes)),
            None if self.bytes.len() >= LEN_MAX => Some(Err(Refused {
                status: "431 Request Header Fields Too Large",
                header: "",
                why: "the request is too long",
            })),
            None => None,
        }
    }
}

/// The answer to a complete request.
fn answer(request: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    if !matches!(parsed.parse(request), Ok(httparse::Status::Complete(_))) {
        return Err(Refused::bad("this is not HTTP"));
    }
    let headers = Headers(parsed.headers);
    let path = parsed.path.unwrap_or_default();
    if path.split('?').next() != Some(PATH) {
        return Err(Refused { status: "404 Not Found", header: "", why: "MQTT is at /mqtt" });
    }
    if parsed.method != Some("GET") {
        return Err(Refused {
            status: "405 Method Not Allowed",
            header: "Allow: GET\r\n",
            why: "a WebSocket begins with GET",
        });
    }
    if parsed.version != Some(1)
        || !headers.has("upgrade", "websocket")
        || !headers.has("connection", "upgrade")
    {
        return Err(Refused::bad("this is not the request of a WebSocket"));
    }
    if !headers.has("sec-websocket-version", "13") {
        return Err(Refused {
            status: "426 Upgrade Required",
            header: "Sec-WebSocket-Version: 13\r\n",
            why: "WebSocket has version 13 here",
        });
    }
    let key = headers.only("sec-websocket-key").filter(|key| is_key(key));
    let key = key.ok_or(Refused::bad("Sec-WebSocket-Key is missing or wrong"))?;
    let subprotocol = SUBPROTOCOLS.into_iter().find(|name| headers.has("sec-websocket-protocol", name));
    let subprotocol = subprotocol.ok_or(Refused::bad("the subprotocol has to be mqtt"))?;
    let accept = derive_accept_key(key.as_bytes());
    // [MQTT-6.0.0-4]
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    )
    .into_bytes())
}

/// Sixteen bytes in base64.
fn is_key(key: &str) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

struct Headers<'h>(&'h [httparse::Header<'h>]);

impl Headers<'_> {
    fn named(&self, name: &str) -> impl Iterator<Item = &str> {
        let same = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        self.0.iter().filter(same).filter_map(|header| std::str::from_utf8(header.value).ok())
    }

    /// Whether a list in one of these headers has the word.
    fn has(&self, name: &str, word: &str) -> bool {
        self.named(name).flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    }

    fn only(&self, name: &str) -> Option<&str> {
        let mut values = self.named(name);
        let first = values.next()?;
        values.next().is_none().then_some(first.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /mqtt HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n\r\n";

    fn answered(request: &str) -> Result<String, String> {
        let answer = Request::default().push(request.as_bytes()).expect("complete");
        answer.map(|bytes| String::from_utf8(bytes).expect("text")).map_err(|refused| refused.to_string())
    }

    fn status(request: &str) -> String {
        answered(request).expect_err("refused").chars().take(3).collect()
    }

    #[test]
    fn a_websocket_for_mqtt_is_answered_with_its_key_and_the_subprotocol() {
        let answer = answered(GOOD).expect("accepted");
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        // The example of RFC 6455, section 1.3.
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
    }

    #[test]
    fn a_client_of_mqtt_3_1_gets_the_subprotocol_it_named() {
        let answer = answered(&GOOD.replace("mqttv3.1, mqtt", "mqttv3.1")).expect("accepted");
        assert!(answer.contains("Sec-WebSocket-Protocol: mqttv3.1\r\n"), "{answer}");
    }

    #[test]
    fn what_is_wrong_with_a_request_shows_in_its_status() {
        let with = |from, to| status(&GOOD.replace(from, to));
        assert_eq!(with("/mqtt ", "/ws "), "404");
        assert_eq!(with("/mqtt ", "/mqtt/ "), "404");
        assert_eq!(with("GET", "POST"), "405");
        assert_eq!(with("mqttv3.1, mqtt", "amqp"), "400");
        assert_eq!(with("Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", ""), "400");
        assert_eq!(with("Upgrade: websocket\r\n", ""), "400");
        assert_eq!(with("keep-alive, Upgrade", "keep-alive"), "400");
        assert_eq!(with("Version: 13", "Version: 8"), "426");
        assert_eq!(with("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), "400");
        assert_eq!(with("Host: edge", "Host"), "400");
        assert_eq!(status("\x10\x0c\0\x04MQTT\x04\r\n\r\n"), "400");
        assert_eq!(status(&format!("{GOOD}\u{82}")), "400");
    }

    #[test]
    fn a_query_does_not_change_the_path() {
        assert!(answered(&GOOD.replace("/mqtt ", "/mqtt?token=x ")).is_ok());
    }

    #[test]
    fn a_request_may_come_in_single_bytes_but_not_without_end() {
        let mut request = Request::default();
        let answers: Vec<_> = GOOD.bytes().filter_map(|byte| request.push(&[byte])).collect();
        assert!(matches!(&answers[..], [Ok(_)]));
        let mut endless = Request::default();
        let answer = (0..).find_map(|_| endless.push(b"X-Cookie: crumbs\r\n")).expect("an end");
        assert_eq!(answer.expect_err("refused").status, "431 Request Header Fields Too Large");
        assert!(endless.bytes.len() <= LEN_MAX + 20);
    }
}
