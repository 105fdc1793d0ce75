//! Authentication and reauthentication with scripted brokers.

use ottla_protocol::header::decode_request;
use ottla_protocol::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeResponse,
};

use super::*;
use crate::config::secret::Secret;
use crate::config::security::{LoginRefresh, SaslCredentials, SaslSettings, ScramHash};
use crate::error::ErrorKind;

pub(super) fn plain_security() -> ConnectionSecurity {
    let password = Secret::new("hunter2");
    security(SaslCredentials::Plain { user: "bob".into(), password })
}

fn security(credentials: SaslCredentials) -> ConnectionSecurity {
    let refresh = LoginRefresh {
        window_factor: 0.8,
        window_jitter: 0.0,
        buffer: Duration::ZERO,
        min_period: Duration::ZERO,
    };
    let sasl = SaslSettings { credentials, extensions: Vec::new(), refresh };
    ConnectionSecurity { sasl: Some(Arc::new(sasl)), ..ConnectionSecurity::default() }
}

fn plain_fixture() -> ClientFixture {
    ClientFixture::new(settings(&["127.0.0.1"]), plain_security())
}

/// Returns the handler of a broker that accepts everyone, with sessions of this lifetime.
fn sasl_broker(session_lifetime_ms: i64) -> impl FnMut(&ReceivedRequest) -> Option<Vec<u8>> {
    move |r| match r.api {
        ApiKey::SASL_HANDSHAKE => Some(r.encode_response(&SaslHandshakeResponse::default())),
        ApiKey::SASL_AUTHENTICATE => Some(r.encode_response(&SaslAuthenticateResponse {
            session_lifetime_ms,
            ..Default::default()
        })),
        _ => healthy_broker(&[1])(r),
    }
}

/// Returns a fixture whose client is ready to send to node 1, with sessions of 10 s.
fn ready_sasl_fixture() -> ClientFixture {
    let mut f = plain_fixture();
    f.run_until(&mut sasl_broker(10_000), ClientFixture::has_metadata);
    let now = f.now();
    f.client.ready(1, now);
    f.run_until(&mut sasl_broker(10_000), |f| f.client.is_ready(1, f.now()));
    f
}

// CASES: SA2.
#[test]
fn authentication_comes_first_and_uses_the_reserved_correlation_ids() {
    let mut f = plain_fixture();
    f.run_until(&mut sasl_broker(0), ClientFixture::has_metadata);
    let requests: Vec<(ApiKey, i16)> =
        f.requests.iter().take(5).map(|r| (r.api, r.version)).collect();
    assert_eq!(
        requests,
        [
            (ApiKey::API_VERSIONS, 0),
            (ApiKey::SASL_HANDSHAKE, 1),
            (ApiKey::SASL_AUTHENTICATE, 2),
            (ApiKey::API_VERSIONS, 5),
            (ApiKey::METADATA, 13),
        ]
    );
    for r in &f.requests {
        let is_reserved = (2_147_483_640..=i32::MAX).contains(&r.correlation_id);
        let is_sasl =
            r.version == 0 || [ApiKey::SASL_HANDSHAKE, ApiKey::SASL_AUTHENTICATE].contains(&r.api);
        assert_eq!(is_reserved, is_sasl, "{r:?}");
    }
}

