//! The client against a scripted transport: failover, retries, headers, cache.

use std::sync::Arc;

use parking_lot::Mutex;

use super::transport::{HttpResponse, TransportError};
use super::*;

type Response = Result<HttpResponse, TransportError>;
type Respond = dyn Fn(&HttpRequest) -> Response + Send + Sync;

/// Responds by a function, and records requests and pauses. Its clock runs by its pauses only.
#[derive(Clone)]
pub(crate) struct ScriptedTransport {
    log: Arc<Mutex<Log>>,
    respond: Arc<Respond>,
}

#[derive(Default)]
struct Log {
    urls: Vec<String>,
    headers: Vec<String>,
    slept: Duration,
}

impl ScriptedTransport {
    pub(crate) fn new(
        respond: impl Fn(&HttpRequest) -> Response + Send + Sync + 'static,
    ) -> ScriptedTransport {
        ScriptedTransport { log: Arc::default(), respond: Arc::new(respond) }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.log.lock().urls.clone()
    }

    /// Returns a client of this transport.
    pub(crate) fn client(&self, settings: &[(&str, &str)]) -> SchemaRegistryClient {
        let mut p = Properties::new();
        for (name, value) in [("schema.registry.url", "http://a,http://b")].iter().chain(settings) {
            p.set(name, value).unwrap();
        }
        let (registry, serializer) = settings::read(&p).unwrap();
        SchemaRegistryClient::with_transport(registry, serializer, Box::new(self.clone()))
    }
}

impl Transport for ScriptedTransport {
    fn send(&self, request: &HttpRequest) -> Result<HttpResponse, TransportError> {
        let mut log = self.log.lock();
        log.urls.push(request.url.clone());
        let headers = request.headers.iter().map(|(name, value)| format!("{name}: {}", **value));
        log.headers.extend(headers);
        drop(log);
        (self.respond)(request)
    }

    fn now(&self) -> Duration {
        self.log.lock().slept
    }

    fn sleep(&self, duration: Duration) {
        self.log.lock().slept += duration;
    }

    fn random(&self) -> u64 {
        u64::MAX / 2
    }
}

pub(crate) fn ok(body: &str) -> Result<HttpResponse, TransportError> {
    Ok(HttpResponse { status: 200, body: body.as_bytes().to_vec() })
}

fn down() -> Result<HttpResponse, TransportError> {
    Err(TransportError { reason: "connection refused".into(), is_final: false })
}

const AVRO: &str = r#"{"subject":"s","id":7,"version":2,"schema":"\"string\""}"#;

#[test]
fn request_goes_to_the_next_registry_and_stays_there() {
    let transport = ScriptedTransport::new(|r| match r.url.starts_with("http://a") {
        true => down(),
        false => ok(AVRO),
    });
    let client = transport.client(&[]);
    let found = client.version("s", Version::Latest).unwrap();
    assert_eq!((found.id, found.version, found.schema.text()), (7, Some(2), "\"string\""));
    client.version("s", Version::Number(2)).unwrap();
    client.version("s", Version::Number(2)).unwrap();
    assert_eq!(
        transport.requests(),
        [
            "http://a/subjects/s/versions/latest",
            "http://b/subjects/s/versions/latest",
            "http://b/subjects/s/versions/2"
        ]
    );
}

#[test]
fn attempts_end_and_the_error_says_what_to_check() {
    let transport = ScriptedTransport::new(|r| match r.url.starts_with("http://a") {
        true => down(),
        false => Ok(HttpResponse { status: 503, body: b"starting".to_vec() }),
    });
    let e = transport.client(&[("max.retries", "2")]).schema_by_id(9).unwrap_err();
    assert_eq!(e.kind(), SchemaErrorKind::Unavailable);
    assert_eq!(
        e.to_string(),
        "cannot get the schema with id 9: no registry responded in 6 attempts: http://b: HTTP \
         status 503: starting; check schema.registry.url and whether the registry runs"
    );
    assert_eq!(transport.requests().len(), 6);
    // 1 s and 2 s, with a jitter of at most 20 %.
    let slept = transport.log.lock().slept;
    assert!((2.4..=3.6).contains(&slept.as_secs_f64()), "{slept:?}");
}

