//! A real control node on the tables that were filled, and real edges.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Arguments, Result,
    clock::{of_process, resident},
    owed::Live,
    report::{Report, mebi, millis},
};

const READY_MAX: Duration = Duration::from_secs(300);
/// Edges that die, and as many that stay: each has 20,000 open files at most.
const EDGES: u32 = 2;
const PORTS_PER_NODE: u32 = 10;

/// Directories, certificates and ports of one control node and some edges, made by `scripts/cluster.sh`.
pub(crate) struct Cluster {
    binary: PathBuf,
    directory: PathBuf,
    base_port: u32,
}

/// Ended when it is dropped.
struct Node {
    process: Child,
    ready: Duration,
}

impl Cluster {
    pub(crate) fn found(binary: &Path, directory: &Path) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/cluster.sh");
        let directory = directory.join("cluster");
        let binary = binary.canonicalize()?;
        let edges = (2 * EDGES).to_string();
        for action in [&["up", "--control", "1", "--edges", &edges, "--anonymous"][..], &["down"]] {
            let (action, rest) = action.split_first().ok_or("no action")?;
            let mut command = Command::new(&script);
            command.arg(action).arg("--dir").arg(&directory).args(rest).env("CARILLON", &binary);
            let output = command.output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
            }
        }
        let settings = std::fs::read_to_string(directory.join("settings"))?;
        let base_port = settings.lines().find_map(|line| line.strip_prefix("base_port=")).ok_or("no port")?;
        let cluster = Self { binary, base_port: base_port.parse()?, directory };
        // The control node is to be nothing else.
        let config = cluster.config(1);
        let text = std::fs::read_to_string(&config)?;
        std::fs::write(&config, text.replace("roles = [\"control\", \"edge\"]", "roles = [\"control\"]"))?;
        Ok(cluster)
    }

    /// Where the control node has its tables.
    pub(crate) fn tables(&self) -> PathBuf {
        self.directory.join("node-1/data/tables")
    }

    fn config(&self, node: u32) -> PathBuf {
        self.directory.join(format!("node-{node}/carillon.toml"))
    }

    fn address(&self, node: u32, port: u32) -> String {
        format!("127.0.0.1:{}", self.base_port + PORTS_PER_NODE * (node - 1) + port)
    }

    fn start(&self, node: u32) -> Result<Node> {
        let log = std::fs::File::create(self.directory.join(format!("node-{node}/log")))?;
        let begin = Instant::now();
        let mut command = Command::new(&self.binary);
        command.arg("node").arg("--config").arg(self.config(node));
        let process = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut node_process = Node { process, ready: Duration::ZERO };
        while !is_ready(&self.address(node, 2)) {
            if node_process.process.try_wait()?.is_some() || begin.elapsed() > READY_MAX {
                let log = std::fs::read_to_string(self.directory.join(format!("node-{node}/log")))?;
                let lines: Vec<_> = log.lines().collect();
                return Err(format!(
                    "node {node} is not ready:\n{}",
                    lines[lines.len().saturating_sub(20)..].join("\n")
                )
                .into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        node_process.ready = begin.elapsed();
        Ok(node_process)
    }

    /// The command line against the control node; answers the lines it printed.
    fn cli(&self, arguments: &[&str]) -> Result<(Vec<String>, Duration)> {
        let begin = Instant::now();
        let mut command = Command::new(&self.binary);
        command.args(arguments).args(["--timeout", "600s"]);
        command
            .env("CARILLON_API", self.address(1, 1))
            .env("CARILLON_CA", self.directory.join("certs/ca.pem"));
        command.env("CARILLON_TOKEN", format!("@{}", self.directory.join("admin.token").display()));
        let output = command.output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok((String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect(), begin.elapsed()))
    }

    /// Memory, start, and a storm of connects.
    pub(crate) fn measure(&self, arguments: &Arguments, live: &Live, report: &mut Report) -> Result<()> {
        self.measure_start("with the pushes above", report)?;
        self.measure_api(report)?;
        self.measure_storm(arguments, live, report)
    }

    pub(crate) fn measure_start(&self, what: &str, report: &mut Report) -> Result<()> {
        report.section(
            &format!("A control node, {what}"),
            "`carillon node` with the role control, on these tables",
        );
        // The first one purges the log of what the tables were filled with, and takes a snapshot.
        self.start(1)?.stop()?;
        let node = self.start(1)?;
        report.line("ready after a stop", millis(node.ready), "below 10 s");
        report.line("resident when ready", mebi(resident(node.process.id()).0), "below 2 GiB");
        node.stop()
    }

    fn measure_api(&self, report: &mut Report) -> Result<()> {
        let node = self.start(1)?;
        let pid = node.process.id();
        let push = ["push", "--to", "all", "--topic", "news", "--payload", "hello", "--json"];
        let (lines, took) = self.cli(&push)?;
        report.line("`carillon push --to all`, from start to end of the command", millis(took), "");
        let answer = lines.join("");
        let id = answer.split("\"push\":").nth(1).map(|rest| rest.trim_start_matches([' ', '"']));
        let id: String = id.ok_or("no push id")?.chars().take_while(char::is_ascii_digit).collect();
        let (_, took) = self.cli(&["status", &id])?;
        report.line("`carillon status`", millis(took), "");
        let (names, took) = self.cli(&["status", &id, "--terminals", "pending"])?;
        let rate = names.len() as f64 / took.as_secs_f64() / 1e6;
        report.line("`carillon status --terminals pending`", format!("{rate:.2} million/s"), "");
        let (now, most) = resident(pid);
        report.line("resident after that; at most", format!("{}; {}", mebi(now), mebi(most)), "below 2 GiB");
        // What was not flushed is applied again.
        node.kill()?;
        let node = self.start(1)?;
        report.line("ready after a kill", millis(node.ready), "below 10 s");
        self.cli(&["cancel", &id])?;
        node.stop()
    }

    fn measure_storm(&self, arguments: &Arguments, live: &Live, report: &mut Report) -> Result<()> {
        let about = format!(
            "{} terminals on {EDGES} edges have been handed what they are owed and have acknowledged nothing; the \
             edges are killed, and all connect to {EDGES} others at once and acknowledge",
            arguments.reconnect
        );
        report.section("An edge dies", &about);
        let leader = self.start(1)?;
        let pid = leader.process.id();
        let (dying, staying) = (2..2 + EDGES, 2 + EDGES..2 + 2 * EDGES);
        let edges = dying.clone().map(|edge| self.start(edge)).collect::<Result<Vec<_>>>()?;
        let others = staying.clone().map(|edge| self.start(edge)).collect::<Result<Vec<_>>>()?;
        let step = ((live.last - live.first) / arguments.reconnect).max(1);
        let mut clients = Vec::new();
        for (n, (dies, stays)) in dying.zip(staying).enumerate() {
            let numbers = [live.first + step * n as u32, step * EDGES, arguments.reconnect / EDGES];
            clients.push(Clients::start(&self.address(dies, 0), &self.address(stays, 0), numbers)?);
        }
        for client in &mut clients {
            client.hears()?;
        }
        let before = of_process(pid);
        for edge in edges {
            edge.kill()?;
        }
        for client in &mut clients {
            client.tell()?;
        }
        let (mut connected, mut got, mut took) = (0, 0, 0);
        for client in &mut clients {
            let answer = client.hears()?;
            let numbers: Vec<u64> =
                answer.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
            let [c, g, t] = numbers[..] else { return Err(format!("terminals said {answer}").into()) };
            (connected, got, took) = (connected + c, got + g, took.max(t));
        }
        let spent = of_process(pid).saturating_sub(before);
        report.line("terminals connected again; pushes handed out", format!("{connected}; {got}"), "");
        report.line("until all had all", format!("{:.1} s", took as f64 / 1e3), "");
        report.line(
            "CPU of the leader, receipts included",
            format!("{:.2} s", spent.as_secs_f64()),
            "below 5 s",
        );
        report.line(
            "resident; at most",
            format!("{}; {}", mebi(resident(pid).0), mebi(resident(pid).1)),
            "below 2 GiB",
        );
        drop(clients);
        for edge in others {
            edge.stop()?;
        }
        leader.stop()
    }
}

impl Node {
    fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.process.wait()?;
        Ok(())
    }

    fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.process.wait()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.process.id() as i32).ok_or("no process")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Ended already, unless something went wrong.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process with terminals: see [`crate::mqtt`].
struct Clients {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Clients {
    fn start(dies: &str, stays: &str, numbers: [u32; 3]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("terminals-of-an-edge")
            .args([dies, stays])
            .args(numbers.map(|number| number.to_string()));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(process.stdout.take().ok_or("no output")?);
        Ok(Self { process, answers })
    }

    fn hears(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() { Err("the terminals ended".into()) } else { Ok(line) }
    }

    fn tell(&mut self) -> Result<()> {
        Ok(self.process.stdin.as_mut().ok_or("no input")?.write_all(b"\n")?)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It ends by itself unless something went wrong.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_ready(address: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        socket.read_exact(&mut answer)?;
        Ok(answer.ends_with(b"200"))
    };
    ask().unwrap_or(false)
}
