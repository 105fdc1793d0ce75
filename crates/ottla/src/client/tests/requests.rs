//! Requests and responses: API versions, timeouts, throttling, correlation ids, order.

use super::*;

// CASES: NC2, NC3.
#[test]
fn api_versions_comes_first_and_falls_back_to_the_version_the_broker_names() {
    for (named, second) in [(true, 2), (false, 0)] {
        let mut f = ClientFixture::plaintext(&["127.0.0.1"]);
        let mut handler = |r: &ReceivedRequest| match r.api {
            ApiKey::API_VERSIONS if r.version == 5 => {
                let key = ApiVersion {
                    api_key: ApiKey::API_VERSIONS.0,
                    min_version: 0,
                    max_version: 2,
                    ..Default::default()
                };
                let body = ApiVersionsResponse {
                    error_code: ErrorCode::UNSUPPORTED_VERSION.0,
                    api_keys: if named { vec![key] } else { Vec::new() },
                    ..Default::default()
                };
                Some(encode_response(r.api, 0, r.correlation_id, &body).unwrap())
            }
            _ => healthy_broker(&[1])(r),
        };
        f.run_until(&mut handler, ClientFixture::has_metadata);
        assert_eq!(f.received_versions(ApiKey::API_VERSIONS), [5, second]);
        assert_eq!(f.requests[0].api, ApiKey::API_VERSIONS);
    }
    // Any other error closes the connection, and the next attempt backs off.
    let mut f = ClientFixture::plaintext(&["127.0.0.1"]);
    let mut handler = |r: &ReceivedRequest| {
        let error_code = ErrorCode::INVALID_REQUEST.0;
        Some(r.encode_response(&ApiVersionsResponse { error_code, ..Default::default() }))
    };
    let start = f.now();
    f.run_until(&mut handler, |f| f.requests.len() == 4);
    let connections: Vec<u64> = f.requests.iter().map(|r| r.connection).collect();
    assert!(connections.windows(2).all(|w| w[0] != w[1]), "each request on its own connection");
    assert!(f.now().since(start) >= ms(200), "a backoff before each attempt");
}

/// As in Java's client. A closed connection would be set up again with another ApiVersions request.
#[test]
fn bytes_behind_a_response_are_ignored() {
    let mut f = ClientFixture::plaintext(&["127.0.0.1"]);
    let mut healthy = healthy_broker(&[1]);
    let mut handler = |r: &ReceivedRequest| {
        let mut frame = healthy(r)?;
        frame.extend([7; 9]);
        let len = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&len.to_be_bytes());
        Some(frame)
    };
    f.run_until(&mut handler, ClientFixture::has_metadata);
    let now = f.now();
    f.client.ready(1, now);
    f.run_until(&mut handler, |f| f.client.is_ready(1, f.now()));
    f.send_init_producer_id(1);
    f.run_until(&mut handler, |f| !f.completed.is_empty());
    assert!(f.completed[0].result.is_ok());
    // To the bootstrap server and to the broker, once each.
    assert_eq!(f.received_versions(ApiKey::API_VERSIONS).len(), 2);
}

// CASES: NC4, IF2.
#[test]
fn request_timeout_closes_the_connection_and_a_late_response_is_ignored() {
    let mut f = ready_fixture(&[1]);
    f.send_init_producer_id(1);
    let sent_at = f.now();
    f.run_until(&mut |_| None, |f| !f.completed.is_empty());
    assert_eq!(f.now(), sent_at.after(ms(1000)), "exactly after request.timeout.ms");
    let completed = f.completed.remove(0);
    assert!(completed.result.unwrap_err().reason.contains("request.timeout.ms"));
    let request = f.requests.iter().rfind(|r| r.api == ApiKey::INIT_PRODUCER_ID).unwrap().clone();
    let late = request.encode_response(&InitProducerIdResponse::default());
    f.machine.send_to_client(request.connection, late, Duration::ZERO);
    let before = f.received_versions(ApiKey::METADATA).len();
    f.run_for(ms(500), &mut healthy_broker(&[1]));
    assert!(f.completed.is_empty(), "the late response completes nothing");
    assert!(f.received_versions(ApiKey::METADATA).len() > before, "the timeout requests metadata");
}

// CASES: NC6.
#[test]
fn throttled_node_takes_no_request_until_the_throttle_ends() {
    let mut f = ready_fixture(&[1, 2]);
    let start = f.now();
    f.client.throttle(1, 100, true, start);
    assert!(!f.client.is_ready(1, start) && f.client.is_ready(2, start));
    assert_eq!(f.client.least_loaded_node(start), Some(2));
    assert_eq!(f.client.earliest_ready_at(1, start), Some(start.after(ms(100))));
    assert!(!f.client.is_ready(1, start.after(ms(99))));
    assert!(f.client.is_ready(1, start.after(ms(100))));
    f.client.throttle(2, i32::MAX, true, start);
    f.client.throttle(2, i32::MIN, true, start);
    let end = f.client.earliest_ready_at(2, start).unwrap();
    assert_eq!(end.since(start), ms(i32::MAX as u64), "a negative time changes nothing");
}

