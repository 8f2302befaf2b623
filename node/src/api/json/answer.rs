//! Messages and statuses as JSON.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::{Code, Status, body::Body};

use super::routes::Route;
use crate::api::{forward::REQUEST_LEN_MAX, status};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// One JSON object a line.
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// Largest message of an answer that is taken; ours are far smaller.
const MESSAGE_LEN_MAX: usize = REQUEST_LEN_MAX;
/// What precedes a message on the wire: compressed or not, and its length.
const PREFIX_LEN: usize = 5;
/// Counts of zero are answers too, so fields are there whatever their value.
const OPTIONS: SerializeOptions = SerializeOptions::new().skip_default_fields(false);

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Refusal {
    http: StatusCode,
    status: Box<Status>,
    /// HTTP methods that there are.
    allow: Option<HeaderValue>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { http: http_status(status.code()), status: Box::new(status), allow: None }
    }
}

impl Refusal {
    /// With another HTTP status than that of its code.
    pub(super) fn with(http: StatusCode, status: Status) -> Self {
        Self { http, ..status.into() }
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let why = format!("the request is larger than {limit} bytes; split the call");
        Self::with(StatusCode::PAYLOAD_TOO_LARGE, Status::resource_exhausted(why))
    }

    pub(super) fn other_methods(methods: &[Method]) -> Self {
        let methods = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let status = Status::unimplemented(format!("here there is only {methods}"));
        let allow = HeaderValue::from_str(&methods).ok();
        Self { allow, ..Self::with(StatusCode::METHOD_NOT_ALLOWED, status) }
    }

    pub(super) fn into_http(self) -> Response<Body> {
        let mut response = json(self.http, error(&self.status));
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, allow);
        }
        if self.http == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An answer of one object.
pub(super) fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    respond(status, JSON, Body::new(Full::new(body)))
}

fn respond(status: StatusCode, content_type: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The answer of a gRPC method as that of its route.
pub(super) async fn translate(route: &Route, response: Response<Body>) -> Result<Response<Body>, Refusal> {
    let (parts, body) = response.into_parts();
    // A status in the headers: the call ended before there was anything to say.
    check(&parts.headers)?;
    let messages = Messages { body, frames: Frames::default(), of: route.rpc.output(), ended: false };
    if route.rpc.is_server_streaming() {
        return Ok(respond(StatusCode::OK, LINES, messages.into_lines()));
    }
    Ok(json(StatusCode::OK, messages.single().await?))
}

/// The messages of an answer.
struct Messages {
    body: Body,
    frames: Frames,
    of: MessageDescriptor,
    ended: bool,
}

impl Messages {
    /// Waits for more of the answer; `false`: it ended well.
    async fn more(&mut self) -> Result<bool, Status> {
        let torn = || Status::unavailable("the answer broke off");
        let frame = self.body.frame().await.ok_or_else(torn)?.map_err(|_| torn())?;
        match frame.into_data() {
            Ok(data) => {
                self.frames.0.extend_from_slice(&data);
                Ok(true)
            }
            Err(frame) => {
                check(&frame.into_trailers().unwrap_or_default())?;
                Ok(false)
            }
        }
    }

    /// The one message of an answer that is no stream.
    async fn single(mut self) -> Result<Bytes, Status> {
        while self.more().await? {}
        let message = self.frames.next()?.ok_or_else(|| Status::internal("the answer is empty"))?;
        Ok(text(&self.of, message)?.into())
    }

    /// A line for each message, and one for the error if it ends with one.
    fn into_lines(self) -> Body {
        let lines = futures_util::stream::unfold(self, |mut messages| async move {
            let lines = messages.lines().await?;
            Some((Ok::<_, Status>(Frame::data(lines)), messages))
        });
        Body::new(StreamBody::new(lines))
    }

    /// Lines for all that has come; `None`: that was all.
    async fn lines(&mut self) -> Option<Bytes> {
        let mut lines = Vec::new();
        while lines.is_empty() && !self.ended {
            match self.more().await {
                Ok(more) => self.ended = !more,
                Err(status) => self.end_with(&status, &mut lines),
            }
            loop {
                match self.frames.next().and_then(|message| message.map(|m| text(&self.of, m)).transpose()) {
                    Ok(Some(line)) => {
                        lines.extend_from_slice(&line);
                        lines.push(b'\n');
                    }
                    Ok(None) => break,
                    Err(status) => {
                        self.end_with(&status, &mut lines);
                        break;
                    }
                }
            }
        }
        (!lines.is_empty()).then(|| lines.into())
    }

    fn end_with(&mut self, status: &Status, lines: &mut Vec<u8>) {
        self.ended = true;
        lines.extend_from_slice(&error(status));
        lines.push(b'\n');
    }
}

/// Bytes to messages.
#[derive(Debug, Default)]
struct Frames(BytesMut);

impl Frames {
    /// The next whole message.
    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((prefix, rest)) = self.0.split_first_chunk::<PREFIX_LEN>() else { return Ok(None) };
        let [compressed, len @ ..] = *prefix;
        let len = u32::from_be_bytes(len) as usize;
        if compressed != 0 || len > MESSAGE_LEN_MAX {
            return Err(Status::internal("the answer has a message that cannot be read"));
        }
        if rest.len() < len {
            return Ok(None);
        }
        self.0.advance(PREFIX_LEN);
        Ok(Some(self.0.split_to(len).freeze()))
    }
}

fn text(of: &MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let unreadable = |error: &dyn std::error::Error| Status::internal(format!("the answer: {error}"));
    let message = DynamicMessage::decode(of.clone(), message).map_err(|error| unreadable(&error))?;
    let mut json = serde_json::Serializer::new(Vec::new());
    message.serialize_with_options(&mut json, &OPTIONS).map_err(|error| unreadable(&error))?;
    Ok(json.into_inner())
}

/// A status that is no error, or none at all, is fine.
fn check(headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}

fn error(status: &Status) -> Bytes {
    let error = serde_json::json!({ "code": status::code_name(status.code()), "message": status.message() });
    serde_json::json!({ "error": error }).to_string().into()
}

fn http_status(code: Code) -> StatusCode {
    StatusCode::from_u16(status::row(code).2).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
