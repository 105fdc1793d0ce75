//! ApiVersions: what the response to a connection's first request means.

use bytes::Bytes;
use ottla_protocol::header::decode_response;
use ottla_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use ottla_protocol::{ApiKey, DecodeError, ErrorCode};

/// The ApiVersions version that the client tries first.
pub(crate) const INITIAL_API_VERSIONS_VERSION: i16 = 5;

/// What to do after an ApiVersions response.
#[derive(Debug)]
pub(crate) enum ApiVersionsResult {
    /// The broker does not support the version: request this lower one.
    TryVersion(i16),
    /// The broker responded at the requested version. The response may have another error.
    Response(ApiVersionsResponse),
}

/// Decodes the response to a request of this version.
///
/// # Errors
/// The frame is no ApiVersions response.
pub(crate) fn decode_api_versions(
    frame: &Bytes,
    version: i16,
) -> Result<ApiVersionsResult, DecodeError> {
    // A broker that does not support the requested version responds at version 0 (KIP-511).
    // The error code follows the correlation id.
    let unsupported = frame.get(4..6) == Some(&ErrorCode::UNSUPPORTED_VERSION.0.to_be_bytes());
    if unsupported && version > 0 {
        // librdkafka's mock cluster mixes two versions in this response. Every broker supports
        // version 0.
        let Ok(response) = decode_response::<ApiVersionsRequest>(frame, 0) else {
            return Ok(ApiVersionsResult::TryVersion(0));
        };
        let supported = response.api_keys.iter().find(|k| k.api_key == ApiKey::API_VERSIONS.0);
        let next = supported.map_or(0, |k| k.max_version.clamp(0, version - 1));
        return Ok(ApiVersionsResult::TryVersion(next));
    }
    decode_response::<ApiVersionsRequest>(frame, version).map(ApiVersionsResult::Response)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// librdkafka 2.16 sends this to a request of version 3 or above: the number of APIs has the
    /// form of version 3, the API that of version 0.
    #[test]
    fn refusal_that_cannot_be_decoded_leads_to_version_0() {
        let frame = b"\x00\x00\x00\x07\x00\x23\x01\x00\x12\x00\x00\x00\x02\x00\x00\x00\x00";
        let frame = Bytes::from_static(frame);
        let result = decode_api_versions(&frame, 5).unwrap();
        assert!(matches!(result, ApiVersionsResult::TryVersion(0)), "{result:?}");
        assert!(decode_api_versions(&frame, 0).is_err(), "version 0 is the last one");
    }
}
