//! Every setting, once: name, type, default, range, what becomes of it here. Parsing, the nearest name of a
//! typing error, and `docs/CONFIGURATION.md` all come from this table.

use Fate::{Honoured, Idle, Refused};
use Type::{Bool, Choice, Int, List, Long, Password, Real, Text};

/// A setting.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) kind: Type,
    /// As Kafka prints it; `None` where there is none.
    pub(crate) default: Option<&'static str>,
    pub(crate) fate: Fate,
    pub(crate) about: &'static str,
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
    Real(f64, f64),
}

/// What becomes of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It does what it says.
    Honoured,
    /// It has no meaning here; accepted, with a notice.
    Idle,
    /// It would change what is delivered, to whom or how safely, and cannot be honoured yet. Its default is
    /// accepted.
    Refused,
}

const MAX: i64 = i32::MAX as i64;

macro_rules! settings {
    ($($fate:ident $name:literal $kind:expr, $default:expr, $about:literal;)*) => {
        pub(crate) const SETTINGS: &[Setting] = &[
            $( Setting { name: $name, kind: $kind, default: $default, fate: $fate, about: $about }, )*
        ];
    };
}

settings! {
    Honoured "bootstrap.servers" List, None, "Brokers to ask first, as host:port, separated by commas. Required.";
    Honoured "acks" Choice(&["all", "-1", "0", "1"]), Some("all"), "Who must have a record before it counts as acknowledged: `all` replicas in sync, the leader (`1`), nobody (`0`: handed to the socket).";
    Honoured "batch.size" Int(0, MAX), Some("16384"), "Bytes of a batch; records of one partition wait in it until it is full or `linger.ms` is over. 0 sends each record alone.";
    Honoured "buffer.memory" Long(0), Some("33554432"), "Bytes that unacknowledged records may occupy in all; `send` waits when they are used up.";
    Honoured "client.id" Text, Some(""), "Names this client in the broker's logs, metrics and quotas. Empty: `producer-N`.";
    Refused "client.dns.lookup" Choice(&["use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"]), Some("use_all_dns_ips"), "All addresses of a name are tried in turn (KIP-602); canonical names are not looked up.";
    Honoured "compression.type" Choice(&["none", "gzip", "snappy", "lz4", "zstd"]), Some("none"), "The codec of batches.";
    Honoured "compression.gzip.level" Int(-1, 9), Some("-1"), "1 (fast) to 9 (small); -1 is the library's default.";
    Honoured "compression.lz4.level" Int(1, 17), Some("9"), "9 is the fast encoder; any other level needs the feature `lz4-hc`.";
    Honoured "compression.zstd.level" Int(-131_072, 22), Some("3"), "Negative (fast) to 22 (small).";
    Honoured "connections.max.idle.ms" Long(i64::MIN), Some("540000"), "A connection unused for so long is closed; negative never.";
    Honoured "delivery.timeout.ms" Int(0, MAX), Some("120000"), "Milliseconds from a batch's first record to its end, acknowledged or failed; at least `linger.ms` + `request.timeout.ms`.";
    Honoured "enable.idempotence" Bool, Some("true"), "Each record is written once and in order, whatever is sent again (KIP-98). Needs `acks=all`, `retries` above 0 and at most 5 requests in flight.";
    Honoured "linger.ms" Long(0), Some("5"), "Milliseconds that a batch waits for more records.";
    Honoured "max.block.ms" Long(0), Some("60000"), "Milliseconds that `send` and `partitions_for` may wait, for metadata and memory together.";
    Honoured "max.in.flight.requests.per.connection" Int(1, MAX), Some("5"), "Requests on a connection without an answer. Above 1 and without idempotence, what is sent again may be overtaken.";
    Honoured "max.request.size" Int(0, MAX), Some("1048576"), "Bytes of a request, and of a record before compression.";
    Honoured "receive.message.max.bytes" Int(1000, MAX), Some("100000000"), "Bytes of an answer; a longer one closes its connection (librdkafka's name).";
    Honoured "metadata.max.age.ms" Long(0), Some("300000"), "Milliseconds after which topics and leaders are asked for again.";
    Honoured "metadata.max.idle.ms" Long(5000), Some("300000"), "Milliseconds after which a topic that nobody produces to is forgotten.";
    Honoured "metadata.recovery.strategy" Choice(&["rebootstrap", "none"]), Some("rebootstrap"), "What to do when no known broker answers any more (KIP-899).";
    Honoured "metadata.recovery.rebootstrap.trigger.ms" Long(0), Some("300000"), "Milliseconds without any metadata before the bootstrap servers are asked again (KIP-1102).";
    Honoured "partitioner.ignore.keys" Bool, Some("false"), "Records with a key are spread like those without.";
    Honoured "partitioner.class" Text, None, "Unset, or `RoundRobinPartitioner` (with or without Kafka's package).";
    Honoured "receive.buffer.bytes" Int(-1, MAX), Some("32768"), "The socket's receive buffer (SO_RCVBUF); -1 leaves it to the system.";
    Honoured "send.buffer.bytes" Int(-1, MAX), Some("131072"), "The socket's send buffer (SO_SNDBUF); -1 leaves it to the system.";
    Honoured "reconnect.backoff.ms" Long(0), Some("50"), "Milliseconds before a broker is tried again, the first time.";
    Honoured "reconnect.backoff.max.ms" Long(0), Some("1000"), "The most it grows to.";
    Honoured "request.timeout.ms" Int(0, MAX), Some("30000"), "Milliseconds a broker has to answer; then the connection is closed and its requests fail over.";
    Honoured "retries" Int(0, MAX), Some("2147483647"), "Times a batch is sent again; `delivery.timeout.ms` is the better bound.";
    Honoured "retry.backoff.ms" Long(0), Some("100"), "Milliseconds before something is tried again, the first time.";
    Honoured "retry.backoff.max.ms" Long(0), Some("1000"), "The most it grows to (KIP-580).";
    Honoured "socket.connection.setup.timeout.ms" Long(0), Some("10000"), "Milliseconds a connection has to be set up, the first time (KIP-601).";
    Honoured "socket.connection.setup.timeout.max.ms" Long(0), Some("30000"), "The most it grows to.";
    Honoured "security.protocol" Choice(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]), Some("PLAINTEXT"), "How brokers are spoken to: in the clear or by TLS (`SSL`), and with or without SASL. TLS needs a build with it.";

    Refused "transactional.id" Text, None, "Transactions are not there yet.";
    Refused "transaction.two.phase.commit.enable" Bool, Some("false"), "Transactions are not there yet.";
    Honoured "partitioner.availability.timeout.ms" Long(0), Some("0"), "Milliseconds for which a broker may leave its batches waiting before records without a key avoid it; 0 for ever. Needs adaptive partitioning.";
    Honoured "partitioner.rack.aware" Bool, Some("false"), "Records without a key go to partitions whose leader is in `client.rack`, while there is one (KIP-1123).";
    Refused "interceptor.classes" List, Some(""), "A Java class cannot run here; give `Interceptor`s to the builder.";
    Refused "config.providers" List, Some(""), "A Java class cannot run here; put the values in.";
    Refused "bootstrap.resolve.timeout.ms" Long(0), Some("0"), "Bootstrap names are looked up again until they resolve; there is no limit to set yet.";

    Idle "key.serializer" Text, None, "A Java class. Records are bytes here; typed ones have `Serializer`.";
    Idle "value.serializer" Text, None, "A Java class. Records are bytes here; typed ones have `Serializer`.";
    Honoured "partitioner.adaptive.partitioning.enable" Bool, Some("true"), "Records without a key go to partitions with short queues more often (KIP-794).";
    Honoured "linger.awaited" Bool, Some("true"), "Ours: a record somebody waits for (`Delivery::wait`, or its future polled) makes its batch due at once when nothing of its partition is in flight.";
    Idle "buffer.memory.allocation.strategy" Choice(&["full", "incremental"]), Some("full"), "Internal to Java's producer.";
    Honoured "client.rack" Text, Some(""), "The rack this client is in, for `partitioner.rack.aware`.";
    Idle "enable.metrics.push" Bool, Some("true"), "Metrics are not pushed to the broker (KIP-714).";
    Idle "metadata.cluster.check.enable" Bool, Some("true"), "Brokers are not told which cluster is meant.";
    Idle "metric.reporters" List, Some("org.apache.kafka.common.metrics.JmxReporter"), "Java classes.";
    Idle "auto.include.jmx.reporter" Bool, Some("true"), "There is no JMX here.";
    Honoured "metrics.num.samples" Int(1, MAX), Some("2"), "Sample windows that rates, means and maxima are taken over.";
    Idle "metrics.recording.level" Choice(&["INFO", "DEBUG", "TRACE"]), Some("INFO"), "There are no sensors beyond those of INFO.";
    Honoured "metrics.sample.window.ms" Long(0), Some("30000"), "Milliseconds of a sample window.";
    Idle "security.providers" Text, None, "Java classes.";
    Idle "transaction.timeout.ms" Int(0, MAX), Some("60000"), "Of no meaning without `transactional.id`.";

    Honoured "ssl.protocol" Text, Some("TLSv1.3"), "`TLSv1.3` (with whatever `ssl.enabled.protocols` allows) or `TLSv1.2` (and nothing newer).";
    Honoured "ssl.enabled.protocols" List, Some("TLSv1.2,TLSv1.3"), "Which of TLSv1.2 and TLSv1.3 may be spoken. Older ones are refused.";
    Honoured "ssl.cipher.suites" List, Some(""), "Cipher suites by their IANA names, of those the provider has; empty: all of them.";
    Honoured "ssl.endpoint.identification.algorithm" Text, Some("https"), "`https`: the broker's certificate must name its host. Empty: any host is taken, as long as the certificate is trusted.";
    Honoured "ssl.keystore.location" Text, None, "File of our certificate and key, for brokers that want them: PEM or PKCS#12, told by content. Read again when it changes.";
    Honoured "ssl.keystore.password" Password, None, "The password of that file (PKCS#12).";
    Honoured "ssl.keystore.certificate.chain" Password, None, "Our certificate and those above it, as PEM text.";
    Honoured "ssl.keystore.key" Password, None, "Our key, as PEM text (PKCS#8, also encrypted; PKCS#1 and SEC 1).";
    Honoured "ssl.keystore.type" Choice(&["JKS", "PKCS12", "PEM"]), Some("JKS"), "Only checked for being a type. The content tells what a file is.";
    Honoured "ssl.key.password" Password, None, "The password of an encrypted key.";
    Honoured "ssl.truststore.location" Text, None, "File of the certificates that are trusted: PEM, PKCS#12 or JKS, told by content. Unset: the system's. Read again when it changes.";
    Honoured "ssl.truststore.password" Password, None, "The password of that file (PKCS#12; JKS is checked by it where it is given).";
    Honoured "ssl.truststore.certificates" Password, None, "The certificates that are trusted, as PEM text.";
    Honoured "ssl.truststore.type" Choice(&["JKS", "PKCS12", "PEM"]), Some("JKS"), "Only checked for being a type. The content tells what a file is.";
    Honoured "ssl.key.location" Text, None, "File of our key, where `ssl.keystore.location` has the certificates alone (librdkafka's setting).";
    Idle "ssl.provider" Text, None, "A JVM provider.";
    Idle "ssl.keymanager.algorithm" Text, Some("SunX509"), "A JVM algorithm.";
    Idle "ssl.trustmanager.algorithm" Text, Some("PKIX"), "A JVM algorithm.";
    Idle "ssl.engine.factory.class" Text, None, "A Java class.";
    Idle "ssl.secure.random.implementation" Text, None, "A JVM provider.";

    Honoured "sasl.mechanism" Text, Some("GSSAPI"), "`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`. Kafka's default, `GSSAPI`, is refused where SASL is spoken: there is no Kerberos in Rust alone.";
    Honoured "sasl.username" Text, None, "The name, for PLAIN and SCRAM (librdkafka's setting).";
    Honoured "sasl.password" Password, None, "The password, for PLAIN and SCRAM (librdkafka's setting).";
    Honoured "sasl.jaas.config" Password, None, "The same as Java writes it: a login module, `required`, and options like username and password.";
    Idle "sasl.client.callback.handler.class" Text, None, "A Java class.";
    Idle "sasl.login.class" Text, None, "A Java class.";
    Idle "sasl.login.callback.handler.class" Text, None, "A Java class.";
    Idle "sasl.kerberos.service.name" Text, None, "There is no Kerberos here.";
    Idle "sasl.kerberos.kinit.cmd" Text, Some("/usr/bin/kinit"), "There is no Kerberos here.";
    Idle "sasl.kerberos.min.time.before.relogin" Long(0), Some("60000"), "There is no Kerberos here.";
    Idle "sasl.kerberos.ticket.renew.jitter" Real(0.0, 1.0), Some("0.05"), "There is no Kerberos here.";
    Idle "sasl.kerberos.ticket.renew.window.factor" Real(0.0, 1.0), Some("0.8"), "There is no Kerberos here.";
    Honoured "sasl.login.connect.timeout.ms" Int(0, MAX), None, "Milliseconds to reach the token endpoint.";
    Honoured "sasl.login.read.timeout.ms" Int(0, MAX), None, "Milliseconds to wait for its answer.";
    Honoured "sasl.login.refresh.buffer.seconds" Int(0, 3600), Some("300"), "A token is fetched anew so long before it ends at least.";
    Honoured "sasl.login.refresh.min.period.seconds" Int(0, 900), Some("60"), "And not sooner than this after it was fetched.";
    Honoured "sasl.login.refresh.window.factor" Real(0.5, 1.0), Some("0.8"), "The part of a token's life after which it is fetched anew.";
    Honoured "sasl.login.refresh.window.jitter" Real(0.0, 0.25), Some("0.05"), "A part of its life, up to which is added by chance.";
    Honoured "sasl.login.retry.backoff.ms" Long(0), Some("100"), "Milliseconds before a token is asked for again, the first time.";
    Honoured "sasl.login.retry.backoff.max.ms" Long(0), Some("10000"), "The most it grows to.";
    Honoured "sasl.oauthbearer.token.endpoint.url" Text, None, "Where tokens are fetched by client credentials (OpenID Connect), by http or https; needs a build with `oidc`.";
    Honoured "sasl.oauthbearer.scope" Text, None, "The scope to ask for there.";
    Honoured "sasl.oauthbearer.client.credentials.client.id" Text, None, "Who asks.";
    Honoured "sasl.oauthbearer.client.credentials.client.secret" Password, None, "And the secret that shows it.";
    Idle "sasl.oauthbearer.jwks.endpoint.url" Text, None, "Tokens are checked by the broker, not here.";
    Refused "sasl.oauthbearer.assertion.file" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Refused "sasl.oauthbearer.assertion.private.key.file" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Refused "sasl.oauthbearer.assertion.private.key.passphrase" Password, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Refused "sasl.oauthbearer.assertion.template.file" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Refused "sasl.oauthbearer.assertion.claim.aud" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Refused "sasl.oauthbearer.assertion.claim.iss" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Refused "sasl.oauthbearer.assertion.claim.sub" Text, None, "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Refused "sasl.oauthbearer.assertion.algorithm" Choice(&["ES256", "RS256"]), Some("RS256"), "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Refused "sasl.oauthbearer.assertion.claim.exp.seconds" Int(0, 86400), Some("300"), "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Refused "sasl.oauthbearer.assertion.claim.nbf.seconds" Int(0, 3600), Some("60"), "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Refused "sasl.oauthbearer.assertion.claim.jti.include" Bool, Some("false"), "Assertions (RFC 7523) are not there yet; use client credentials, or give the builder a token provider.";
    Idle "sasl.oauthbearer.clock.skew.seconds" Int(0, MAX), Some("30"), "Tokens are checked by the broker, not here.";
    Honoured "sasl.oauthbearer.header.urlencode" Bool, Some("false"), "URL-encodes id and secret before they go into the header (RFC 6749).";
    Idle "sasl.oauthbearer.scope.claim.name" Text, Some("scope"), "Tokens are checked by the broker, not here.";
    Idle "sasl.oauthbearer.sub.claim.name" Text, Some("sub"), "Tokens are checked by the broker, not here.";
    Idle "sasl.oauthbearer.jwks.endpoint.refresh.ms" Long(0), Some("3600000"), "Tokens are checked by the broker, not here.";
    Idle "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms" Long(0), Some("100"), "Tokens are checked by the broker, not here.";
    Idle "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms" Long(0), Some("10000"), "Tokens are checked by the broker, not here.";
    Idle "sasl.oauthbearer.expected.audience" List, Some(""), "Tokens are checked by the broker, not here.";
    Idle "sasl.oauthbearer.expected.issuer" Text, None, "Tokens are checked by the broker, not here.";
    Idle "sasl.oauthbearer.allow.unverified.audience" Bool, Some("false"), "Tokens are checked by the broker, not here.";
    Idle "sasl.oauthbearer.allow.unverified.issuer" Bool, Some("false"), "Tokens are checked by the broker, not here.";
    Idle "sasl.oauthbearer.jwt.retriever.class" Text, Some("org.apache.kafka.common.security.oauthbearer.DefaultJwtRetriever"), "A Java class.";
    Idle "sasl.oauthbearer.jwt.validator.class" Text, Some("org.apache.kafka.common.security.oauthbearer.DefaultJwtValidator"), "A Java class.";
}

