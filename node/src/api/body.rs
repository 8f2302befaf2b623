//! Bodies of calls that are passed on.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Code, Status, body::Body};

/// A whole request. Every method that takes one message fits, and it can be sent again to the next
/// leader.
pub(super) async fn collect(body: Body, limit: usize) -> Result<Bytes, Status> {
    let collected = Limited::new(body, limit).collect().await;
    collected.map(|body| body.to_bytes()).map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            Status::resource_exhausted(format!("the request is larger than {limit} bytes; split the call"))
        } else {
            Status::cancelled("the request was not sent completely")
        }
    })
}

/// Says whether any of a request's message left this node. Without its message no server can act on a call: so
/// "not taken" is "certainly not done".
#[derive(Clone, Debug, Default)]
pub(super) struct Sent(Arc<AtomicBool>);

impl Sent {
    pub(super) fn is_sent(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A request body that reports to [`Sent`] when it is taken.
pub(super) struct Watched {
    bytes: Full<Bytes>,
    sent: Sent,
}

impl Watched {
    pub(super) fn new(bytes: Bytes, sent: Sent) -> Self {
        Self { bytes: Full::new(bytes), sent }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.sent.0.store(true, Ordering::Release);
        Pin::new(&mut self.bytes).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.bytes.size_hint()
    }
}

/// The body of a stream, which reports to [`Sent`] when any message of it is taken.
pub(super) fn watched(body: Body, sent: Sent) -> Body {
    Body::new(body.map_frame(move |frame| {
        sent.0.store(true, Ordering::Release);
        frame
    }))
}

/// An answer from the leader. Where its connection breaks in the middle, the caller gets `broken` as the call's
/// status instead of a torn stream.
pub(super) fn answer(body: Body, broken: Status) -> Body {
    if body.is_end_stream() {
        // A status in the headers and nothing behind: an empty DATA frame there makes some clients see a torn stream.
        return Body::empty();
    }
    let frames = futures_util::stream::unfold(Some((body, broken)), |state| async move {
        let (mut body, broken) = state?;
        match body.frame().await? {
            Ok(frame) => Some((Ok::<_, Status>(frame), Some((body, broken)))),
            Err(error) if error.code() != Code::Unknown && error.code() != Code::Internal => {
                Some((Ok(trailers(&error)), None))
            }
            Err(_) => Some((Ok(trailers(&broken)), None)),
        }
    });
    Body::new(StreamBody::new(frames))
}

fn trailers(status: &Status) -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    if status.add_header(&mut map).is_err() {
        map.insert("grpc-status", HeaderValue::from(status.code() as i32));
    }
    Frame::trailers(map)
}
