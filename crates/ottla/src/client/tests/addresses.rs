//! The addresses of a host name: their order, their families, and the canonical names of bootstrap
//! servers.

use super::*;

// CASES: NC12, CS5.
#[test]
fn every_address_of_a_host_name_is_tried() {
    let mut f = ClientFixture::plaintext(&["kafka.example"]);
    f.machine
        .set_host("kafka.example", vec![broker_address(1), broker_address(2), broker_address(3)]);
    f.machine.stop_listening(broker_address(1));
    f.machine.stop_listening(broker_address(2));
    f.run_until(&mut healthy_broker(&[3]), ClientFixture::has_metadata);
    assert!(f.requests.iter().all(|r| r.broker == broker_address(3)));
}

#[test]
fn lost_connection_is_followed_by_one_to_another_address_of_the_name() {
    let mut f = ClientFixture::plaintext(&["kafka.example"]);
    f.machine.set_host("kafka.example", vec![broker_address(1), broker_address(2)]);
    let mut handler = |r: &ReceivedRequest| match r.api {
        ApiKey::METADATA => {
            let mut response = metadata_response(&[1]);
            response.brokers[0].host = "kafka.example".to_owned();
            Some(r.encode_response(&response))
        }
        _ => healthy_broker(&[1])(r),
    };
    f.run_until(&mut handler, ClientFixture::has_metadata);
    for (lost, next) in [(1, 2), (2, 1), (1, 2)] {
        let now = f.now();
        f.client.ready(1, now);
        f.run_until(&mut handler, |f| f.client.is_ready(1, f.now()));
        let address = f.requests.iter().rev().find(|r| r.api == ApiKey::API_VERSIONS);
        assert_eq!(address.unwrap().broker, broker_address(lost));
        // Nothing listens there any more, so an attempt there would fail.
        f.machine.stop_listening(broker_address(lost));
        f.machine.reset_server(broker_address(lost));
        f.requests.clear();
        f.run_until(&mut handler, |f| !f.client.is_ready(1, f.now()));
        let now = f.now();
        f.client.request_metadata(now);
        f.run_until(&mut handler, |f| f.client.is_ready(1, f.now()));
        assert!(f.requests.iter().all(|r| r.broker == broker_address(next)));
        assert!(f.now().since(now) < ms(500), "no attempt to the lost address comes first");
        f.machine.listen(broker_address(lost));
    }
}

#[test]
fn address_family_limits_the_addresses_of_a_name() {
    let v6 = |n: u16| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, n], 9092));
    for (family, expected) in [
        (AddressFamily::V4, vec![broker_address(1), broker_address(2)]),
        (AddressFamily::V6, vec![v6(1), v6(2)]),
        (AddressFamily::Any, vec![v6(1), broker_address(1), v6(2), broker_address(2)]),
    ] {
        let mut settings = settings(&["kafka.example"]);
        settings.connect.address_family = family;
        let mut f = ClientFixture::new(settings, ConnectionSecurity::default());
        (1..=2).for_each(|n| f.machine.listen(v6(n)));
        let addresses = vec![v6(1), v6(2), broker_address(1), broker_address(2)];
        f.machine.set_host("kafka.example", addresses);
        // Every server closes the connection at the first request, so each address is tried.
        while f.requests.len() < expected.len() {
            f.run_for(ms(1), &mut |_| None);
            f.requests.iter().for_each(|r| f.machine.close_connection(r.connection));
        }
        let tried: Vec<_> = f.requests.iter().map(|r| r.broker).collect();
        assert_eq!(tried, expected, "{family}");
    }
}

#[test]
fn name_without_an_allowed_address_names_the_setting() {
    let mut settings = settings(&["kafka.example"]);
    settings.connect.address_family = AddressFamily::V6;
    let mut f = ClientFixture::new(settings, ConnectionSecurity::default());
    f.machine.set_host("kafka.example", vec![broker_address(1)]);
    f.run_for(ms(500), &mut |_| None);
    let summary = f.client.observer.health.unavailable_summary().unwrap();
    assert!(summary.contains("kafka.example cannot be resolved"), "{summary}");
    assert!(summary.contains("broker.address.family=v6"), "{summary}");
    assert!(f.requests.is_empty());
}

