//! Who we are, shown to brokers that say what a test wants them to say.

use ottla_protocol::messages::{SaslAuthenticateResponse, SaslHandshakeResponse};

use super::*;
use crate::config::secret::Secret;
use crate::config::security::{LoginRefresh, SaslMechanism, SaslSettings};

pub(super) fn plain_security() -> ConnectionSecurity {
    let (window, jitter) = (0.8, 0.0);
    let refresh = LoginRefresh {
        window_factor: window,
        window_jitter: jitter,
        buffer: Duration::ZERO,
        min_period: Duration::ZERO,
    };
    let mechanism = SaslMechanism::Plain { user: "bob".into(), password: Secret::new("hunter2") };
    let sasl = SaslSettings { mechanism, extensions: Vec::new(), refresh };
    ConnectionSecurity { sasl: Some(Arc::new(sasl)), ..ConnectionSecurity::default() }
}

fn sasl_broker(session_lifetime_ms: i64) -> impl FnMut(&ReceivedRequest) -> Option<Vec<u8>> {
    move |a| match a.api {
        ApiKey::SASL_HANDSHAKE => Some(a.encode_response(&SaslHandshakeResponse::default())),
        ApiKey::SASL_AUTHENTICATE => Some(a.encode_response(&SaslAuthenticateResponse {
            session_lifetime_ms,
            ..Default::default()
        })),
        _ => healthy_broker(&[1])(a),
    }
}

#[test]
fn sa2_what_is_said_before_a_broker_knows_us_and_by_which_ids() {
    let mut rig = ClientFixture::new(settings(&["127.0.0.1"]), plain_security());
    rig.run_until(&mut sasl_broker(0), |r| r.client.metadata.last_success.is_some());
    let said: Vec<(ApiKey, i16)> =
        rig.requests.iter().take(5).map(|a| (a.api, a.version)).collect();
    assert_eq!(
        said,
        [
            (ApiKey::API_VERSIONS, 0),
            (ApiKey::SASL_HANDSHAKE, 1),
            (ApiKey::SASL_AUTHENTICATE, 2),
            (ApiKey::API_VERSIONS, 4),
            (ApiKey::METADATA, 13),
        ]
    );
    for a in &rig.requests {
        let reserved = (2_147_483_640..=i32::MAX).contains(&a.correlation_id);
        let sasl = a.version == 0 || [17, 36].contains(&a.api.0);
        assert_eq!(reserved, sasl, "{a:?}");
    }
}

#[test]
fn sa4_a_session_is_renewed_before_it_ends_and_answers_meanwhile_are_delivered() {
    let mut rig = ClientFixture::new(settings(&["127.0.0.1"]), plain_security());
    rig.run_until(&mut sasl_broker(10_000), |r| r.client.metadata.last_success.is_some());
    let now = rig.now();
    rig.client.ready(1, now);
    rig.run_until(&mut sasl_broker(10_000), |r| r.client.is_ready(1, r.now()));
    let authenticated = rig.now();
    // Nothing is sent by itself when nothing is to be sent.
    let exchanges = rig.received_versions(ApiKey::SASL_AUTHENTICATE).len();
    rig.run_for(ms(8_000), &mut sasl_broker(10_000));
    assert_eq!(rig.received_versions(ApiKey::SASL_AUTHENTICATE).len(), exchanges);
    assert!(rig.client.is_ready(1, authenticated.after(ms(8_400))), "before 85 % of it");
    rig.machine.advance(authenticated.after(ms(8_400)));
    rig.send_init_producer_id(1);
    rig.receive_requests().into_iter().for_each(|a| rig.requests.push(a));
    let held = rig.requests.last().unwrap().clone();
    rig.machine.advance(authenticated.after(ms(9_500)));
    let now = rig.now();
    assert!(!rig.client.is_ready(1, now), "after 95 % of it");
    assert!(!rig.client.ready(1, now));
    // The answer to the earlier request comes while we show who we are.
    rig.machine.send_to_client(
        held.conn,
        held.encode_response(&InitProducerIdResponse::default()),
        Duration::ZERO,
    );
    rig.run_until(&mut sasl_broker(10_000), |r| r.client.is_ready(1, r.now()));
    assert!(rig.completed.iter().any(|d| d.result.is_ok()));
    let again: Vec<&ReceivedRequest> =
        rig.requests.iter().filter(|a| a.conn == held.conn).collect();
    assert_eq!(again.last().unwrap().api, ApiKey::SASL_AUTHENTICATE, "on the same connection");
    // Whoever is only asked for metadata is renewed, too.
    rig.machine.advance(rig.now().after(ms(9_900)));
    let now = rig.now();
    rig.client.request_metadata(now);
    let before = rig.received_versions(ApiKey::METADATA).len();
    rig.run_until(&mut sasl_broker(10_000), |r| {
        r.received_versions(ApiKey::METADATA).len() > before
    });
    // A broker that does not know us any more ends it with its own words.
    rig.machine.advance(rig.now().after(ms(9_900)));
    let now = rig.now();
    rig.client.ready(1, now);
    let mut refuse = |a: &ReceivedRequest| match a.api {
        ApiKey::SASL_AUTHENTICATE => Some(a.encode_response(&SaslAuthenticateResponse {
            error_code: ErrorCode::SASL_AUTHENTICATION_FAILED.0,
            error_message: Some("bob has left".into()),
            ..Default::default()
        })),
        _ => sasl_broker(10_000)(a),
    };
    rig.run_until(&mut refuse, |r| !r.client.health.get().failing.is_empty());
    let text = format!("{:?}", rig.client.health.get());
    assert!(text.contains("PLAIN") && text.contains("bob has left"), "{text}");
    assert!(!text.contains("hunter2"));
}

