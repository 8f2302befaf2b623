//! One POST, and where it may go.
//!
//! URLs are set by admins only, and are called from inside the operator's network: a receiver may be any host the leader
//! reaches. Redirects are not followed, so that a receiver cannot send the call elsewhere, and nothing of an answer but
//! its status is told.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{batch::Post, sign::Secret};
use crate::{api::forward::chain, transport::provider};

const URL_LEN_MAX: usize = 2_048;
/// Of an answer, so that its connection can be used again; one with more is closed.
const ANSWER_LEN_MAX: usize = 64 * 1024;
const IDLE_MAX: Duration = Duration::from_secs(30);

/// What may be set: `https`, or `http` to this machine, or to any where the config allows it.
pub fn check_url(text: &str, allow_http: bool) -> Result<Uri, String> {
    if text.is_empty() || text.len() > URL_LEN_MAX {
        return Err(format!("it must have 1 to {URL_LEN_MAX} bytes"));
    }
    let uri: Uri = text.parse().map_err(|error| format!("it is no URL: {error}"))?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("it names no host: https://HOST/PATH")?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("it has a user name or password: who may post is told by the signature".to_owned());
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if allow_http || is_this_machine(host) => Ok(uri),
        Some("http") => {
            Err("http is for this machine only: use https, or set webhook.allow_http in the config"
                .to_owned())
        }
        _ => Err("it must begin with https:// (or http://)".to_owned()),
    }
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What a receiver answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Taken,
    /// 410: it wants nothing more.
    Gone,
    /// Anything else, or nothing: why.
    Failed(String),
}

/// Posts. Cheap to clone; connections are shared, and kept for a while.
#[derive(Clone)]
pub(super) struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<bytes::Bytes>>,
    timeout: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Client {
    /// Trusts the authorities of the system, and those of `ca`.
    pub(super) fn new(ca: Option<&Path>, timeout: Duration) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if let Some(path) = ca {
            let read = || format!("read {} (`webhook.ca`)", path.display());
            for certificate in CertificateDer::pem_file_iter(path).with_context(read)? {
                roots.add(certificate.with_context(read)?).with_context(read)?;
            }
        }
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(timeout));
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(1)
            .build(connector.wrap_connector(http));
        Ok(Self { inner, timeout })
    }

    /// One try.
    pub(super) async fn post(&self, url: &Uri, secret: &Secret, post: &Post) -> Answer {
        let tried = tokio::time::timeout(self.timeout, self.send(url, secret, post));
        match tried.await {
            Ok(Ok(status)) if status.is_success() => Answer::Taken,
            Ok(Ok(StatusCode::GONE)) => Answer::Gone,
            Ok(Ok(status)) if status.is_redirection() => {
                Answer::Failed(format!("the answer was {status}: redirects are not followed"))
            }
            Ok(Ok(status)) => Answer::Failed(format!("the answer was {status}")),
            Ok(Err(why)) => Answer::Failed(why),
            Err(_) => Answer::Failed(format!("no answer within {} ms", self.timeout.as_millis())),
        }
    }

    async fn send(&self, url: &Uri, secret: &Secret, post: &Post) -> Result<StatusCode, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("carillon/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &post.id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", secret.sign(&post.id, now, &post.body))
            .body(Full::new(post.body.clone()))
            .map_err(|error| error.to_string())?;
        let answer = self.inner.request(request).await.map_err(|error| chain(&error))?;
        let status = answer.status();
        // Whatever it says: only the connection is of interest.
        drop(Limited::new(answer.into_body(), ANSWER_LEN_MAX).collect().await);
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io::Write as _, sync::Arc};

    use cluster_proto::AppId;
    use http_body_util::Empty;
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use raft_store::receipts::ReceiptCursor;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    #[test]
    fn http_is_for_this_machine_unless_the_config_allows_it() {
        for url in [
            "https://example.org/hook?a=b",
            "http://127.0.0.1:8080/",
            "http://localhost/x",
            "http://[::1]:1/",
        ] {
            assert!(check_url(url, false).is_ok(), "{url}");
        }
        assert!(check_url("http://10.0.0.1/", false).expect_err("refused").contains("webhook.allow_http"));
        assert!(check_url("http://localhost.example.org/", false).is_err());
        assert!(check_url("http://10.0.0.1/", true).is_ok());
    }

    #[test]
    fn what_is_no_url_is_refused_with_a_reason() {
        let long = format!("https://example.org/{}", "x".repeat(URL_LEN_MAX));
        let wrong = [
            ("", "bytes"),
            ("example.org", "begin with"),
            ("/path", "no host"),
            ("ftp://example.org/", "begin with"),
            ("https://user:secret@example.org/", "user name"),
            ("https://exa mple.org/", "no URL"),
            (long.as_str(), "bytes"),
        ];
        for (url, why) in wrong {
            let told = check_url(url, true).expect_err(url);
            assert!(told.contains(why), "{url}: {told}");
        }
    }

    #[tokio::test]
    async fn a_receiver_is_called_over_tls_if_its_authority_is_known() {
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
        let address = serve(&pair).await;
        let mut ca = tempfile::NamedTempFile::new().expect("file");
        ca.write_all(pair.cert.pem().as_bytes()).expect("write");
        let url = check_url(&format!("https://localhost:{}/hook", address.port()), false).expect("url");
        let next = ReceiptCursor::deltas(AppId(1), 1, 0);
        let post = Post { id: "rcpt_1".to_owned(), body: "{}".into(), next };
        let post = async |ca: Option<&Path>| {
            let client = Client::new(ca, Duration::from_secs(20)).expect("client");
            client.post(&url, &Secret(vec![7; 32]), &post).await
        };
        assert_eq!(post(Some(ca.path())).await, Answer::Taken);
        let Answer::Failed(why) = post(None).await else { panic!("a certificate of nobody was trusted") };
        assert!(why.contains("certificate"), "{why}");
        let missing = Client::new(Some(Path::new("/nowhere/ca.pem")), Duration::from_secs(1));
        assert!(missing.expect_err("no file").to_string().contains("webhook.ca"));
    }

    #[tokio::test]
    async fn a_receiver_that_does_not_answer_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}/", listener.local_addr().expect("address"));
        let url = check_url(&url, false).expect("url");
        let client = Client::new(None, Duration::from_millis(50)).expect("client");
        let next = ReceiptCursor::deltas(AppId(1), 1, 0);
        let post = Post { id: "rcpt_1".to_owned(), body: "{}".into(), next };
        let answer = client.post(&url, &Secret(vec![7; 32]), &post).await;
        assert_eq!(answer, Answer::Failed("no answer within 50 ms".to_owned()));
    }

    /// Answers one request after the other with 204, over TLS.
    async fn serve(pair: &rcgen::CertifiedKey<rcgen::KeyPair>) -> std::net::SocketAddr {
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).expect("key");
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .expect("certificate");
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust it hangs up.
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let service = service_fn(|_| async {
                    let answer = http::Response::builder().status(204).body(Empty::<bytes::Bytes>::new());
                    Ok::<_, Infallible>(answer.expect("answer"))
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }
}
