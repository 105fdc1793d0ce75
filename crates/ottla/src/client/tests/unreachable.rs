//! Brokers that do not connect, host names that do not resolve, clusters that moved.

use ottla_protocol::header::decode_request;
use ottla_protocol::messages::ApiVersionsRequest;

use super::*;

// CASES: NC7, LR16.
#[test]
fn connection_setup_times_out_before_and_after_tcp_connects() {
    // First TCP connects but no response arrives, without and with SASL. Then TCP does not connect.
    let silent = Link { down_held: true, ..Link::default() };
    for (link, security) in [
        (silent, ConnectionSecurity::default()),
        (silent, sasl::plain_security()),
        (Link { up_held: true, ..silent }, ConnectionSecurity::default()),
    ] {
        let request_timeout = Duration::from_secs(60);
        let settings = ClientSettings { request_timeout, ..settings(&["127.0.0.1"]) };
        let has_sasl = security.sasl.is_some();
        let mut f = ClientFixture::new(settings, security);
        f.machine.set_link(broker_address(1), link);
        let start = f.now();
        f.run_until(&mut |_| None, |f| !f.client.observer.health.get(Tick(0)).failing.is_empty());
        let elapsed = f.now().since(start);
        assert!(elapsed >= ms(4000) && elapsed <= ms(6001), "5 s ± 20 %: {elapsed:?}");
        f.machine.set_link(broker_address(1), Link::default());
        if !has_sasl {
            f.run_until(&mut healthy_broker(&[1]), ClientFixture::has_metadata);
        }
    }
}

// CASES: NC14, LR17.
#[test]
fn rebootstrap_required_takes_effect_at_once() {
    let mut f = ready_fixture(&[2]);
    let now = f.now();
    f.client.request_metadata(now);
    let mut handler = |r: &ReceivedRequest| match r.api {
        ApiKey::METADATA if r.broker == broker_address(2) => {
            let error_code = ErrorCode::REBOOTSTRAP_REQUIRED.0;
            Some(r.encode_response(&MetadataResponse { error_code, ..metadata_response(&[2]) }))
        }
        _ => healthy_broker(&[3])(r),
    };
    f.run_until(&mut handler, |f| f.client.cluster().nodes.contains_key(&3));
    assert!(f.now().since(now) < ms(1000));
}

// CASES: NC14.
#[test]
fn address_of_another_broker_makes_the_client_rebootstrap() {
    let mut f = ready_fixture(&[2]);
    f.machine.reset_server(broker_address(2));
    let now = f.now();
    f.client.request_metadata(now);
    let mut handler = |r: &ReceivedRequest| match r.api {
        ApiKey::API_VERSIONS if r.broker == broker_address(2) => {
            let error_code = ErrorCode::REBOOTSTRAP_REQUIRED.0;
            Some(r.encode_response(&ApiVersionsResponse { error_code, ..Default::default() }))
        }
        _ => healthy_broker(&[3])(r),
    };
    f.run_until(&mut handler, |f| f.client.cluster().nodes.contains_key(&3));
    assert!(f.now().since(now) < ms(1000));
    let first = f.requests.iter().find(|r| r.api == ApiKey::API_VERSIONS).unwrap();
    assert_eq!(first.version, 5, "the highest version first");
}

/// A bootstrap server may be any node, so only a known one can be another than expected (KIP-1242).
// CASES: NC14.
#[test]
fn known_node_is_asked_if_it_is_the_expected_one_unless_that_is_disabled() {
    for checks_cluster in [true, false] {
        let settings = ClientSettings { checks_cluster, ..settings(&["127.0.0.1"]) };
        let mut f = ClientFixture::new(settings, ConnectionSecurity::default());
        let mut expected_nodes = Vec::new();
        let mut handler = |r: &ReceivedRequest| match r.api {
            ApiKey::METADATA => {
                let cluster_id = Some("cluster".into());
                let response = MetadataResponse { cluster_id, ..metadata_response(&[2]) };
                Some(r.encode_response(&response))
            }
            ApiKey::API_VERSIONS => {
                let request: ApiVersionsRequest =
                    decode_request(&mut Reader::new(&r.body), r.version).unwrap();
                expected_nodes.push((request.cluster_id, request.node_id));
                healthy_broker(&[2])(r)
            }
            _ => None,
        };
        f.run_until(&mut handler, ClientFixture::has_metadata);
        let now = f.now();
        f.client.ready(2, now);
        f.run_until(&mut handler, |f| f.client.is_ready(2, f.now()));
        let named = if checks_cluster { (Some("cluster".to_owned()), 2) } else { (None, -1) };
        assert_eq!(expected_nodes, [(None, -1), named]);
    }
}

