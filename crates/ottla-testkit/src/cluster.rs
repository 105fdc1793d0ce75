//! A Kafka cluster of several nodes, which can be killed, paused and started again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::certificates::CertificateAuthority;
use crate::kafka::{Jars, server_properties, target_dir};
use crate::ports::reserve_ports;
use crate::reader::ConsumerRecord;

const TOPIC_COMMAND: &str = "org.apache.kafka.tools.TopicCommand";
const CONFIG_COMMAND: &str = "org.apache.kafka.tools.ConfigCommand";
const REASSIGN_COMMAND: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const ELECTION_COMMAND: &str = "org.apache.kafka.tools.LeaderElectionCommand";

/// Number of nodes. Node ids start at 1.
const NODE_COUNT: usize = 3;

/// A cluster of three nodes, each a broker and a controller. Dropping it ends the nodes.
#[derive(Debug)]
pub struct KafkaCluster {
    nodes: Vec<Node>,
    /// `bootstrap.servers` of the plaintext listeners.
    pub bootstrap: String,
    /// `bootstrap.servers` of the TLS listeners.
    pub ssl_bootstrap: String,
    /// `bootstrap.servers` of the plaintext listeners that advertise the nodes' host names.
    pub named_bootstrap: String,
    /// The directory of the nodes' files.
    pub dir: PathBuf,
    jars: Jars,
    vm_args: Vec<String>,
}

