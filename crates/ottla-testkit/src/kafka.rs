//! Jars, the broker, and the tools.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::reader::{ConsumerRecord, parse_records};

/// The version that the tests are about.
const KAFKA_VERSION: &str = "4.3.1";
const POM: &str = include_str!("../java/pom.xml");
const READER_SOURCE: &str = include_str!("../java/Reader.java");

/// The workspace's `target` directory, whoever runs.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
    }
}

/// Kafka's jars.
#[derive(Debug, Clone)]
pub struct Jars {
    dir: PathBuf,
}

fn can_run(program: &str, arg: &str) -> bool {
    let done = Command::new(program).arg(arg).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|s| s.success())
}

impl Jars {
    /// The jars, fetched by Maven the first time. `None`, said loudly, where there is no JDK or no Maven;
    /// with `CI=true` that is a failure.
    pub fn find_or_fetch() -> Option<Jars> {
        let missing: Vec<&str> = [("java", "-version"), ("mvn", "-v")]
            .iter()
            .filter(|(program, arg)| !can_run(program, arg))
            .map(|(program, _)| *program)
            .collect();
        if !missing.is_empty() {
            let missing = missing.join(" and ");
            let say = format!(
                "SKIPPED: the real-Kafka tests need {missing}. Install a JDK 17 and Maven \
                 (Debian: apt-get install openjdk-17-jdk-headless maven) and run again."
            );
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{say}");
            eprintln!("\n==== {say} ====\n");
            return None;
        }
        let root = target_dir().join("kafka");
        let (dir, stamp) = (root.join("libs-4.3.1"), root.join("libs-4.3.1.complete"));
        if !stamp.exists() {
            fetch_jars(&root, &dir, KAFKA_VERSION);
            fs::write(&stamp, "").expect("stamp");
        }
        Some(Jars { dir })
    }

    fn java_command(&self) -> Command {
        let mut c = Command::new("java");
        c.args(["-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]);
        c.arg("-cp").arg(self.dir.join("*")).stdin(Stdio::null());
        c
    }

    /// Runs one of Kafka's tools, by its class.
    pub fn try_run_tool(&self, class: &str, args: &[&str]) -> Output {
        self.java_command().arg(class).args(args).output().expect("java runs")
    }

    /// A tool's command, to be given input or run in the background.
    pub fn tool_command(&self, class: &str, args: &[&str]) -> Command {
        let mut c = self.java_command();
        c.arg(class).args(args);
        c
    }

    /// Runs a tool that must succeed; its standard output.
    ///
    /// # Panics
    /// If it does not succeed.
    pub fn run_tool(&self, class: &str, args: &[&str]) -> String {
        let out = self.try_run_tool(class, args);
        let (stdout, stderr) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{class} {args:?}\n{stdout}\n{stderr}");
        stdout.into_owned()
    }

    /// Every record of a topic, read by Java's consumer.
    ///
    /// # Panics
    /// If the consumer fails.
    pub fn read_topic(&self, bootstrap: &str, topic: &str) -> Vec<ConsumerRecord> {
        let source = self.dir.join("../Reader.java");
        if fs::read_to_string(&source).unwrap_or_default() != READER_SOURCE {
            fs::write(&source, READER_SOURCE).expect("reader");
        }
        let out =
            self.java_command().arg(&source).args([bootstrap, topic]).output().expect("java runs");
        assert!(out.status.success(), "reader: {}", String::from_utf8_lossy(&out.stderr));
        parse_records(&out.stdout).expect("the reader writes whole records")
    }

    /// What `DumpLogSegments --print-data-log` says of every segment of a partition's directory.
    pub fn dump_log_segments(&self, partition_dir: &Path) -> String {
        let mut segments: Vec<_> = (fs::read_dir(partition_dir).expect("log dir"))
            .map(|e| e.expect("entry").path())
            .filter(|p| p.extension().is_some_and(|e| e == "log"))
            .map(|p| p.display().to_string())
            .collect();
        segments.sort();
        let files = segments.join(",");
        self.run_tool(
            "org.apache.kafka.tools.DumpLogSegments",
            &["--print-data-log", "--deep-iteration", "--files", &files],
        )
    }
}

/// Fetches the jars of a version into a directory.
pub(crate) fn fetch_jars(root: &Path, dir: &Path, version: &str) {
    eprintln!("fetching Kafka {version}'s jars with Maven, once");
    fs::create_dir_all(dir).expect("jar dir");
    let pom = root.join(format!("pom-{version}.xml"));
    fs::write(&pom, POM.replace(KAFKA_VERSION, version)).expect("pom");
    let out = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", fs::canonicalize(dir).expect("jar dir").display()))
        .arg("-DincludeScope=runtime")
        .output()
        .expect("mvn runs");
    assert!(out.status.success(), "mvn: {}", String::from_utf8_lossy(&out.stdout));
}

/// Ports that were free a moment ago.
pub fn pick_free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    std::array::from_fn(|i| held[i].local_addr().expect("bound").port())
}

/// A running broker.
#[derive(Debug)]
pub struct Kafka {
    process: Child,
    /// Where clients begin.
    pub bootstrap: String,
    /// Its files.
    pub dir: PathBuf,
    /// What it runs from.
    pub jars: Jars,
}

impl Kafka {
    /// Starts one node and waits until it answers. `extra` are further lines of `server.properties`.
    ///
    /// # Panics
    /// If it does not come up within a minute.
    pub fn start(jars: &Jars, extra: &str) -> Kafka {
        Kafka::start_with(jars, |_, _| extra.to_owned(), &[], &[])
    }