#[test]
fn rejection_and_wrong_certificate_are_not_retried() {
    let body = br#"{"error_code":40401,"message":"Subject 's' not found."}"#;
    let transport =
        ScriptedTransport::new(|_| Ok(HttpResponse { status: 404, body: body.to_vec() }));
    let e = transport.client(&[]).version("s", Version::Latest).unwrap_err();
    assert_eq!((e.code(), transport.requests().len()), (Some(40401), 1));
    let transport = ScriptedTransport::new(|_| {
        Err(TransportError { reason: "unknown issuer".into(), is_final: true })
    });
    let e = transport.client(&[]).schema_by_id(1).unwrap_err();
    assert_eq!((e.kind(), transport.requests().len()), (SchemaErrorKind::Config, 1));
    assert!(e.to_string().contains("schema.registry.ssl.*"), "{e}");
}

#[test]
fn credentials_are_sent_and_not_shown() {
    for (settings, expected) in [
        (vec![("basic.auth.user.info", "me:p:w")], vec!["Authorization: Basic bWU6cDp3"]),
        (vec![("schema.registry.url", "http://me:p%3Aw@c")], vec!["Authorization: Basic bWU6cDp3"]),
        (
            vec![("bearer.auth.token", "tok"), ("bearer.auth.logical.cluster", "lsrc-1")],
            vec!["Authorization: Bearer tok", "target-sr-cluster: lsrc-1"],
        ),
    ] {
        let transport = ScriptedTransport::new(|_| ok(AVRO));
        let client = transport.client(&settings);
        client.schema_by_id(1).unwrap();
        let headers = transport.log.lock().headers.clone();
        for header in expected {
            assert!(headers.iter().any(|h| h == header), "{headers:?}");
        }
        assert!(!format!("{client:?}").contains('@'));
        assert!(!transport.requests()[0].contains('@'));
    }
}

#[test]
fn latest_version_is_requested_again_after_its_ttl() {
    let transport = ScriptedTransport::new(|_| ok(AVRO));
    let client = transport.client(&[("latest.cache.ttl.sec", "10")]);
    for slept in [0, 9, 1, 0] {
        transport.sleep(Duration::from_secs(slept));
        client.version("s", Version::Latest).unwrap();
    }
    assert_eq!(transport.requests().len(), 2);
}

#[test]
fn references_come_before_the_schemas_that_use_them() {
    // a uses b and c, b uses c, c uses a: a cycle.
    let transport = ScriptedTransport::new(|r| {
        let refs = |names: &[&str]| {
            let refs: Vec<_> = (names.iter())
                .map(|n| format!(r#"{{"name":"{n}.proto","subject":"{n}","version":1}}"#))
                .collect();
            refs.join(",")
        };
        let name = r.url.split('/').nth(4).unwrap_or_default().to_owned();
        let refs = match name.as_str() {
            "a" => refs(&["b", "c"]),
            "b" => refs(&["c"]),
            _ => refs(&["a"]),
        };
        ok(&format!(
            r#"{{"id":1,"schema":"{name}","schemaType":"PROTOBUF","references":[{refs}]}}"#
        ))
    });
    let client = transport.client(&[]);
    let a = client.version("a", Version::Number(1)).unwrap();
    let names: Vec<_> = client.resolve_references(&a.schema).unwrap();
    let names: Vec<_> = names.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a.proto", "c.proto", "b.proto"]);
}

#[test]
fn futures_of_one_request_share_it() {
    let transport = ScriptedTransport::new(|_| ok(AVRO));
    let client = transport.client(&[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            runtime.spawn(async move { client.schema_by_id_async(7).await.unwrap().id })
        })
        .collect();
    for task in tasks {
        assert_eq!(runtime.block_on(task).unwrap(), 7);
    }
    assert_eq!(transport.requests().len(), 1);
}
