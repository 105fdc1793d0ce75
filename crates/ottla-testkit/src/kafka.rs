//! Kafka's jars, a single broker, and Kafka's command line tools.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::ports::reserve_ports;
use crate::reader::{ConsumerRecord, parse_records};
use crate::skip::{is_ci, skip_test};

/// The Kafka version that the tests run against.
const KAFKA_VERSION: &str = "4.3.1";
const POM: &str = include_str!("../java/pom.xml");
const READER_SOURCE: &str = include_str!("../java/Reader.java");
const TELEMETRY_RECEIVER_SOURCE: &str = include_str!("../java/TelemetryReceiver.java");

/// Returns the workspace's `target` directory, independent of the current directory.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
    }
}

/// A directory with the jars of a Kafka version, 4.3.1 by default.
#[derive(Debug, Clone)]
pub struct Jars {
    dir: PathBuf,
}

fn can_run(program: &str, arg: &str) -> bool {
    let done = Command::new(program).arg(arg).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|s| s.success())
}

impl Jars {
    /// Finds the jars for a test, or fetches them with Maven the first time.
    ///
    /// Without a JDK or Maven it reports that the test is skipped, and returns `None`.
    ///
    /// # Panics
    /// A JDK or Maven is missing and `CI=true`, or Maven fails.
    pub fn find_or_fetch() -> Option<Jars> {
        match Jars::try_find_or_fetch() {
            Ok(jars) => Some(jars),
            Err(missing) => {
                assert!(!is_ci(), "{missing}");
                skip_test(&missing);
                None
            }
        }
    }

    /// Finds the jars, or fetches them with Maven the first time.
    ///
    /// # Errors
    /// Returns which programs are missing.
    ///
    /// # Panics
    /// Maven fails.
    pub fn try_find_or_fetch() -> Result<Jars, String> {
        let missing: Vec<&str> = [("java", "-version"), ("mvn", "-v")]
            .iter()
            .filter(|(program, arg)| !can_run(program, arg))
            .map(|(program, _)| *program)
            .collect();
        if !missing.is_empty() {
            let missing = missing.join(" and ");
            return Err(format!(
                "a real Kafka needs {missing}: install a JDK 17 and Maven \
                 (Debian: apt-get install openjdk-17-jdk-headless maven)"
            ));
        }
        Ok(Jars { dir: ensure_jars(KAFKA_VERSION) })
    }

    /// Returns the jars of another Kafka version; fetches them the first time.
    ///
    /// # Panics
    /// Maven fails.
    pub fn with_version(&self, version: &str) -> Jars {
        Jars { dir: ensure_jars(version) }
    }

