//! One `carillon dev --anonymous` for all tests of a binary.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use chaos_tests::cluster::{Ports, find_binary};

const START_LIMIT: Duration = Duration::from_secs(60);

/// Ends the server when the test binary ends, however it does: then its end of the pipe closes. Destructors of statics
/// do not run.
const GUARD: &str = r#"
trap "" INT
dir=$1; shift
"$@" >"$dir/log" 2>&1 &
child=$!
cat >/dev/null
kill -KILL "$child" 2>/dev/null
wait "$child" 2>/dev/null
[ -n "${CONFORMANCE_KEEP:-}" ] || rm -rf "$dir"
"#;

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// MQTT over TCP.
    pub mqtt: SocketAddr,
    /// MQTT over WebSocket.
    pub ws: SocketAddr,
    api: SocketAddr,
    binary: PathBuf,
    dir: PathBuf,
    _guard: (Child, ChildStdin),
}

/// The server of this test binary; started by the first that asks.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

/// Where the server of this test binary speaks MQTT.
pub fn mqtt() -> SocketAddr {
    server().mqtt
}

impl Server {
    fn start() -> Self {
        let binary = find_binary().expect("the product");
        let dir = scratch("dev");
        let ports = Ports::allocate().expect("ports");
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (mqtt, api, ws) = (here(ports.mqtt), here(ports.api), here(ports.ws));
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(&dir)
            .arg(&binary)
            .args(["dev", "--anonymous", "--log-level", "info"])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--mqtt", &mqtt.to_string(), "--ws", &ws.to_string()])
            .args(["--api", &api.to_string(), "--http", &here(ports.http).to_string()])
            .args(["--link", &here(ports.link).to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh");
        let pipe = guard.stdin.take().expect("a pipe");
        let server = Self { mqtt, ws, api, binary, dir, _guard: (guard, pipe) };
        server.wait();
        server
    }

    /// Until it takes connections and answers CONNECT.
    fn wait(&self) {
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(self.mqtt).is_err() {
            assert!(Instant::now() < deadline, "no server after {START_LIMIT:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        loop {
            let connect = crate::build::Connect::new(crate::V311, &crate::unique("wait"));
            let (_, answer) = crate::client::Client::ask(self.mqtt, &connect);
            if answer.reason == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "no leader after {START_LIMIT:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Everything it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// What `carillon ARGUMENTS` prints when it speaks to this server as its administrator.
    pub fn command(&self, arguments: &[&str]) -> String {
        let data = self.dir.join("data");
        let output = Command::new(&self.binary)
            .args(arguments)
            .env("CARILLON_API", self.api.to_string())
            .env("CARILLON_TOKEN", format!("@{}", data.join("admin.token").display()))
            .output()
            .expect("the product");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "carillon {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A credential for a terminal: what it gives as password (its user name is the app, `default`).
pub fn credential(terminal: &str) -> String {
    credential_with(terminal, &[])
}

/// The same, with options of `carillon terminal credential`.
pub fn credential_with(terminal: &str, options: &[&str]) -> String {
    let answer = server().command(&[&["terminal", "credential", terminal, "--json"], options].concat());
    let (_, token) = answer.split_once("\"token\":").expect("a token in the answer");
    token.split('"').nth(1).expect("a string").to_owned()
}

/// An empty directory of this process.
pub fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("carillon-conformance-{name}-{}", std::process::id()));
    // Left by an earlier process with this id, or not there.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("data")).expect("a directory");
    dir
}
