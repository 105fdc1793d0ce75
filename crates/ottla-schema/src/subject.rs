//! Under which subject a schema is registered.

use std::fmt;

/// Whether a schema is that of a record's key or of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordPart {
    /// The key.
    Key,
    /// The value.
    Value,
}

/// How the name of a subject is made (Confluent's `SubjectNameStrategy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SubjectNameStrategy {
    /// `TOPIC-key` and `TOPIC-value`.
    #[default]
    TopicName,
    /// The full name of the record or message; for JSON Schema its `title`.
    RecordName,
    /// `TOPIC-` and the full name.
    TopicRecordName,
}

/// The name of a subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(String);

impl Subject {
    /// Creates a subject of this name.
    pub fn new(name: impl Into<String>) -> Subject {
        Subject(name.into())
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SubjectNameStrategy {
    /// Returns the strategy of a Java class, with or without its package.
    pub(crate) fn from_class(class: &str) -> Option<SubjectNameStrategy> {
        match class.rsplit('.').next().unwrap_or_default() {
            "TopicNameStrategy" => Some(SubjectNameStrategy::TopicName),
            "RecordNameStrategy" => Some(SubjectNameStrategy::RecordName),
            "TopicRecordNameStrategy" => Some(SubjectNameStrategy::TopicRecordName),
            _ => None,
        }
    }

    /// Returns the subject of a schema. `None` if the strategy needs a name that the schema lacks.
    pub fn subject(
        self,
        topic: &str,
        part: RecordPart,
        record_name: Option<&str>,
    ) -> Option<Subject> {
        let name = match self {
            SubjectNameStrategy::TopicName => match part {
                RecordPart::Key => format!("{topic}-key"),
                RecordPart::Value => format!("{topic}-value"),
            },
            SubjectNameStrategy::RecordName => record_name?.to_owned(),
            SubjectNameStrategy::TopicRecordName => format!("{topic}-{}", record_name?),
        };
        Some(Subject(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_have_confluents_names() {
        use SubjectNameStrategy as S;
        let subject = |s: S, name| s.subject("t", RecordPart::Key, name).map(|s| s.to_string());
        assert_eq!(subject(S::TopicName, None).unwrap(), "t-key");
        assert_eq!(subject(S::RecordName, Some("a.B")).unwrap(), "a.B");
        assert_eq!(subject(S::TopicRecordName, Some("a.B")).unwrap(), "t-a.B");
        assert_eq!(subject(S::RecordName, None), None);
        let class = "io.confluent.kafka.serializers.subject.RecordNameStrategy";
        assert_eq!(S::from_class(class), Some(S::RecordName));
    }
}
