//! The requests of a registry's REST API: their paths and bodies, and what their responses mean.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::transport::HttpResponse;
use crate::error::{SchemaError, SchemaErrorKind};
use crate::schema::{RegisteredSchema, Schema, SchemaReference, SchemaType, Version};
use crate::subject::Subject;

/// A request, which is the key of its response in the cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Request {
    /// Registers a schema; does nothing if the subject has it.
    Register {
        subject: Subject,
        schema: Schema,
        normalize: bool,
    },
    /// Requests the id of a schema that the subject has.
    LookUp {
        subject: Subject,
        schema: Schema,
        normalize: bool,
    },
    Version {
        subject: Subject,
        version: Version,
    },
    Id(i32),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SchemaBody<'a> {
    schema: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_type: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    references: &'a [SchemaReference],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResponseBody {
    id: Option<i32>,
    version: Option<i32>,
    schema: Option<String>,
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<SchemaReference>>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error_code: i32,
    #[serde(default)]
    message: String,
}

impl Request {
    /// Returns path and query.
    pub(super) fn path(&self) -> String {
        let query = |normalize: bool| if normalize { "?normalize=true" } else { "" };
        match self {
            Request::Register { subject, normalize, .. } => {
                format!("/subjects/{}/versions{}", encode(subject.as_str()), query(*normalize))
            }
            Request::LookUp { subject, normalize, .. } => {
                format!("/subjects/{}{}", encode(subject.as_str()), query(*normalize))
            }
            Request::Version { subject, version } => {
                format!("/subjects/{}/versions/{version}", encode(subject.as_str()))
            }
            Request::Id(id) => format!("/schemas/ids/{id}"),
        }
    }

    /// Returns the body of a POST; `None` for a GET.
    pub(super) fn body(&self) -> Option<Vec<u8>> {
        let (Request::Register { schema, .. } | Request::LookUp { schema, .. }) = self else {
            return None;
        };
        let schema_type = schema.schema_type();
        let body = SchemaBody {
            schema: schema.text(),
            // Registries before Confluent 5.5 know no type.
            schema_type: (schema_type != SchemaType::Avro).then(|| schema_type.as_str()),
            references: schema.references(),
        };
        // Writing strings and numbers to a `Vec` cannot fail.
        Some(serde_json::to_vec(&body).unwrap_or_default())
    }

    /// Returns the result of a response. `url` is for messages.
    pub(super) fn parse(
        &self,
        response: &HttpResponse,
        url: &str,
    ) -> Result<RegisteredSchema, SchemaError> {
        if !(200..300).contains(&response.status) {
            return Err(self.rejection(response, url));
        }
        let invalid = |reason: &str| {
            let message = format!("cannot {self}: the response of {url} is invalid: {reason}");
            SchemaError::new(SchemaErrorKind::InvalidResponse, message)
        };
        let body: ResponseBody =
            serde_json::from_slice(&response.body).map_err(|e| invalid(&e.to_string()))?;
        let (id, subject, schema) = match self {
            Request::Register { subject, schema, .. } | Request::LookUp { subject, schema, .. } => {
                (body.id, Some(subject.clone()), schema.clone())
            }
            Request::Version { subject, .. } => {
                (body.id, Some(subject.clone()), Schema::from_body(&body, &invalid)?)
            }
            Request::Id(id) => (Some(*id), None, Schema::from_body(&body, &invalid)?),
        };
        let id = id.ok_or_else(|| invalid("it has no id"))?;
        Ok(RegisteredSchema { id, subject, version: body.version, schema })
    }

