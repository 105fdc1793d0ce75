//! The settings of Confluent's schema registry client and serializers. The producer does not use
//! them: [`Properties`] keeps their values for the crate `ottla-schema`, which checks them.

use super::security::TlsSettings;
use super::{Origin, Properties};
use crate::error::Error;

const PREFIX: &str = "schema.registry.";

/// The names without the prefix. Confluent's client also takes these with it.
const NAMES: [&str; 24] = [
    "auto.register.schemas",
    "basic.auth.credentials.source",
    "basic.auth.user.info",
    "bearer.auth.credentials.source",
    "bearer.auth.token",
    "bearer.auth.logical.cluster",
    "bearer.auth.identity.pool.id",
    "http.connect.timeout.ms",
    "http.read.timeout.ms",
    "json.fail.invalid.schema",
    "key.subject.name.strategy",
    "value.subject.name.strategy",
    "key.schema.id.serializer",
    "value.schema.id.serializer",
    "latest.cache.ttl.sec",
    "latest.compatibility.strict",
    "max.retries",
    "normalize.schemas",
    "proxy.host",
    "proxy.port",
    "reference.subject.name.strategy",
    "retries.max.wait.ms",
    "retries.wait.ms",
    "use.latest.version",
];

/// Returns whether a name is a setting of the schema registry client or of its serializers.
pub(super) fn is_schema_setting(name: &str) -> bool {
    name.starts_with(PREFIX) || NAMES.contains(&name) || name == "use.schema.id"
}

/// Returns whether environment variables may set it; with a prefix, any name would be accepted.
pub(super) fn is_known_name(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    NAMES.contains(&rest) || rest == "use.schema.id" || name == "schema.registry.url"
}

/// Values of settings of the schema registry.
pub(super) type Values = std::collections::BTreeMap<String, super::secret::Secret>;

impl Properties {
    /// Keeps a setting of the schema registry after its references are resolved.
    pub(super) fn set_schema_setting(
        &mut self,
        name: &str,
        value: &str,
        origin: &Origin,
    ) -> Result<(), Error> {
        let value = self.resolve_references(name, value, origin)?;
        self.schema_settings.insert(name.to_owned(), super::secret::Secret::new(value.trim()));
        Ok(())
    }

    /// Returns names and values of the settings of the schema registry. Values may be secrets.
    pub(crate) fn schema_settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.schema_settings.iter().map(|(name, value)| (name.as_str(), value.reveal()))
    }

    /// Returns the TLS settings of connections to a schema registry: `schema.registry.ssl.*`, and
    /// the `ssl.*` of the brokers for what these do not set.
    ///
    /// A store is one source: `schema.registry.ssl.truststore.location` also replaces the brokers'
    /// `ssl.truststore.certificates` and its password.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(crate) fn schema_registry_tls(&self) -> Result<TlsSettings, Error> {
        const TLS_PREFIX: &str = "schema.registry.ssl.";
        const STORES: [&str; 3] = ["ssl.truststore.", "ssl.keystore.", "ssl.key."];
        let store_of = |name: &str| match STORES.iter().find(|store| name.starts_with(*store)) {
            // A key belongs to the certificate.
            Some(&"ssl.key.") => Some("ssl.keystore."),
            store => store.copied(),
        };
        let own: Vec<(String, &str)> = (self.schema_settings())
            .filter(|(name, _)| name.starts_with(TLS_PREFIX))
            .map(|(name, value)| (name[PREFIX.len()..].to_owned(), value))
            .collect();
        let mut p = Properties::new();
        for (name, value) in self.values.iter().filter(|(name, _)| name.starts_with("ssl.")) {
            let is_replaced = |own: &(String, &str)| {
                store_of(name).is_some() && store_of(name) == store_of(&own.0)
            };
            if !own.iter().any(is_replaced) {
                p.set(name, value)?;
            }
        }
        for (name, value) in &own {
            p.set(name, value).map_err(|e| Error::config(format!("{PREFIX}{name}: {e}")))?;
        }
        TlsSettings::new(&p)
    }
}

#[cfg(test)]
mod tests {
    use super::super::security::SecurityStore;
    use super::*;

    fn trust_store(settings: &[(&str, &str)]) -> Option<String> {
        let mut p = Properties::new();
        for (name, value) in settings {
            p.set(name, value).unwrap();
        }
        match p.schema_registry_tls().unwrap().trust_store {
            Some(SecurityStore::File { path, .. }) => Some(path),
            Some(SecurityStore::Inline { .. }) => Some("inline".into()),
            None => None,
        }
    }

    #[test]
    fn store_of_the_registry_replaces_the_store_of_the_brokers() {
        let brokers = ("ssl.truststore.certificates", "x");
        assert_eq!(trust_store(&[brokers]).as_deref(), Some("inline"));
        let own = ("schema.registry.ssl.truststore.location", "/registry.pem");
        assert_eq!(trust_store(&[brokers, own]).as_deref(), Some("/registry.pem"));
        // Empty: the certificates of the operating system.
        assert_eq!(trust_store(&[brokers, (own.0, "")]), None);
    }

    #[test]
    fn settings_are_kept_with_their_references_resolved_and_hidden() {
        let mut p = Properties::new();
        let content = "schema.registry.url=http://r:8081\nbasic.auth.user.info=me:hunter2\n";
        p.load(content, "client.properties").unwrap();
        p.set("bearer.auth.token", "${env:PATH}").unwrap();
        let values: Vec<_> = p.schema_settings().collect();
        assert_eq!(values[0], ("basic.auth.user.info", "me:hunter2"));
        assert_eq!(values[1].1, std::env::var("PATH").unwrap());
        assert!(p.notices().is_empty() && !format!("{p:?}").contains("hunter2"));
        let variables = [("OTTLA_SCHEMA_REGISTRY_URL".to_owned(), "http://e:1".to_owned())];
        p.load_environment(variables).unwrap();
        assert!(p.schema_settings().any(|v| v == ("schema.registry.url", "http://e:1")));
    }
}
