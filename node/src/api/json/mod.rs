//! The API over HTTP/JSON, on the port of the gRPC API.
//!
//! ```text
//!  caller ──► listener ──► content type application/grpc ──────────────────────► route ──► services
//!                      └─► anything else ──► JSON to message, message to JSON ──►┘
//! ```
//! Nothing here knows a method: routes, parameters and the OpenAPI document come from the descriptors of the API, in
//! which a method names its route by a `google.api.http` option. The call then goes on as the gRPC call it stands for,
//! so that rights, limits and the way to the leader are the same.
//!
//! - [`routes`]: which method a path means.
//! - [`request`]: path, query and body as the method's message.
//! - [`answer`]: messages and statuses as JSON.
//! - [`openapi`]: the document that describes all of it.

mod answer;
mod openapi;
mod request;
mod routes;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use cluster_proto::admin::DESCRIPTORS;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{AUTHORIZATION, CONTENT_TYPE, TE},
    request::Parts,
};
use http_body_util::Full;
use prost_reflect::DescriptorPool;
use tonic::{Status, body::Body};
use tower::{Layer, Service, ServiceExt as _};

use self::{
    answer::Refusal,
    routes::{Found, Route, Routes},
};
use super::{Gate, forward::LOCAL_HEADER, status};

/// Where the OpenAPI document is.
const DOCUMENT: &str = "/openapi.json";
const GRPC: &str = "application/grpc";

/// Answers calls that are not gRPC by those that are. See the module.
#[derive(Clone, Debug)]
pub(super) struct Json {
    api: Arc<Api>,
    gate: Gate,
}

#[derive(Debug)]
struct Api {
    routes: Routes,
    /// The OpenAPI document.
    document: Bytes,
}

impl Json {
    /// From the descriptors in this binary; an error says what is wrong with them.
    pub(super) fn new(gate: Gate) -> Result<Self, String> {
        let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| error.to_string())?;
        let routes = Routes::of(&pool)?;
        let document = openapi::document(&routes).to_string().into();
        Ok(Self { api: Arc::new(Api { routes, document }), gate })
    }
}

impl<S> Layer<S> for Json {
    type Service = Translating<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Translating { json: self.clone(), inner }
    }
}

/// The gRPC services of this node, with [`Json`] before them.
#[derive(Clone, Debug)]
pub(super) struct Translating<S> {
    json: Json,
    inner: S,
}

impl<S> Service<Request<Body>> for Translating<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { json, inner } = self.clone();
        Box::pin(async move {
            if is_grpc(request.headers()) && request.version() == Version::HTTP_2 {
                return inner.oneshot(request).await;
            }
            Ok(json.answer(request, inner).await.unwrap_or_else(Refusal::into_http))
        })
    }
}

impl Json {
    async fn answer<S>(&self, request: Request<Body>, inner: S) -> Result<Response<Body>, Refusal>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let (parts, body) = request.into_parts();
        if is_grpc(&parts.headers) {
            return Err(unsupported("gRPC needs HTTP/2; over HTTP/1.1 send application/json"));
        }
        if parts.method == Method::GET && parts.uri.path() == DOCUMENT {
            return Ok(answer::json(StatusCode::OK, self.api.document.clone()));
        }
        let (route, bound) = match self.api.routes.find(&parts.method, parts.uri.path())? {
            Found::Route(route, bound) => (route, bound),
            Found::OtherMethods(methods) => return Err(Refusal::other_methods(&methods)),
            Found::Nothing => return Err(Status::not_found(nothing_at(parts.uri.path())).into()),
        };
        self.know(&parts.headers)?;
        check_type(&parts)?;
        let body = request::read(body).await?;
        let message = request::message(route, &bound, parts.uri.query().unwrap_or_default(), &body)?;
        let response = match inner.oneshot(call(route, &parts.headers, message)).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        answer::translate(route, response).await
    }

    /// Callers are known before anything they send is looked at. Their token is what counts, never the certificate of
    /// an operator: a browser that has one sends it wherever a page tells it to.
    fn know(&self, headers: &HeaderMap) -> Result<(), Status> {
        if !self.gate.has_keys() {
            return Err(status::unavailable(
                "this node cannot verify tokens yet: the cluster is not initialised, or not reached",
            ));
        }
        self.gate.caller(headers, &http::Extensions::new()).map(drop)
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(GRPC.as_bytes()))
}

/// A body is JSON, and says so or nothing.
fn check_type(parts: &Parts) -> Result<(), Refusal> {
    let Some(value) = parts.headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(unsupported("send `content-type: application/json` (with curl: --json)"))
}

fn unsupported(why: &str) -> Refusal {
    Refusal::with(StatusCode::UNSUPPORTED_MEDIA_TYPE, Status::invalid_argument(why))
}

fn nothing_at(path: &str) -> String {
    let path: String = path.chars().take(200).collect();
    format!("there is nothing at {path}: {DOCUMENT} describes what there is")
}

/// The gRPC call that a request stands for.
fn call(route: &Route, headers: &HeaderMap, message: Bytes) -> Request<Body> {
    let mut call = Request::new(Body::new(Full::new(message)));
    *call.method_mut() = Method::POST;
    *call.uri_mut() = route.rpc_path.clone();
    *call.version_mut() = Version::HTTP_2;
    let to = call.headers_mut();
    to.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    to.insert(TE, HeaderValue::from_static("trailers"));
    for name in [AUTHORIZATION.as_str(), LOCAL_HEADER] {
        if let Some(value) = headers.get(name) {
            to.insert(http::HeaderName::from_static(name), value.clone());
        }
    }
    call
}
