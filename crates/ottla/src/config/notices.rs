//! Notices: what a user should know about settings that were accepted but do not do what their name
//! says, or do it differently than in librdkafka.

use super::{Properties, aliases, idempotence, security};

/// Settings of this client whose names are librdkafka's; Java's producer does not have them.
const LIBRDKAFKA_SETTINGS: [&str; 6] = [
    "receive.message.max.bytes",
    "sasl.oauthbearer.extensions",
    "sasl.password",
    "sasl.username",
    "socket.keepalive.enable",
    "ssl.key.location",
];

/// Returns whether only librdkafka has this name of a setting.
pub(super) fn is_librdkafka_name(name: &str) -> bool {
    LIBRDKAFKA_SETTINGS.contains(&name) || aliases::find_alias(name).is_some()
}

/// Returns what to do instead of setting a name of librdkafka that has no effect.
pub(super) fn replacement(name: &str) -> Option<&'static str> {
    match name {
        "statistics.interval.ms" => Some("read the numbers with `Producer::metrics`"),
        "log_level" | "debug" | "log.queue" | "log.thread.name" | "log.connection.close" => {
            Some("this client logs with `tracing`: filter its target `ottla` in a subscriber")
        }
        "enable.ssl.certificate.verification" => Some(
            "the broker's certificate is always verified; name the certificates to trust in \
             ssl.ca.location, and accept any host name with \
             ssl.endpoint.identification.algorithm=none",
        ),
        "queue.buffering.max.messages" => {
            Some("buffer.memory limits the records that wait, in bytes")
        }
        "https.ca.location" | "https.ca.pem" => {
            Some("ssl.truststore.location holds for the token endpoint too")
        }
        "batch.num.messages" => Some("batch.size limits a batch, in bytes"),
        _ => None,
    }
}

impl Properties {
    /// Returns a sentence for each setting that was accepted but has no effect, one if settings
    /// turn idempotence off, and one if keys may go to other partitions than with librdkafka.
    ///
    /// ```
    /// let mut properties = ottla::Properties::new();
    /// properties.set("statistics.interval.ms", "1000")?;
    /// assert!(properties.notices()[0].contains("Producer::metrics"));
    /// # Ok::<(), ottla::Error>(())
    /// ```
    pub fn notices(&self) -> Vec<String> {
        let mut all = self.notices.clone();
        all.extend(security::unused_setting_notices(self));
        all.extend(security::old_version_notice(self));
        all.extend(idempotence::notice(self));
        all.extend(self.partitioner_notice());
        all
    }

    /// Returns a warning if names of librdkafka are set and `partitioner` is not: a key may then go
    /// to another partition than before.
    pub(crate) fn partitioner_notice(&self) -> Option<String> {
        if self.librdkafka_names.is_empty() || self.values.contains_key("partitioner.class") {
            return None;
        }
        let names: Vec<&str> = self.librdkafka_names.iter().map(String::as_str).collect();
        Some(format!(
            "partitioner is not set, but names of librdkafka are ({}): a key goes to the partition \
             that Java's producer chooses (murmur2), not to librdkafka's default \
             (consistent_random); set partitioner=consistent_random if this producer replaces one \
             of librdkafka, else partitioner=murmur2_random",
            names.join(", ")
        ))
    }
}
