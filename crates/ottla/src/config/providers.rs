//! Configuration providers (KIP-297): a value may refer to a file or to the environment, as in
//! `sasl.password=${file:/etc/kafka/secrets.properties:password}` or `${env:PASSWORD}`.
//!
//! [`Properties::set`](super::Properties::set) resolves the references in a value, once: a text
//! that comes from a provider is not searched for further references. Kafka's classes
//! `FileConfigProvider`, `EnvVarConfigProvider` and `DirectoryConfigProvider` are built in.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use zeroize::Zeroizing;

use super::aliases::{self, AliasTarget};
use super::setting::find_setting;
use super::{Origin, Properties, files, is_secret, properties};
use crate::error::Error;

const PREFIX: &str = "config.providers";

/// A built-in provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConfigProvider {
    /// `${file:PATH:KEY}`: the value of a key in a properties file.
    File,
    /// `${env:NAME}`: an environment variable (KIP-887).
    EnvVar,
    /// `${directory:PATH:FILE}`: the content of a file in a directory (KIP-421).
    Directory,
}

/// The settings `config.providers` and `config.providers.NAME.…`.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigProviders {
    /// Values by the names of the settings.
    settings: BTreeMap<String, String>,
}

/// A value after its references are resolved.
struct ResolvedValue {
    text: Zeroizing<String>,
    /// The value refers to a provider that does not exist. As in Java, such a text stays as it is.
    has_unknown_provider: bool,
    /// The value has `${NAME}`, as shells and Spring write a variable.
    has_shell_variable: bool,
    /// At least one reference was replaced.
    is_from_provider: bool,
}

impl Properties {
    /// Returns a value after its references are resolved. It may be a secret.
    pub(super) fn resolve_references(
        &self,
        name: &str,
        value: &str,
        origin: &Origin,
    ) -> Result<Zeroizing<String>, Error> {
        let resolved = self.providers.resolve(value);
        resolved
            .map(|resolved| resolved.text)
            .map_err(|e| Error::config(format!("{name} (from {origin}): {e}")))
    }

    /// Sets a value after its references are resolved.
    pub(super) fn resolve_and_set(
        &mut self,
        name: &str,
        value: &str,
        origin: &Origin,
    ) -> Result<(), Error> {
        let resolved = self
            .providers
            .resolve(value)
            .map_err(|e| Error::config(format!("{name} (from {origin}): {e}")))?;
        if resolved.has_unknown_provider {
            self.add_notice(format!(
                "{name} (from {origin}) refers to a configuration provider that config.providers \
                 does not list; the text is used as it is"
            ));
        }
        if resolved.has_shell_variable {
            self.add_notice(format!(
                "{name} (from {origin}) has ${{…}} without a configuration provider; write \
                 ${{env:NAME}} for an environment variable; the text is used as it is"
            ));
        }
        if !resolved.is_from_provider {
            return self.set_resolved(name, value, origin);
        }
        // The value may be a secret, and the error may contain it.
        self.set_resolved(name, &resolved.text, origin)
            .map_err(|e| hide_value(&e, &resolved.text, value))?;
        let setting = find_setting(name).or_else(|| match aliases::find_alias(name)? {
            AliasTarget::SameAs(other) | AliasTarget::Kibibytes(other) => find_setting(other),
            AliasTarget::CompressionLevel | AliasTarget::Ignored => None,
        });
        if let Some(setting) = setting {
            self.from_providers.insert(setting.name, value.to_owned());
        }
        Ok(())
    }

    /// Returns whether a value must not be shown.
    pub(super) fn is_hidden(&self, name: &str) -> bool {
        is_secret(name) || self.from_providers.contains_key(name)
    }

    /// Replaces the values that come from providers in an error by the text that was set.
    pub(super) fn hide_provider_values(&self, mut e: Error) -> Error {
        for (name, written) in &self.from_providers {
            if let Some(value) = self.value(name) {
                e = hide_value(&e, value, written);
            }
        }
        e
    }
}

/// Replaces a value in an error by the text that was set. Values of up to three characters are
/// replaced only where the error shows `=value`: elsewhere the match may be a coincidence.
fn hide_value(e: &Error, value: &str, written: &str) -> Error {
    const MIN_LEN: usize = 4;
    let value = super::parse::trim(value);
    if value.is_empty() {
        return e.clone();
    }
    let text = e.to_string().replace(&format!("{value:?}"), written);
    Error::config(if value.len() < MIN_LEN {
        text.replace(&format!("={value} "), &format!("={written} "))
    } else {
        text.replace(value, written)
    })
}

