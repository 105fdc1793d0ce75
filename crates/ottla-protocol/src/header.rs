//! Frames of requests and responses: the length, the header, the body.
//!
//! The client encodes requests and decodes responses, the broker the reverse. A request has header
//! v1 or v2, a response header v0 or v1; flexible versions use the higher one (KIP-482).

use bytes::Bytes;

use crate::api::{ApiKey, Request};
use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::wire::{
    RawTaggedField, Reader, Version, Wire, Writer, read_tagged_fields, write_tagged_fields,
};

/// The header of a request: v1, or v2 if the API version is flexible.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestHeader {
    /// The API.
    pub api_key: ApiKey,
    /// The version of the API.
    pub api_version: i16,
    /// The number that the response repeats.
    pub correlation_id: i32,
    /// The client's name (`client.id`). Its length is not compact, even in a flexible version.
    pub client_id: Option<String>,
    /// Tagged fields that this crate does not know.
    pub unknown_tagged_fields: Vec<RawTaggedField>,
}

const NON_FLEXIBLE: Version = Version { number: 1, flexible: false };

impl RequestHeader {
    /// Appends the header.
    pub fn encode(&self, w: &mut Writer) {
        w.i16(self.api_key.0);
        w.i16(self.api_version);
        w.i32(self.correlation_id);
        self.client_id.encode(w, NON_FLEXIBLE);
        if self.api_key.version(self.api_version).flexible {
            write_tagged_fields(w, Vec::new(), &self.unknown_tagged_fields);
        }
    }

    /// Appends a header without unknown tagged fields; allocates nothing for its arguments.
    pub fn encode_without_tags(
        api: ApiKey,
        version: i16,
        correlation_id: i32,
        client_id: Option<&str>,
        w: &mut Writer,
    ) {
        w.i16(api.0);
        w.i16(version);
        w.i32(correlation_id);
        w.length(client_id.map(str::len), false, true);
        w.raw(client_id.unwrap_or_default().as_bytes());
        if api.version(version).flexible {
            w.unsigned_varint(0);
        }
    }

    /// Reads a header.
    ///
    /// The tagged fields of an unknown API stay unread: its first flexible version is unknown.
    pub fn decode(r: &mut Reader<'_>) -> Result<RequestHeader, DecodeError> {
        let located = |field| move |e: DecodeError| e.with_location("RequestHeader", field);
        let api_key = ApiKey(r.i16().map_err(located("api_key"))?);
        let api_version = r.i16().map_err(located("api_version"))?;
        let correlation_id = r.i32().map_err(located("correlation_id"))?;
        let client_id = Wire::decode(r, NON_FLEXIBLE).map_err(located("client_id"))?;
        let mut unknown_tagged_fields = Vec::new();
        if api_key.version(api_version).flexible {
            read_tagged_fields(r, &mut unknown_tagged_fields, |_, _| Ok(false))
                .map_err(located("tagged fields"))?;
        }
        Ok(RequestHeader { api_key, api_version, correlation_id, client_id, unknown_tagged_fields })
    }
}

/// Returns whether responses of this API version have header v1.
///
/// ApiVersions responses never have it: the client does not know yet which versions the broker
/// supports (KIP-511).
fn is_response_header_flexible(api: ApiKey, version: i16) -> bool {
    api != ApiKey::API_VERSIONS && api.version(version).flexible
}

/// Encodes a request frame: length, header, body.
pub fn encode_request<R: Request>(
    body: &R,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) -> Result<Vec<u8>, EncodeError> {
    let header = RequestHeader {
        api_key: R::KEY,
        api_version: version,
        correlation_id,
        client_id: client_id.map(str::to_owned),
        unknown_tagged_fields: Vec::new(),
    };
    encode_frame(|w| {
        header.encode(w);
        body.encode(w, R::KEY.version(version));
    })
}

/// Encodes a response frame: length, header, body.
pub fn encode_response<T: Wire>(
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    body: &T,
) -> Result<Vec<u8>, EncodeError> {
    encode_frame(|w| {
        w.i32(correlation_id);
        if is_response_header_flexible(api, version) {
            w.unsigned_varint(0);
        }
        body.encode(w, api.version(version));
    })
}

fn encode_frame(fill: impl FnOnce(&mut Writer)) -> Result<Vec<u8>, EncodeError> {
    let mut w = Writer::new();
    w.i32(0);
    fill(&mut w);
    let mut out = w.finish()?;
    let size = out.len() - 4;
    let size = i32::try_from(size).map_err(|_| EncodeError::TooLong { length: size })?;
    out[..4].copy_from_slice(&size.to_be_bytes());
    Ok(out)
}

/// Reads the correlation id of a response frame without its length.
pub fn decode_correlation_id(frame: &Bytes) -> Result<i32, DecodeError> {
    Reader::new(frame).i32().map_err(|e| e.with_location("ResponseHeader", "correlation_id"))
}

/// Decodes a response to `R` from a frame without its length.
///
/// Bytes behind it are ignored, as in Java's client: brokers written by others pad their responses
/// or append fields, and the frame's length shows where the next response begins.
pub fn decode_response<R: Request>(
    frame: &Bytes,
    version: i16,
) -> Result<R::Response, DecodeError> {
    let mut r = Reader::new(frame);
    let located = |e: DecodeError| e.with_location("ResponseHeader", "tagged fields");
    r.i32().map_err(|e| e.with_location("ResponseHeader", "correlation_id"))?;
    if is_response_header_flexible(R::KEY, version) {
        read_tagged_fields(&mut r, &mut Vec::new(), |_, _| Ok(false)).map_err(located)?;
    }
    decode_body(&mut r, R::KEY, version)
}

/// Decodes the body of a request whose header has been read. No bytes may follow it.
pub fn decode_request<R: Request>(r: &mut Reader<'_>, version: i16) -> Result<R, DecodeError> {
    let body = decode_body(r, R::KEY, version)?;
    r.finish().map_err(|e| e.with_location(R::KEY.name(), "end of request"))?;
    Ok(body)
}

fn decode_body<T: Wire>(r: &mut Reader<'_>, key: ApiKey, version: i16) -> Result<T, DecodeError> {
    match key.api() {
        Some(api) if (api.min_version..=api.max_version).contains(&version) => {
            T::decode(r, key.version(version))
        }
        _ => Err(r
            .error(DecodeErrorKind::UnsupportedVersion(version))
            .with_location(key.name(), "version")),
    }
}
