//! One node of another version of Kafka, from its own jars; with ZooKeeper before it where it needs that.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::kafka::{Jars, fetch_jars, pick_free_ports, server_properties, target_dir};

/// A node of this version. Dropping it ends its processes.
#[derive(Debug)]
pub struct LegacyKafka {
    processes: Vec<Child>,
    /// Where clients begin.
    pub bootstrap: String,
    dir: PathBuf,
}

impl LegacyKafka {
    /// Starts it, and waits until it answers the tools of `jars`.
    ///
    /// # Panics
    /// If it does not come up within a minute.
    pub fn start(jars: &Jars, version: &str) -> LegacyKafka {
        let root = target_dir().join("kafka");
        let (libs, stamp) =
            (root.join(format!("libs-{version}")), root.join(format!("libs-{version}.complete")));
        if !stamp.exists() {
            fetch_jars(&root, &libs, version);
            fs::write(&stamp, "").expect("stamp");
        }
        let [port, controller] = pick_free_ports();
        let dir = root.join(format!("old-{version}-{}-{port}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        let bootstrap = format!("127.0.0.1:{port}");
        let mut kafka = LegacyKafka { processes: Vec::new(), bootstrap, dir: dir.clone() };
        let config = dir.join("server.properties");
        let path = config.display().to_string();
        if version.starts_with("2.") {
            let zoo = dir.join("zoo.properties");
            let data = dir.join("zookeeper").display().to_string();
            let text = format!(
                "dataDir={data}\nclientPort={controller}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n"
            );
            fs::write(&zoo, text).expect("zoo.properties");
            let main = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
            kafka.spawn(&libs, &[main, &zoo.display().to_string()]);
            let text = format!(
                "broker.id=1\nzookeeper.connect=127.0.0.1:{controller}\nlisteners=PLAINTEXT://127.0.0.1:{port}\n\
                 log.dirs={}\noffsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
                 transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n",
                dir.join("data").display()
            );
            fs::write(&config, text).expect("server.properties");
        } else {
            // What is not known there yet is left out.
            let text: String = server_properties(1, port, &[controller], &dir, "")
                .lines()
                .filter(|l| !l.starts_with("share."))
                .map(|l| format!("{l}\n"))
                .collect();
            fs::write(&config, text).expect("server.properties");
            let tool = |args: &[&str]| {
                let out = java_command(&libs).arg("kafka.tools.StorageTool").args(args).output();
                let out = out.expect("java runs");
                let said = String::from_utf8_lossy(&out.stderr).into_owned();
                assert!(out.status.success(), "{args:?}: {said}");
                String::from_utf8_lossy(&out.stdout).trim().to_owned()
            };
            let id = tool(&["random-uuid"]);
            let id = id.lines().last().unwrap_or_default().to_owned();
            tool(&["format", "-t", &id, "-c", &path]);
        }
        kafka.spawn(&libs, &["kafka.Kafka", &path]);
        kafka.wait_until_ready(jars);
        kafka
    }

    fn spawn(&mut self, libs: &Path, args: &[&str]) {
        let log = self.dir.join(format!("{}.log", self.processes.len()));
        let log = File::create(log).expect("log");
        let process = java_command(libs)
            .args(args)
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("java starts");
        self.processes.push(process);
    }

    fn wait_until_ready(&mut self, jars: &Jars) {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            if TcpStream::connect(&self.bootstrap).is_ok() {
                let list = ["--bootstrap-server", &self.bootstrap, "--list"];
                if jars.try_run_tool("org.apache.kafka.tools.TopicCommand", &list).status.success()
                {
                    return;
                }
            }
            for p in &mut self.processes {
                let ended = p.try_wait().expect("its state");
                assert!(ended.is_none(), "it ended; its logs are in {}", self.dir.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("it did not come up; its logs are in {}", self.dir.display());
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
        for p in self.processes.iter_mut().rev() {
            let _ = p.kill();
            let _ = p.wait();
        }
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