fn canonical_names_fixture(bootstrap: &[&str]) -> ClientFixture {
    let mut settings = settings(bootstrap);
    settings.connect.dns_lookup = ClientDnsLookup::ResolveCanonicalBootstrapServersOnly;
    let f = ClientFixture::new(settings, ConnectionSecurity::default());
    for n in 1..=3 {
        let name = format!("b{n}.example");
        f.machine.set_host(&name, vec![broker_address(n)]);
        f.machine.set_canonical_name(broker_address(n).ip(), &name);
    }
    f
}

// KIP-235.
#[test]
fn bootstrap_server_is_replaced_by_the_canonical_names_of_its_addresses() {
    let mut f = canonical_names_fixture(&["kafka.example"]);
    // The first lookup fails: the failure is reported under the alias.
    f.run_for(ms(200), &mut |_| None);
    assert!(f.client.observer.health.get(Tick(0)).failing.contains_key("kafka.example:9092"));
    let mut alias = vec![broker_address(1), broker_address(2), broker_address(2)];
    alias.push(([192, 0, 2, 1], 9092).into());
    f.machine.set_host("kafka.example", alias);
    (1..=2).for_each(|n| f.machine.stop_listening(broker_address(n)));
    f.run_for(ms(2000), &mut |_| None);
    let health = f.client.observer.health.get(Tick(0));
    let failing: Vec<&str> = health.failing.keys().map(String::as_str).collect();
    assert_eq!(failing, ["192.0.2.1:9092", "b1.example:9092", "b2.example:9092"]);
    f.machine.listen(broker_address(2));
    f.run_until(&mut healthy_broker(&[3]), ClientFixture::has_metadata);
    assert!(f.requests.iter().all(|r| r.broker == broker_address(2)), "{:?}", f.requests);
}

#[test]
fn each_canonical_name_is_one_bootstrap_server() {
    let mut f = canonical_names_fixture(&["kafka.example", "other.example"]);
    let two = |a, b| vec![broker_address(a), broker_address(b)];
    f.machine.set_host("kafka.example", two(1, 2));
    f.machine.set_host("other.example", vec![broker_address(2), ([192, 0, 2, 1], 9092).into()]);
    // They respond and never describe the cluster, so the client tries each.
    let mut handler = |_: &ReceivedRequest| Some([0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8].to_vec());
    f.run_for(ms(2000), &mut handler);
    let mut hosts: Vec<_> = f.client.connections.iter().map(|c| c.host.to_string()).collect();
    hosts.sort();
    assert_eq!(hosts, ["192.0.2.1", "b1.example", "b2.example"]);
}

#[test]
fn server_whose_canonical_names_are_all_known_is_removed() {
    let mut f = canonical_names_fixture(&["kafka.example", "other.example"]);
    f.machine.set_host("kafka.example", vec![broker_address(1)]);
    f.machine.set_host("other.example", vec![broker_address(1)]);
    let mut handler = |_: &ReceivedRequest| Some([0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8].to_vec());
    f.run_for(ms(2000), &mut handler);
    let hosts: Vec<_> = f.client.connections.iter().map(|c| c.host.to_string()).collect();
    assert_eq!(hosts, ["b1.example"]);
    let health = f.client.observer.health.get(Tick(0));
    assert_eq!(health.failing.keys().collect::<Vec<_>>(), ["b1.example:9092"]);
    f.run_until(&mut healthy_broker(&[1]), ClientFixture::has_metadata);
}

#[test]
fn names_from_metadata_are_used_as_they_are() {
    let mut f = canonical_names_fixture(&["127.0.0.1"]);
    f.machine.set_host("advertised.example", vec![broker_address(2)]);
    let mut handler = |r: &ReceivedRequest| match r.api {
        ApiKey::METADATA => {
            let mut response = metadata_response(&[2]);
            response.brokers[0].host = "advertised.example".to_owned();
            Some(r.encode_response(&response))
        }
        _ => healthy_broker(&[2])(r),
    };
    f.run_until(&mut handler, ClientFixture::has_metadata);
    let now = f.now();
    f.client.ready(2, now);
    f.run_until(&mut handler, |f| f.client.is_ready(2, f.now()));
    assert_eq!(&*f.client.connections.get(2).unwrap().host, "advertised.example");
}
