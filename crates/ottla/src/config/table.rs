//! Every setting, once: name, type, default, range, what becomes of it here. Parsing, the nearest name of a
//! typing error, and `docs/CONFIGURATION.md` all come from this table.

use Support::{Ignored, Supported, Unsupported};
use Type::{Bool, Choice, Double, Int, List, Long, Password, Text};

/// A setting.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) value_type: Type,
    /// As Kafka prints it; `None` where there is none.
    pub(crate) default: Option<&'static str>,
    pub(crate) support: Support,
    pub(crate) documentation: &'static str,
}

/// A setting's type and range.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    /// 32 bits, in this range.
    Int(i64, i64),
    /// 64 bits, at least this.
    Long(i64),
    /// `true` or `false`.
    Bool,
    /// One of these, to the letter.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// Text that is never shown.
    Password,
    /// Separated by commas.
    List,
    /// A number in this range.
    Double(f64, f64),
}

/// What becomes of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// It does what it says.
    Supported,
    /// It has no meaning here; accepted, with a notice.
    Ignored,
    /// It would change what is delivered, to whom or how safely, and cannot be honoured yet. Its default is
    /// accepted.
    Unsupported,
}

const INT_MAX: i64 = i32::MAX as i64;

macro_rules! settings {
    ($($fate:ident $name:literal $kind:expr, $default:expr, $about:literal;)*) => {
        pub(crate) const SETTINGS: &[Setting] = &[
            $( Setting { name: $name, value_type: $kind, default: $default, support: $fate, documentation: $about }, )*
        ];
    };
}

