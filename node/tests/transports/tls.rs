//! TLS: versions, names, client certificates, new certificates.

use std::io::{Read, Write};

use carillon::{edge::Kind, transport::certs};
use tokio::task::block_in_place;

use super::{
    CertificatePaths, Clients, Fixture, KINDS, Setting, TerminalTls, certificate, default_tls,
    wire::{PING, PONG, SUBACK, TlsClient, connect, expect, expect_end, join, open, publish, subscribe},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminals_of_every_transport_reach_each_other() {
    let fixture = Fixture::new().await;
    block_in_place(|| {
        let mut terminals: Vec<_> =
            KINDS.into_iter().map(|kind| open(kind, fixture.address(kind), &fixture.ca())).collect();
        for (i, terminal) in terminals.iter_mut().enumerate() {
            join(terminal, &format!("t{i}"));
            terminal.write_all(&subscribe("news")).expect("write");
            expect(terminal, SUBACK);
        }
        for i in 0..terminals.len() {
            let message = publish("news", format!("from {i}").as_bytes());
            terminals[i].write_all(&message).expect("write");
            terminals.iter_mut().for_each(|terminal| expect(terminal, &message));
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_cross_every_transport_whole() {
    let fixture = Fixture::new().await;
    block_in_place(|| {
        for kind in KINDS {
            let mut terminal = open(kind, fixture.address(kind), &fixture.ca());
            join(&mut terminal, "large");
            terminal.write_all(&subscribe("large")).expect("write");
            expect(&mut terminal, SUBACK);
            let message = publish("large", &vec![kind as u8; 1_000_000]);
            terminal.write_all(&message).expect("write");
            expect(&mut terminal, &message);
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_of_tls_are_spoken() {
    let fixture = Fixture::new().await;
    block_in_place(|| {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let (ca, versions) = (fixture.ca(), [version]);
            let client = TlsClient { versions: &versions, ..TlsClient::new(&ca) };
            let mut tls = client.connect(fixture.address(Kind::Tls)).expect("TLS");
            assert_eq!(tls.conn.protocol_version(), Some(version.version));
            join(&mut tls, "versioned");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_shown_is_the_one_for_the_name_asked_for() {
    fn tls(dir: &std::path::Path) -> TerminalTls {
        let pair = |paths: CertificatePaths| (paths.cert, paths.key);
        let one = certificate(&dir.join("one"), &["one.example"]);
        let wild = certificate(&dir.join("wild"), &["*.wild.example"]);
        TerminalTls { by_name: vec![pair(one), pair(wild)], ..default_tls(dir) }
    }
    let fixture = Fixture::with(Setting { tls: Some(tls), ..Setting::default() }).await;
    block_in_place(|| {
        let ca = |dir: &str| fixture.dir.path().join(dir).join(certs::AUTHORITY_FILE);
        let connects = |name: &str, ca: &std::path::Path| {
            TlsClient { name, ..TlsClient::new(ca) }.connect(fixture.address(Kind::Tls)).is_ok()
        };
        assert!(connects("one.example", &ca("one")));
        assert!(connects("a.wild.example", &ca("wild")));
        assert!(!connects("a.b.wild.example", &ca("wild")));
        assert!(connects("localhost", &fixture.ca()), "the default");
        assert!(!connects("one.example", &fixture.ca()));
    });
}

/// Terminals show certificates of an authority of their own; strangers have another.
fn with_clients(dir: &std::path::Path, required: bool) -> TerminalTls {
    certificate(&dir.join("clients"), &[]);
    certificate(&dir.join("strangers"), &[]);
    let ca = dir.join("clients").join(certs::AUTHORITY_FILE);
    TerminalTls { clients: Some(Clients { ca, required }), ..default_tls(dir) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_lets_a_terminal_in_by_its_name_where_that_is_configured() {
    let tls: fn(&std::path::Path) -> TerminalTls = |dir| with_clients(dir, false);
    for certificates_let_in in [true, false] {
        let fixture =
            Fixture::with(Setting { tls: Some(tls), certificates_let_in, ..Setting::default() }).await;
        block_in_place(|| {
            let (ca, address) = (fixture.ca(), fixture.address(Kind::Tls));
            let paths = CertificatePaths::in_dir(&fixture.dir.path().join("clients"), "node-7");
            // What the CONNACK says to this id.
            let answer = |shows, id: &str| {
                let mut tls = TlsClient { shows, ..TlsClient::new(&ca) }.connect(address).expect("TLS");
                tls.write_all(&connect(id)).expect("write");
                let mut connack = [0; 4];
                tls.read_exact(&mut connack).expect("CONNACK");
                connack[3]
            };
            assert_eq!(answer(Some(&paths), "Carillon node 7"), 0);
            // Without the setting it is no more than a second lock, and these are anonymous clients.
            let refused = u8::from(certificates_let_in) * 5;
            assert_eq!(answer(Some(&paths), "somebody-else"), refused);
            assert_eq!(answer(None, "Carillon node 7") != 0, certificates_let_in);
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_without_a_certificate_is_refused_where_one_is_required() {
    let tls: fn(&std::path::Path) -> TerminalTls = |dir| with_clients(dir, true);
    let fixture = Fixture::with(Setting { tls: Some(tls), ..Setting::default() }).await;
    block_in_place(|| {
        let (ca, address) = (fixture.ca(), fixture.address(Kind::Tls));
        let paths = |dir: &str| CertificatePaths::in_dir(&fixture.dir.path().join(dir), "node-7");
        let (good, strange) = (paths("clients"), paths("strangers"));
        let mut tls = TlsClient { shows: Some(&good), ..TlsClient::new(&ca) }.connect(address).expect("TLS");
        join(&mut tls, "certified");
        for shows in [None, Some(&strange)] {
            // In TLS 1.3 the client is done before the server has seen its certificate.
            let refused = match (TlsClient { shows, ..TlsClient::new(&ca) }).connect(address) {
                Err(_) => true,
                Ok(mut tls) => tls.read(&mut [0]).is_err(),
            };
            assert!(refused);
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_shown_after_a_reload_and_bad_ones_change_nothing() {
    let fixture = Fixture::new().await;
    block_in_place(|| {
        let dir = fixture.dir.path();
        let other = certificate(&dir.join("other"), &[]);
        let (old_ca, new_ca) = (fixture.ca(), other.ca.clone());
        let shown = |ca: &std::path::Path| TlsClient::new(ca).connect(fixture.address(Kind::Tls)).is_ok();
        let served = CertificatePaths::in_dir(dir, "node-2");
        let mut open = TlsClient::new(&old_ca).connect(fixture.address(Kind::Tls)).expect("TLS");
        join(&mut open, "stays");

        std::fs::write(&served.cert, "not a certificate").expect("write");
        let error = fixture.tls.reload().expect_err("no certificate").to_string();
        assert!(error.contains("node-2.pem"), "{error}");
        assert!(shown(&old_ca));

        std::fs::copy(&other.cert, &served.cert).expect("copy");
        let error = fixture.tls.reload().expect_err("the key is another's").to_string();
        assert!(error.contains("node-2.key"), "{error}");
        assert!(shown(&old_ca) && !shown(&new_ca));

        std::fs::copy(&other.key, &served.key).expect("copy");
        fixture.tls.reload().expect("a good pair");
        assert!(shown(&new_ca) && !shown(&old_ca));

        open.write_all(PING).expect("write");
        expect(&mut open, PONG);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_tls_is_closed_and_disturbs_nobody() {
    let fixture = Fixture::new().await;
    block_in_place(|| {
        let mut bad = super::wire::tcp(fixture.address(Kind::Tls));
        bad.write_all(&connect("in-clear")).expect("write");
        expect_end(&mut bad);
        let mut good = open(Kind::Tls, fixture.address(Kind::Tls), &fixture.ca());
        join(&mut good, "good");
    });
}