/// Whatever session a broker grants, nothing overflows and nothing is renewed without end.
#[test]
fn a_session_of_any_length() {
    for life in [i64::MIN, -1, 0, 1, i64::MAX] {
        let mut rig = ClientFixture::new(settings(&["127.0.0.1"]), plain_security());
        rig.run_until(&mut sasl_broker(life), |r| r.client.metadata.last_success.is_some());
        let by = rig.now().after(ms(5000));
        let mut rounds = 0;
        while rig.now() < by {
            let now = rig.now();
            rig.client.request_metadata(now);
            rig.run_once(by, &mut sasl_broker(life));
            rounds += 1;
            assert!(rounds < 5000, "nobody spins");
        }
        let exchanges = rig.received_versions(ApiKey::SASL_AUTHENTICATE).len();
        // Kafka grants no session that short; whoever does is not asked without end.
        let most = if life == 1 { 5000 } else { 3 };
        assert!(exchanges <= most, "{life}: {exchanges}");
    }
}

#[test]
fn nc13_cs4_sa1_a_refusal_is_told_once_disturbs_nobody_and_backs_off() {
    let mut rig = ClientFixture::new(settings(&["127.0.0.1"]), plain_security());
    let mut serve = |a: &ReceivedRequest| match (a.api, a.broker == broker_address(2)) {
        (ApiKey::METADATA, _) => Some(a.encode_response(&metadata_response(&[1, 2]))),
        (ApiKey::SASL_HANDSHAKE, true) => {
            let error_code = ErrorCode::UNSUPPORTED_SASL_MECHANISM.0;
            let mechanisms = vec!["SCRAM-SHA-512".to_owned()];
            Some(a.encode_response(&SaslHandshakeResponse {
                error_code,
                mechanisms,
                ..Default::default()
            }))
        }
        _ => sasl_broker(0)(a),
    };
    rig.run_until(&mut serve, |r| r.client.cluster().nodes.len() == 2);
    let now = rig.now();
    rig.client.ready(1, now);
    rig.run_until(&mut serve, |r| r.client.is_ready(1, r.now()));
    rig.send_init_producer_id(1);
    let now = rig.now();
    rig.client.ready(2, now);
    rig.run_until(&mut serve, |r| {
        !r.client.health.get().failing.is_empty() && !r.completed.is_empty()
    });
    assert!(rig.completed.iter().all(|d| d.result.is_ok()), "the other's request is answered");
    let text = rig.client.health.get().failing.into_values().next().unwrap();
    assert!(text.contains("it has SCRAM-SHA-512"), "{text}");
    assert!(
        rig.client.take_metadata_update().authentication_error.is_none(),
        "another broker is content"
    );
    assert!(rig.client.earliest_ready_at(2, rig.now()).unwrap() > now, "CS4: after a backoff");
}