// CASES: NC14, LR17.
#[test]
fn unreachable_cluster_makes_the_client_rebootstrap_after_a_few_attempts() {
    let mut f = ready_fixture(&[2]);
    f.machine.stop_listening(broker_address(2));
    f.machine.reset_server(broker_address(2));
    let now = f.now();
    f.client.request_metadata(now);
    f.run_until(&mut healthy_broker(&[3]), |f| f.client.cluster().nodes.contains_key(&3));
    assert!(f.now().since(now) < ms(3000), "{:?}", f.now().since(now));
}

// CASES: NC14.
#[test]
fn client_does_not_rebootstrap_if_that_is_disabled() {
    let mut settings = settings(&["127.0.0.1"]);
    settings.rebootstrap_trigger = None;
    let mut f = ClientFixture::new(settings, ConnectionSecurity::default());
    f.run_until(&mut healthy_broker(&[2]), ClientFixture::has_metadata);
    f.machine.stop_listening(broker_address(2));
    f.machine.reset_server(broker_address(2));
    let now = f.now();
    f.client.request_metadata(now);
    f.run_for(Duration::from_secs(30), &mut healthy_broker(&[3]));
    assert!(f.client.cluster().nodes.contains_key(&2));
}

/// The bootstrap servers name brokers that are unreachable (a wrong `advertised.listeners`).
// CASES: LR17.
#[test]
fn rebootstraps_of_an_unreachable_cluster_back_off() {
    let mut f = ready_fixture(&[2]);
    f.machine.stop_listening(broker_address(2));
    f.machine.reset_server(broker_address(2));
    f.requests.clear();
    for _ in 0..600 {
        // The sender calls `ready` while it has records for the node.
        let now = f.now();
        f.client.ready(2, now);
        f.run_for(ms(100), &mut healthy_broker(&[2]));
    }
    let from_bootstrap =
        |r: &&ReceivedRequest| r.broker == broker_address(1) && r.api == ApiKey::METADATA;
    let count = f.requests.iter().filter(from_bootstrap).count();
    assert!((2..=12).contains(&count), "{count} rebootstraps in a minute");
}

// CASES: NC1, NC17.
#[test]
fn unresolvable_host_name_is_resolved_again_until_it_succeeds() {
    let mut f = ClientFixture::plaintext(&["kafka.example"]);
    f.run_for(Duration::from_secs(5), &mut healthy_broker(&[1]));
    let summary = f.client.observer.health.unavailable_summary().unwrap();
    assert!(summary.contains("kafka.example cannot be resolved"), "{summary}");
    f.machine.set_host("kafka.example", vec![broker_address(1)]);
    f.run_until(&mut healthy_broker(&[1]), ClientFixture::has_metadata);
}

/// The name of a broker that was removed is gone before the controller has fenced it. Without a
/// request at each attempt, the client would learn of the new leaders after metadata.max.age.ms.
#[test]
fn attempt_to_connect_to_a_name_that_does_not_resolve_requests_metadata() {
    let mut f = ready_fixture(&[1]);
    let mut handler = |r: &ReceivedRequest| match r.api {
        ApiKey::METADATA => {
            let mut response = metadata_response(&[1, 2]);
            response.brokers[1].host = "gone.example".to_owned();
            Some(r.encode_response(&response))
        }
        _ => healthy_broker(&[1])(r),
    };
    let now = f.now();
    f.client.request_metadata(now);
    f.run_until(&mut handler, |f| f.client.cluster().nodes.contains_key(&2));
    f.run_for(ms(500), &mut handler);
    for attempt in 0..3 {
        let before = f.received_versions(ApiKey::METADATA).len();
        f.run_for(ms(500), &mut handler);
        let now = f.now();
        assert_eq!(f.received_versions(ApiKey::METADATA).len(), before, "no reason for one");
        f.client.ready(2, now);
        f.run_for(ms(500), &mut handler);
        assert_eq!(f.received_versions(ApiKey::METADATA).len(), before + 1, "attempt {attempt}");
    }
}

