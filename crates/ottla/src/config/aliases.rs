//! Names of settings that are not Kafka's producer's own.
//!
//! librdkafka's names are translated, and Spring's prefixes are removed. The settings of consumers,
//! admin clients, Kafka Streams and Schema Registry are known, so that they are not mistaken for
//! misspelt names. [`Properties::set`](super::Properties::set) uses all three.

/// The meaning of a name of librdkafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AliasTarget {
    /// This setting.
    SameAs(&'static str),
    /// This setting, whose unit is bytes; the alias counts in units of 1024 bytes.
    Kibibytes(&'static str),
    /// librdkafka's `compression.level`: the level of the codec in `compression.type`.
    CompressionLevel,
    /// No effect on this client.
    Ignored,
}

use AliasTarget::{CompressionLevel, Ignored, Kibibytes, SameAs};

const ALIASES: &[(&str, AliasTarget)] = &[
    ("metadata.broker.list", SameAs("bootstrap.servers")),
    ("queue.buffering.max.ms", SameAs("linger.ms")),
    ("queue.buffering.max.kbytes", Kibibytes("buffer.memory")),
    ("message.timeout.ms", SameAs("delivery.timeout.ms")),
    ("message.max.bytes", SameAs("max.request.size")),
    ("message.send.max.retries", SameAs("retries")),
    ("request.required.acks", SameAs("acks")),
    ("compression.codec", SameAs("compression.type")),
    ("compression.level", CompressionLevel),
    ("max.in.flight", SameAs("max.in.flight.requests.per.connection")),
    ("socket.timeout.ms", SameAs("request.timeout.ms")),
    ("socket.send.buffer.bytes", SameAs("send.buffer.bytes")),
    ("socket.receive.buffer.bytes", SameAs("receive.buffer.bytes")),
    ("topic.metadata.refresh.interval.ms", SameAs("metadata.max.age.ms")),
    ("sasl.mechanisms", SameAs("sasl.mechanism")),
    ("sasl.oauthbearer.client.id", SameAs("sasl.oauthbearer.client.credentials.client.id")),
    ("sasl.oauthbearer.client.secret", SameAs("sasl.oauthbearer.client.credentials.client.secret")),
    ("ssl.ca.location", SameAs("ssl.truststore.location")),
    ("ssl.ca.pem", SameAs("ssl.truststore.certificates")),
    ("ssl.certificate.location", SameAs("ssl.keystore.location")),
    ("ssl.certificate.pem", SameAs("ssl.keystore.certificate.chain")),
    ("ssl.key.pem", SameAs("ssl.keystore.key")),
    ("partitioner", SameAs("partitioner.class")),
    ("sticky.partitioning.linger.ms", Ignored),
    ("queue.buffering.max.messages", Ignored),
    ("batch.num.messages", Ignored),
    ("topic.metadata.refresh.fast.interval.ms", Ignored),
    ("topic.metadata.refresh.sparse", Ignored),
    ("socket.nagle.disable", Ignored),
    ("broker.address.ttl", Ignored),
    ("broker.version.fallback", Ignored),
    ("api.version.request", Ignored),
    ("api.version.request.timeout.ms", Ignored),
    ("builtin.features", Ignored),
    ("api.version.fallback.ms", Ignored),
    ("queuing.strategy", Ignored),
    ("queue.buffering.backpressure.threshold", Ignored),
    ("socket.max.fails", Ignored),
    ("socket.blocking.max.ms", Ignored),
    ("message.copy.max.bytes", Ignored),
    ("ssl.crl.location", Ignored),
    ("ssl.curves.list", Ignored),
    ("ssl.sigalgs.list", Ignored),
    ("sasl.kerberos.principal", Ignored),
    ("sasl.kerberos.keytab", Ignored),
    ("sasl.oauthbearer.method", Ignored),
    ("sasl.oauthbearer.config", Ignored),
    ("max.in.flight.requests", SameAs("max.in.flight.requests.per.connection")),
    ("debug", Ignored),
    ("log_level", Ignored),
    ("log.connection.close", Ignored),
    ("log.queue", Ignored),
    ("log.thread.name", Ignored),
    ("statistics.interval.ms", Ignored),
    ("delivery.report.only.error", Ignored),
    ("enable.ssl.certificate.verification", Ignored),
    ("background_event_cb", Ignored),
    ("closesocket_cb", Ignored),
    ("connect_cb", Ignored),
    ("default_topic_conf", Ignored),
    ("dr_cb", Ignored),
    ("dr_msg_cb", Ignored),
    ("enabled_events", Ignored),
    ("error_cb", Ignored),
    ("enable.gapless.guarantee", Ignored),
    ("enable.random.seed", Ignored),
    ("enable.sasl.oauthbearer.unsecure.jwt", Ignored),
    ("https.ca.location", Ignored),
    ("https.ca.pem", Ignored),
    ("interceptors", Ignored),
    ("internal.termination.signal", Ignored),
    ("log_cb", Ignored),
    ("msg_order_cmp", Ignored),
    ("oauthbearer_token_refresh_cb", Ignored),
    ("opaque", Ignored),
    ("open_cb", Ignored),
    ("partitioner_cb", Ignored),
    ("plugin.library.paths", Ignored),
    ("produce.offset.report", Ignored),
    ("reconnect.backoff.jitter.ms", Ignored),
    ("resolve_cb", Ignored),
    ("sasl.oauthbearer.grant.type", Ignored),
    ("sasl.oauthbearer.metadata.authentication.type", Ignored),
    ("socket_cb", Ignored),
    ("ssl.ca.certificate.stores", Ignored),
    ("ssl.certificate.verify_cb", Ignored),
    ("ssl.engine.id", Ignored),
    ("ssl.engine.location", Ignored),
    ("ssl.providers", Ignored),
    ("ssl_ca", Ignored),
    ("ssl_certificate", Ignored),
    ("ssl_engine_callback_data", Ignored),
    ("ssl_key", Ignored),
    ("stats_cb", Ignored),
    ("throttle_cb", Ignored),
    ("topic.blacklist", Ignored),
    ("topic.metadata.propagation.max.ms", Ignored),
    ("topic.metadata.refresh.fast.cnt", Ignored),
    (
        "sasl.oauthbearer.assertion.jwt.template.file",
        SameAs("sasl.oauthbearer.assertion.template.file"),
    ),
    (
        "sasl.oauthbearer.assertion.private.key.pem",
        SameAs("sasl.oauthbearer.assertion.private.key.file"),
    ),
];

/// Returns the meaning of a name of librdkafka.
pub(crate) fn find_alias(name: &str) -> Option<&'static AliasTarget> {
    ALIASES.iter().find(|(n, _)| *n == name).map(|(_, target)| target)
}