// CASES: SA4.
#[test]
fn reauthentication_starts_before_the_session_expires_and_keeps_earlier_requests() {
    let mut f = ready_sasl_fixture();
    let authenticated_at = f.now();
    let before = f.received_versions(ApiKey::SASL_AUTHENTICATE).len();
    f.run_for(ms(8_000), &mut sasl_broker(10_000));
    let after = f.received_versions(ApiKey::SASL_AUTHENTICATE).len();
    assert_eq!(after, before, "an unused connection does not reauthenticate");
    let early = authenticated_at.after(ms(8_400));
    assert!(f.client.is_ready(1, early), "before 85 % of the lifetime");
    f.machine.advance(early);
    f.send_init_producer_id(1);
    let received = f.receive_requests();
    f.requests.extend(received);
    let pending = f.requests.last().unwrap().clone();
    f.machine.advance(authenticated_at.after(ms(9_500)));
    let now = f.now();
    assert!(!f.client.is_ready(1, now), "after 95 % of the lifetime");
    assert!(!f.client.ready(1, now));
    // The response to the earlier request arrives during the exchange.
    let response = pending.encode_response(&InitProducerIdResponse::default());
    f.machine.send_to_client(pending.connection, response, Duration::ZERO);
    f.run_until(&mut sasl_broker(10_000), |f| f.client.is_ready(1, f.now()));
    assert!(f.completed.iter().any(|c| c.result.is_ok()));
    let last = f.requests.iter().rfind(|r| r.connection == pending.connection).unwrap();
    assert_eq!(last.api, ApiKey::SASL_AUTHENTICATE, "on the same connection");
}

// CASES: SA4.
#[test]
fn metadata_request_reauthenticates_first() {
    let mut f = ready_sasl_fixture();
    f.machine.advance(f.now().after(ms(9_900)));
    let now = f.now();
    f.client.request_metadata(now);
    let before = f.received_versions(ApiKey::METADATA).len();
    f.run_until(&mut sasl_broker(10_000), |f| f.received_versions(ApiKey::METADATA).len() > before);
}

// CASES: SA4.
#[test]
fn failed_reauthentication_closes_the_connection_with_the_brokers_message() {
    let mut f = ready_sasl_fixture();
    f.machine.advance(f.now().after(ms(9_900)));
    let now = f.now();
    f.client.ready(1, now);
    let mut reject = |r: &ReceivedRequest| match r.api {
        ApiKey::SASL_AUTHENTICATE => Some(r.encode_response(&SaslAuthenticateResponse {
            error_code: ErrorCode::SASL_AUTHENTICATION_FAILED.0,
            error_message: Some("bob has left".into()),
            ..Default::default()
        })),
        _ => sasl_broker(10_000)(r),
    };
    f.run_until(&mut reject, |f| !f.client.observer.health.get(Tick(0)).failing.is_empty());
    let text = format!("{:?}", f.client.observer.health.get(Tick(0)));
    assert!(text.contains("PLAIN") && text.contains("bob has left"), "{text}");
    assert!(!text.contains("hunter2"));
}

#[test]
fn refused_login_has_the_brokers_code() {
    for code in [ErrorCode::SASL_AUTHENTICATION_FAILED, ErrorCode::ILLEGAL_SASL_STATE] {
        let mut f = plain_fixture();
        let mut reject = |r: &ReceivedRequest| match r.api {
            ApiKey::SASL_AUTHENTICATE => {
                let error_code = code.0;
                let response = SaslAuthenticateResponse { error_code, ..Default::default() };
                Some(r.encode_response(&response))
            }
            _ => sasl_broker(0)(r),
        };
        let has_error =
            |f: &ClientFixture| f.client.metadata.pending.authentication_error.is_some();
        f.run_until(&mut reject, has_error);
        let error = f.client.metadata.pending.authentication_error.take().unwrap();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Authentication, Some(code)));
        assert!(error.to_string().contains(code.name().unwrap()), "{error}");
    }
}

/// No session lifetime overflows or makes the client reauthenticate in a tight loop.
#[test]
fn session_of_any_lifetime_is_handled() {
    for lifetime_ms in [i64::MIN, -1, 0, 1, i64::MAX] {
        let mut f = plain_fixture();
        f.run_until(&mut sasl_broker(lifetime_ms), ClientFixture::has_metadata);
        let deadline = f.now().after(ms(5000));
        let mut rounds = 0;
        while f.now() < deadline {
            let now = f.now();
            f.client.request_metadata(now);
            f.run_once(deadline, &mut sasl_broker(lifetime_ms));
            rounds += 1;
            assert!(rounds < 5000, "a busy loop");
        }
        let exchanges = f.received_versions(ApiKey::SASL_AUTHENTICATE).len();
        // Kafka grants no lifetime of 1 ms. With it, each request needs an exchange.
        let max = if lifetime_ms == 1 { 5000 } else { 3 };
        assert!(exchanges <= max, "{lifetime_ms}: {exchanges}");
    }
}

