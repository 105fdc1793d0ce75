//! The table of all settings: support, name, type, default and description.
//!
//! Parsing, defaults, the suggestion for a misspelt name and `docs/CONFIGURATION.md` come from it.
//! To add a setting, add a row to `settings!`. For a supported one, also add a field to the
//! settings of the part that uses it (`*_settings.rs`, `security.rs`). Then run `cargo xtask docs`.

use super::choices::{
    Acks, AddressFamily, ClientDnsLookup, MetadataRecoveryStrategy, SecurityProtocol,
};
use super::setting::Support::{Ignored, Supported, Unsupported};
use super::setting::Type::{Bool, Choice, Double, Int, List, Long, Millis, Password, Text};
use super::setting::{INT_MAX, Setting};

// Descriptions that several rows share. Each one also follows the name of the setting in a message:
// "NAME has no effect: DESCRIPTION" and "NAME is not supported: DESCRIPTION".
const JAVA_CLASS: &str = "A Java class; this client cannot run it.";
const JAVA_RUNTIME: &str = "A part of the Java runtime; this client does not use it.";
const NO_KERBEROS: &str = "This client does not support Kerberos.";
const NO_ASSERTIONS: &str = "This client does not support assertions (RFC 7523); \
    use client credentials or a token provider.";
const BROKER_VALIDATES: &str = "The broker validates tokens, not the client.";
const SERIALIZER: &str =
    "A Java class. Records hold bytes in this client; a `TypedProducer` takes a `Serializer`.";
const CONTENT_DECIDES: &str =
    "The value must be one of these, but the content of the file decides the format.";

macro_rules! settings {
    ($($support:ident $name:literal, $value_type:expr, $default:expr, $documentation:expr;)*) => {
        pub(super) const SETTINGS: &[Setting] = &[
            $( Setting {
                name: $name,
                value_type: $value_type,
                default: $default,
                support: $support,
                documentation: $documentation,
            }, )*
        ];
    };
}