/// A TLS port closes a plaintext connection.
#[test]
fn waiting_callers_fail_once_no_bootstrap_server_fits_the_settings() {
    let mut f = ClientFixture::plaintext(&["127.0.0.1", "127.0.0.2"]);
    let attempts =
        |f: &ClientFixture, n| f.requests.iter().filter(|r| r.broker == broker_address(n)).count();
    let mut closed = 0;
    let error = loop {
        f.run_for(ms(1), &mut |_| None);
        for request in &f.requests[closed..] {
            f.machine.close_connection(request.connection);
        }
        closed = f.requests.len();
        match f.client.take_metadata_update().bootstrap_error {
            Some(e) => break e.to_string(),
            None => {
                let fewest = attempts(&f, 1).min(attempts(&f, 2));
                assert!(fewest <= 2, "two attempts at each are enough");
            }
        }
    };
    assert!(attempts(&f, 1) >= 2 && attempts(&f, 2) >= 2, "one failure may have another reason");
    assert!(error.contains("127.0.0.1:9092") && error.contains("127.0.0.2:9092"), "{error}");
    assert!(error.contains("set security.protocol"), "{error}");
}

#[test]
fn health_names_the_misfit_until_metadata_arrives() {
    let mut f = ClientFixture::plaintext(&["127.0.0.1"]);
    for attempt in 1..=2 {
        f.run_until(&mut |_| None, |f| f.requests.len() == attempt);
        assert!(f.client.observer.health.get(Tick(0)).bootstrap_error.is_none());
        f.machine.close_connection(f.requests[attempt - 1].connection);
        f.run_for(ms(1), &mut |_| None);
    }
    let error = f.client.take_metadata_update().bootstrap_error.unwrap().to_string();
    let health = f.client.observer.health.get(Tick(0));
    assert!(health.bootstrap_error.is_some_and(|reason| error.contains(&reason)));
    f.run_until(&mut healthy_broker(&[1]), ClientFixture::has_metadata);
    assert!(f.client.observer.health.get(Tick(0)).bootstrap_error.is_none());
}

#[test]
fn http_server_is_reported_after_two_attempts() {
    let mut f = ClientFixture::plaintext(&["127.0.0.1"]);
    let mut handler = |_: &ReceivedRequest| Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    f.run_until(&mut handler, |f| f.requests.len() == 2);
    f.run_for(ms(20), &mut handler);
    let error = f.client.take_metadata_update().bootstrap_error.unwrap();
    assert!(error.to_string().contains("HTTP"), "{error}");
    assert!(!error.is_retriable());
}

#[test]
fn server_that_responds_with_other_correlation_ids_is_reported_after_two_attempts() {
    let mut f = ClientFixture::plaintext(&["127.0.0.1"]);
    let mut handler = |_: &ReceivedRequest| Some([0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8].to_vec());
    f.run_until(&mut handler, |f| f.requests.len() == 2);
    f.run_for(ms(20), &mut handler);
    let error = f.client.take_metadata_update().bootstrap_error.unwrap();
    assert!(error.to_string().contains("correlation id"), "{error}");
}

#[test]
fn server_that_refuses_connections_for_a_while_is_waited_for() {
    let mut f = ClientFixture::plaintext(&["127.0.0.1"]);
    f.machine.stop_listening(broker_address(1));
    f.run_for(Duration::from_secs(5), &mut |_| None);
    assert!(f.client.take_metadata_update().bootstrap_error.is_none());
}
