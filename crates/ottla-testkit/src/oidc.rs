//! A token endpoint and a key set of an OpenID Connect provider, for the grant type
//! `client_credentials`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

/// The id and the secret of a client that may request tokens.
#[derive(Debug, Clone, Copy)]
pub struct ClientCredentials {
    /// The client id.
    pub id: &'static str,
    /// The client secret.
    pub secret: &'static str,
}

const CLIENT_CREDENTIALS: ClientCredentials =
    ClientCredentials { id: "ottla-tests", secret: "s3cret" };

/// An HTTP server that issues tokens. Dropping it ends its thread.
#[derive(Debug)]
pub struct TokenEndpoint {
    /// `http://127.0.0.1:port`, which is also the issuer of the tokens.
    pub base_url: String,
    state: Arc<EndpointState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct EndpointState {
    key: EcdsaKeyPair,
    issuer: String,
    stopped: AtomicBool,
    issued_tokens: AtomicU64,
    token_lifetime_s: u64,
}

struct HttpResponse {
    status: &'static str,
    body: String,
}

impl TokenEndpoint {
    /// Starts an endpoint whose tokens expire after `token_lifetime_s` seconds.
    ///
    /// # Panics
    /// No port is free.
    pub fn start(token_lifetime_s: u64) -> TokenEndpoint {
        let random = SystemRandom::new();
        let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(alg, &random).expect("a key is generated");
        let key =
            EcdsaKeyPair::from_pkcs8(alg, document.as_ref(), &random).expect("a key is generated");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let base_url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let state = Arc::new(EndpointState {
            key,
            issuer: base_url.clone(),
            stopped: AtomicBool::new(false),
            issued_tokens: AtomicU64::new(0),
            token_lifetime_s,
        });
        let thread_state = state.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if thread_state.stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    // One request at a time is enough. A silent client is given up by a timeout.
                    let _ = thread_state.handle_request(stream);
                }
            }
        });
        TokenEndpoint { base_url, state, thread: Some(thread) }
    }

    /// Returns the URL that issues tokens.
    pub fn token_url(&self) -> String {
        format!("{}/token", self.base_url)
    }

    /// Returns the URL of the key set that verifies tokens.
    pub fn jwks_url(&self) -> String {
        format!("{}/keys", self.base_url)
    }

    /// Returns the only credentials that the endpoint accepts.
    pub fn client_credentials(&self) -> ClientCredentials {
        CLIENT_CREDENTIALS
    }

    /// Returns the number of tokens issued so far.
    pub fn issued_tokens(&self) -> u64 {
        self.state.issued_tokens.load(Ordering::SeqCst)
    }
}

impl Drop for TokenEndpoint {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // The connection wakes the thread, which blocks in `accept`.
        let _ = TcpStream::connect(self.base_url.trim_start_matches("http://"));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl EndpointState {
    fn handle_request(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut request_line = String::new();
        reader.read_line(&mut request_line)?;
        let (mut content_length, mut authorization) = (0, String::new());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => content_length = value.parse().unwrap_or(0),
                "authorization" => authorization = value.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; content_length];
        reader.read_exact(&mut body)?;
        let response = if request_line.starts_with("GET /keys") {
            HttpResponse { status: "200 OK", body: self.jwks() }
        } else if request_line.starts_with("POST /token") {
            self.issue_token(&authorization, &String::from_utf8_lossy(&body))
        } else {
            HttpResponse { status: "404 Not Found", body: String::new() }
        };
        write!(
            stream,
            "HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{}",
            response.status,
            response.body.len(),
            response.body
        )
    }

    /// Returns the key set as a JSON document (RFC 7517).
    fn jwks(&self) -> String {
        // The public key is an uncompressed point: a byte 4, 32 bytes x, 32 bytes y.
        let point = self.key.public_key().as_ref();
        let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        let algorithm = r#""kty":"EC","crv":"P-256","kid":"k1","use":"sig","alg":"ES256""#;
        format!(r#"{{"keys":[{{{algorithm},"x":"{x}","y":"{y}"}}]}}"#)
    }

    /// Responds to a token request (RFC 6749, section 4.4) with a signed JWT.
    fn issue_token(&self, authorization: &str, body: &str) -> HttpResponse {
        let ClientCredentials { id, secret } = CLIENT_CREDENTIALS;
        let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}")));
        if authorization != expected || !body.contains("grant_type=client_credentials") {
            let description = "unknown client id or wrong secret";
            let body =
                format!(r#"{{"error":"invalid_client","error_description":"{description}"}}"#);
            return HttpResponse { status: "401 Unauthorized", body };
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let lifetime = self.token_lifetime_s;
        let (issuer, expiry) = (&self.issuer, now + lifetime);
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let header = encode(r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#);
        let subject = r#""aud":"kafka","sub":"ottla","scope":"produce""#;
        let claims =
            encode(&format!(r#"{{"iss":"{issuer}",{subject},"iat":{now},"exp":{expiry}}}"#));
        let signed = format!("{header}.{claims}");
        let signature =
            self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("the token is signed");
        let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.as_ref()));
        self.issued_tokens.fetch_add(1, Ordering::SeqCst);
        let kind = r#""token_type":"Bearer""#;
        let body = format!(r#"{{"access_token":"{token}",{kind},"expires_in":{lifetime}}}"#);
        HttpResponse { status: "200 OK", body }
    }
}