    pub(crate) fn java_command(&self) -> Command {
        let mut c = Command::new("java");
        c.args(["-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]);
        c.arg("-cp").arg(self.dir.join("*")).stdin(Stdio::null());
        c
    }

    /// Runs a Java class, such as one of Kafka's tools.
    ///
    /// # Panics
    /// Java cannot be started.
    pub fn try_run_tool(&self, class: &str, args: &[&str]) -> Output {
        self.java_command().arg(class).args(args).output().expect("java runs")
    }

    /// Returns the command that runs a Java class, for input or for the background.
    pub fn tool_command(&self, class: &str, args: &[&str]) -> Command {
        let mut c = self.java_command();
        c.arg(class).args(args);
        c
    }

    /// Runs a tool that must succeed, and returns its standard output.
    ///
    /// # Panics
    /// The tool fails.
    pub fn run_tool(&self, class: &str, args: &[&str]) -> String {
        let out = self.try_run_tool(class, args);
        let (stdout, stderr) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{class} {args:?}\n{stdout}\n{stderr}");
        stdout.into_owned()
    }

    /// Reads all records of a topic with Java's consumer.
    ///
    /// # Panics
    /// The consumer fails.
    pub fn read_topic(&self, bootstrap: &str, topic: &str) -> Vec<ConsumerRecord> {
        self.read(bootstrap, topic, "read_uncommitted")
    }

    /// Reads the records of a topic that are in no transaction or a committed one, with Java's
    /// consumer. It ends at the first open transaction.
    ///
    /// # Panics
    /// The consumer fails.
    pub fn read_committed(&self, bootstrap: &str, topic: &str) -> Vec<ConsumerRecord> {
        self.read(bootstrap, topic, "read_committed")
    }

    fn read(&self, bootstrap: &str, topic: &str, isolation: &str) -> Vec<ConsumerRecord> {
        let source = self.dir.join("../Reader.java");
        let is_current = || fs::read_to_string(&source).is_ok_and(|text| text == READER_SOURCE);
        if !is_current() {
            let _lock = lock_directory(&self.dir.join(".."));
            if !is_current() {
                fs::write(&source, READER_SOURCE).expect("Reader.java is written");
            }
        }
        let args = [bootstrap, topic, isolation];
        let out = self.java_command().arg(&source).args(args).output().expect("java runs");
        assert!(out.status.success(), "Reader.java: {}", String::from_utf8_lossy(&out.stderr));
        parse_records(&out.stdout).expect("the output contains complete records")
    }

    /// Runs `DumpLogSegments --print-data-log` on all segments of a partition's directory.
    ///
    /// # Panics
    /// The directory cannot be read, or the tool fails.
    pub fn dump_log_segments(&self, partition_dir: &Path) -> String {
        let mut segments: Vec<_> = (fs::read_dir(partition_dir)
            .expect("the directory can be read"))
        .map(|e| e.expect("an entry can be read").path())
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

impl Jars {
    /// Compiles `TelemetryReceiver`, a broker's plug-in that receives client metrics, against these
    /// jars. Returns the directory with its class.
    ///
    /// Without `javac` it reports that the test is skipped, and returns `None`.
    ///
    /// # Panics
    /// `javac` is missing and `CI=true`, or the source is invalid.
    pub fn compile_telemetry_receiver(&self) -> Option<PathBuf> {
        if !can_run("javac", "-version") {
            let missing = "a plug-in of Kafka needs javac: install a JDK 17 \
                           (Debian: apt-get install openjdk-17-jdk-headless)";
            assert!(!is_ci(), "{missing}");
            skip_test(missing);
            return None;
        }
        let jars = self.dir.file_name().expect("it has a name").to_string_lossy();
        let dir = target_dir().join("kafka").join(format!("telemetry-{jars}"));
        fs::create_dir_all(&dir).expect("the directory is created");
        let source = dir.join("TelemetryReceiver.java");
        fs::write(&source, TELEMETRY_RECEIVER_SOURCE).expect("the source is written");
        let out = Command::new("javac")
            .args(["-nowarn", "-cp"])
            .arg(self.dir.join("*"))
            .arg("-d")
            .arg(&dir)
            .arg(&source)
            .output()
            .expect("javac runs");
        assert!(out.status.success(), "javac: {}", String::from_utf8_lossy(&out.stderr));
        Some(fs::canonicalize(dir).expect("the directory exists"))
    }

    /// Returns a class path with these jars and the classes of a directory.
    pub fn class_path_with(&self, dir: &Path) -> String {
        format!("{}:{}", self.dir.join("*").display(), dir.display())
    }
}

/// Returns the directory with the jars of a Kafka version. Fetches them the first time.
pub(crate) fn ensure_jars(version: &str) -> PathBuf {
    let root = target_dir().join("kafka");
    let dir = root.join(format!("libs-{version}"));
    // The stamp is written last: an interrupted fetch is repeated.
    let stamp = root.join(format!("libs-{version}.complete"));
    if !stamp.exists() {
        let _lock = lock_directory(&root);
        if !stamp.exists() {
            fetch_jars(&root, &dir, version);
            fs::write(&stamp, "").expect("the stamp is written");
        }
    }
    dir
}

/// Locks a directory that several test programs fill at the same time. It stays locked until the
/// returned file is dropped.
fn lock_directory(dir: &Path) -> File {
    fs::create_dir_all(dir).expect("the directory is created");
    let lock = File::create(dir.join("lock")).expect("the lock file is created");
    lock.lock().expect("the lock is acquired");
    lock
}

fn fetch_jars(root: &Path, dir: &Path, version: &str) {
    eprintln!("fetching the jars of Kafka {version} with Maven, only this time");
    fs::create_dir_all(dir).expect("the directory is created");
    let dir = fs::canonicalize(dir).expect("the directory exists");
    let pom = root.join(format!("pom-{version}.xml"));
    fs::write(&pom, POM.replace(KAFKA_VERSION, version)).expect("the pom is written");
    let out = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", dir.display()))
        .arg("-DincludeScope=runtime")
        .output()
        .expect("mvn runs");
    assert!(out.status.success(), "mvn: {}", String::from_utf8_lossy(&out.stdout));
}

/// A running broker. Dropping it ends the process.
#[derive(Debug)]
pub struct Kafka {
    process: Child,
    /// The broker's `bootstrap.servers`.
    pub bootstrap: String,
    /// The directory of its files.
    pub dir: PathBuf,
    /// The jars it runs from.
    pub jars: Jars,
}

impl Kafka {
    /// Starts one node and waits until it responds. `extra` contains further lines for
    /// `server.properties`.
    ///
    /// # Panics
    /// The node does not respond within a minute.
    pub fn start(jars: &Jars, extra: &str) -> Kafka {
        Kafka::start_with(jars, |_, _| extra.to_owned(), &[], &[])
    }

    /// Starts one node with further properties and arguments.
    ///
    /// `extra` returns lines for `server.properties`, from the plaintext port and the controller
    /// port. `format_args` are arguments of `StorageTool format`, `vm_args` of `java`.
    ///
    /// # Panics
    /// The node does not respond within a minute.
    pub fn start_with(
        jars: &Jars,
        extra: impl FnOnce(u16, u16) -> String,
        format_args: &[&str],
        vm_args: &[&str],
    ) -> Kafka {
        let [port, controller_port] = reserve_ports();
        let dir = target_dir().join("kafka").join(format!("run-{}-{port}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("the directory is created");
        let config = dir.join("server.properties");
        let extra = extra(port, controller_port);
        fs::write(&config, server_properties(1, port, &[controller_port], &dir, &extra))
            .expect("server.properties is written");
        let config = config.display().to_string();
        let id = jars.run_tool("kafka.tools.StorageTool", &["random-uuid"]).trim().to_owned();
        let format_args = [&["format", "-t", &id, "-c", &config], format_args].concat();
        jars.run_tool("kafka.tools.StorageTool", &format_args);
        let log = File::create(dir.join("server.log")).expect("the log is created");
        let process = jars
            .java_command()
            .args(vm_args)
            .args(["kafka.Kafka", &config])
            .env("KAFKA_HEAP_OPTS", "")
            .stdout(log.try_clone().expect("the log's handle is copied"))
            .stderr(log)
            .spawn()
            .expect("kafka starts");
        let bootstrap = format!("127.0.0.1:{port}");
        let mut kafka = Kafka { process, bootstrap, dir, jars: jars.clone() };
        kafka.wait_until_ready();
        kafka
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if TcpStream::connect(&self.bootstrap).is_ok() {
                let args = ["--bootstrap-server", &self.bootstrap, "--list"];
                let out = self.jars.try_run_tool("org.apache.kafka.tools.TopicCommand", &args);
                if out.status.success() {
                    return;
                }
            }
            let status = self.process.try_wait().expect("its status");
            assert!(status.is_none(), "kafka has ended: {}", self.server_log());
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("kafka did not start: {}", self.server_log());
    }

    /// Returns the broker's log output so far.
    pub fn server_log(&self) -> String {
        fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    /// Creates a topic with one replica.
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

    /// Reads all records of a topic with Java's consumer.
    pub fn read_topic(&self, topic: &str) -> Vec<ConsumerRecord> {
        self.jars.read_topic(&self.bootstrap, topic)
    }

    /// Returns the broker's process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // A failed test keeps the files for inspection.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Returns the `server.properties` of a node that is a broker and a controller.
///
/// Node ids start at 1. `controllers` are the controller ports of all nodes, in the order of ids.
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
    let (voters, controller_port) = (voters.join(","), controllers[node - 1]);
    let replicas = controllers.len();
    let min_isr = replicas.min(2);
    format!(
        "process.roles=broker,controller\nnode.id={node}\ncontroller.quorum.voters={voters}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={data}\n\
         offsets.topic.replication.factor={replicas}\n\
         transaction.state.log.replication.factor={replicas}\n\
         transaction.state.log.min.isr={min_isr}\n\
         share.coordinator.state.topic.replication.factor={replicas}\n\
         share.coordinator.state.topic.min.isr={min_isr}\n\
         group.initial.rebalance.delay.ms=0\n{extra}\n"
    )
}
