//! One node: its files, and its process while there is one.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::ports::Ports;

const POLL: Duration = Duration::from_millis(20);
/// A node asked to stop is killed after this, and that is a failure.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A node of the cluster under test.
#[derive(Debug)]
pub struct Node {
    /// Its id, from 1.
    pub id: u64,
    /// Whether it keeps the log (all nodes serve terminals).
    pub control: bool,
    /// Where it listens.
    pub ports: Ports,
    binary: PathBuf,
    dir: PathBuf,
    process: Option<Child>,
    paused: bool,
}

/// How terminals get in, beside MQTT over TCP with a credential.
#[derive(Clone, Copy, Debug, Default)]
pub struct Doors {
    /// Without credentials too.
    pub anonymous: bool,
    /// Over WebSocket too.
    pub websocket: bool,
}

impl Node {
    /// A node that does not run yet; its config is in place once [`Node::write_config`] was called.
    pub fn new(id: u64, control: bool, binary: &Path, root: &Path) -> Result<Self> {
        let dir = root.join(format!("node-{id}"));
        fs::create_dir_all(dir.join("data"))?;
        let ports = Ports::allocate()?;
        Ok(Self { id, control, ports, binary: binary.to_owned(), dir, process: None, paused: false })
    }

    /// `127.0.0.1:port`.
    pub fn address(port: u16) -> String {
        format!("127.0.0.1:{port}")
    }

    /// Everything it printed, over all its lives.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Where its certificate and key lie, as `carillon certs node --out` leaves them.
    pub fn certs(&self) -> PathBuf {
        self.dir.join("certs")
    }

    /// Writes its config; `certs` holds the authority, `seeds` are link addresses and
    /// `control_api` the gRPC addresses of control nodes.
    pub fn write_config(
        &self,
        certs: &Path,
        seeds: &[String],
        control_api: &[String],
        doors: Doors,
    ) -> Result<()> {
        let (id, Ports { mqtt, ws, api, http, link }) = (self.id, self.ports);
        let anonymous = doors.anonymous;
        let ws = if doors.websocket { format!("ws_address = \"127.0.0.1:{ws}\"") } else { String::new() };
        let roles = if self.control { r#"["control", "edge"]"# } else { r#"["edge"]"# };
        let (dir, certs) = (self.dir.display(), certs.display());
        let text = format!(
            r#"[node]
id = {id}
roles = {roles}
data_dir = "{dir}/data"

[cluster]
seeds = {seeds:?}
control_api = {control_api:?}

[link]
address = "127.0.0.1:{link}"

[api]
address = "127.0.0.1:{api}"

[http]
address = "127.0.0.1:{http}"

[mqtt]
address = "127.0.0.1:{mqtt}"
anonymous = {anonymous}
{ws}

[tls]
ca = "{certs}/ca.pem"
cert = "{dir}/certs/node.pem"
key = "{dir}/certs/node.key"
"#
        );
        fs::write(self.dir.join("carillon.toml"), text).context("write a node's config")
    }

    /// Adds sections to its config.
    pub fn add_config(&self, text: &str) -> Result<()> {
        let mut file = fs::OpenOptions::new().append(true).open(self.dir.join("carillon.toml"))?;
        writeln!(file, "{text}").context("write a node's config")
    }

    /// Starts the process; ready only after [`Node::wait_for`].
    pub fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("node {} is running", self.id);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let child = Command::new(&self.binary)
            .arg("node")
            .arg("--config")
            .arg(self.dir.join("carillon.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        (self.process, self.paused) = (Some(child), false);
        Ok(())
    }

    /// Whether there is a process that can answer (a paused one cannot).
    pub fn is_running(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    /// How the process ended, if it did so without being asked.
    pub fn ended_by_itself(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.process.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM; an error when it does not stop in time or not with success.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.process.take() else { return Ok(()) };
        signal(&child, Signal::TERM)?;
        match timeout(STOP_LIMIT, child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(ExitStatus::success) => Ok(()),
            Ok(status) => bail!("node {} was asked to stop and ended with {status:?}", self.id),
            Err(_) => {
                child.kill().await?;
                bail!("node {} did not stop within {STOP_LIMIT:?}", self.id)
            }
        }
    }

    /// SIGSTOP.
    pub fn pause(&mut self) -> Result<()> {
        if let Some(child) = &self.process {
            signal(child, Signal::STOP)?;
            self.paused = true;
        }
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        if let Some(child) = &self.process {
            signal(child, Signal::CONT)?;
            self.paused = false;
        }
        Ok(())
    }

    /// Waits until its API takes connections.
    pub async fn wait_listening(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while TcpStream::connect(("127.0.0.1", self.ports.api)).await.is_err() {
            if Instant::now() > deadline {
                bail!("the API of node {} does not listen after {limit:?}", self.id);
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until `path` (`/livez`, `/readyz`) answers 200.
    pub async fn wait_for(&mut self, path: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut last = String::from("no answer");
        while Instant::now() < deadline {
            if let Some(status) = self.ended_by_itself() {
                bail!("node {} ended by itself ({status}); its log: {}", self.id, self.log_path().display());
            }
            match timeout(Duration::from_secs(2), get(self.ports.http, path)).await {
                Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
                Ok(Ok(answer)) => last = answer,
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => "no answer within 2 s".clone_into(&mut last),
            }
            sleep(POLL).await;
        }
        bail!("node {} does not answer {path} after {limit:?}: {last}", self.id)
    }
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    // A child that was not waited for keeps its pid, so this cannot hit another process.
    let pid =
        child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).context("the process is gone")?;
    kill_process(pid, signal).context("signal a node")
}

async fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Nothing a health page says is longer.
    stream.take(64 * 1024).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
