//! `cargo xtask kafka`: a real Kafka to try things on, and for comparisons of clients.

use std::path::Path;

use ottla_testkit::{Jars, Kafka, KafkaCluster};

/// Without it a node runs with the fast compiler alone, as the tests of one start want it.
const FULL_COMPILER: &str = "-XX:TieredStopAtLevel=4";

#[derive(Debug, PartialEq, Eq)]
struct Options {
    version: String,
    nodes: usize,
    topics: Vec<(String, u32)>,
}

/// Starts a Kafka, prints its `bootstrap.servers`, and stops it at the next line of input.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let options = parse(args)?;
    let jars = Jars::try_find_or_fetch()?.with_version(&options.version);
    match options.nodes {
        1 => {
            let kafka = Kafka::start_with(&jars, |_, _| String::new(), &[], &[FULL_COMPILER]);
            options.topics.iter().for_each(|(name, count)| kafka.create_topic(name, *count, &[]));
            wait_for_enter(&options, &kafka.bootstrap, &[kafka.pid()], &kafka.dir)
        }
        _ => {
            let cluster = KafkaCluster::start_with(&jars, "", &[FULL_COMPILER]);
            options.topics.iter().for_each(|(name, count)| cluster.create_topic(name, *count, &[]));
            wait_for_enter(&options, &cluster.bootstrap, &cluster.pids(), &cluster.dir)
        }
    }
}

fn wait_for_enter(
    options: &Options,
    bootstrap: &str,
    pids: &[u32],
    dir: &Path,
) -> Result<(), String> {
    println!("{bootstrap}");
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    eprintln!(
        "Kafka {} runs as process {} with its files in {}; Enter stops it",
        options.version,
        pids.join(", "),
        dir.display()
    );
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map(|_| ()).map_err(|e| e.to_string())
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options { version: "4.3.1".to_owned(), nodes: 1, topics: Vec::new() };
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("kafka: {name} needs a value"))?;
        match name.as_str() {
            // A part of a file name and of the pom.
            "--version" if value.chars().all(|c| c.is_ascii_digit() || c == '.') => {
                options.version.clone_from(value);
            }
            "--version" => {
                return Err(format!("kafka: --version is a release such as 4.4.0, not {value}"));
            }
            "--nodes" => {
                options.nodes = match value.as_str() {
                    "1" => 1,
                    "3" => 3,
                    _ => return Err(format!("kafka: --nodes is 1 or 3, not {value}")),
                };
            }
            "--topic" => {
                let topic = value.split_once(':').and_then(|(topic, count)| {
                    let count: u32 = count.parse().ok().filter(|&n| n > 0)?;
                    Some((topic.to_owned(), count))
                });
                options.topics.push(topic.ok_or_else(|| {
                    format!("kafka: --topic needs NAME:PARTITIONS, such as bench:12, not {value}")
                })?);
            }
            _ => {
                return Err(format!(
                    "kafka: no option {name}: there are --version, --nodes and --topic"
                ));
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Options, String> {
        parse(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_select_version_nodes_and_topics() {
        let options =
            parse_words("--version 4.4.0 --nodes 3 --topic bench:12 --topic a:1").unwrap();
        assert_eq!(options.version, "4.4.0");
        assert_eq!(options.nodes, 3);
        assert_eq!(options.topics, [("bench".to_owned(), 12), ("a".to_owned(), 1)]);
    }

    #[test]
    fn wrong_options_are_named() {
        for (words, part) in [
            ("--version ../4.4.0", "not ../4.4.0"),
            ("--version trunk", "not trunk"),
            ("--nodes 2", "--nodes is 1 or 3, not 2"),
            ("--topic bench", "not bench"),
            ("--topic bench:0", "not bench:0"),
            ("--topic", "--topic needs a value"),
            ("--node 3", "no option --node"),
        ] {
            let error = parse_words(words).unwrap_err();
            assert!(error.contains(part), "{words}: {error}");
        }
    }
}
