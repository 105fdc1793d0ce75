//! Where `docs/ERRORS.md` explains an error. The command prints it with the error.

use super::{Error, ErrorKind};

/// Returns the page and the section that explain the error best: `docs/ERRORS.md#deliverytimeout`.
///
/// That is the section of a broker's error code, if the error or the last attempt before it has
/// one: it names the cause. Otherwise it is the section of the error's kind.
pub fn error_reference(e: &Error) -> String {
    let code = e.code().or_else(|| e.last_broker_error()?.code());
    // Such a record is not at fault, although the code is about its batch.
    let code = code.filter(|_| e.kind() != ErrorKind::BatchRejected);
    // The page has no section for a code without a description. A newer broker may send one, and a
    // producer meets no other.
    let code = code.filter(|code| !code.description().is_empty()).and_then(|code| code.name());
    let section = code.map_or_else(|| format!("{:?}", e.kind()), str::to_owned);
    format!("docs/ERRORS.md#{}", section.to_lowercase())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    use ottla_protocol::ErrorCode;

    use super::*;
    use crate::sender::verdict::possibly_appended;

    /// Returns the sections of the page: each heading with its text.
    fn sections() -> BTreeMap<String, String> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ERRORS.md");
        let page = fs::read_to_string(path).expect("docs/ERRORS.md can be read");
        let sections = page.split("\n### ").skip(1).map(|section| {
            let (heading, text) = section.split_once('\n').expect("a section has a text");
            (heading.to_owned(), text.split("\n## ").next().unwrap_or(text).trim().to_owned())
        });
        let (count, sections) =
            (page.matches("\n### ").count(), sections.collect::<BTreeMap<_, _>>());
        assert_eq!(sections.len(), count, "a section stands twice");
        sections
    }

    /// Adds the names behind `ErrorCode::` in the sources of this crate, tests excepted.
    fn collect_codes(dir: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).expect("the sources can be read") {
            let path = entry.expect("a directory entry can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.contains("test") {
                continue;
            }
            if path.is_dir() {
                collect_codes(&path, names);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file can be read");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for rest in code.split("ErrorCode::").skip(1) {
                let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
                let name: String = rest.chars().take_while(|c| is_part(*c)).collect();
                if name.len() > 1 && name != "NONE" {
                    names.insert(name);
                }
            }
        }
    }

    /// Returns the codes that a producer can meet: those that this crate handles, the verdict
    /// table included, and those with a description for producers.
    fn codes() -> BTreeMap<String, ErrorCode> {
        let all = (-1..1000).map(ErrorCode).filter(|code| code.is_known() && !code.is_none());
        let mut names = BTreeSet::new();
        collect_codes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
        let codes: BTreeMap<String, ErrorCode> = all
            .map(|code| (code.to_string(), code))
            .filter(|(name, code)| names.contains(name) || !code.description().is_empty())
            .collect();
        assert!(names.len() > 20, "found only {names:?}");
        codes
    }

    fn kinds() -> BTreeMap<String, ErrorKind> {
        ErrorKind::ALL.iter().map(|kind| (format!("{kind:?}"), *kind)).collect()
    }

    #[test]
    fn page_has_a_section_for_each_kind_and_code_and_no_other() {
        let expected: BTreeSet<String> = kinds().into_keys().chain(codes().into_keys()).collect();
        let found: BTreeSet<String> = sections().into_keys().collect();
        let missing: Vec<_> = expected.difference(&found).collect();
        let unknown: Vec<_> = found.difference(&expected).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "docs/ERRORS.md: no section for {missing:?}; sections of nothing: {unknown:?}"
        );
        for (heading, text) in sections() {
            let refers = text.contains("Causes and what to do:");
            let is_complete = text.contains("- Causes:") && text.contains("- What to do:");
            assert!(refers || is_complete, "{heading}: no causes, or nothing to do");
        }
    }

    #[test]
    fn first_line_of_a_kinds_section_is_true() {
        let (sections, kinds) = (sections(), kinds());
        for (name, kind) in kinds {
            let line = sections[&name].lines().next().unwrap_or_default();
            let retriable = match kind {
                ErrorKind::Broker => "Retriable if its code is",
                kind if Error::new(kind, "").is_retriable() => "Retriable",
                _ => "Not retriable",
            };
            let start = format!("`{kind}`. {retriable}. ");
            let written = line.strip_prefix(start.as_str());
            assert!(
                matches!(written, Some("Not written." | "As its status says.")),
                "{name}: {line:?} does not begin with {start:?}, or does not say what was written"
            );
        }
    }

    #[test]
    fn first_line_of_a_codes_section_is_true() {
        let sections = sections();
        for (name, code) in codes() {
            let line = sections[&name].lines().next().unwrap_or_default();
            let retried = if code.is_retriable() { "Retried" } else { "Not retried" };
            let start = format!("Code {}. {retried}. ", code.0);
            let written = line.strip_prefix(start.as_str()).unwrap_or_default();
            let is_true = match (possibly_appended(code, None), possibly_appended(code, Some(1))) {
                (true, _) => ["Possibly written.", "In no response to records."].contains(&written),
                (false, true) => written == "Not written, unless the response has a base offset.",
                (false, false) => {
                    ["Not written.", "Not written by this attempt."].contains(&written)
                }
            };
            assert!(
                is_true,
                "{name}: {line:?} does not begin with {start:?}, or {written:?} is wrong"
            );
        }
    }

    #[test]
    fn every_reference_leads_to_a_section() {
        let anchors: BTreeSet<String> =
            sections().into_keys().map(|heading| heading.to_lowercase()).collect();
        let errors = (ErrorKind::ALL.iter()).map(|kind| Error::new(*kind, "it failed"));
        let refusals = (-1..140).map(|code| Error::broker(ErrorCode(code), None, "t-0"));
        for e in errors.chain(refusals) {
            let reference = error_reference(&e);
            let anchor = reference.strip_prefix("docs/ERRORS.md#").unwrap_or_default();
            assert!(anchors.contains(anchor), "{e}: {reference}");
        }
    }

    #[test]
    fn reference_is_to_the_cause() {
        let refusal = Error::broker(ErrorCode::NOT_ENOUGH_REPLICAS, None, "t-0");
        let expired = Error::new(ErrorKind::DeliveryTimeout, "expired");
        assert_eq!(error_reference(&expired), "docs/ERRORS.md#deliverytimeout");
        let expired = expired.with_last_broker_error(&refusal);
        assert_eq!(error_reference(&expired), "docs/ERRORS.md#not_enough_replicas");
        let unknown = Error::broker(ErrorCode(4321), None, "t-0");
        assert_eq!(error_reference(&unknown), "docs/ERRORS.md#broker");
        let innocent = Error::batch_rejected(ErrorCode::INVALID_RECORD, "t-0: INVALID_RECORD");
        assert_eq!(error_reference(&innocent), "docs/ERRORS.md#batchrejected");
    }
}
