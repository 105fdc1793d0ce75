//! Where the values of [`Properties`] come from: pairs, other properties, files, the environment.

use std::path::Path;

use super::{Origin, Properties, files};
use crate::error::Error;

impl Properties {
    /// Sets all values in a properties file, as [`load`](Self::load) does.
    ///
    /// # Errors
    /// The file cannot be read, or the same as `load`.
    ///
    /// ```no_run
    /// let mut properties = ottla::Properties::new();
    /// properties.load_file("/etc/kafka/producer.properties")?;
    /// properties.load_environment(std::env::vars())?;
    /// let producer = ottla::Producer::builder().properties(properties).build()?;
    /// # Ok::<(), ottla::Error>(())
    /// ```
    pub fn load_file(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let content = files::read_file(path)
            .map_err(|e| Error::config(format!("cannot read {}: {e}", path.display())))?;
        self.load(content, &path.display().to_string())
    }

    /// Sets all values that `other` has. They replace those that were set before.
    pub fn merge(&mut self, mut other: Properties) {
        if let Some(level) = other.compression_level.take() {
            self.set_compression_level(level);
        }
        // Taken entry by entry: `Properties` has a destructor, so its fields cannot be moved out.
        for (name, value) in std::mem::take(&mut other.values) {
            self.replace(name, value);
        }
        self.providers.merge(std::mem::take(&mut other.providers));
        self.from_providers.append(&mut other.from_providers);
        std::mem::take(&mut other.notices).into_iter().for_each(|n| self.add_notice(n));
        self.librdkafka_names.append(&mut other.librdkafka_names);
        self.written_as.append(&mut other.written_as);
        self.schema_settings.append(&mut other.schema_settings);
        self.error = self.error.take().or(other.error.take());
    }

    /// Returns the first error of a value that [`Extend`] or [`FromIterator`] met.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.error.clone().map_or(Ok(()), Err)
    }
}

/// Sets each pair of name and value, as [`Properties::set`] does.
///
/// The first error is kept: [`ProducerConfig::new`](crate::ProducerConfig::new) and
/// [`ProducerBuilder::build`](crate::ProducerBuilder::build) return it.
impl<N: AsRef<str>, V: AsRef<str>> Extend<(N, V)> for Properties {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, pairs: I) {
        for (name, value) in pairs {
            if let Err(e) = self.set_from(name.as_ref(), value.as_ref(), &Origin::Builder) {
                self.error.get_or_insert(e);
            }
        }
    }
}

/// Collects pairs of name and value; errors as with [`Extend`].
///
/// ```
/// use ottla::{Properties, Producer};
///
/// let settings = [("bootstrap.servers", "localhost:9092"), ("linger.ms", "20")];
/// let builder = Producer::builder().properties(Properties::from_iter(settings));
/// ```
impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Properties {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Properties {
        let mut properties = Properties::new();
        properties.extend(pairs);
        properties
    }
}