    /// The same, where further lines of `server.properties` come from the plaintext port and the controller's, with
    /// further arguments for formatting and for the virtual machine.
    ///
    /// # Panics
    /// If it does not come up within a minute.
    pub fn start_with(
        jars: &Jars,
        extra: impl FnOnce(u16, u16) -> String,
        format: &[&str],
        vm: &[&str],
    ) -> Kafka {
        let [port, controller] = pick_free_ports();
        let dir = target_dir().join("kafka").join(format!("run-{}-{port}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("kafka dir");
        let config = dir.join("server.properties");
        let extra = extra(port, controller);
        fs::write(&config, server_properties(1, port, &[controller], &dir, &extra))
            .expect("server.properties");
        let config = config.display().to_string();
        let id = jars.run_tool("kafka.tools.StorageTool", &["random-uuid"]).trim().to_owned();
        let format = [&["format", "-t", &id, "-c", &config], format].concat();
        jars.run_tool("kafka.tools.StorageTool", &format);
        let log = File::create(dir.join("server.log")).expect("log");
        let process = jars
            .java_command()
            .args(vm)
            .args(["kafka.Kafka", &config])
            .env("KAFKA_HEAP_OPTS", "")
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("kafka starts");
        let bootstrap = format!("127.0.0.1:{port}");
        let mut kafka = Kafka { process, bootstrap, dir, jars: jars.clone() };
        kafka.wait_until_ready();
        kafka
    }

    fn wait_until_ready(&mut self) {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            if TcpStream::connect(&self.bootstrap).is_ok() {
                let list = ["--bootstrap-server", &self.bootstrap, "--list"];
                if self
                    .jars
                    .try_run_tool("org.apache.kafka.tools.TopicCommand", &list)
                    .status
                    .success()
                {
                    return;
                }
            }
            let ended = self.process.try_wait().expect("its state");
            assert!(ended.is_none(), "kafka ended: {}", self.server_log());
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("kafka did not come up: {}", self.server_log());
    }

    /// Its own words.
    pub fn server_log(&self) -> String {
        fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    /// Makes a topic.
    pub fn create_topic(&self, name: &str, partitions: u32, configs: &[&str]) {
        let partitions = partitions.to_string();
        let mut args = vec![
            "--bootstrap-server",
            &self.bootstrap,
            "--create",
            "--topic",
            name,
            "--partitions",
            &partitions,
        ];
        for c in configs {
            args.extend(["--config", c]);
        }
        self.jars.run_tool("org.apache.kafka.tools.TopicCommand", &args);
    }

    /// Every record of a topic, read by Java's consumer.
    pub fn read_topic(&self, topic: &str) -> Vec<ConsumerRecord> {
        self.jars.read_topic(&self.bootstrap, topic)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// What a node is started with; its id is also its place among the controllers, from 1.
pub(crate) fn server_properties(
    node: usize,
    port: u16,
    controllers: &[u16],
    dir: &Path,
    extra: &str,
) -> String {
    let data = dir.join("data").display().to_string();
    let voters: Vec<String> =
        (1..).zip(controllers).map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
    let (voters, controller, n) = (voters.join(","), controllers[node - 1], controllers.len());
    let min = n.min(2);
    format!(
        "process.roles=broker,controller\nnode.id={node}\ncontroller.quorum.voters={voters}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\nlog.dirs={data}\n\
         offsets.topic.replication.factor={n}\ntransaction.state.log.replication.factor={n}\n\
         transaction.state.log.min.isr={min}\nshare.coordinator.state.topic.replication.factor={n}\n\
         share.coordinator.state.topic.min.isr={min}\ngroup.initial.rebalance.delay.ms=0\n{extra}\n"
    )
}
