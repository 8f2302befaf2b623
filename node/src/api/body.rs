//! Bodies of calls that are passed on.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body};

/// A request body of which nothing comes for so long is given up.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A whole request. Every method that takes one message fits, and it can be sent again to the next
/// leader.
pub(super) async fn collect(body: Body, limit: usize) -> Result<Bytes, Status> {
    whole(body, limit).await.map_err(|error| match error {
        Incomplete::TooLarge => {
            Status::resource_exhausted(format!("the request is larger than {limit} bytes; split the call"))
        }
        Incomplete::Cut => Status::cancelled("the request was not sent completely"),
    })
}

/// A request body that was not received.
pub(super) enum Incomplete {
    /// It is larger than allowed.
    TooLarge,
    /// It ended early, or nothing of it came for too long.
    Cut,
}

/// A whole body of at most `limit` bytes.
pub(super) async fn whole(body: Body, limit: usize) -> Result<Bytes, Incomplete> {
    let mut body = Limited::new(body, limit);
    let mut bytes = BytesMut::new();
    loop {
        let frame = timeout(BODY_PAUSE_MAX, body.frame()).await.map_err(|_| Incomplete::Cut)?;
        match frame {
            None => return Ok(bytes.freeze()),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    bytes.extend_from_slice(data);
                }
            }
            Some(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(Incomplete::TooLarge);
            }
            Some(Err(_)) => return Err(Incomplete::Cut),
        }
    }
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
