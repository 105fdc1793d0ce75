//! Several nodes of a real Kafka, which can be killed, stopped and started again.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::certificates::CertificateAuthority;
use crate::kafka::{Jars, server_properties, target_dir};
use crate::reader::ConsumerRecord;

const TOPIC_COMMAND: &str = "org.apache.kafka.tools.TopicCommand";
const REASSIGN_COMMAND: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const ELECTION_COMMAND: &str = "org.apache.kafka.tools.LeaderElectionCommand";

/// Three nodes, each broker and controller.
#[derive(Debug)]
pub struct KafkaCluster {
    nodes: Vec<Node>,
    /// Where clients begin.
    pub bootstrap: String,
    /// Where those begin who speak TLS.
    pub ssl_bootstrap: String,
    dir: PathBuf,
    jars: Jars,
}

#[derive(Debug)]
struct Node {
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

/// Node numbers begin at 1.
const NODE_COUNT: usize = 3;

impl KafkaCluster {
    /// Starts three nodes and waits until they answer. `extra` are further lines of `server.properties`.
    ///
    /// # Panics
    /// If they do not come up within two minutes.
    pub fn start(jars: &Jars, extra: &str) -> KafkaCluster {
        let held: Vec<TcpListener> = (0..3 * NODE_COUNT)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let ports: Vec<u16> = held.iter().map(|l| l.local_addr().expect("bound").port()).collect();
        drop(held);
        let (clients, rest) = ports.split_at(NODE_COUNT);
        let (controllers, secure) = rest.split_at(NODE_COUNT);
        let dir =
            target_dir().join("kafka").join(format!("cluster-{}-{}", std::process::id(), ports[0]));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("cluster dir");
        let dir = fs::canonicalize(dir).expect("cluster dir");
        let authority = CertificateAuthority::new("Ottla cluster authority");
        fs::write(dir.join("ca.pem"), authority.pem()).expect("ca.pem");
        authority.issue_local("broker").write_pem(&dir.join("broker.pem"));
        let id = jars.run_tool("kafka.tools.StorageTool", &["random-uuid"]).trim().to_owned();
        let mut nodes = Vec::new();
        for (n, port) in clients.iter().enumerate() {
            let home = dir.join(format!("node-{}", n + 1));
            fs::create_dir_all(&home).expect("node dir");
            let config = home.join("server.properties");
            let tls = tls_listener_properties(*port, controllers[n], secure[n], &dir);
            let text =
                server_properties(n + 1, *port, controllers, &home, &format!("{tls}{extra}"));
            fs::write(&config, text).expect("server.properties");
            let path = config.display().to_string();
            jars.run_tool("kafka.tools.StorageTool", &["format", "-t", &id, "-c", &path]);
            nodes.push(Node { config, log: home.join("server.log"), process: None });
        }
        let list = |ports: &[u16]| {
            let all: Vec<String> = ports.iter().map(|p| format!("127.0.0.1:{p}")).collect();
            all.join(",")
        };
        let (bootstrap, ssl_bootstrap) = (list(clients), list(secure));
        let mut cluster = KafkaCluster { nodes, bootstrap, ssl_bootstrap, dir, jars: jars.clone() };
        (1..=NODE_COUNT).for_each(|n| cluster.start_node(n));
        cluster.wait_until_ready();
        cluster
    }

    /// Starts a node that is not running.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_node(&mut self, node: usize) {
        let n = &mut self.nodes[node - 1];
        let log = File::options().create(true).append(true).open(&n.log).expect("log");
        let process = (self.jars.tool_command("kafka.Kafka", &[&n.config.display().to_string()]))
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("kafka starts");
        n.process = Some(process);
    }

    /// Ends a node with SIGKILL.
    pub fn kill_node(&mut self, node: usize) {
        if let Some(mut process) = self.nodes[node - 1].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops a node (SIGSTOP), or lets it go on.
    ///
    /// # Panics
    /// If there is no `kill` to be run.
    pub fn set_node_paused(&self, node: usize, on: bool) {
        let Some(process) = &self.nodes[node - 1].process else { return };
        let signal = if on { "-STOP" } else { "-CONT" };
        let done = Command::new("kill").arg(signal).arg(process.id().to_string()).status();
        assert!(done.is_ok_and(|s| s.success()), "kill {signal}");
    }

    fn wait_until_ready(&mut self) {
        let until = Instant::now() + Duration::from_secs(120);
        while Instant::now() < until {
            let list = ["--bootstrap-server", &self.bootstrap, "--describe"];
            if self.jars.try_run_tool(TOPIC_COMMAND, &list).status.success() {
                return;
            }
            for n in &mut self.nodes {
                let ended = n.process.as_mut().and_then(|p| p.try_wait().expect("its state"));
                let log = fs::read_to_string(&n.log).unwrap_or_default();
                assert!(ended.is_none(), "kafka ended: {log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("the cluster did not come up; its logs are in {}", self.dir.display());
    }

    /// Makes a topic with three replicas.
    pub fn create_topic(&self, name: &str, partitions: u32, configs: &[&str]) {
        let count = partitions.to_string();
        let mut args = vec!["--bootstrap-server", &self.bootstrap, "--create", "--topic", name];
        args.extend(["--replication-factor", "3", "--partitions", &count]);
        configs.iter().for_each(|c| args.extend(["--config", c]));
        self.jars.run_tool(TOPIC_COMMAND, &args);
    }

    /// Gives every partition another first replica, and makes that its leader. False if Kafka would not just now.
    ///
    /// # Panics
    /// If the plan cannot be written.
    pub fn move_leaders(&self, topic: &str, partitions: u32, turn: u32) -> bool {
        let one = |p: u32| {
            let nodes: Vec<String> = (0..3).map(|i| ((p + turn + i) % 3 + 1).to_string()).collect();
            format!(r#"{{"topic":"{topic}","partition":{p},"replicas":[{}]}}"#, nodes.join(","))
        };
        let plan: Vec<String> = (0..partitions).map(one).collect();
        let file = self.dir.join("plan.json");
        let text = format!(r#"{{"version":1,"partitions":[{}]}}"#, plan.join(","));
        fs::write(&file, text).expect("plan");
        let file = file.display().to_string();
        let at = ["--bootstrap-server", self.bootstrap.as_str()];
        let plan = [&at[..], &["--reassignment-json-file", &file, "--execute"]].concat();
        let elect = [&at[..], &["--election-type", "preferred", "--all-topic-partitions"]].concat();
        self.jars.try_run_tool(REASSIGN_COMMAND, &plan).status.success()
            && self.jars.try_run_tool(ELECTION_COMMAND, &elect).status.success()
    }

    /// Every record of a topic, read by Java's consumer.
    pub fn read_topic(&self, topic: &str) -> Vec<ConsumerRecord> {
        self.jars.read_topic(&self.bootstrap, topic)
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A second way in, by TLS.
fn tls_listener_properties(plain: u16, controller: u16, port: u16, dir: &Path) -> String {
    let clients = format!("PLAINTEXT://127.0.0.1:{plain},SSL://127.0.0.1:{port}");
    let store = dir.join("broker.pem").display().to_string();
    format!(
        "listeners={clients},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners={clients}\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL\n\
         ssl.keystore.type=PEM\nssl.keystore.location={store}\n"
    )
}

impl Drop for KafkaCluster {
    fn drop(&mut self) {
        for n in &mut self.nodes {
            if let Some(mut process) = n.process.take() {
                // A stopped process takes its end only from SIGKILL, which this is.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