// CASES: NC13, CS4, SA1.
#[test]
fn rejected_mechanism_affects_one_broker_only_and_backs_off() {
    let mut f = plain_fixture();
    let mut handler = |r: &ReceivedRequest| match (r.api, r.broker == broker_address(2)) {
        (ApiKey::METADATA, _) => Some(r.encode_response(&metadata_response(&[1, 2]))),
        (ApiKey::SASL_HANDSHAKE, true) => Some(r.encode_response(&SaslHandshakeResponse {
            error_code: ErrorCode::UNSUPPORTED_SASL_MECHANISM.0,
            mechanisms: vec!["SCRAM-SHA-512".to_owned()],
            ..Default::default()
        })),
        _ => sasl_broker(0)(r),
    };
    f.run_until(&mut handler, |f| f.client.cluster().nodes.len() == 2);
    let now = f.now();
    f.client.ready(1, now);
    f.run_until(&mut handler, |f| f.client.is_ready(1, f.now()));
    f.send_init_producer_id(1);
    let now = f.now();
    f.client.ready(2, now);
    f.run_until(&mut handler, |f| {
        !f.client.observer.health.get(Tick(0)).failing.is_empty() && !f.completed.is_empty()
    });
    assert!(f.completed.iter().all(|c| c.result.is_ok()), "broker 1 still responds");
    let reason = f.client.observer.health.get(Tick(0)).failing.into_values().next().unwrap();
    assert!(reason.contains("supports SCRAM-SHA-512"), "{reason}");
    let update = f.client.take_metadata_update();
    assert!(update.authentication_error.is_none(), "broker 1 accepts the client");
    assert!(f.client.earliest_ready_at(2, f.now()).unwrap() > now, "after a backoff (CS4)");
}

/// The key derivation takes milliseconds, so a worker thread runs it. The exchange continues with
/// its result.
#[test]
fn scram_exchange_continues_with_the_result_of_a_worker() {
    let credentials = SaslCredentials::Scram {
        hash: ScramHash::Sha512,
        user: "bob".into(),
        password: Secret::new("hunter2"),
        token_auth: false,
    };
    let mut f = ClientFixture::new(settings(&["127.0.0.1"]), security(credentials));
    let mut messages = Vec::new();
    let mut handler = |r: &ReceivedRequest| {
        if r.api != ApiKey::SASL_AUTHENTICATE {
            return sasl_broker(0)(r);
        }
        let request: SaslAuthenticateRequest =
            decode_request(&mut Reader::new(&r.body), r.version).unwrap();
        let message = String::from_utf8(request.auth_bytes.to_vec()).unwrap();
        let response = match message.split_once(",r=") {
            Some((_, nonce)) if message.starts_with("n,,") => format!("r={nonce}x,s=YQ==,i=4096"),
            _ => "v=AAAA".to_owned(),
        };
        messages.push(message);
        let auth_bytes = Bytes::from(response);
        Some(r.encode_response(&SaslAuthenticateResponse { auth_bytes, ..Default::default() }))
    };
    f.run_until(&mut handler, |f| !f.client.observer.health.get(Tick(0)).failing.is_empty());
    assert!(messages[1].starts_with("c=biws,r=") && messages[1].contains(",p="), "{messages:?}");
    let text = format!("{:?}", f.client.observer.health.get(Tick(0)));
    assert!(text.contains("signature is wrong"), "the broker's proof is checked: {text}");
}
