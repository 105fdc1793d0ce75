//! `ottla produce`: reads records from files, sends them and prints a summary.
//!
//! [`run`] checks the options, files and settings, starts the embedded broker, and leaves the rest
//! to a [`Session`].

mod session;
mod send_loop;
mod delivery_stats;
mod dry_run;
mod checkpoint;
mod checkpoint_saver;
mod pending_records;
mod progress;
mod record_json;
mod rejected_file;

use std::borrow::Cow;
use std::io::{self, IsTerminal};
use std::path::Path;

use ottla::{Origin, Properties};
use ottla_broker::EmbeddedBroker;

use crate::args::ProduceArgs;
use crate::console::report;
use crate::input::{Input, RecordEnd, RecordReader, start_of};
use crate::metrics_server::MetricsServer;
use crate::schemas::Schemas;
use crate::{CliError, limits, live, settings};
use checkpoint::{Checkpoint, StartPosition};
use delivery_stats::DeliveryStats;
use dry_run::DryRun;
use rejected_file::RejectedFile;
use session::{Session, SessionConfig};

pub(crate) fn run(args: ProduceArgs) -> Result<u8, CliError> {
    settings::check_stdin_has_one_use(&args)?;
    // All options and files are checked before a broker starts or a record is sent.
    let files = if args.files.is_empty() { vec!["-".into()] } else { args.files.clone() };
    let inputs = files.iter().map(|f| Input::check(f)).collect::<Result<Vec<_>, _>>()?;
    if let Some(topic) = &args.topic {
        ottla::tools::validate_topic_name(topic).map_err(|e| CliError::usage(e.to_string()))?;
    }
    settings::warn_deprecated(&args);
    let mut properties = settings::producer_properties(&args)?;
    settings::check_not_transactional(&properties)?;
    let max_request_size = settings::number(&properties, "max.request.size", 1_048_576);
    let mut reader = RecordReader::new(&args, max_request_size as usize)?;
    limits::check_address_space(&properties)?;
    let on_error = OnError::new(&args);
    let schemas = Schemas::new(&args, &properties)?;
    reader.set_json_parts(schemas.json_parts());
    let metrics = args.load.metrics_listen.as_deref().map(MetricsServer::bind).transpose()?;
    check_live(&args, &inputs)?;
    check_output(&args, &inputs)?;
    // Last, so that a wrong option leaves no empty file.
    let rejected = open_rejected_file(&args, on_error, &inputs, reader.unit())?;
    let (checkpoint, start) = open_checkpoint(&args, &properties, &inputs, reader.record_end())?;
    let dry_run = args.load.dry_run.then(|| DryRun::start(&args, &mut properties)).transpose()?;
    if let (Some(dry_run), Some(topic)) = (&dry_run, &args.topic) {
        dry_run.prepare_topic(topic).map_err(CliError::failed)?;
    }
    let (broker, temporary_dir) =
        if dry_run.is_some() { (None, None) } else { start_embedded_broker(&args)? };
    if let Some(broker) = &broker {
        properties
            .set_from("bootstrap.servers", &broker.bootstrap_servers(), &Origin::CommandLine)
            .map_err(|e| CliError::usage(e.to_string()))?;
    }
    // With --verbose the library logs them.
    for notice in properties.notices().iter().filter(|_| !(args.verbose || args.debug)) {
        report!("note: {notice}");
    }
    let temporary_log_dir = temporary_dir.as_ref().map(|t| t.path().to_owned());
    let mut config = SessionConfig::new(&args, &properties, on_error);
    (config.temporary_log_dir, config.start) = (temporary_log_dir, start);
    let stats = DeliveryStats::new(args.json, on_error, rejected, checkpoint.is_some());
    let session = Session::start(config, properties, stats, checkpoint, dry_run)?;
    if let Some(server) = metrics {
        server.start(session.producer.clone())?;
    }
    let _view = args.load.live.then(|| session.start_live_view(&args)).transpose()?;
    let result = session.send_all(&inputs, &mut reader, &schemas);
    let status = session.finish();
    if let (Some(_), Some(dir)) = (&broker, &args.data_dir) {
        report!("the log is in {}", dir.display());
    }
    drop(broker);
    result.map(|()| status)
}

