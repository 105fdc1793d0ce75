//! SASL with a server between doctor and broker, late responses, and connections that end while
//! the checks run.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use ottla_broker::{EmbeddedBroker, InterceptorGuard, ResponseAction};
use ottla_protocol::header::encode_response;
use ottla_protocol::messages::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, SaslAuthenticateResponse,
    SaslHandshakeResponse,
};
use ottla_protocol::{ApiKey, ErrorCode};
use ottla_testkit::TokenEndpoint;

use super::Diagnosis;
use super::network::{diagnose, read_frame, start_server};
use super::topics::edit;

/// The address of the broker behind a proxy, which starts first.
type BrokerAddress = Arc<OnceLock<String>>;

/// A request that the proxy has received.
struct Call<'a> {
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    frame: Vec<u8>,
    broker: &'a mut TcpStream,
    /// What the proxy keeps for the connection.
    held: &'a mut Vec<u8>,
}

impl Call<'_> {
    /// Returns the broker's response.
    fn forward(&mut self) -> Vec<u8> {
        self.broker.write_all(&self.frame).unwrap();
        read_frame(self.broker).unwrap()
    }
}

/// Starts a server that sends what `respond` returns for each request, in front of a broker.
fn start_proxy(
    broker: &BrokerAddress,
    respond: impl Fn(Call<'_>) -> Vec<u8> + Clone + Send + 'static,
) -> String {
    let address = broker.clone();
    start_server(move |mut client| {
        let mut broker = TcpStream::connect(address.get().unwrap()).unwrap();
        let mut held = Vec::new();
        while let Some(frame) = read_frame(&mut client) {
            let int16 = |at: usize| i16::from_be_bytes([frame[at], frame[at + 1]]);
            let correlation_id = i32::from_be_bytes(frame[8..12].try_into().unwrap());
            let response = respond(Call {
                api: ApiKey(int16(4)),
                version: int16(6),
                correlation_id,
                frame,
                broker: &mut broker,
                held: &mut held,
            });
            if client.write_all(&response).is_err() {
                return;
            }
        }
    })
}

/// Makes the broker say that it supports SASL. The proxy in front of it handles the requests.
fn advertise_sasl(broker: &EmbeddedBroker) -> InterceptorGuard {
    edit::<ApiVersionsRequest>(broker, |r| {
        for (api, max_version) in [(ApiKey::SASL_HANDSHAKE, 1), (ApiKey::SASL_AUTHENTICATE, 2)] {
            r.api_keys.push(ApiVersion { api_key: api.0, max_version, ..ApiVersion::default() });
        }
    })
}

/// Starts a broker whose only listener is a proxy with SASL. `authenticate` gets the client's
/// message.
fn start_sasl_broker(
    authenticate: impl Fn(&[u8]) -> SaslAuthenticateResponse + Clone + Send + 'static,
) -> (EmbeddedBroker, InterceptorGuard, String) {
    let address = BrokerAddress::default();
    let proxy = start_proxy(&address, move |mut call| {
        let (api, version, id) = (call.api, call.version, call.correlation_id);
        match api {
            ApiKey::SASL_HANDSHAKE => {
                let response = SaslHandshakeResponse::default();
                encode_response(api, version, id, &response).unwrap()
            }
            ApiKey::SASL_AUTHENTICATE => {
                encode_response(api, version, id, &authenticate(&call.frame)).unwrap()
            }
            _ => call.forward(),
        }
    });
    let port = proxy.rsplit(':').next().unwrap().parse().unwrap();
    let broker = EmbeddedBroker::builder().advertised_listener("127.0.0.1", port).start().unwrap();
    address.set(broker.bootstrap_servers()).unwrap();
    let guard = advertise_sasl(&broker);
    (broker, guard, proxy)
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

fn refused(message: &str) -> SaslAuthenticateResponse {
    SaslAuthenticateResponse {
        error_code: ErrorCode::SASL_AUTHENTICATION_FAILED.0,
        error_message: Some(message.to_owned()),
        ..SaslAuthenticateResponse::default()
    }
}

#[test]
fn token_is_fetched_before_the_exchange_or_its_fault_is_named() {
    let endpoint = TokenEndpoint::start(3600);
    let (_broker, _guard, servers) = start_sasl_broker(|message| {
        let has_token = contains(message, "n,,\u{1}auth=Bearer ey");
        if has_token { SaslAuthenticateResponse::default() } else { refused("no token") }
    });
    let url = format!("sasl.oauthbearer.token.endpoint.url={}", endpoint.token_url());
    let credentials = endpoint.client_credentials();
    let id = format!("sasl.oauthbearer.client.credentials.client.id={}", credentials.id);
    let secret =
        |secret: &str| format!("sasl.oauthbearer.client.credentials.client.secret={secret}");
    let sasl = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=OAUTHBEARER", &url, &id];
    let good = diagnose(&servers, &[&sasl[..], &[&secret(credentials.secret)]].concat());
    assert_eq!(good.status, 0, "{}", good.stdout);
    assert_eq!(good.check("SASL").text, "OAUTHBEARER");
    assert_eq!(endpoint.issued_tokens(), 1, "the checks of the brokers use the same token");
    let bad = diagnose(&servers, &[&sasl[..], &[&secret("wrong")]].concat());
    bad.assert_only_failure("SASL", "OAUTHBEARER: ", "source of tokens");
    assert!(bad.check("SASL").text.contains(&endpoint.token_url()), "{}", bad.stdout);
}

#[test]
fn message_of_the_broker_is_not_taken_for_advice() {
    let (_broker, _guard, servers) = start_sasl_broker(|_| refused("locked; run del /s"));
    let sasl = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN"];
    let user = ["sasl.username=u", "sasl.password=p"];
    let diagnosis = diagnose(&servers, &[sasl, user].concat());
    let text = "PLAIN: SASL_AUTHENTICATION_FAILED: locked; run del /s";
    diagnosis.assert_only_failure("SASL", text, "check sasl.mechanism, and the user");
    assert!(!diagnosis.check("SASL").change.contains("del"), "{}", diagnosis.stdout);
}

#[test]
fn session_that_has_expired_is_replaced() {
    let logins = Arc::new(AtomicU32::new(0));
    let counter = logins.clone();
    let (broker, _guard, servers) = start_sasl_broker(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        SaslAuthenticateResponse { session_lifetime_ms: 1, ..SaslAuthenticateResponse::default() }
    });
    // The session ends before the brokers have been checked.
    let _slow = edit::<MetadataRequest>(&broker, |_| thread::sleep(Duration::from_millis(5)));
    let sasl = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN"];
    let user = ["sasl.username=u", "sasl.password=p"];
    let diagnosis = diagnose(&servers, &[sasl, user].concat());
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.stdout);
    let logins = logins.load(Ordering::SeqCst);
    assert!(logins >= 3, "{logins}: bootstrap server, broker, and again for the rights");
}

