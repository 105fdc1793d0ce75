//! `ottla broker`: runs the embedded broker until a signal arrives.

use std::io;

use ottla_broker::EmbeddedBroker;

use crate::args::BrokerArgs;
use crate::console::{print_line, report};
use crate::{CliError, OK, signals};

pub(crate) fn run(args: BrokerArgs) -> Result<u8, CliError> {
    let mut signals = signals::install()?;
    let mut builder = EmbeddedBroker::builder()
        .listen(&args.listen)
        .node_count(args.nodes)
        .transaction_version(args.transaction_version);
    if let Some(dir) = &args.data_dir {
        builder = builder.data_dir(dir);
    }
    if let Some(advertise) = &args.advertise {
        let address = advertise
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        let (host, port) = address
            .ok_or_else(|| CliError::usage(format!("--advertise {advertise} is not host:port")))?;
        builder = builder.advertised_listener(host.trim_matches(['[', ']']), port);
    }
    for topic in &args.topic {
        let (name, partitions) = match topic.split_once(':') {
            Some((name, n)) => (name, n.parse::<i32>().ok().filter(|n| *n > 0)),
            None => (topic.as_str(), Some(1)),
        };
        let partitions = partitions
            .ok_or_else(|| CliError::usage(format!("--topic {topic} is not NAME:PARTITIONS")))?;
        builder = builder.topic(name, partitions);
    }
    let broker = builder.start().map_err(|e| {
        CliError::usage(format!("the broker did not start on {}: {e}", args.listen))
    })?;
    // Scripts read the address from the first line.
    match print_line!("{}", broker.bootstrap_servers()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            report!("cannot write the address to standard output: {e}; the broker runs");
        }
        _ => {}
    }
    signals.forever().next();
    drop(broker);
    Ok(OK)
}