/// Refuses an output that is also an input: the command would read what it writes, without an end.
fn check_output(args: &ProduceArgs, inputs: &[Input]) -> Result<(), CliError> {
    let is_verbose = args.verbose || args.debug;
    for (stream, path, is_used) in [
        ("standard output", "/dev/stdout", args.json),
        ("standard error", "/dev/stderr", is_verbose),
    ] {
        if let Some(input) = inputs.iter().find(|i| is_used && i.is_file(Path::new(path))) {
            let name = input.name();
            return Err(CliError::usage(format!(
                "{stream} goes to the input {name}; redirect it to another file"
            )));
        }
    }
    Ok(())
}

/// Checks that the view has a terminal for itself.
fn check_live(args: &ProduceArgs, inputs: &[Input]) -> Result<(), CliError> {
    if !args.load.live {
        return Ok(());
    }
    if inputs.iter().any(Input::is_terminal) {
        return Err(CliError::usage(
            "--live reads keys from the terminal, which is also the input; name a file, or send \
             the records through a pipe",
        ));
    }
    if args.json && io::stdout().is_terminal() {
        return Err(CliError::usage(
            "--live covers the terminal to which --json prints; redirect standard output",
        ));
    }
    live::check_terminal()
}

/// What to do with a rejected record: the option `--on-error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnError {
    /// Without the option: a text that is no record ends the reading, and a record that is rejected
    /// alone only counts as failed.
    Unset,
    Stop,
    Skip,
    /// Like `Skip`, and the record is written to a file.
    File,
}

impl OnError {
    fn new(args: &ProduceArgs) -> OnError {
        match args.load.on_error.as_deref().map(Path::as_os_str) {
            // A rerun sends the failed record again, so nothing behind it may count as sent.
            None if args.load.checkpoint.is_some() => OnError::Stop,
            None => OnError::Unset,
            Some(text) if text == "stop" => OnError::Stop,
            Some(text) if text == "skip" => OnError::Skip,
            Some(_) => OnError::File,
        }
    }
}

/// Returns the reason of a failure, which may contain a text of the input, at a bounded length.
fn bounded_reason(reason: &str) -> Cow<'_, str> {
    const MAX_CHARS: usize = 2_000;
    start_of(reason, MAX_CHARS)
}

fn open_rejected_file(
    args: &ProduceArgs,
    on_error: OnError,
    inputs: &[Input],
    unit: &'static str,
) -> Result<Option<RejectedFile>, CliError> {
    let path = args.load.on_error.as_deref().filter(|_| on_error == OnError::File);
    let Some(path) = path else { return Ok(None) };
    if inputs.iter().any(|input| input.is_file(path)) {
        let path = path.display();
        return Err(CliError::usage(format!(
            "{path} of --on-error is an input; name another file"
        )));
    }
    RejectedFile::open(path, inputs.iter().map(Input::name).collect(), unit).map(Some)
}

/// Opens the file of `--checkpoint`, and says where the load continues.
fn open_checkpoint(
    args: &ProduceArgs,
    properties: &Properties,
    inputs: &[Input],
    record_end: RecordEnd<'_>,
) -> Result<(Option<Checkpoint>, StartPosition), CliError> {
    let Some(path) = &args.load.checkpoint else { return Ok((None, StartPosition::default())) };
    if properties.get("acks") == Some("0") {
        return Err(CliError::usage("--checkpoint: with acks=0 nothing is acknowledged"));
    }
    let (checkpoint, start, notice) = Checkpoint::open(path, args, inputs, record_end)?;
    if let Some(notice) = notice {
        report!("{notice}");
    }
    Ok((Some(checkpoint), start))
}

/// Starts the broker of `--embedded`. Without `--data-dir` its log is in a temporary directory.
fn start_embedded_broker(
    args: &ProduceArgs,
) -> Result<(Option<EmbeddedBroker>, Option<tempfile::TempDir>), CliError> {
    if !args.embedded {
        return Ok((None, None));
    }
    let no_temporary_dir =
        |e: io::Error| CliError::usage(format!("cannot create a temporary directory: {e}"));
    let temporary_dir = match &args.data_dir {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(no_temporary_dir)?),
    };
    let dir = args.data_dir.as_deref().or(temporary_dir.as_ref().map(tempfile::TempDir::path));
    let mut builder = EmbeddedBroker::builder();
    if let Some(dir) = dir {
        builder = builder.data_dir(dir);
    }
    let broker = builder
        .start()
        .map_err(|e| CliError::usage(format!("the embedded broker did not start: {e}")))?;
    Ok((Some(broker), temporary_dir))
}