/// Returns whether a name belongs to the settings of configuration providers.
pub(super) fn is_provider_setting(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl ConfigProviders {
    /// Sets `config.providers` or `config.providers.NAME.…`.
    ///
    /// # Errors
    /// The class or the parameter does not exist in this client.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let value = super::parse::trim(value);
        if let Some(rest) = name.strip_prefix("config.providers.") {
            match rest.split_once('.') {
                Some((_, "class")) => {
                    ConfigProvider::from_class(name, value)?;
                }
                Some((_, "param.allowed.paths")) => {
                    if let Some(path) = allowed_paths(value).find(|path| !path.is_absolute()) {
                        return Err(Error::config(format!(
                            "{name}: {} is not an absolute path",
                            path.display()
                        )));
                    }
                }
                Some((_, "param.allowlist.pattern")) => {
                    parse_pattern(name, value)?;
                }
                _ => {
                    return Err(Error::config(format!(
                        "{name} is not supported; a provider has the settings class, \
                         param.allowed.paths and param.allowlist.pattern"
                    )));
                }
            }
        }
        self.settings.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Adds the settings of `other`, which replace equal ones.
    pub(super) fn merge(&mut self, mut other: ConfigProviders) {
        self.settings.append(&mut other.settings);
    }

    fn param(&self, provider: &str, param: &str) -> Option<(String, &str)> {
        let name = format!("{PREFIX}.{provider}.{param}");
        let value = self.settings.get(&name)?;
        Some((name, value))
    }

    /// Returns the provider with this name. Without `config.providers`, each built-in provider has
    /// its usual name.
    fn find(&self, name: &str) -> Result<Option<ConfigProvider>, Error> {
        let is_listed = match self.settings.get(PREFIX) {
            Some(list) => list.split(',').any(|listed| listed.trim() == name),
            None => true,
        };
        if !is_listed {
            return Ok(None);
        }
        if let Some((setting, class)) = self.param(name, "class") {
            return ConfigProvider::from_class(&setting, class).map(Some);
        }
        match name {
            "file" => Ok(Some(ConfigProvider::File)),
            "env" => Ok(Some(ConfigProvider::EnvVar)),
            "directory" => Ok(Some(ConfigProvider::Directory)),
            _ if self.settings.contains_key(PREFIX) => {
                Err(Error::config(format!("config.providers.{name}.class is missing")))
            }
            _ => Ok(None),
        }
    }

    /// Replaces each `${PROVIDER:KEY}` and `${PROVIDER:PATH:KEY}` in a value.
    ///
    /// # Errors
    /// A file, a key or a variable does not exist or may not be read. The error names it, and never
    /// contains a value.
    fn resolve(&self, value: &str) -> Result<ResolvedValue, Error> {
        let mut out = ResolvedValue {
            text: Zeroizing::new(String::new()),
            has_unknown_provider: false,
            has_shell_variable: false,
            is_from_provider: false,
        };
        let mut rest = value;
        while let Some(start) = rest.find("${") {
            let Some(len) = rest[start..].find('}') else { break };
            let reference = &rest[start + 2..start + len];
            let end = start + len + 1;
            let provider = match reference.split_once(':') {
                Some((name, _)) => self.find(name)?,
                None => None,
            };
            match (provider, reference.split_once(':')) {
                (Some(provider), Some((name, argument))) => {
                    let text = self.read(provider, name, argument).map_err(|reason| {
                        Error::config(format!("${{{reference}}} cannot be resolved: {reason}"))
                    })?;
                    append(&mut out.text, &rest[..start]);
                    append(&mut out.text, &text);
                    out.is_from_provider = true;
                }
                (_, argument) => {
                    out.has_unknown_provider |= argument.is_some();
                    out.has_shell_variable |= is_variable_name(reference);
                    append(&mut out.text, &rest[..end]);
                }
            }
            rest = &rest[end..];
        }
        append(&mut out.text, rest);
        Ok(out)
    }

    fn read(
        &self,
        provider: ConfigProvider,
        name: &str,
        argument: &str,
    ) -> Result<Zeroizing<String>, String> {
        if provider == ConfigProvider::EnvVar {
            return self.read_variable(name, argument);
        }
        let (path, key) = split_path(argument)
            .ok_or_else(|| format!("write ${{{name}:PATH:KEY}}, with the path of a file"))?;
        let path = Path::new(path);
        if let Some((setting, allowed)) = self.param(name, "param.allowed.paths") {
            let normalized = normalize(path);
            if !allowed_paths(allowed).any(|allowed| normalized.starts_with(normalize(&allowed))) {
                return Err(format!("{} is outside of {setting}", path.display()));
            }
        }
        match provider {
            ConfigProvider::Directory => read_directory(path, key),
            _ => read_properties(path, key),
        }
    }

    fn read_variable(&self, provider: &str, variable: &str) -> Result<Zeroizing<String>, String> {
        if variable.contains(':') {
            return Err(format!("write ${{{provider}:NAME}}, with the name of a variable"));
        }
        if let Some((setting, pattern)) = self.param(provider, "param.allowlist.pattern") {
            let alternatives = parse_pattern(&setting, pattern).map_err(|e| e.to_string())?;
            if !alternatives.iter().any(|parts| matches(parts, variable)) {
                return Err(format!("{setting} does not allow the variable {variable}"));
            }
        }
        match std::env::var(variable) {
            Ok(value) => Ok(Zeroizing::new(value)),
            Err(std::env::VarError::NotPresent) => {
                Err(format!("the environment variable {variable} is not set"))
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(format!("the environment variable {variable} is not UTF-8"))
            }
        }
    }
}

impl ConfigProvider {
    /// Returns the provider that has this name in Java.
    fn from_class(setting: &str, class: &str) -> Result<ConfigProvider, Error> {
        match class.rsplit('.').next().unwrap_or_default() {
            "FileConfigProvider" => Ok(ConfigProvider::File),
            "EnvVarConfigProvider" => Ok(ConfigProvider::EnvVar),
            "DirectoryConfigProvider" => Ok(ConfigProvider::Directory),
            _ => Err(Error::config(format!(
                "{setting}={class} is not supported: Java classes do not run in this client; use \
                 Kafka's FileConfigProvider, DirectoryConfigProvider or EnvVarConfigProvider"
            ))),
        }
    }
}

fn is_variable_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
}