// Names, types, defaults and ranges are those of `ProducerConfig` in Kafka 4.3, in Kafka's order of
// importance; only the default of `send.buffer.bytes` differs. A default that Kafka computes or
// does not have is `None`.
settings! {
    Supported "bootstrap.servers", List, None,
        "The brokers that the client connects to first, as `host:port`, separated by commas. The \
         client learns all other brokers from their metadata. Required.";
    Supported "acks", Choice(Acks::WORDS), Some("all"),
        "Which replicas must have a record before the broker acknowledges it: `all` in-sync \
         replicas (also written `-1`), the leader only (`1`), or none (`0`: a record counts as \
         delivered once the socket has taken it).";
    Supported "batch.size", Int(0, INT_MAX), Some("16384"),
        "Largest size of a batch in bytes. Records of one partition collect in a batch until it is \
         full or `linger.ms` has passed. 0 sends each record in its own batch.";
    Supported "buffer.memory", Long(0), Some("33554432"),
        "Bytes of memory for all records that are not yet acknowledged. When it is used up, `send` \
         waits for at most `max.block.ms`. If it is smaller than two times `batch.size` for each \
         active partition, batches begin with smaller buffers and grow.";
    Supported "client.id", Text, Some(""),
        "The name of this client in the brokers' logs, metrics and quotas. When empty, the client \
         uses `producer-1`, `producer-2` and so on; with `transactional.id`, `producer-` and that \
         id.";
    Supported "client.dns.lookup", Choice(ClientDnsLookup::WORDS), Some("use_all_dns_ips"),
        "The client tries all addresses of a host name one after the other (KIP-602). With \
         `resolve_canonical_bootstrap_servers_only` it replaces each bootstrap server by the \
         canonical names of its addresses (reverse lookup, KIP-235), and TLS verifies these names.";
    Supported "compression.type", Choice(&["none", "gzip", "snappy", "lz4", "zstd"]), Some("none"),
        "The codec that compresses batches. `none` sends them uncompressed.";
    Supported "compression.gzip.level", Int(-1, 9), Some("-1"),
        "The gzip level: 1 (fastest) to 9 (smallest output). -1 uses the default of the library. 0 \
         is not valid.";
    Supported "compression.lz4.level", Int(1, 17), Some("9"),
        "The lz4 level. 9 selects the fast encoder. Any other level needs a build with the feature \
         `lz4-hc`.";
    Supported "compression.zstd.level", Int(-131_072, 22), Some("3"),
        "The zstd level: a negative number is faster, a larger one gives smaller output. Levels \
         outside -7 to 4 need a build with the feature `zstd-c`.";
    Supported "connections.max.idle.ms", Long(i64::MIN), Some("540000"),
        "Milliseconds after which an unused connection is closed. 0, librdkafka's default, or a \
         negative value keeps idle connections open.";
    Supported "delivery.timeout.ms", Int(0, INT_MAX), Some("120000"),
        "Milliseconds from the first record of a batch until the batch must be acknowledged; then \
         its records fail. Must be at least `linger.ms` + `request.timeout.ms`; a time of these \
         two that is not set becomes shorter to fit, and so does `socket.timeout.ms=60000`, \
         librdkafka's default.";
    Supported "enable.idempotence", Bool, Some("true"),
        "With `true`, the log holds each record once and in order, even when the client sends a \
         batch again (KIP-98). Needs `acks=all`, `retries` above 0 and at most 5 requests in \
         flight. If it is not set and `acks` or `retries` conflict with it, it is off, and a \
         notice says so.";
    Supported "linger.ms", Millis, Some("5"),
        "Milliseconds that a batch waits for more records before the client sends it. 0 sends a \
         batch as soon as its broker can take a request.";
    Supported "max.block.ms", Millis, Some("60000"),
        "Milliseconds that `send` and `partitions_for` may wait for metadata and memory together, \
         and that each transactional call may wait.";
    Supported "max.in.flight.requests.per.connection", Int(1, INT_MAX), Some("5"),
        "Largest number of requests without a response on one connection. Above 1 and without \
         idempotence, a retried batch may end up behind later ones. librdkafka's default, 1000000, \
         means 5 with idempotence.";
    Supported "max.request.size", Int(0, INT_MAX), Some("1048576"),
        "Largest size in bytes of a produce request, and of one record before compression.";
    Supported "receive.message.max.bytes", Int(1000, INT_MAX), Some("100000000"),
        "Largest size of a response in bytes. A longer response closes its connection. (A setting \
         of librdkafka; Java's producer has none.)";
    Supported "metadata.max.age.ms", Long(0), Some("300000"),
        "Milliseconds after which the client requests metadata again, even if nothing has changed.";
    Supported "metadata.max.idle.ms", Long(5000), Some("300000"),
        "Milliseconds after which the client forgets the metadata of a topic to which it no longer \
         sends.";
    Supported "metadata.recovery.strategy", Choice(MetadataRecoveryStrategy::WORDS),
        Some("rebootstrap"),
        "`rebootstrap`: when no known broker is reachable, the client connects to the bootstrap \
         servers again (KIP-899). `none`: it only tries the brokers that it knows.";
    Supported "metadata.cluster.check.enable", Bool, Some("true"),
        "With `true`, the client names the cluster and the node that it expects when it connects, \
         and connects to the bootstrap servers again if the address leads to another one \
         (KIP-1242; brokers from Kafka 4.4 on). Without effect if `metadata.recovery.strategy` is \
         `none`.";
    Supported "metadata.recovery.rebootstrap.trigger.ms", Long(0), Some("300000"),
        "Milliseconds without a metadata response after which the client connects to the bootstrap \
         servers again (KIP-1102).";
    Supported "partitioner.ignore.keys", Bool, Some("false"),
        "With `true`, the partition of a record does not depend on its key.";
    Supported "partitioner.class", Text, None,
        "When not set, the key decides the partition, and records without a key stay with one \
         partition until a batch is full (KIP-794). `RoundRobinPartitioner` sends each record to \
         the next partition, `UniformStickyPartitioner` ignores keys; Kafka's package name may \
         precede them. librdkafka's partitioners assign keys to the same partitions as librdkafka: \
         `consistent_random` (its default), `consistent`, `murmur2_random`, `murmur2`, \
         `fnv1a_random`, `fnv1a` and `random`.";
    Supported "receive.buffer.bytes", Int(-1, INT_MAX), Some("32768"),
        "The receive buffer of a socket in bytes (SO_RCVBUF). -1 uses the default of the operating \
         system.";
    Supported "send.buffer.bytes", Int(-1, INT_MAX), Some("-1"),
        "The send buffer of a socket in bytes (SO_SNDBUF): what the operating system keeps of a \
         connection until the broker's system has acknowledged it. -1 uses the default of the \
         operating system; Linux then lets the buffer grow with the connection, by default to 4 \
         MB. Linux doubles a size that is set. With `acks=0` the records in this buffer count as \
         delivered, and are lost with the connection. (Java's default is 131072. It slows large \
         requests down, and connections to distant brokers.)";
    Supported "socket.keepalive.enable", Bool, Some("true"),
        "With `true`, the operating system probes idle connections (SO_KEEPALIVE), as in Java's \
         client. (A setting of librdkafka, where the default is `false`.)";
    Supported "broker.address.family", Choice(AddressFamily::WORDS), Some("any"),
        "The addresses that the client connects to: `v4`, `v6`, or both with `any`. (A \
         setting of librdkafka.)";
    Supported "reconnect.backoff.ms", Long(0), Some("50"),
        "Milliseconds before the client connects again to a broker after the first failure. The \
         time doubles with each further failure. If only this setting is set, it is the maximum as \
         well.";
    Supported "reconnect.backoff.max.ms", Long(0), Some("1000"),
        "Largest number of milliseconds between two attempts to connect to the same broker.";
    Supported "request.timeout.ms", Int(0, INT_MAX), Some("30000"),
        "Milliseconds that the client waits for the response to a request. Then it closes the \
         connection and retries the requests on it.";
    Supported "retries", Int(0, INT_MAX), Some("2147483647"),
        "How often the client sends a batch again after a retriable error. Leave it at the default \
         and limit the time with `delivery.timeout.ms` instead.";
    Supported "retry.backoff.ms", Millis, Some("100"),
        "Milliseconds before the first retry of a request. The time doubles with each further \
         failure. A value above the default of `retry.backoff.max.ms` raises the maximum too, if \
         the maximum is not set.";
    Supported "retry.backoff.max.ms", Millis, Some("1000"),
        "Largest number of milliseconds between two attempts of the same request (KIP-580).";
    Supported "socket.connection.setup.timeout.ms", Long(0), Some("10000"),
        "Milliseconds that a connection may take to be established, on the first attempt. The time \
         doubles with each further failure (KIP-601).";
    Supported "socket.connection.setup.timeout.max.ms", Long(0), Some("30000"),
        "Largest number of milliseconds that a connection may take to be established.";
    Supported "security.protocol",
        Choice(SecurityProtocol::WORDS),
        Some("PLAINTEXT"),
        "The protocol of the brokers' listener: `PLAINTEXT`, TLS (`SSL`), SASL without encryption, \
         or SASL over TLS. Case does not matter. TLS needs a build with one of the features \
         `tls-graviola`, `tls-ring` and `tls-aws-lc-rs`.";

    Supported "transactional.id", Text, None,
        "Makes the producer transactional (KIP-98). The cluster keeps the transactions of each id: \
         a new producer with the same id ends those of the one before it, and fences it. It must \
         stay the same over restarts, and no two running producers may share it. Needs \
         `enable.idempotence` and Kafka 2.5. Records are accepted only in a transaction.";
    Unsupported "transaction.two.phase.commit.enable", Bool, Some("false"),
        "Two-phase commits (KIP-939) need version 6 of InitProducerId. Kafka 4.4 marks it as \
         unstable, so brokers do not offer it, and Java's producer has no call that prepares a \
         transaction.";
    Supported "partitioner.availability.timeout.ms", Long(0), Some("0"),
        "Milliseconds after which records without a key avoid the partitions of a broker that \
         takes no batches. 0 never avoids a broker. Needs \
         `partitioner.adaptive.partitioning.enable`.";
    Supported "partitioner.rack.aware", Bool, Some("false"),
        "With `true`, records without a key go to partitions whose leader is in `client.rack`, as \
         long as there is one (KIP-1123).";
    Unsupported "interceptor.classes", List, Some(""),
        "Java classes do not run in this client; give an `Interceptor` to the builder.";
    Supported "config.providers", List, Some(""),
        "Names of the providers that values may refer to (KIP-297), as in `${file:PATH:KEY}`, \
         `${directory:PATH:FILE}` and `${env:NAME}`. Each name has a `config.providers.NAME.class` \
         (Kafka's `FileConfigProvider`, `DirectoryConfigProvider` or `EnvVarConfigProvider`) and \
         may have `param.allowed.paths` or `param.allowlist.pattern`. When not set, the names \
         `file`, `directory` and `env` exist. Set it before the values that refer to it; within \
         one file the order does not matter.";
    Unsupported "bootstrap.resolve.timeout.ms", Long(0), Some("0"),
        "The client resolves the bootstrap names again until it succeeds, without a time limit.";

    Ignored "key.serializer", Text, None, SERIALIZER;
    Ignored "value.serializer", Text, None, SERIALIZER;
    Supported "partitioner.adaptive.partitioning.enable", Bool, Some("true"),
        "With `true`, records without a key go more often to partitions with shorter queues \
         (KIP-794). With `false`, all partitions are chosen equally often.";
    Supported "batch.size.max", Int(0, INT_MAX), Some("262144"),
        "A setting of Ottla alone. Largest size in bytes of a batch that waits: because its broker \
         has `max.in.flight.requests.per.connection` requests in flight or is not connected, or \
         because two batches of its partition wait before it. Such a batch takes records beyond \
         `batch.size`, since a request carries only one batch of a partition. With compression, \
         with 0, or with a value below twice `batch.size`, batches keep to `batch.size`.";
    Supported "linger.awaited", Bool, Some("true"),
        "A setting of Ottla alone. With `true`, a batch is sent without `linger.ms` as soon as a \
         caller waits for one of its records (`Delivery::wait`, or a poll of its future) and no \
         batch of its partition is in flight. With `false`, such a batch lingers like any other.";
    Ignored "buffer.memory.allocation.strategy", Choice(&["full", "incremental"]), Some("full"),
        "Internal to Java's producer (KIP-1332). In this client batches grow by themselves when \
         many partitions share `buffer.memory`.";
    Supported "client.rack", Text, Some(""),
        "The rack of this client, for `partitioner.rack.aware`. Any name that the brokers use in \
         `broker.rack`.";
    Supported "enable.metrics.push", Bool, Some("true"),
        "With `true`, the producer sends its metrics to a broker, as often as the cluster's \
         administrator has subscribed to them (KIP-714). Brokers without a receiver of client \
         metrics get none.";
    Ignored "metric.reporters", List, Some("org.apache.kafka.common.metrics.JmxReporter"),
        "Java classes; read metrics with `Producer::metrics`.";
    Ignored "auto.include.jmx.reporter", Bool, Some("true"),
        "This client has no JMX; read metrics with `Producer::metrics`.";
    Supported "metrics.num.samples", Int(1, INT_MAX), Some("2"),
        "Number of sample windows from which rates, averages and maxima are computed.";
    Ignored "metrics.recording.level", Choice(&["INFO", "DEBUG", "TRACE"]), Some("INFO"),
        "This client records the metrics of level INFO only.";
    Supported "metrics.sample.window.ms", Long(0), Some("30000"),
        "Length of a sample window in milliseconds.";
    Ignored "security.providers", Text, None, JAVA_CLASS;
    Supported "transaction.timeout.ms", Int(0, INT_MAX), Some("60000"),
        "Milliseconds after which the cluster aborts a transaction that was neither committed nor \
         aborted. The brokers reject a value above their `transaction.max.timeout.ms`.";

    Supported "ssl.protocol", Text, Some("TLSv1.3"),
        "The highest TLS version: `TLSv1.3` (allows each version in `ssl.enabled.protocols`) or \
         `TLSv1.2` (allows nothing newer).";
    Supported "ssl.enabled.protocols", List, Some("TLSv1.2,TLSv1.3"),
        "The TLS versions that the client may use: `TLSv1.2`, `TLSv1.3` or both. Older versions \
         are an error.";
    Supported "ssl.cipher.suites", List, Some(""),
        "The cipher suites that the client may use, by their IANA names, separated by commas. \
         Empty allows all suites of the TLS provider.";
    Supported "ssl.endpoint.identification.algorithm", Text, Some("https"),
        "`https`: the broker's certificate must name the host that the client connects to. Empty: \
         any host name is accepted, but the certificate must still be trusted.";
    Supported "ssl.keystore.location", Text, None,
        "File with the client's certificate and key, for brokers that require one: PEM, PKCS#12 or \
         JKS. With `ssl.key.location`, it holds only the certificates, as PEM or DER. The content \
         decides the format. The client reads the file again when it changes.";
    Supported "ssl.keystore.password", Password, None,
        "The password of `ssl.keystore.location`.";
    Supported "ssl.keystore.certificate.chain", Password, None,
        "The client's certificate, followed by its intermediate certificates, as PEM text. Use it \
         with `ssl.keystore.key` and without `ssl.keystore.location`.";
    Supported "ssl.keystore.key", Password, None,
        "The client's private key as PEM text: PKCS#8 (may be encrypted), PKCS#1 or SEC 1.";
    Supported "ssl.keystore.type", Choice(&["JKS", "PKCS12", "PEM"]), Some("JKS"), CONTENT_DECIDES;
    Supported "ssl.key.password", Password, None,
        "The password of an encrypted private key.";
    Supported "ssl.truststore.location", Text, None,
        "File with the trusted certificates: PEM, DER, PKCS#12 or JKS. The content decides the \
         format. A directory trusts the certificates of all its PEM and DER files. The client \
         reads the files again when they change. When not set, or set to `probe`, the client \
         trusts the certificates of the operating system.";
    Supported "ssl.truststore.password", Password, None,
        "The password of `ssl.truststore.location`. A PKCS#12 file needs it; the digest of a JKS \
         file is checked only with it.";
    Supported "ssl.truststore.certificates", Password, None,
        "The trusted certificates as PEM text. Use it without `ssl.truststore.location`.";
    Supported "ssl.truststore.type", Choice(&["JKS", "PKCS12", "PEM"]), Some("JKS"),
        CONTENT_DECIDES;
    Supported "ssl.key.location", Text, None,
        "File with the client's private key as PEM or DER (PKCS#8, which may be encrypted, PKCS#1 \
         or SEC 1), if `ssl.keystore.location` holds only the certificates. (A setting of \
         librdkafka.)";
    Ignored "ssl.provider", Text, None, JAVA_RUNTIME;
    Ignored "ssl.keymanager.algorithm", Text, Some("SunX509"), JAVA_RUNTIME;
    Ignored "ssl.trustmanager.algorithm", Text, Some("PKIX"), JAVA_RUNTIME;
    Ignored "ssl.engine.factory.class", Text, None, JAVA_CLASS;
    Ignored "ssl.secure.random.implementation", Text, None, JAVA_RUNTIME;

    Supported "sasl.mechanism", Text, Some("GSSAPI"),
        "`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`. With SASL it must be set: \
         this client does not support `GSSAPI` (Kerberos), which is Kafka's default.";
    Supported "sasl.username", Text, None,
        "The user name for PLAIN and SCRAM. It takes precedence over `sasl.jaas.config`. (A \
         setting of librdkafka.)";
    Supported "sasl.password", Password, None,
        "The password for PLAIN and SCRAM. It takes precedence over `sasl.jaas.config`. (A setting \
         of librdkafka.)";
    Supported "sasl.jaas.config", Password, None,
        "The login in Java's form: a login module, `required`, and options such as \
         `username=\"…\" password=\"…\";`.";
    Ignored "sasl.client.callback.handler.class", Text, None, JAVA_CLASS;
    Ignored "sasl.login.class", Text, None, JAVA_CLASS;
    Ignored "sasl.login.callback.handler.class", Text, None, JAVA_CLASS;
    Ignored "sasl.kerberos.service.name", Text, None, NO_KERBEROS;
    Ignored "sasl.kerberos.kinit.cmd", Text, Some("/usr/bin/kinit"), NO_KERBEROS;
    Ignored "sasl.kerberos.min.time.before.relogin", Long(0), Some("60000"), NO_KERBEROS;
    Ignored "sasl.kerberos.ticket.renew.jitter", Double(0.0, 1.0), Some("0.05"), NO_KERBEROS;
    Ignored "sasl.kerberos.ticket.renew.window.factor", Double(0.0, 1.0), Some("0.8"), NO_KERBEROS;
    Supported "sasl.login.connect.timeout.ms", Int(0, INT_MAX), None,
        "Milliseconds for the connection to the token endpoint. 0 means no limit. When not set, \
         the limit is 10 seconds.";
    Supported "sasl.login.read.timeout.ms", Int(0, INT_MAX), None,
        "Milliseconds that the client waits for the response of the token endpoint. 0 means no \
         limit. When not set, the limit is 10 seconds.";
    Supported "sasl.login.refresh.buffer.seconds", Int(0, 3600), Some("300"),
        "The client fetches a new OAUTHBEARER token at least this number of seconds before the old \
         one expires.";
    Supported "sasl.login.refresh.min.period.seconds", Int(0, 900), Some("60"),
        "The client waits at least this number of seconds before it replaces a token. If this \
         conflicts with `sasl.login.refresh.buffer.seconds`, both are ignored.";
    Supported "sasl.login.refresh.window.factor", Double(0.5, 1.0), Some("0.8"),
        "The fraction of a token's lifetime after which the client fetches a new token.";
    Supported "sasl.login.refresh.window.jitter", Double(0.0, 0.25), Some("0.05"),
        "The largest random fraction of a token's lifetime that is added to \
         `sasl.login.refresh.window.factor`.";
    Supported "sasl.login.retry.backoff.ms", Long(0), Some("100"),
        "Milliseconds before the first retry of a failed token request. The time doubles with each \
         further failure.";
    Supported "sasl.login.retry.backoff.max.ms", Long(0), Some("10000"),
        "Largest number of milliseconds between two token requests.";
    Supported "sasl.oauthbearer.token.endpoint.url", Text, None,
        "The `http` or `https` URL of the token endpoint. The client fetches tokens there with \
         client credentials (OpenID Connect, KIP-768). Needs a build with the feature `oidc`.";
    Supported "sasl.oauthbearer.scope", Text, None,
        "The scope that the client requests from the token endpoint. When not set, the request has \
         no scope.";
    Supported "sasl.oauthbearer.extensions", List, Some(""),
        "SASL extensions that the client sends with an OAUTHBEARER token (KIP-342), as \
         `name=value`, separated by commas; `extension_name` in `sasl.jaas.config` means the same. \
         (A setting of librdkafka.)";
    Supported "sasl.oauthbearer.client.credentials.client.id", Text, None,
        "The client id for the token endpoint.";
    Supported "sasl.oauthbearer.client.credentials.client.secret", Password, None,
        "The client secret for the token endpoint.";
    Ignored "sasl.oauthbearer.jwks.endpoint.url", Text, None, BROKER_VALIDATES;
    Unsupported "sasl.oauthbearer.assertion.file", Text, None, NO_ASSERTIONS;
    Unsupported "sasl.oauthbearer.assertion.private.key.file", Text, None, NO_ASSERTIONS;
    Unsupported "sasl.oauthbearer.assertion.private.key.passphrase", Password, None, NO_ASSERTIONS;
    Unsupported "sasl.oauthbearer.assertion.template.file", Text, None, NO_ASSERTIONS;
    Unsupported "sasl.oauthbearer.assertion.claim.aud", Text, None, NO_ASSERTIONS;
    Unsupported "sasl.oauthbearer.assertion.claim.iss", Text, None, NO_ASSERTIONS;
    Unsupported "sasl.oauthbearer.assertion.claim.sub", Text, None, NO_ASSERTIONS;
    Unsupported "sasl.oauthbearer.assertion.algorithm", Choice(&["ES256", "RS256"]), Some("RS256"),
        NO_ASSERTIONS;
    Unsupported "sasl.oauthbearer.assertion.claim.exp.seconds", Int(0, 86400), Some("300"),
        NO_ASSERTIONS;
    Unsupported "sasl.oauthbearer.assertion.claim.nbf.seconds", Int(0, 3600), Some("60"),
        NO_ASSERTIONS;
    Unsupported "sasl.oauthbearer.assertion.claim.jti.include", Bool, Some("false"), NO_ASSERTIONS;
    Ignored "sasl.oauthbearer.clock.skew.seconds", Int(0, INT_MAX), Some("30"), BROKER_VALIDATES;
    Supported "sasl.oauthbearer.header.urlencode", Bool, Some("false"),
        "With `true`, the client URL-encodes the client id and the secret in the authorization \
         header (RFC 6749, 2.3.1).";
    Ignored "sasl.oauthbearer.scope.claim.name", Text, Some("scope"), BROKER_VALIDATES;
    Ignored "sasl.oauthbearer.sub.claim.name", Text, Some("sub"), BROKER_VALIDATES;
    Ignored "sasl.oauthbearer.jwks.endpoint.refresh.ms", Long(0), Some("3600000"), BROKER_VALIDATES;
    Ignored "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms", Long(0), Some("100"),
        BROKER_VALIDATES;
    Ignored "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms", Long(0), Some("10000"),
        BROKER_VALIDATES;
    Ignored "sasl.oauthbearer.expected.audience", List, Some(""), BROKER_VALIDATES;
    Ignored "sasl.oauthbearer.expected.issuer", Text, None, BROKER_VALIDATES;
    Ignored "sasl.oauthbearer.allow.unverified.audience", Bool, Some("false"), BROKER_VALIDATES;
    Ignored "sasl.oauthbearer.allow.unverified.issuer", Bool, Some("false"), BROKER_VALIDATES;
    Ignored "sasl.oauthbearer.jwt.retriever.class",
        Text,
        Some("org.apache.kafka.common.security.oauthbearer.DefaultJwtRetriever"),
        JAVA_CLASS;
    Ignored "sasl.oauthbearer.jwt.validator.class",
        Text,
        Some("org.apache.kafka.common.security.oauthbearer.DefaultJwtValidator"),
        JAVA_CLASS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_each_default_is_in_its_own_range() {
        for (i, s) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..i].iter().all(|o| o.name != s.name), "{} occurs twice", s.name);
            if let Some(default) = s.default {
                crate::config::parse::check_value(s, default, None).unwrap();
            }
        }
    }
}