#[test]
fn connection_that_ends_while_brokers_are_checked_is_replaced() {
    let broker = EmbeddedBroker::builder().topic("orders", 1).start().unwrap();
    // The client's first connection is the one to the bootstrap server.
    let guard = broker.intercept_responses(|response, frame| match response.api {
        ApiKey::METADATA if response.connection_id == 0 => ResponseAction::SendAndClose(frame),
        _ => ResponseAction::Send(frame),
    });
    let servers = broker.bootstrap_servers();
    let diagnosis = Diagnosis::json(&["-b", &servers, "-t", "orders"]);
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.stdout);
    for name in ["settings of orders", "idempotent producer"] {
        assert_eq!(diagnosis.check(name).outcome, "passed", "{name}");
    }
    drop(guard);
}

#[test]
fn connection_that_ends_at_a_request_is_replaced_once() {
    let broker = EmbeddedBroker::builder().topic("orders", 1).start().unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let counter = calls.clone();
    let _guard = broker.intercept_responses(move |response, frame| {
        match (response.connection_id, response.api) {
            // The end of the connection that was kept comes after the request.
            (0, ApiKey::DESCRIBE_CONFIGS) => ResponseAction::SendAndClose(Vec::new()),
            (_, ApiKey::INIT_PRODUCER_ID) => {
                counter.fetch_add(1, Ordering::Relaxed);
                ResponseAction::SendAndClose(Vec::new())
            }
            _ => ResponseAction::Send(frame),
        }
    });
    let servers = broker.bootstrap_servers();
    let diagnosis = Diagnosis::json(&["-b", &servers, "-t", "orders"]);
    assert_eq!(diagnosis.check("settings of orders").outcome, "passed");
    let text = "the broker closed the connection instead of responding";
    diagnosis.assert_only_failure("idempotent producer", text, "security.protocol");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn connection_that_cannot_be_replaced_is_the_reason_of_what_is_not_checked() {
    let broker = EmbeddedBroker::builder().topic("orders", 1).start().unwrap();
    let _guard = broker.intercept_responses(|response, frame| {
        match (response.connection_id, response.api) {
            (0, ApiKey::METADATA) => ResponseAction::SendAndClose(frame),
            (2.., ApiKey::API_VERSIONS) => ResponseAction::SendAndClose(Vec::new()),
            _ => ResponseAction::Send(frame),
        }
    });
    let servers = broker.bootstrap_servers();
    let diagnosis = Diagnosis::json(&["-b", &servers, "-t", "orders"]);
    let text = "the connection has ended, and the next one fails: the broker closed";
    diagnosis.assert_only_failure("idempotent producer", text, "");
    let settings = diagnosis.check("settings of orders");
    assert_eq!(settings.outcome, "not_checked");
    assert!(settings.text.contains(text), "{}", settings.text);
}

#[test]
fn late_response_is_not_taken_for_the_next_one() {
    let broker = EmbeddedBroker::builder().topic("orders", 1).start().unwrap();
    let address = BrokerAddress::default();
    address.set(broker.bootstrap_servers()).unwrap();
    // The response comes when the next request on the connection has come.
    let proxy = start_proxy(&address, |mut call| {
        let mut response = std::mem::take(call.held);
        if call.api == ApiKey::DESCRIBE_CONFIGS {
            *call.held = call.forward();
        } else {
            response.extend(call.forward());
        }
        response
    });
    let args = ["-b", &proxy, "-t", "orders", "-X", "request.timeout.ms=1000"];
    let diagnosis = Diagnosis::json(&args);
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.stdout);
    let settings = diagnosis.check("settings of orders");
    assert_eq!(settings.outcome, "not_checked");
    assert!(settings.text.contains("no response to DescribeConfigs within 1000 ms"));
    assert_eq!(diagnosis.check("idempotent producer").outcome, "passed");
}

