//! A real process: SIGHUP, and an edge with TLS alone.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use carillon::transport::{
    Roles,
    certs::{self, CertificatePaths},
};
use cluster_proto::NodeId;

use super::{
    certificate,
    wire::{PATIENCE, TlsClient},
};

struct Process {
    child: Child,
    log: mpsc::Receiver<String>,
}

impl Process {
    /// A node of a cluster that nobody has founded: it listens all the same.
    fn start(dir: &Path, settings: &[(&str, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        let file = dir.join("carillon.toml");
        let mut text = String::new();
        for (key, value) in settings {
            writeln!(text, "{key} = {value}").expect("write");
        }
        std::fs::write(&file, text).expect("write");
        command.args(["node", "--config"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start");
        let (lines, log) = mpsc::channel();
        let log_lines = BufReader::new(child.stderr.take().expect("stderr"));
        std::thread::spawn(move || {
            log_lines.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line)));
        });
        Self { child, log }
    }

    /// Waits for a line of the log.
    fn until(&self, what: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not in time: {what}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    fn hangup(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("signal");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let held = std::array::from_fn::<_, N, _>(|_| TcpListener::bind("127.0.0.1:0").expect("bind"));
    held.each_ref().map(|listener| listener.local_addr().expect("address"))
}

#[test]
fn after_sighup_good_certificates_are_served_and_bad_ones_are_not() {
    let dir = tempfile::tempdir().expect("directory");
    certs::write_authority(dir.path()).expect("authority");
    let node = certs::write_node(dir.path(), NodeId(1), Roles::BOTH, &[]).expect("node");
    let [link, api, http, mqtts] = free_ports();
    let served = CertificatePaths::in_dir(dir.path(), "served");
    std::fs::copy(&node.cert, &served.cert).expect("copy");
    std::fs::copy(&node.key, &served.key).expect("copy");
    let text = |value: &dyn std::fmt::Display| format!("\"{value}\"");
    let process = Process::start(
        dir.path(),
        &[
            ("node.id", "1".to_owned()),
            ("node.data_dir", text(&dir.path().join("data").display())),
            ("link.address", text(&link)),
            ("api.address", text(&api)),
            ("http.address", text(&http)),
            ("mqtt.address", text(&"")),
            ("mqtt.tls_address", text(&mqtts)),
            ("mqtt.tls_cert", text(&served.cert.display())),
            ("mqtt.tls_key", text(&served.key.display())),
            ("api.tls_cert", text(&served.cert.display())),
            ("api.tls_key", text(&served.key.display())),
            ("tls.ca", text(&node.ca.display())),
            ("tls.cert", text(&node.cert.display())),
            ("tls.key", text(&node.key.display())),
        ],
    );
    process.until("started");
    let other = certificate(&dir.path().join("other"), &[]);
    // Of both listeners the same.
    let shown = |ca: &Path| {
        let [mqtt, api] = [mqtts, api].map(|address| TlsClient::new(ca).connect(address).is_ok());
        assert_eq!(mqtt, api);
        mqtt
    };
    assert!(shown(&node.ca), "an edge with TLS alone");

    std::fs::write(&served.cert, "-----BEGIN CERTIFICATE-----\nbroken").expect("write");
    process.hangup();
    for _ in ["api", "mqtt"] {
        let line = process.until("the certificates in use stay");
        assert!(line.contains("served.pem"), "{line}");
    }
    assert!(shown(&node.ca) && !shown(&other.ca));

    std::fs::copy(&other.cert, &served.cert).expect("copy");
    std::fs::copy(&other.key, &served.key).expect("copy");
    process.hangup();
    while !process.until("certificates read again").contains("mqtt") {}
    assert!(shown(&other.ca) && !shown(&node.ca));
}