    fn rejection(&self, response: &HttpResponse, url: &str) -> SchemaError {
        let status = response.status;
        let body: Option<ErrorBody> = serde_json::from_slice(&response.body).ok();
        let code = body.as_ref().map_or(i32::from(status), |body| body.error_code);
        let message = body.map(|body| body.message).filter(|message| !message.is_empty());
        let message = message.unwrap_or_else(|| "no message".to_owned());
        let hint = match (status, code) {
            (300..=399, _) => "redirects are not followed; set schema.registry.url to the new URL",
            (401 | 403, _) => {
                "check the credentials (basic.auth.user.info, bearer.auth.token) and their \
                 permissions"
            }
            (_, 40403) if matches!(self, Request::LookUp { .. }) => {
                "register the schema first, or set auto.register.schemas=true"
            }
            (_, 40401 | 40402) => "check the subject's name and version",
            (_, 40403) => "check the schema's id",
            (404, _) => "check schema.registry.url: it may lack a path",
            (409, _) => "change the schema, or the subject's compatibility level",
            (422, _) => "correct the schema and its references",
            _ => "see the registry's log",
        };
        SchemaError::rejected(
            code,
            format!("cannot {self}: {message} (HTTP status {status}, code {code}, {url}); {hint}"),
        )
    }
}

impl Schema {
    fn from_body(
        body: &ResponseBody,
        invalid: &dyn Fn(&str) -> SchemaError,
    ) -> Result<Schema, SchemaError> {
        let text = body.schema.clone().ok_or_else(|| invalid("it has no schema"))?;
        let schema_type = SchemaType::from_name(body.schema_type.as_deref())?;
        let references = body.references.clone().unwrap_or_default();
        Ok(Schema::new(schema_type, text).with_references(references))
    }
}

/// Says what the request does, as in "cannot …".
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Register { subject, .. } => {
                write!(f, "register a schema under subject {subject}")
            }
            Request::LookUp { subject, .. } => write!(f, "find the schema in subject {subject}"),
            Request::Version { subject, version } => {
                write!(f, "get version {version} of subject {subject}")
            }
            Request::Id(id) => write!(f, "get the schema with id {id}"),
        }
    }
}

/// Encodes a segment of a path (RFC 3986, 3.3).
fn encode(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    // A client would resolve these two as steps of the path.
    match &*out {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_is_one_segment_of_the_path() {
        let subject = Subject::new("a/b c?é");
        let request = Request::Version { subject, version: Version::Latest };
        assert_eq!(request.path(), "/subjects/a%2Fb%20c%3F%C3%A9/versions/latest");
        let version = Request::Version { subject: Subject::new(".."), version: Version::Number(2) };
        assert_eq!(version.path(), "/subjects/%2E%2E/versions/2");
    }

    #[test]
    fn body_names_type_and_references_where_needed() {
        let reference = SchemaReference { name: "a".into(), subject: "s".into(), version: 1 };
        let schema = Schema::new(SchemaType::Json, "{}").with_references(vec![reference]);
        let of = |schema: Schema| {
            let subject = Subject::new("s");
            let request = Request::Register { subject, schema, normalize: true };
            assert_eq!(request.path(), "/subjects/s/versions?normalize=true");
            String::from_utf8(request.body().unwrap()).unwrap()
        };
        assert_eq!(
            of(schema),
            concat!(
                r#"{"schema":"{}","schemaType":"JSON","#,
                r#""references":[{"name":"a","subject":"s","version":1}]}"#
            )
        );
        assert_eq!(of(Schema::new(SchemaType::Avro, "{}")), r#"{"schema":"{}"}"#);
    }

    #[test]
    fn rejections_name_code_subject_and_remedy() {
        let subject = Subject::new("orders-value");
        let schema = Schema::new(SchemaType::Avro, "{}");
        let request = Request::Register { subject, schema, normalize: false };
        let body = br#"{"error_code":409,"message":"too new"}"#.to_vec();
        let e = request.parse(&HttpResponse { status: 409, body }, "http://r").unwrap_err();
        assert_eq!((e.kind(), e.code()), (SchemaErrorKind::Rejected, Some(409)));
        assert_eq!(
            e.to_string(),
            "cannot register a schema under subject orders-value: too new (HTTP status 409, code \
             409, http://r); change the schema, or the subject's compatibility level"
        );
        let response = HttpResponse { status: 200, body: b"<html>".to_vec() };
        let e = request.parse(&response, "http://r").unwrap_err();
        assert_eq!(e.kind(), SchemaErrorKind::InvalidResponse);
        let response = HttpResponse { status: 404, body: b"<html>".to_vec() };
        let e = request.parse(&response, "http://r").unwrap_err().to_string();
        assert!(e.contains("it may lack a path"), "{e}");
    }
}