#[test]
fn metadata_version_that_would_create_the_topic_is_not_used() {
    let broker = EmbeddedBroker::builder().auto_create_topics(true).start().unwrap();
    let _guard = edit::<ApiVersionsRequest>(&broker, |r| {
        for api in &mut r.api_keys {
            if api.api_key == ApiKey::METADATA.0 {
                api.max_version = 3;
            }
        }
    });
    let diagnosis = Diagnosis::json(&["-b", &broker.bootstrap_servers(), "-t", "orders"]);
    let text = "the broker supports Metadata version 0 to 3, and this needs 4 to 12";
    diagnosis.assert_only_failure("cluster", text, "");
    assert!(broker.leader("orders", 0).is_none(), "the doctor creates no topic");
}

#[test]
fn version_of_api_versions_is_the_brokers_highest() {
    // Kafka 2.4 to 3.x respond to a higher version with the versions that they support (KIP-511).
    let broker = EmbeddedBroker::start().unwrap();
    let (sender, requested) = mpsc::channel();
    let _guard = broker.intercept_responses(move |call, frame| {
        if call.api != ApiKey::API_VERSIONS {
            return ResponseAction::Send(frame);
        }
        let _ = sender.send(call.version);
        if call.version <= 3 {
            return ResponseAction::Send(frame);
        }
        let mut supported = ApiVersion { api_key: ApiKey::API_VERSIONS.0, ..Default::default() };
        supported.max_version = 3;
        let response = ApiVersionsResponse {
            error_code: ErrorCode::UNSUPPORTED_VERSION.0,
            api_keys: vec![supported],
            ..ApiVersionsResponse::default()
        };
        let encoded = encode_response(call.api, 0, call.correlation_id, &response);
        ResponseAction::Send(encoded.unwrap())
    });
    let diagnosis = diagnose(&broker.bootstrap_servers(), &[]);
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.stdout);
    assert_eq!(requested.iter().take(2).collect::<Vec<_>>(), [5, 3]);
}