settings! {
    Supported "bootstrap.servers" List, None, "Brokers to ask first, as host:port, separated by commas. Required.";
    Supported "acks" Choice(&["all", "-1", "0", "1"]), Some("all"), "Who must have a record before it counts as acknowledged: `all` replicas in sync, the leader (`1`), nobody (`0`: handed to the socket).";
    Supported "batch.size" Int(0, INT_MAX), Some("16384"), "Bytes of a batch; records of one partition wait in it until it is full or `linger.ms` is over. 0 sends each record alone.";
    Supported "buffer.memory" Long(0), Some("33554432"), "Bytes that unacknowledged records may occupy in all; `send` waits when they are used up.";
    Supported "client.id" Text, Some(""), "Names this client in the broker's logs, metrics and quotas. Empty: `producer-N`.";
    Unsupported "client.dns.lookup" Choice(&["use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"]), Some("use_all_dns_ips"), "All addresses of a name are tried in turn (KIP-602); canonical names are not looked up.";
    Supported "compression.type" Choice(&["none", "gzip", "snappy", "lz4", "zstd"]), Some("none"), "The codec of batches.";
    Supported "compression.gzip.level" Int(-1, 9), Some("-1"), "1 (fast) to 9 (small); -1 is the library's default.";
    Supported "compression.lz4.level" Int(1, 17), Some("9"), "9 is the fast encoder; any other level needs the feature `lz4-hc`.";
    Supported "compression.zstd.level" Int(-131_072, 22), Some("3"), "Negative (fast) to 22 (small).";
    Supported "connections.max.idle.ms" Long(i64::MIN), Some("540000"), "A connection unused for so long is closed; negative never.";
    Supported "delivery.timeout.ms" Int(0, INT_MAX), Some("120000"), "Milliseconds from a batch's first record to its end, acknowledged or failed; at least `linger.ms` + `request.timeout.ms`.";
    Supported "enable.idempotence" Bool, Some("true"), "Each record is written once and in order, whatever is sent again (KIP-98). Needs `acks=all`, `retries` above 0 and at most 5 requests in flight.";
    Supported "linger.ms" Long(0), Some("5"), "Milliseconds that a batch waits for more records.";
    Supported "max.block.ms" Long(0), Some("60000"), "Milliseconds that `send` and `partitions_for` may wait, for metadata and memory together.";
    Supported "max.in.flight.requests.per.connection" Int(1, INT_MAX), Some("5"), "Requests on a connection without an answer. Above 1 and without idempotence, what is sent again may be overtaken.";
    Supported "max.request.size" Int(0, INT_MAX), Some("1048576"), "Bytes of a request, and of a record before compression.";
    Supported "receive.message.max.bytes" Int(1000, INT_MAX), Some("100000000"), "Bytes of an answer; a longer one closes its connection (librdkafka's name).";
    Supported "metadata.max.age.ms" Long(0), Some("300000"), "Milliseconds after which topics and leaders are asked for again.";
    Supported "metadata.max.idle.ms" Long(5000), Some("300000"), "Milliseconds after which a topic that nobody produces to is forgotten.";
    Supported "metadata.recovery.strategy" Choice(&["rebootstrap", "none"]), Some("rebootstrap"), "What to do when no known broker answers any more (KIP-899).";
    Supported "metadata.recovery.rebootstrap.trigger.ms" Long(0), Some("300000"), "Milliseconds without any metadata before the bootstrap servers are asked again (KIP-1102).";
    Supported "partitioner.ignore.keys" Bool, Some("false"), "Records with a key are spread like those without.";
    Supported "partitioner.class" Text, None, "Unset, or `RoundRobinPartitioner` (with or without Kafka's package).";
    Supported "receive.buffer.bytes" Int(-1, INT_MAX), Some("32768"), "The socket's receive buffer (SO_RCVBUF); -1 leaves it to the system.";
    Supported "send.buffer.bytes" Int(-1, INT_MAX), Some("131072"), "The socket's send buffer (SO_SNDBUF); -1 leaves it to the system.";
    Supported "reconnect.backoff.ms" Long(0), Some("50"), "Milliseconds before a broker is tried again, the first time.";
    Supported "reconnect.backoff.max.ms" Long(0), Some("1000"), "The most it grows to.";
    Supported "request.timeout.ms" Int(0, INT_MAX), Some("30000"), "Milliseconds a broker has to answer; then the connection is closed and its requests fail over.";
    Supported "retries" Int(0, INT_MAX), Some("2147483647"), "Times a batch is sent again; `delivery.timeout.ms` is the better bound.";
    Supported "retry.backoff.ms" Long(0), Some("100"), "Milliseconds before something is tried again, the first time.";
    Supported "retry.backoff.max.ms" Long(0), Some("1000"), "The most it grows to (KIP-580).";
    Supported "socket.connection.setup.timeout.ms" Long(0), Some("10000"), "Milliseconds a connection has to be set up, the first time (KIP-601).";
    Supported "socket.connection.setup.timeout.max.ms" Long(0), Some("30000"), "The most it grows to.";
    Supported "security.protocol" Choice(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]), Some("PLAINTEXT"), "How brokers are spoken to: in the clear or by TLS (`SSL`), and with or without SASL. TLS needs a build with it.";

    Unsupported "transactional.id" Text, None, "Transactions are not there yet.";
    Unsupported "transaction.two.phase.commit.enable" Bool, Some("false"), "Transactions are not there yet.";
    Supported "partitioner.availability.timeout.ms" Long(0), Some("0"), "Milliseconds for which a broker may leave its batches waiting before records without a key avoid it; 0 for ever. Needs adaptive partitioning.";
    Supported "partitioner.rack.aware" Bool, Some("false"), "Records without a key go to partitions whose leader is in `client.rack`, while there is one (KIP-1123).";
    Unsupported "interceptor.classes" List, Some(""), "A Java class cannot run here; give `Interceptor`s to the builder.";
    Unsupported "config.providers" List, Some(""), "A Java class cannot run here; put the values in.";
    Unsupported "bootstrap.resolve.timeout.ms" Long(0), Some("0"), "Bootstrap names are looked up again until they resolve; there is no limit to set yet.";

    Ignored "key.serializer" Text, None, "A Java class. Records are bytes here; typed ones have `Serializer`.";
    Ignored "value.serializer" Text, None, "A Java class. Records are bytes here; typed ones have `Serializer`.";
    Supported "partitioner.adaptive.partitioning.enable" Bool, Some("true"), "Records without a key go to partitions with short queues more often (KIP-794).";
    Supported "linger.awaited" Bool, Some("true"), "Ours: a record somebody waits for (`Delivery::wait`, or its future polled) makes its batch due at once when nothing of its partition is in flight.";
    Ignored "buffer.memory.allocation.strategy" Choice(&["full", "incremental"]), Some("full"), "Internal to Java's producer.";
    Supported "client.rack" Text, Some(""), "The rack this client is in, for `partitioner.rack.aware`.";
    Ignored "enable.metrics.push" Bool, Some("true"), "Metrics are not pushed to the broker (KIP-714).";
    Ignored "metadata.cluster.check.enable" Bool, Some("true"), "Brokers are not told which cluster is meant.";
    Ignored "metric.reporters" List, Some("org.apache.kafka.common.metrics.JmxReporter"), "Java classes.";
    Ignored "auto.include.jmx.reporter" Bool, Some("true"), "There is no JMX here.";
    Supported "metrics.num.samples" Int(1, INT_MAX), Some("2"), "Sample windows that rates, means and maxima are taken over.";
    Ignored "metrics.recording.level" Choice(&["INFO", "DEBUG", "TRACE"]), Some("INFO"), "There are no sensors beyond those of INFO.";
    Supported "metrics.sample.window.ms" Long(0), Some("30000"), "Milliseconds of a sample window.";
    Ignored "security.providers" Text, None, "Java classes.";
    Ignored "transaction.timeout.ms" Int(0, INT_MAX), Some("60000"), "Of no meaning without `transactional.id`.";

    Supported "ssl.protocol" Text, Some("TLSv1.3"), "`TLSv1.3` (with whatever `ssl.enabled.protocols` allows) or `TLSv1.2` (and nothing newer).";
    Supported "ssl.enabled.protocols" List, Some("TLSv1.2,TLSv1.3"), "Which of TLSv1.2 and TLSv1.3 may be spoken. Older ones are refused.";
    Supported "ssl.cipher.suites" List, Some(""), "Cipher suites by their IANA names, of those the provider has; empty: all of them.";
    Supported "ssl.endpoint.identification.algorithm" Text, Some("https"), "`https`: the broker's certificate must name its host. Empty: any host is taken, as long as the certificate is trusted.";
    Supported "ssl.keystore.location" Text, None, "File of our certificate and key, for brokers that want them: PEM or PKCS#12, told by content. Read again when it changes.";
    Supported "ssl.keystore.password" Password, None, "The password of that file (PKCS#12).";
    Supported "ssl.keystore.certificate.chain" Password, None, "Our certificate and those above it, as PEM text.";
    Supported "ssl.keystore.key" Password, None, "Our key, as PEM text (PKCS#8, also encrypted; PKCS#1 and SEC 1).";
    Supported "ssl.keystore.type" Choice(&["JKS", "PKCS12", "PEM"]), Some("JKS"), "Only checked for being a type. The content tells what a file is.";
    Supported "ssl.key.password" Password, None, "The password of an encrypted key.";
    Supported "ssl.truststore.location" Text, None, "File of the certificates that are trusted: PEM, PKCS#12 or JKS, told by content. Unset: the system's. Read again when it changes.";
    Supported "ssl.truststore.password" Password, None, "The password of that file (PKCS#12; JKS is checked by it where it is given).";
    Supported "ssl.truststore.certificates" Password, None, "The certificates that are trusted, as PEM text.";
    Supported "ssl.truststore.type" Choice(&["JKS", "PKCS12", "PEM"]), Some("JKS"), "Only checked for being a type. The content tells what a file is.";
    Supported "ssl.key.location" Text, None, "File of our key, where `ssl.keystore.location` has the certificates alone (librdkafka's setting).";
    Ignored "ssl.provider" Text, None, "A JVM provider.";
    Ignored "ssl.keymanager.algorithm" Text, Some("SunX509"), "A JVM algorithm.";
    Ignored "ssl.trustmanager.algorithm" Text, Some("PKIX"), "A JVM algorithm.";
    Ignored "ssl.engine.factory.class" Text, None, "A Java class.";
    Ignored "ssl.secure.random.implementation" Text, None, "A JVM provider.";

    Supported "sasl.mechanism" Text, Some("GSSAPI"), "`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`. Kafka's default, `GSSAPI`, is refused where SASL is spoken: there is no Kerberos in Rust alone.";
    Supported "sasl.username" Text, None, "The name, for PLAIN and SCRAM (librdkafka's setting).";
    Supported "sasl.password" Password, None, "The password, for PLAIN and SCRAM (librdkafka's setting).";
    Supported "sasl.jaas.config" Password, None, "The same as Java writes it: a login module, `required`, and options like username and password.";
    Ignored "sasl.client.callback.handler.class" Text, None, "A Java class.";
    Ignored "sasl.login.class" Text, None, "A Java class.";
    Ignored "sasl.login.callback.handler.class" Text, None, "A Java class.";
    Ignored "sasl.kerberos.service.name" Text, None, "There is no Kerberos here.";
    Ignored "sasl.kerberos.kinit.cmd" Text, Some("/usr/bin/kinit"), "There is no Kerberos here.";
    Ignored "sasl.kerberos.min.time.before.relogin" Long(0), Some("60000"), "There is no Kerberos here.";
    Ignored "sasl.kerberos.ticket.renew.jitter" Double(0.0, 1.0), Some("0.05"), "There is no Kerberos here.";
    Ignored "sasl.kerberos.ticket.renew.window.factor" Double(0.0, 1.0), Some("0.8"), "There is no Kerberos here.";
    Supported "sasl.login.connect.timeout.ms" Int(0, INT_MAX), None, "Milliseconds to reach the token endpoint.";
    Supported "sasl.login.read.timeout.ms" Int(0, INT_MAX), None, "Milliseconds to wait for its answer.";
    Supported "sasl.login.refresh.buffer.seconds" Int(0, 3600), Some("300"), "A token is fetched anew so long before it ends at least.";
    Supported "sasl.login.refresh.min.period.seconds" Int(0, 900), Some("60"), "And not sooner than this after it was fetched.";
    Supported "sasl.login.refresh.window.factor" Double(0.5, 1.0), Some("0.8"), "The part of a token's life after which it is fetched anew.";
    Supported "sasl.login.refresh.window.jitter" Double(0.0, 0.25), Some("0.05"), "A part of its life, up to which is added by chance.";
    Supported "sasl.login.retry.backoff.ms" Long(0), Some("100"), "Milliseconds before a token is asked for again, the first time.";
    Supported "sasl.login.retry.backoff.max.ms" Long(0), Some("10000"), "The most it grows to.";
    Supported "sasl.oauthbearer.token.endpoint.url" Text, None, "Where tokens are fetched by client credentials (OpenID Connect), by http or https; needs a build with `oidc`.";
    Supported "sasl.oauthbearer.scope" Text, None, "The scope to ask for there.";
    Supported "sasl.oauthbearer.client.credentials.client.id" Text, None, "Who asks.";
    Supported "sasl.oauthbearer.client.credentials.client.secret" Password, None, "And the secret that shows it.";
    Ignored "sasl.oauthbearer.jwks.endpoint.url" Text, None, "Tokens are checked by the broker, not here.";
    Unsupported "sasl.oauthbearer.assertion.file" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Unsupported "sasl.oauthbearer.assertion.private.key.file" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Unsupported "sasl.oauthbearer.assertion.private.key.passphrase" Password, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Unsupported "sasl.oauthbearer.assertion.template.file" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Unsupported "sasl.oauthbearer.assertion.claim.aud" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Unsupported "sasl.oauthbearer.assertion.claim.iss" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Unsupported "sasl.oauthbearer.assertion.claim.sub" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Unsupported "sasl.oauthbearer.assertion.algorithm" Choice(&["ES256", "RS256"]), Some("RS256"), "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Unsupported "sasl.oauthbearer.assertion.claim.exp.seconds" Int(0, 86400), Some("300"), "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Unsupported "sasl.oauthbearer.assertion.claim.nbf.seconds" Int(0, 3600), Some("60"), "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Unsupported "sasl.oauthbearer.assertion.claim.jti.include" Bool, Some("false"), "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Ignored "sasl.oauthbearer.clock.skew.seconds" Int(0, INT_MAX), Some("30"), "Tokens are checked by the broker, not here.";
    Supported "sasl.oauthbearer.header.urlencode" Bool, Some("false"), "URL-encodes id and secret before they go into the header (RFC 6749).";
    Ignored "sasl.oauthbearer.scope.claim.name" Text, Some("scope"), "Tokens are checked by the broker, not here.";
    Ignored "sasl.oauthbearer.sub.claim.name" Text, Some("sub"), "Tokens are checked by the broker, not here.";
    Ignored "sasl.oauthbearer.jwks.endpoint.refresh.ms" Long(0), Some("3600000"), "Tokens are checked by the broker, not here.";
    Ignored "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms" Long(0), Some("100"), "Tokens are checked by the broker, not here.";
    Ignored "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms" Long(0), Some("10000"), "Tokens are checked by the broker, not here.";
    Ignored "sasl.oauthbearer.expected.audience" List, Some(""), "Tokens are checked by the broker, not here.";
    Ignored "sasl.oauthbearer.expected.issuer" Text, None, "Tokens are checked by the broker, not here.";
    Ignored "sasl.oauthbearer.allow.unverified.audience" Bool, Some("false"), "Tokens are checked by the broker, not here.";
    Ignored "sasl.oauthbearer.allow.unverified.issuer" Bool, Some("false"), "Tokens are checked by the broker, not here.";
    Ignored "sasl.oauthbearer.jwt.retriever.class" Text, Some("org.apache.kafka.common.security.oauthbearer.DefaultJwtRetriever"), "A Java class.";
    Ignored "sasl.oauthbearer.jwt.validator.class" Text, Some("org.apache.kafka.common.security.oauthbearer.DefaultJwtValidator"), "A Java class.";
}

