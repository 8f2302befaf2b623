//! A cluster of real processes with its own certificates, ports and directories.

mod node;
mod ports;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

pub use node::{Doors, Node};
pub use ports::Ports;

/// A node must answer at all within this.
const LIVE_LIMIT: Duration = Duration::from_secs(30);
/// Every node must be ready within this after the last of them was started or continued.
pub const READY_LIMIT: Duration = Duration::from_secs(60);

/// The nodes under test. Dropping it kills them.
#[derive(Debug)]
pub struct Cluster {
    /// By id, from 1: first the control nodes, then the edges.
    pub nodes: Vec<Node>,
    /// Of the API's callers: all scopes.
    pub admin_token: String,
    /// The authority, PEM.
    pub ca: Vec<u8>,
    dir: PathBuf,
}

impl Cluster {
    /// Starts `control` nodes with both roles and `edges` more, founds the cluster, and waits until all are ready.
    pub async fn start(dir: &Path, control: u64, edges: u64) -> Result<Self> {
        Self::start_with(dir, control, edges, Doors::default()).await
    }

    /// The same with other doors for terminals.
    pub async fn start_with(dir: &Path, control: u64, edges: u64, doors: Doors) -> Result<Self> {
        Self::start_tuned(dir, control, edges, doors, "").await
    }

    /// The same with more settings (TOML) for every node, of sections that a node's config does not have yet.
    pub async fn start_tuned(
        dir: &Path,
        control: u64,
        edges: u64,
        doors: Doors,
        settings: &str,
    ) -> Result<Self> {
        let binary = find_binary()?;
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let nodes = write_files(&binary, &dir, control, edges, doors).await?;
        nodes.iter().try_for_each(|node| node.add_config(settings))?;
        let ca = fs::read(dir.join("certs/ca.pem"))?;
        let mut cluster = Self { nodes, admin_token: String::new(), ca, dir };
        cluster.nodes.iter_mut().try_for_each(Node::start)?;
        cluster.wait_all("/livez", LIVE_LIMIT).await?;
        cluster.found(&binary).await?;
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    /// The node of this id.
    pub fn node(&mut self, id: u64) -> &mut Node {
        let index = usize::try_from(id - 1).expect("ids are small");
        &mut self.nodes[index]
    }

    /// Starts or continues every node that does not run.
    pub fn heal(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(status) = node.ended_by_itself() {
                bail!("node {} ended by itself ({status}); its log: {}", node.id, node.log_path().display());
            }
            node.resume()?;
            if !node.is_running() {
                node.start()?;
            }
        }
        Ok(())
    }

    /// Until every node says that it is ready.
    pub async fn wait_ready(&mut self) -> Result<()> {
        self.wait_all("/readyz", READY_LIMIT).await
    }

    /// Stops every node; they must do it with success.
    pub async fn stop(mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.stop().await?;
        }
        Ok(())
    }

    /// Lines of any node's log that no run may leave: panics.
    pub fn panics(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for node in &self.nodes {
            let log = fs::read(node.log_path())?;
            let lines = String::from_utf8_lossy(&log);
            let panics = lines.lines().filter(|line| line.contains("panicked at"));
            found.extend(panics.map(|line| format!("node {}: {line}", node.id)));
        }
        Ok(found)
    }

    async fn wait_all(&mut self, path: &str, limit: Duration) -> Result<()> {
        for node in &mut self.nodes {
            node.wait_for(path, limit).await?;
        }
        Ok(())
    }

    async fn found(&mut self, binary: &Path) -> Result<()> {
        // A node is live before its API listens.
        self.nodes[0].wait_listening(LIVE_LIMIT).await?;
        let certs = self.dir.join("certs");
        let token = self.dir.join("admin.token");
        let mut command = Command::new(binary);
        command.args(["cluster", "init", "--api", &Node::address(self.nodes[0].ports.api)]);
        command.arg("--ca").arg(certs.join("ca.pem"));
        command.arg("--cert").arg(certs.join("operator.pem")).arg("--key").arg(certs.join("operator.key"));
        for node in self.nodes.iter().filter(|node| node.control) {
            let Ports { link, api, mqtt, .. } = node.ports;
            let id = node.id;
            command.arg("--node");
            command.arg(format!("id={id},link=127.0.0.1:{link},api=127.0.0.1:{api},mqtt=127.0.0.1:{mqtt}"));
        }
        command.arg("--token-out").arg(&token);
        run(command).await?;
        self.admin_token = fs::read_to_string(&token)?.trim().to_owned();
        Ok(())
    }
}

async fn write_files(binary: &Path, dir: &Path, control: u64, edges: u64, doors: Doors) -> Result<Vec<Node>> {
    let certs = dir.join("certs");
    certificate(binary, "authority", &[], &certs).await?;
    certificate(binary, "operator", &["--ca", &certs.to_string_lossy()], &certs).await?;
    let nodes: Vec<Node> =
        (1..=control + edges).map(|id| Node::new(id, id <= control, binary, dir)).collect::<Result<_>>()?;
    let control = || nodes.iter().filter(|node| node.control);
    let seeds: Vec<String> = control().map(|node| Node::address(node.ports.link)).collect();
    let control_api: Vec<String> = control().map(|node| Node::address(node.ports.api)).collect();
    for node in &nodes {
        let roles = if node.control { "control,edge" } else { "edge" };
        let id = node.id.to_string();
        certificate(
            binary,
            "node",
            &["--ca", &certs.to_string_lossy(), "--id", &id, "--roles", roles],
            &node.certs(),
        )
        .await?;
        node.write_config(&certs, &seeds, &control_api, doors)?;
    }
    Ok(nodes)
}

async fn certificate(binary: &Path, kind: &str, arguments: &[&str], out: &Path) -> Result<()> {
    let mut command = Command::new(binary);
    command.args(["certs", kind]).args(arguments).arg("--out").arg(out);
    run(command).await
}

async fn run(mut command: Command) -> Result<()> {
    let output = command.output().await.with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// `CARILLON`, or the binary that was built beside this program.
pub fn find_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("CARILLON") {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    // target/PROFILE/carillon-chaos, or target/PROFILE/deps/smoke-0123456789abcdef.
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("carillon")).find(|path| path.is_file());
    beside.context("no carillon binary beside this program: build it (`make build`), or set CARILLON to one")
}