#[derive(Debug)]
struct Node {
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl KafkaCluster {
    /// Starts three nodes and waits until they respond. `extra` contains further lines for
    /// `server.properties`.
    ///
    /// # Panics
    /// The nodes do not respond within two minutes.
    pub fn start(jars: &Jars, extra: &str) -> KafkaCluster {
        KafkaCluster::start_with(jars, extra, &[])
    }

    /// Starts three nodes with further arguments of `java`.
    ///
    /// # Panics
    /// The nodes do not respond within two minutes.
    pub fn start_with(jars: &Jars, extra: &str, vm_args: &[&str]) -> KafkaCluster {
        let ports: [u16; 4 * NODE_COUNT] = reserve_ports();
        let (plaintext_ports, rest) = ports.split_at(NODE_COUNT);
        let (controller_ports, rest) = rest.split_at(NODE_COUNT);
        let (tls_ports, named_ports) = rest.split_at(NODE_COUNT);
        let name = format!("cluster-{}-{}", std::process::id(), ports[0]);
        let dir = target_dir().join("kafka").join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("the cluster's directory is created");
        let dir = fs::canonicalize(dir).expect("the cluster's directory exists");
        let authority = CertificateAuthority::new("Ottla cluster authority");
        fs::write(dir.join("ca.pem"), authority.pem()).expect("ca.pem is written");
        authority.issue_local("broker").write_pem(&dir.join("broker.pem"));
        let id = jars.run_tool("kafka.tools.StorageTool", &["random-uuid"]).trim().to_owned();
        let mut nodes = Vec::new();
        for (i, port) in plaintext_ports.iter().copied().enumerate() {
            let node_dir = dir.join(format!("node-{}", i + 1));
            fs::create_dir_all(&node_dir).expect("the node's directory is created");
            let config = node_dir.join("server.properties");
            let ports = ListenerPorts {
                plaintext: port,
                controller: controller_ports[i],
                tls: tls_ports[i],
                named: named_ports[i],
            };
            let extra = format!("{}{extra}", listener_properties(i + 1, ports, &dir));
            let text = server_properties(i + 1, port, controller_ports, &node_dir, &extra);
            fs::write(&config, text).expect("server.properties is written");
            let path = config.display().to_string();
            jars.run_tool("kafka.tools.StorageTool", &["format", "-t", &id, "-c", &path]);
            nodes.push(Node { config, log: node_dir.join("server.log"), process: None });
        }
        let mut cluster = KafkaCluster {
            nodes,
            bootstrap: bootstrap_servers(plaintext_ports),
            ssl_bootstrap: bootstrap_servers(tls_ports),
            named_bootstrap: named_bootstrap_servers(named_ports),
            dir,
            jars: jars.clone(),
            vm_args: vm_args.iter().map(|&arg| arg.to_owned()).collect(),
        };
        (1..=NODE_COUNT).for_each(|node| cluster.start_node(node));
        cluster.wait_until_ready();
        cluster
    }

    /// Starts a node that is not running.
    ///
    /// # Panics
    /// The node cannot be started.
    pub fn start_node(&mut self, node: usize) {
        let n = &mut self.nodes[node - 1];
        let log = File::options().create(true).append(true).open(&n.log).expect("the log opens");
        let process = (self.jars.java_command())
            .args(&self.vm_args)
            .arg("kafka.Kafka")
            .arg(&n.config)
            .stdout(log.try_clone().expect("the log's handle is copied"))
            .stderr(log)
            .spawn()
            .expect("kafka starts");
        n.process = Some(process);
    }

    /// Kills a node with SIGKILL.
    pub fn kill_node(&mut self, node: usize) {
        if let Some(mut process) = self.nodes[node - 1].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Pauses a node with SIGSTOP. Its connections stay open, but it does not respond.
    ///
    /// # Panics
    /// The program `kill` fails.
    pub fn pause_node(&self, node: usize) {
        self.signal_node(node, "-STOP");
    }

    /// Resumes a paused node with SIGCONT.
    ///
    /// # Panics
    /// The program `kill` fails.
    pub fn resume_node(&self, node: usize) {
        self.signal_node(node, "-CONT");
    }

    /// Returns the process ids of the nodes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|n| n.process.as_ref()).map(Child::id).collect()
    }

    fn signal_node(&self, node: usize, signal: &str) {
        let Some(process) = &self.nodes[node - 1].process else { return };
        let status = Command::new("kill").arg(signal).arg(process.id().to_string()).status();
        assert!(status.is_ok_and(|s| s.success()), "kill {signal} failed");
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while Instant::now() < deadline {
            let args = ["--bootstrap-server", &self.bootstrap, "--describe"];
            if self.jars.try_run_tool(TOPIC_COMMAND, &args).status.success() {
                return;
            }
            for n in &mut self.nodes {
                let status = n.process.as_mut().and_then(|p| p.try_wait().expect("its status"));
                let log = fs::read_to_string(&n.log).unwrap_or_default();
                assert!(status.is_none(), "kafka has ended: {log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("the cluster did not start; its logs are in {}", self.dir.display());
    }

    /// Creates a topic with three replicas.
    pub fn create_topic(&self, name: &str, partitions: u32, configs: &[&str]) {
        let partitions = partitions.to_string();
        let mut args = vec!["--bootstrap-server", &self.bootstrap, "--create", "--topic", name];
        args.extend(["--replication-factor", "3", "--partitions", &partitions]);
        configs.iter().for_each(|c| args.extend(["--config", c]));
        self.jars.run_tool(TOPIC_COMMAND, &args);
    }

    /// Creates a topic with one partition, whose only replica is on this node.
    pub fn create_topic_on_node(&self, name: &str, node: usize) {
        let node = node.to_string();
        let mut args = vec!["--bootstrap-server", &self.bootstrap, "--create", "--topic", name];
        args.extend(["--replica-assignment", &node]);
        self.jars.run_tool(TOPIC_COMMAND, &args);
    }

    /// Limits each node to this many bytes a second from the producers of a client id.
    pub fn set_producer_quota(&self, client_id: &str, bytes_per_second: u64) {
        let quota = format!("producer_byte_rate={bytes_per_second}");
        let args = ["--bootstrap-server", &self.bootstrap, "--alter", "--add-config", &quota];
        let entity = ["--entity-type", "clients", "--entity-name", client_id];
        self.jars.run_tool(CONFIG_COMMAND, &[&args[..], &entity].concat());
    }

    /// Makes another replica the preferred leader of each partition, and elects it.
    ///
    /// `round` selects the replica. Returns false if Kafka refuses, for example because an earlier
    /// reassignment is still running.
    ///
    /// # Panics
    /// The plan cannot be written.
    pub fn move_leaders(&self, topic: &str, partitions: u32, round: u32) -> bool {
        let assignment = |partition: u32| {
            let replicas: Vec<String> =
                (0..3).map(|i| ((partition + round + i) % 3 + 1).to_string()).collect();
            let replicas = replicas.join(",");
            format!(r#"{{"topic":"{topic}","partition":{partition},"replicas":[{replicas}]}}"#)
        };
        let assignments: Vec<String> = (0..partitions).map(assignment).collect();
        let file = self.dir.join("plan.json");
        let plan = format!(r#"{{"version":1,"partitions":[{}]}}"#, assignments.join(","));
        fs::write(&file, plan).expect("the plan is written");
        let file = file.display().to_string();
        let server = ["--bootstrap-server", self.bootstrap.as_str()];
        let reassign = [&server[..], &["--reassignment-json-file", &file, "--execute"]].concat();
        let elect =
            [&server[..], &["--election-type", "preferred", "--all-topic-partitions"]].concat();
        self.jars.try_run_tool(REASSIGN_COMMAND, &reassign).status.success()
            && self.jars.try_run_tool(ELECTION_COMMAND, &elect).status.success()
    }

    /// Reads all records of a topic with Java's consumer.
    pub fn read_topic(&self, topic: &str) -> Vec<ConsumerRecord> {
        self.jars.read_topic(&self.bootstrap, topic)
    }

    /// Reads the committed records of a topic with Java's consumer.
    pub fn read_committed(&self, topic: &str) -> Vec<ConsumerRecord> {
        self.jars.read_committed(&self.bootstrap, topic)
    }

    /// Returns the node that leads a partition; `None` if it has no leader, or no node responds.
    pub fn leader(&self, topic: &str, partition: u32) -> Option<usize> {
        let args = ["--bootstrap-server", &self.bootstrap, "--describe", "--topic", topic];
        let out = self.jars.try_run_tool(TOPIC_COMMAND, &args);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let partition = format!("Partition: {partition}\t");
        let row = text.lines().find(|row| row.contains(&partition))?;
        let (_, leader) = row.split_once("Leader: ")?;
        leader.split_whitespace().next()?.parse().ok()
    }

    /// Returns the directory of the cluster's files, among them `ca.pem`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn bootstrap_servers(ports: &[u16]) -> String {
    let servers: Vec<String> = ports.iter().map(|p| format!("127.0.0.1:{p}")).collect();
    servers.join(",")
}

/// Returns the host name that a node advertises. Only a hosts file resolves it: see `HostsFile`.
pub fn node_host_name(node: usize) -> String {
    format!("node-{node}.ottla.invalid")
}

fn named_bootstrap_servers(ports: &[u16]) -> String {
    let servers = (1..).zip(ports).map(|(node, port)| format!("{}:{port}", node_host_name(node)));
    servers.collect::<Vec<_>>().join(",")
}

/// The ports of a node's listeners.
struct ListenerPorts {
    plaintext: u16,
    controller: u16,
    tls: u16,
    named: u16,
}

/// Returns the properties that add a TLS listener and one with a host name to a node.
///
/// The nodes connect to each other through the first listener, so they need no name.
fn listener_properties(node: usize, ports: ListenerPorts, dir: &Path) -> String {
    let ListenerPorts { plaintext, controller, tls, named } = ports;
    let listeners = format!("PLAINTEXT://127.0.0.1:{plaintext},SSL://127.0.0.1:{tls}");
    let (keystore, host) = (dir.join("broker.pem").display().to_string(), node_host_name(node));
    format!(
        "listeners={listeners},NAMED://127.0.0.1:{named},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners={listeners},NAMED://{host}:{named}\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,\
         NAMED:PLAINTEXT\n\
         ssl.keystore.type=PEM\nssl.keystore.location={keystore}\n"
    )
}

impl Drop for KafkaCluster {
    fn drop(&mut self) {
        for n in &mut self.nodes {
            if let Some(mut process) = n.process.take() {
                // SIGKILL, because a paused process reacts to no other signal.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        // A failed test keeps the files for inspection.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