/// A setting by its name.
pub(crate) fn find_setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name)
}

/// The name that takes the fewest edits to reach from `name`, if that is not too many.
pub(crate) fn nearest_name(name: &str) -> Option<&'static str> {
    let all = SETTINGS.iter().map(|s| s.name).chain(super::aliases::alias_names());
    let best = all.map(|n| (edit_distance(name, n), n)).min()?;
    (best.0 <= 2 + name.len() / 4).then_some(best.1)
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The text of `docs/CONFIGURATION.md`.
pub fn configuration_markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\nWritten by `cargo xtask docs` from the table in `crates/ottla/src/config/table.rs`; \
         a test compares the two.\n\nNames, types, defaults and ranges are Kafka's. librdkafka's names are taken \
         for what they mean. An unknown name is an error that names the nearest.\n",
    );
    for (fate, title, about) in [
        (Supported, "Honoured", "They do what they say."),
        (
            Unsupported,
            "Refused",
            "Their default is accepted. Any other value would change what is delivered, to whom or how \
             safely, and cannot be honoured yet: it is an error.",
        ),
        (Ignored, "Idle", "Accepted, with one notice: they have no meaning here, or not yet."),
    ] {
        out +=
            &format!("\n## {title}\n\n{about}\n\n| name | type | default | |\n|---|---|---|---|\n");
        for s in SETTINGS.iter().filter(|s| s.support == fate) {
            let default = match s.default {
                Some("") => "empty".to_owned(),
                Some(d) => format!("`{d}`"),
                None => "none".to_owned(),
            };
            out += &format!(
                "| `{}` | {} | {default} | {} |\n",
                s.name,
                s.value_type.describe(),
                s.documentation
            );
        }
    }
    out += "\n## librdkafka's names\n\n| name | taken as |\n|---|---|\n";
    for (name, meaning) in super::aliases::documentation_rows() {
        out += &format!("| `{name}` | {meaning} |\n");
    }
    out
}