/// A setting by its name.
pub(crate) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name)
}

/// The name that takes the fewest edits to reach from `name`, if that is not too many.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    let all = SETTINGS.iter().map(|s| s.name).chain(super::aliases::names());
    let best = all.map(|n| (distance(name, n), n)).min()?;
    (best.0 <= 2 + name.len() / 4).then_some(best.1)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
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
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\nWritten by `cargo xtask docs` from the table in `crates/ottla/src/config/table.rs`; \
         a test compares the two.\n\nNames, types, defaults and ranges are Kafka's. librdkafka's names are taken \
         for what they mean. An unknown name is an error that names the nearest.\n",
    );
    for (fate, title, about) in [
        (Honoured, "Honoured", "They do what they say."),
        (
            Refused,
            "Refused",
            "Their default is accepted. Any other value would change what is delivered, to whom or how \
             safely, and cannot be honoured yet: it is an error.",
        ),
        (Idle, "Idle", "Accepted, with one notice: they have no meaning here, or not yet."),
    ] {
        out +=
            &format!("\n## {title}\n\n{about}\n\n| name | type | default | |\n|---|---|---|---|\n");
        for s in SETTINGS.iter().filter(|s| s.fate == fate) {
            let default = match s.default {
                Some("") => "empty".to_owned(),
                Some(d) => format!("`{d}`"),
                None => "none".to_owned(),
            };
            out += &format!("| `{}` | {} | {default} | {} |\n", s.name, s.kind.describe(), s.about);
        }
    }
    out += "\n## librdkafka's names\n\n| name | taken as |\n|---|---|\n";
    for (name, meaning) in super::aliases::table() {
        out += &format!("| `{name}` | {meaning} |\n");
    }
    out
}

impl Type {
    /// In words.
    pub(crate) fn describe(self) -> String {
        match self {
            Type::Int(min, MAX) => format!("int, {min} or more"),
            Type::Int(min, max) => format!("int, {min} to {max}"),
            Type::Long(i64::MIN) => "long".to_owned(),
            Type::Long(min) => format!("long, {min} or more"),
            Type::Bool => "true or false".to_owned(),
            Type::Choice(all) => all.join(", "),
            Type::Text => "text".to_owned(),
            Type::Password => "secret".to_owned(),
            Type::List => "list".to_owned(),
            Type::Real(min, max) => format!("number, {min} to {max}"),
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
                crate::config::parse::check(s, default).unwrap();
            }
        }
    }

    #[test]
    fn the_nearest_name_is_close_or_none() {
        assert_eq!(nearest("linger.msec"), Some("linger.ms"));
        assert_eq!(nearest("boostrap.servers"), Some("bootstrap.servers"));
        assert_eq!(nearest("weather.in.prague"), None);
    }

    #[test]
    fn the_document_is_written_from_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIGURATION.md");
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == markdown(), "docs/CONFIGURATION.md is stale: run `cargo xtask docs`");
    }
}
