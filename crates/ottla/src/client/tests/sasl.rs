//! Who we are, shown to brokers that say what a test wants them to say.

use ottla_protocol::messages::{SaslAuthenticateResponse, SaslHandshakeResponse};

use super::*;
use crate::config::secret::Secret;
use crate::config::security::{LoginRefresh, SaslMechanism, SaslSettings};

pub(super) fn plain() -> Secured {
    let (window, jitter) = (0.8, 0.0);
    let refresh = LoginRefresh {
        window_factor: window,
        window_jitter: jitter,
        buffer: Duration::ZERO,
        min_period: Duration::ZERO,
    };
    let mechanism = SaslMechanism::Plain { user: "bob".into(), password: Secret::new("hunter2") };
    let sasl = SaslSettings { mechanism, extensions: Vec::new(), refresh };
    Secured { sasl: Some(Arc::new(sasl)), ..Secured::default() }
}

fn shown(session_lifetime_ms: i64) -> impl FnMut(&Asked) -> Option<Vec<u8>> {
    move |a| match a.api {
        ApiKey::SASL_HANDSHAKE => Some(a.answer(&SaslHandshakeResponse::default())),
        ApiKey::SASL_AUTHENTICATE => {
            Some(a.answer(&SaslAuthenticateResponse { session_lifetime_ms, ..Default::default() }))
        }
        _ => sound(&[1])(a),
    }
}

#[test]
fn sa2_what_is_said_before_a_broker_knows_us_and_by_which_ids() {
    let mut rig = Rig::new(settings(&["127.0.0.1"]), plain());
    rig.until(&mut shown(0), |r| r.client.metadata.last_success.is_some());
    let said: Vec<(ApiKey, i16)> = rig.asked.iter().take(5).map(|a| (a.api, a.version)).collect();
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
    for a in &rig.asked {
        let reserved = (2_147_483_640..=i32::MAX).contains(&a.correlation);
        let sasl = a.version == 0 || [17, 36].contains(&a.api.0);
        assert_eq!(reserved, sasl, "{a:?}");
    }
}

#[test]
fn sa4_a_session_is_renewed_before_it_ends_and_answers_meanwhile_are_delivered() {
    let mut rig = Rig::new(settings(&["127.0.0.1"]), plain());
    rig.until(&mut shown(10_000), |r| r.client.metadata.last_success.is_some());
    let now = rig.now();
    rig.client.ready(1, now);
    rig.until(&mut shown(10_000), |r| r.client.is_ready(1, r.now()));
    let authenticated = rig.now();
    // Nothing is sent by itself when nothing is to be sent.
    let exchanges = rig.seen(ApiKey::SASL_AUTHENTICATE).len();
    rig.go_on(ms(8_000), &mut shown(10_000));
    assert_eq!(rig.seen(ApiKey::SASL_AUTHENTICATE).len(), exchanges);
    assert!(rig.client.is_ready(1, authenticated.after(ms(8_400))), "before 85 % of it");
    rig.machine.advance(authenticated.after(ms(8_400)));
    rig.ask(1);
    rig.hear().into_iter().for_each(|a| rig.asked.push(a));
    let held = rig.asked.last().unwrap().clone();
    rig.machine.advance(authenticated.after(ms(9_500)));
    let now = rig.now();
    assert!(!rig.client.is_ready(1, now), "after 95 % of it");
    assert!(!rig.client.ready(1, now));
    // The answer to the earlier request comes while we show who we are.
    rig.machine.answer(held.conn, held.answer(&InitProducerIdResponse::default()), Duration::ZERO);
    rig.until(&mut shown(10_000), |r| r.client.is_ready(1, r.now()));
    assert!(rig.ended.iter().any(|d| d.result.is_ok()));
    let again: Vec<&Asked> = rig.asked.iter().filter(|a| a.conn == held.conn).collect();
    assert_eq!(again.last().unwrap().api, ApiKey::SASL_AUTHENTICATE, "on the same connection");
    // Whoever is only asked for metadata is renewed, too.
    rig.machine.advance(rig.now().after(ms(9_900)));
    let now = rig.now();
    rig.client.request_metadata(now);
    let before = rig.seen(ApiKey::METADATA).len();
    rig.until(&mut shown(10_000), |r| r.seen(ApiKey::METADATA).len() > before);
    // A broker that does not know us any more ends it with its own words.
    rig.machine.advance(rig.now().after(ms(9_900)));
    let now = rig.now();
    rig.client.ready(1, now);
    let mut refuse = |a: &Asked| match a.api {
        ApiKey::SASL_AUTHENTICATE => Some(a.answer(&SaslAuthenticateResponse {
            error_code: ErrorCode::SASL_AUTHENTICATION_FAILED.0,
            error_message: Some("bob has left".into()),
            ..Default::default()
        })),
        _ => shown(10_000)(a),
    };
    rig.until(&mut refuse, |r| !r.client.health.get().failing.is_empty());
    let text = format!("{:?}", rig.client.health.get());
    assert!(text.contains("PLAIN") && text.contains("bob has left"), "{text}");
    assert!(!text.contains("hunter2"));
}

/// Whatever session a broker grants, nothing overflows and nothing is renewed without end.
#[test]
fn a_session_of_any_length() {
    for life in [i64::MIN, -1, 0, 1, i64::MAX] {
        let mut rig = Rig::new(settings(&["127.0.0.1"]), plain());
        rig.until(&mut shown(life), |r| r.client.metadata.last_success.is_some());
        let by = rig.now().after(ms(5000));
        let mut rounds = 0;
        while rig.now() < by {
            let now = rig.now();
            rig.client.request_metadata(now);
            rig.round(by, &mut shown(life));
            rounds += 1;
            assert!(rounds < 5000, "nobody spins");
        }
        let exchanges = rig.seen(ApiKey::SASL_AUTHENTICATE).len();
        // Kafka grants no session that short; whoever does is not asked without end.
        let most = if life == 1 { 5000 } else { 3 };
        assert!(exchanges <= most, "{life}: {exchanges}");
    }
}

#[test]
fn nc13_cs4_sa1_a_refusal_is_told_once_disturbs_nobody_and_backs_off() {
    let mut rig = Rig::new(settings(&["127.0.0.1"]), plain());
    let mut serve = |a: &Asked| match (a.api, a.at == broker(2)) {
        (ApiKey::METADATA, _) => Some(a.answer(&cluster(&[1, 2]))),
        (ApiKey::SASL_HANDSHAKE, true) => {
            let error_code = ErrorCode::UNSUPPORTED_SASL_MECHANISM.0;
            let mechanisms = vec!["SCRAM-SHA-512".to_owned()];
            Some(a.answer(&SaslHandshakeResponse { error_code, mechanisms, ..Default::default() }))
        }
        _ => shown(0)(a),
    };
    rig.until(&mut serve, |r| r.client.cluster().nodes.len() == 2);
    let now = rig.now();
    rig.client.ready(1, now);
    rig.until(&mut serve, |r| r.client.is_ready(1, r.now()));
    rig.ask(1);
    let now = rig.now();
    rig.client.ready(2, now);
    rig.until(&mut serve, |r| !r.client.health.get().failing.is_empty() && !r.ended.is_empty());
    assert!(rig.ended.iter().all(|d| d.result.is_ok()), "the other's request is answered");
    let text = rig.client.health.get().failing.into_values().next().unwrap();
    assert!(text.contains("it has SCRAM-SHA-512"), "{text}");
    assert!(rig.client.take_news().refused.is_none(), "another broker is content");
    assert!(rig.client.connection_delay(2, rig.now()).unwrap() > now, "CS4: after a backoff");
}