/// Appends a text without a copy in freed memory, which a reallocation would leave.
fn append(out: &mut Zeroizing<String>, text: &str) {
    let mut joined = Zeroizing::new(String::with_capacity(out.len() + text.len()));
    joined.push_str(out);
    joined.push_str(text);
    *out = joined;
}

/// Splits `PATH:KEY` at the first colon, as Java does; the colon of a Windows drive does not count.
fn split_path(argument: &str) -> Option<(&str, &str)> {
    let has_drive =
        matches!(argument.as_bytes(), [b'a'..=b'z' | b'A'..=b'Z', b':', b'/' | b'\\', ..]);
    let skipped = if has_drive { 2 } else { 0 };
    let colon = skipped + argument[skipped..].find(':')?;
    (colon > 0).then_some((&argument[..colon], &argument[colon + 1..]))
}

fn read_properties(path: &Path, key: &str) -> Result<Zeroizing<String>, String> {
    let content = read_file(path)?;
    let entries: Vec<_> = properties::parse(&content)
        .map_err(|e| format!("cannot read {}: {e}", path.display()))?
        .into_iter()
        .map(|(name, value)| (name, Zeroizing::new(value)))
        .collect();
    // As in Java, the last one counts.
    let found = entries.into_iter().rfind(|(name, _)| name == key);
    found.map(|(_, value)| value).ok_or_else(|| format!("{} has no key {key}", path.display()))
}

/// Reads a file of a directory, such as a Kubernetes secret. One line end after its text, which
/// many tools write, does not count.
fn read_directory(path: &Path, name: &str) -> Result<Zeroizing<String>, String> {
    if Path::new(name).file_name() != Some(OsStr::new(name)) {
        return Err(format!("{name} is not the name of a file in {}", path.display()));
    }
    let path = path.join(name);
    let content = read_file(&path)?;
    let text =
        std::str::from_utf8(&content).map_err(|_| format!("{} is not UTF-8", path.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    files::read_file(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn allowed_paths(list: &str) -> impl Iterator<Item = PathBuf> {
    list.split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Removes `.` and `..` from a path, as Java's `Path.normalize` does.
fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Parses the part of Java's regular expressions that this client supports: names that are
/// separated by `|`, in which `.*` stands for any text. Returns the parts between `.*` for each.
fn parse_pattern<'p>(setting: &str, pattern: &'p str) -> Result<Vec<Vec<&'p str>>, Error> {
    let alternatives: Vec<Vec<&str>> =
        pattern.split('|').map(|alternative| alternative.split(".*").collect()).collect();
    let is_name = |part: &&str| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if alternatives.iter().flatten().all(is_name) {
        return Ok(alternatives);
    }
    Err(Error::config(format!(
        "{setting}={pattern} is not supported; write names of variables, separated by |, with .* \
         for any text"
    )))
}

/// Returns whether a name consists of these parts, with any text between them.
fn matches(parts: &[&str], name: &str) -> bool {
    let [first, middle @ .., last] = parts else {
        return parts.first().is_some_and(|only| *only == name);
    };
    let Some(mut rest) = name.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
        return false;
    };
    middle.iter().all(|part| match rest.find(part) {
        Some(position) => {
            rest = &rest[position + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests;
