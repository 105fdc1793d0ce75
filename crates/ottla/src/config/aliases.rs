//! Other clients' names: librdkafka's, taken as what they mean; Spring's prefixes; and the settings of
//! consumers, admins, Streams and registries, which are told apart from typing errors.

/// What another name means here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The same as this setting.
    Same(&'static str),
    /// The same as this setting, times 1024.
    Kib(&'static str),
    /// librdkafka's `partitioner`.
    Partitioner,
    /// librdkafka's `compression.level`: the level of whatever codec is chosen.
    Level,
    /// Nothing here.
    Idle,
}

use Meaning::{Idle, Kib, Level, Partitioner, Same};

const ALIASES: &[(&str, Meaning)] = &[
    ("metadata.broker.list", Same("bootstrap.servers")),
    ("queue.buffering.max.ms", Same("linger.ms")),
    ("queue.buffering.max.kbytes", Kib("buffer.memory")),
    ("message.timeout.ms", Same("delivery.timeout.ms")),
    ("message.max.bytes", Same("max.request.size")),
    ("message.send.max.retries", Same("retries")),
    ("request.required.acks", Same("acks")),
    ("compression.codec", Same("compression.type")),
    ("compression.level", Level),
    ("max.in.flight", Same("max.in.flight.requests.per.connection")),
    ("socket.timeout.ms", Same("request.timeout.ms")),
    ("socket.send.buffer.bytes", Same("send.buffer.bytes")),
    ("socket.receive.buffer.bytes", Same("receive.buffer.bytes")),
    ("topic.metadata.refresh.interval.ms", Same("metadata.max.age.ms")),
    ("sasl.mechanisms", Same("sasl.mechanism")),
    ("sasl.oauthbearer.client.id", Same("sasl.oauthbearer.client.credentials.client.id")),
    ("sasl.oauthbearer.client.secret", Same("sasl.oauthbearer.client.credentials.client.secret")),
    ("ssl.ca.location", Same("ssl.truststore.location")),
    ("ssl.ca.pem", Same("ssl.truststore.certificates")),
    ("ssl.certificate.location", Same("ssl.keystore.location")),
    ("ssl.certificate.pem", Same("ssl.keystore.certificate.chain")),
    ("ssl.key.pem", Same("ssl.keystore.key")),
    ("partitioner", Partitioner),
    ("sticky.partitioning.linger.ms", Idle),
    ("queue.buffering.max.messages", Idle),
    ("batch.num.messages", Idle),
    ("topic.metadata.refresh.fast.interval.ms", Idle),
    ("topic.metadata.refresh.sparse", Idle),
    ("socket.keepalive.enable", Idle),
    ("socket.nagle.disable", Idle),
    ("broker.address.family", Idle),
    ("broker.address.ttl", Idle),
    ("broker.version.fallback", Idle),
    ("api.version.request", Idle),
    ("api.version.request.timeout.ms", Idle),
    ("builtin.features", Idle),
    ("api.version.fallback.ms", Idle),
    ("queuing.strategy", Idle),
    ("queue.buffering.backpressure.threshold", Idle),
    ("socket.max.fails", Idle),
    ("socket.blocking.max.ms", Idle),
    ("message.copy.max.bytes", Idle),
    ("ssl.crl.location", Idle),
    ("ssl.curves.list", Idle),
    ("ssl.sigalgs.list", Idle),
    ("sasl.kerberos.principal", Idle),
    ("sasl.kerberos.keytab", Idle),
    ("sasl.oauthbearer.method", Idle),
    ("sasl.oauthbearer.config", Idle),
    ("max.in.flight.requests", Same("max.in.flight.requests.per.connection")),
    ("debug", Idle),
    ("log_level", Idle),
    ("log.connection.close", Idle),
    ("log.queue", Idle),
    ("log.thread.name", Idle),
    ("statistics.interval.ms", Idle),
    ("delivery.report.only.error", Idle),
    ("enable.ssl.certificate.verification", Idle),
];

/// What a name of librdkafka's means.
pub(crate) fn meaning(name: &str) -> Option<&'static Meaning> {
    ALIASES.iter().find(|(n, _)| *n == name).map(|(_, m)| m)
}

/// All of them.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALIASES.iter().map(|(n, _)| *n)
}

/// For the document.
pub(crate) fn table() -> impl Iterator<Item = (&'static str, String)> {
    ALIASES.iter().map(|(n, m)| {
        let text = match m {
            Same(s) => format!("`{s}`"),
            Kib(s) => format!("`{s}`, times 1024"),
            Partitioner => {
                "`murmur2` and `murmur2_random`: the default; others are refused".to_owned()
            }
            Level => "the level of the chosen codec".to_owned(),
            Idle => "nothing".to_owned(),
        };
        (*n, text)
    })
}

/// Settings of consumers, admin clients, Streams, Connect and Schema Registry.
const FOREIGN: &[&str] = &[
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
    "auto.offset.reset",
    "enable.auto.commit",
    "auto.commit.interval.ms",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.records",
    "max.poll.interval.ms",
    "fetch.min.bytes",
    "fetch.max.bytes",
    "fetch.max.wait.ms",
    "max.partition.fetch.bytes",
    "isolation.level",
    "check.crcs",
    "key.deserializer",
    "value.deserializer",
    "partition.assignment.strategy",
    "exclude.internal.topics",
    "allow.auto.create.topics",
    "default.api.timeout.ms",
    "default.key.serde",
    "default.value.serde",
    "application.id",
    "application.server",
    "processing.guarantee",
    "num.stream.threads",
    "state.dir",
    "bootstrap.controllers",
    "basic.auth.credentials.source",
    "basic.auth.user.info",
    "auto.register.schemas",
    "use.latest.version",
    "specific.avro.reader",
    "enable.partition.eof",
    "fetch.wait.max.ms",
    "offset.store.method",
    "queued.min.messages",
    "queued.max.messages.kbytes",
];

/// Whether a name belongs to another client.
pub(crate) fn is_foreign(name: &str) -> bool {
    const PREFIXES: [&str; 9] = [
        "schema.registry.",
        "consumer.",
        "admin.",
        "streams.",
        "main.consumer.",
        "restore.consumer.",
        "spring.",
        "avro.",
        "confluent.",
    ];
    FOREIGN.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p))
}

/// The name inside Spring's: `spring.kafka.producer.batch-size` is `batch.size`. Names of other parts of
/// Spring come back as they are.
pub(crate) fn without_spring(name: &str) -> String {
    for prefix in ["spring.kafka.producer.properties.", "spring.kafka.properties."] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return rest.trim_matches(['[', ']']).to_owned();
        }
    }
    if let Some(rest) = name.strip_prefix("spring.kafka.properties[") {
        return rest.trim_end_matches(']').to_owned();
    }
    for prefix in ["spring.kafka.producer.", "spring.kafka."] {
        if let Some(rest) = name.strip_prefix(prefix) {
            let dotted = rest.replace('-', ".");
            if super::table::find(&dotted).is_some() {
                return dotted;
            }
        }
    }
    name.to_owned()
}
