//! One node of another Kafka version, from that version's jars. Kafka 2 runs with ZooKeeper.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::kafka::{Jars, ensure_jars, server_properties, target_dir};
use crate::ports::reserve_ports;

/// A node of another Kafka version. Dropping it ends its processes.
#[derive(Debug)]
pub struct LegacyKafka {
    processes: Vec<Child>,
    /// The node's `bootstrap.servers`.
    pub bootstrap: String,
    dir: PathBuf,
}

impl LegacyKafka {
    /// Starts the node and waits until it responds to the tools of `jars`.
    ///
    /// # Panics
    /// The node does not respond within a minute.
    pub fn start(jars: &Jars, version: &str) -> LegacyKafka {
        let libs = ensure_jars(version);
        let [port, controller_port] = reserve_ports();
        let name = format!("legacy-{version}-{}-{port}", std::process::id());
        let dir = target_dir().join("kafka").join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("the directory is created");
        let bootstrap = format!("127.0.0.1:{port}");
        let mut kafka = LegacyKafka { processes: Vec::new(), bootstrap, dir };
        if version.starts_with("2.") {
            kafka.prepare_zookeeper_node(&libs, port, controller_port);
        } else {
            kafka.prepare_kraft_node(&libs, port, controller_port);
        }
        let config = kafka.config_path().display().to_string();
        kafka.spawn(&libs, &["kafka.Kafka", &config]);
        kafka.wait_until_ready(jars);
        kafka
    }

    /// Stops a KRaft node, starts it with this Kafka version on the same data, and waits until
    /// it responds to the tools of `jars`.
    ///
    /// # Panics
    /// The node does not stop, or does not respond within a minute.
    pub fn restart(&mut self, jars: &Jars, version: &str) {
        let libs = ensure_jars(version);
        let mut process = self.processes.pop().expect("the node runs");
        let id = process.id().to_string();
        let status = Command::new("kill").arg("-TERM").arg(id).status();
        assert!(status.is_ok_and(|s| s.success()), "kill -TERM failed");
        process.wait().expect("the node stops");
        let config = self.config_path().display().to_string();
        self.spawn(&libs, &["kafka.Kafka", &config]);
        self.wait_until_ready(jars);
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    /// Starts ZooKeeper and writes the properties of a node that uses it.
    fn prepare_zookeeper_node(&mut self, libs: &Path, port: u16, zookeeper_port: u16) {
        let config = self.dir.join("zookeeper.properties");
        let data = self.dir.join("zookeeper").display().to_string();
        let text = format!(
            "dataDir={data}\nclientPort={zookeeper_port}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\n"
        );
        fs::write(&config, text).expect("zookeeper.properties is written");
        let class = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
        self.spawn(libs, &[class, &config.display().to_string()]);
        let text = format!(
            "broker.id=1\nzookeeper.connect=127.0.0.1:{zookeeper_port}\n\
             listeners=PLAINTEXT://127.0.0.1:{port}\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n",
            self.dir.join("data").display()
        );
        fs::write(self.config_path(), text).expect("server.properties is written");
    }

    /// Writes the properties of a KRaft node and formats its storage.
    fn prepare_kraft_node(&self, libs: &Path, port: u16, controller_port: u16) {
        // Versions before 4 do not know share groups.
        let text: String = server_properties(1, port, &[controller_port], &self.dir, "")
            .lines()
            .filter(|l| !l.starts_with("share."))
            .map(|l| format!("{l}\n"))
            .collect();
        fs::write(self.config_path(), text).expect("server.properties is written");
        let run_storage_tool = |args: &[&str]| {
            let out = java_command(libs).arg("kafka.tools.StorageTool").args(args).output();
            let out = out.expect("java runs");
            let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.success(), "StorageTool {args:?}: {stderr}");
            String::from_utf8_lossy(&out.stdout).trim().to_owned()
        };
        // The id is the last line; warnings may precede it.
        let output = run_storage_tool(&["random-uuid"]);
        let id = output.lines().last().unwrap_or_default();
        let config = self.config_path().display().to_string();
        run_storage_tool(&["format", "-t", id, "-c", &config]);
    }

    fn spawn(&mut self, libs: &Path, args: &[&str]) {
        let log = self.dir.join(format!("{}.log", self.processes.len()));
        let log = File::create(log).expect("the log is created");
        let process = java_command(libs)
            .args(args)
            .stdout(log.try_clone().expect("the log's handle is copied"))
            .stderr(log)
            .spawn()
            .expect("java starts");
        self.processes.push(process);
    }

    fn wait_until_ready(&mut self, jars: &Jars) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let dir = self.dir.display();
        while Instant::now() < deadline {
            if TcpStream::connect(&self.bootstrap).is_ok() {
                let args = ["--bootstrap-server", &self.bootstrap, "--list"];
                let out = jars.try_run_tool("org.apache.kafka.tools.TopicCommand", &args);
                if out.status.success() {
                    return;
                }
            }
            for p in &mut self.processes {
                let status = p.try_wait().expect("its status");
                assert!(status.is_none(), "a process has ended; the logs are in {dir}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the node did not start; its logs are in {dir}");
    }
}

fn java_command(libs: &Path) -> Command {
    let mut c = Command::new("java");
    c.args([
        "-XX:TieredStopAtLevel=1",
        "-Xmx512m",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
    ]);
    c.arg("-cp").arg(libs.join("*")).stdin(Stdio::null());
    c
}

impl Drop for LegacyKafka {
    fn drop(&mut self) {
        // The broker before ZooKeeper, on which it depends.
        for p in self.processes.iter_mut().rev() {
            let _ = p.kill();
            let _ = p.wait();
        }
        // A failed test keeps the files for inspection.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