impl Type {
    /// In words.
    pub(crate) fn describe(self) -> String {
        match self {
            Type::Int(min, INT_MAX) => format!("int, {min} or more"),
            Type::Int(min, max) => format!("int, {min} to {max}"),
            Type::Long(i64::MIN) => "long".to_owned(),
            Type::Long(min) => format!("long, {min} or more"),
            Type::Bool => "true or false".to_owned(),
            Type::Choice(all) => all.join(", "),
            Type::Text => "text".to_owned(),
            Type::Password => "secret".to_owned(),
            Type::List => "list".to_owned(),
            Type::Double(min, max) => format!("number, {min} to {max}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_default_is_in_its_own_range() {
        for (i, s) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..i].iter().all(|o| o.name != s.name), "{} twice", s.name);
            if let Some(default) = s.default {
                crate::config::parse::check_value(s, default).unwrap();
            }
        }
    }

    #[test]
    fn the_nearest_name_is_close_or_none() {
        assert_eq!(nearest_name("linger.msec"), Some("linger.ms"));
        assert_eq!(nearest_name("boostrap.servers"), Some("bootstrap.servers"));
        assert_eq!(nearest_name("weather.in.prague"), None);
    }

    #[test]
    fn the_document_is_written_from_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIGURATION.md");
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == configuration_markdown(),
            "docs/CONFIGURATION.md is stale: run `cargo xtask docs`"
        );
    }
}