// CASES: NC8.
#[test]
fn least_loaded_node_has_the_fewest_requests_in_flight() {
    let mut f = ready_fixture(&[1, 2, 3]);
    f.send_init_producer_id(1);
    f.send_init_producer_id(2);
    let now = f.now();
    assert_eq!(f.client.least_loaded_node(now), Some(3), "no request in flight");
    f.send_init_producer_id(3);
    f.send_init_producer_id(3);
    f.send_init_producer_id(2);
    assert_eq!(f.client.least_loaded_node(now), Some(1), "one request in flight");
    for _ in 0..4 {
        f.send_init_producer_id(1);
    }
    assert!(!f.client.is_ready(1, now), "max.in.flight.requests.per.connection is 5");
}

// CASES: NC8.
#[test]
fn without_a_ready_node_the_one_tried_longest_ago_is_the_least_loaded() {
    let mut f = ClientFixture::plaintext(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    (1..=3).for_each(|n| f.machine.stop_listening(broker_address(n)));
    let mut tried = Vec::new();
    for _ in 0..3 {
        let now = f.now();
        let node = f.client.least_loaded_node(now).unwrap();
        tried.push(node);
        f.client.ready(node, now);
        f.run_until(&mut |_| None, |f| {
            f.client.observer.health.get(Tick(0)).failing.len() >= tried.len()
        });
    }
    tried.sort_unstable();
    assert_eq!(tried, [-3, -2, -1], "each node once");
}

// CASES: NC9.
#[test]
fn disconnection_completes_the_senders_requests_in_order_and_drops_the_clients_own() {
    let mut f = ready_fixture(&[1]);
    let mut silent = |_: &ReceivedRequest| None;
    f.send_init_producer_id(1);
    f.send_init_producer_id(1);
    let now = f.now();
    f.client.request_metadata(now);
    let before = f.received_versions(ApiKey::METADATA).len();
    f.run_until(&mut silent, |f| f.received_versions(ApiKey::METADATA).len() > before);
    let connection = f.requests.last().unwrap().connection;
    f.machine.close_connection(connection);
    f.run_until(&mut silent, |f| !f.completed.is_empty());
    let ids: Vec<i32> = f.completed.iter().map(|c| c.request.correlation_id).collect();
    assert_eq!(ids.len(), 2, "without the metadata request");
    assert!(ids[0] < ids[1]);
    assert!(f.completed.iter().all(|c| c.result.is_err()));
}

// CASES: NC11.
#[test]
fn correlation_ids_stay_out_of_the_range_reserved_for_sasl() {
    let mut f = ready_fixture(&[1]);
    f.client.requests.correlation_ids.last = 2_147_483_640 - 3;
    let ids: Vec<i32> = (0..8).map(|_| f.client.requests.correlation_ids.next()).collect();
    assert!(ids.iter().all(|id| *id < 2_147_483_640 && *id > 0), "{ids:?}");
    assert!(ids.contains(&1), "the ids wrap around");
}

#[test]
fn unexpected_correlation_id_closes_only_its_own_connection() {
    let mut f = ready_fixture(&[1, 2]);
    f.send_init_producer_id(1);
    f.send_init_producer_id(2);
    let mut handler = |r: &ReceivedRequest| match (r.api, r.broker == broker_address(1)) {
        (ApiKey::INIT_PRODUCER_ID, true) => {
            let wrong = ReceivedRequest { correlation_id: r.correlation_id + 1, ..r.clone() };
            Some(wrong.encode_response(&InitProducerIdResponse::default()))
        }
        _ => healthy_broker(&[1, 2])(r),
    };
    f.run_until(&mut handler, |f| f.completed.len() == 2);
    for completed in &f.completed {
        match (&completed.result, completed.node) {
            (Ok(_), 2) => {}
            (Err(e), 1) => assert!(e.reason.contains("correlation id mismatch"), "{}", e.reason),
            other => panic!("{other:?}"),
        }
    }
}

// CASES: SN2.
#[test]
fn throttle_metric_counts_every_response() {
    let mut f = ready_fixture(&[1]);
    let start = f.now();
    for ms in [400, 100, 200, 300] {
        // A response at an old version reports a throttle that the broker itself has applied.
        let client_throttles = ms == 100;
        f.client.throttle(1, ms, client_throttles, start);
    }
    let metrics = f.client.observer.counters.sensors.read("c", start);
    let value = |name: &str| metrics.iter().find(|m| m.name == name).unwrap().value.to_string();
    assert_eq!(value("produce-throttle-time-max"), "400.000");
    // The average includes the zeros of earlier responses.
    assert!(value("produce-throttle-time-avg").parse::<f64>().unwrap() > 100.0);
    assert!(f.client.is_ready(1, start.after(ms(100))), "the client waits for its own 100 ms only");
}

#[test]
fn health_shows_a_throttle_until_it_ends() {
    let mut f = ready_fixture(&[1]);
    let start = f.now();
    f.client.throttle(1, 2000, true, start);
    f.run_for(ms(1000), &mut healthy_broker(&[1]));
    let now = f.now();
    f.client.throttle(1, 3000, true, now);
    assert!(
        f.client.observer.health.unavailable_summary().unwrap().contains("throttles the client")
    );
    f.run_for(ms(2500), &mut healthy_broker(&[1]));
    assert_eq!(
        f.client.observer.health.get(Tick(0)).throttled.len(),
        1,
        "the second throttle extends the first"
    );
    f.run_for(ms(1000), &mut healthy_broker(&[1]));
    assert!(f.client.observer.health.get(Tick(0)).throttled.is_empty());
    assert!(f.client.observer.health.unavailable_summary().is_none());
}

/// A silent broker stays connected until the request times out; its age shows the silence before.
#[test]
fn health_shows_how_long_a_broker_is_silent() {
    let mut f = ready_fixture(&[1]);
    assert!(f.client.observer.health.get(f.now()).oldest_request.is_empty());
    f.send_init_producer_id(1);
    f.run_for(ms(400), &mut |_| None);
    f.send_init_producer_id(1);
    f.run_for(ms(500), &mut |_| None);
    let health = f.client.observer.health.get(f.now());
    let name = "broker 1 at 127.0.0.1:9092";
    assert_eq!(health.oldest_request, BTreeMap::from([(name.to_owned(), ms(900))]));
    assert!(health.connected.iter().any(|broker| broker == name), "{health:?}");
    // At 1000 ms the request times out, and its connection ends.
    f.run_until(&mut |_| None, |f| !f.completed.is_empty());
    let health = f.client.observer.health.get(f.now());
    assert!(health.oldest_request.is_empty() && health.failing.contains_key(name), "{health:?}");
}

/// Brokers close the connection of a client whose name or version they consider invalid (KIP-511).
// CASES: FG4.
#[test]
fn client_software_name_and_version_are_valid_for_brokers() {
    for name in ["ottla", env!("CARGO_PKG_VERSION")] {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        assert!(
            name.chars().all(inner) && end(name.chars().next()) && end(name.chars().last()),
            "{name}"
        );
    }
}

/// A broker with KIP-219 responds at once and then reads nothing until the pause ends.
#[test]
fn throttle_time_does_not_count_against_the_request_timeout() {
    let mut f = ready_fixture(&[1]);
    f.send_init_producer_id(1);
    let sent_at = f.now();
    f.client.throttle(1, 3000, true, sent_at);
    f.client.throttle(1, 2000, true, sent_at);
    f.run_until(&mut |_| None, |f| !f.completed.is_empty());
    assert_eq!(f.now(), sent_at.after(ms(3000 + 1000)), "the pauses overlap");
}

#[test]
fn reconnect_keeps_the_throttle() {
    let mut f = ready_fixture(&[1]);
    let start = f.now();
    f.client.throttle(1, 3000, true, start);
    f.machine.reset_server(broker_address(1));
    f.machine.listen(broker_address(1));
    for _ in 0..10 {
        f.run_for(ms(100), &mut healthy_broker(&[1]));
        let now = f.now();
        assert!(!f.client.ready(1, now));
    }
    assert_eq!(f.client.observer.health.get(Tick(0)).connected.len(), 1, "it has connected again");
    assert!(f.client.observer.health.get(Tick(0)).throttled.len() == 1, "and shows the pause");
    assert_eq!(f.client.earliest_ready_at(1, f.now()), Some(start.after(ms(3000))));
    assert!(f.client.is_ready(1, start.after(ms(3000))));
}

/// A full batch for such a node waits for the response (`RecordAccumulator::post_batch_ready`).
#[test]
fn response_is_due_soon_only_if_the_last_one_took_a_short_time() {
    let mut f = ClientFixture::plaintext(&["127.0.0.1"]);
    let mut healthy = healthy_broker(&[1]);
    f.run_until(&mut healthy, ClientFixture::has_metadata);
    let now = f.now();
    f.client.ready(1, now);
    f.run_until(&mut healthy, |f| f.client.is_ready(1, f.now()));
    let due = |f: &ClientFixture| {
        let now = f.now();
        f.client.responding_nodes(now).find(|(node, _)| *node == 1).unwrap().1
    };
    assert_eq!(due(&f), None, "nothing is in flight");
    let silent = &mut |_: &ReceivedRequest| None;
    let sent_at = f.now();
    f.send_init_producer_id(1);
    assert_eq!(due(&f), Some(sent_at.after(ms(1))));
    // A response that is late does not keep batches back for longer.
    f.run_for(ms(1), silent);
    assert_eq!(due(&f), None);
    // It took long, so the next one is not expected soon.
    let late = f.requests.last().unwrap().clone();
    let frame = late.encode_response(&InitProducerIdResponse::default());
    f.machine.send_to_client(late.connection, frame, Duration::ZERO);
    f.run_until(silent, |f| !f.completed.is_empty());
    f.send_init_producer_id(1);
    assert_eq!(due(&f), None);
}