/// Returns whether librdkafka counts a setting in units of 1024 bytes.
pub(crate) fn has_kibibytes_alias(setting: &str) -> bool {
    ALIASES.iter().any(|(_, target)| matches!(target, Kibibytes(name) if *name == setting))
}

/// Returns all names of librdkafka that have a meaning here.
pub(crate) fn alias_names() -> impl Iterator<Item = &'static str> {
    ALIASES.iter().map(|(n, _)| *n)
}

/// Returns each name of librdkafka and its meaning in Markdown, for `docs/CONFIGURATION.md`.
#[cfg(test)]
pub(crate) fn documentation_rows() -> impl Iterator<Item = (&'static str, String)> {
    ALIASES.iter().map(|(name, target)| {
        let meaning = match target {
            SameAs(setting) => format!("`{setting}`"),
            Kibibytes(setting) => format!("`{setting}`, in units of 1024 bytes"),
            CompressionLevel => "the level of the codec in `compression.type`".to_owned(),
            Ignored => "no effect".to_owned(),
        };
        (*name, meaning)
    })
}

/// Settings of consumers, admin clients, Kafka Streams, Connect and Schema Registry.
const OTHER_CLIENT_SETTINGS: &[&str] = &[
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
    "specific.avro.reader",
    "enable.partition.eof",
    "fetch.wait.max.ms",
    "offset.store.method",
    "queued.min.messages",
    "queued.max.messages.kbytes",
    "auto.commit.enable",
    "consume.callback.max.messages",
    "consume_cb",
    "coordinator.query.interval.ms",
    "enable.auto.offset.store",
    "fetch.error.backoff.ms",
    "fetch.message.max.bytes",
    "fetch.queue.backoff.ms",
    "group.protocol.type",
    "offset.store.path",
    "offset.store.sync.interval.ms",
    "offset_commit_cb",
    "rebalance_cb",
    "share.acknowledgement.mode",
];

/// Returns whether a name is a setting of another client, such as a consumer.
pub(crate) fn is_other_client_setting(name: &str) -> bool {
    const PREFIXES: [&str; 8] = [
        "consumer.",
        "admin.",
        "streams.",
        "main.consumer.",
        "restore.consumer.",
        "spring.",
        "avro.",
        "confluent.",
    ];
    OTHER_CLIENT_SETTINGS.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p))
}

/// Returns whether a name is a setting, has a meaning in librdkafka or belongs to another client.
/// Prefixes do not count: `OTTLA_CONSUMER_SERVICE_HOST` is no setting of a consumer.
pub(crate) fn is_known_name(name: &str) -> bool {
    super::setting::find_setting(name).is_some()
        || super::providers::is_provider_setting(name)
        || super::schema_registry::is_known_name(name)
        || find_alias(name).is_some()
        || OTHER_CLIENT_SETTINGS.contains(&name)
}

/// Returns whether Kubernetes gives a variable of this name to containers, for a service in their
/// namespace: `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_NAME`, `…_PORT` and
/// `…_PORT_9092_TCP`, which may be followed by `_PROTO`, `_PORT` or `_ADDR`.
pub(crate) fn is_kubernetes_variable(variable: &str) -> bool {
    let (prefix, last) = variable.rsplit_once('_').unwrap_or_default();
    match last {
        "HOST" => prefix.ends_with("_SERVICE"),
        "PORT" => true,
        "PROTO" | "ADDR" => is_kubernetes_variable(prefix),
        "TCP" | "UDP" | "SCTP" => prefix
            .rsplit_once("_PORT_")
            .is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())),
        _ => variable.contains("_SERVICE_PORT_"),
    }
}

/// Removes the prefix of a Spring Boot name: `spring.kafka.producer.batch-size` becomes
/// `batch.size`. Returns all other names unchanged.
pub(crate) fn strip_spring_prefix(name: &str) -> String {
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
            if super::setting::find_setting(&dotted).is_some() {
                return dotted;
            }
        }
    }
    name.to_owned()
}
