//! What the crate `ottla-schema` needs for its connections to a schema registry: the settings that
//! [`Properties`] keeps for it, and TLS sessions with the settings and files of this crate.

use crate::config::Properties;

/// Returns names and values of the settings of the schema registry's client and serializers. Values
/// may be secrets.
pub fn schema_registry_settings(properties: &Properties) -> impl Iterator<Item = (&str, &str)> {
    properties.schema_settings()
}

#[cfg(feature = "tls")]
mod tls {
    use std::fmt;
    use std::sync::Arc;

    use crate::config::Properties;
    use crate::error::Error;
    use crate::network::io::real::RealEnv;
    use crate::network::tls::TlsConnector;

    /// Creates the TLS configuration of connections to a schema registry, from
    /// `schema.registry.ssl.*` and `ssl.*`.
    pub struct RegistryTls(TlsConnector);

    impl RegistryTls {
        /// Reads settings and files.
        ///
        /// # Errors
        /// A file or a setting is not usable, or this build has no TLS provider. The error names
        /// the setting.
        pub fn new(properties: &Properties) -> Result<RegistryTls, Error> {
            let settings = properties.schema_registry_tls()?;
            TlsConnector::new(settings, Arc::new(RealEnv::new())).map(RegistryTls)
        }

        /// Returns the configuration of a new session. Reads the files again if they have changed.
        pub fn client_config(&self) -> Arc<rustls::ClientConfig> {
            self.0.reload_if_changed();
            self.0.client_config()
        }
    }

    impl fmt::Debug for RegistryTls {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("RegistryTls").finish_non_exhaustive()
        }
    }
}

#[cfg(feature = "tls")]
pub use tls::RegistryTls;
