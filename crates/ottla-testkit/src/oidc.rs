//! A token endpoint with a key set, as an OpenID Connect provider has them, for client credentials alone.

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

/// Who may have a token.
const CLIENT_CREDENTIALS: (&str, &str) = ("ottla-tests", "s3cret");

/// A server of tokens. Dropping it ends it.
#[derive(Debug)]
pub struct TokenEndpoint {
    /// `http://127.0.0.1:port`.
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
    token_lifetime_s: AtomicU64,
}

impl TokenEndpoint {
    /// Starts one whose tokens are good for so many seconds.
    ///
    /// # Panics
    /// If there is no port to be had.
    pub fn start(life_s: u64) -> TokenEndpoint {
        let random = SystemRandom::new();
        let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(alg, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(alg, document.as_ref(), &random).expect("a key");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let (ended, issued) = Default::default();
        let issuer = base.clone();
        let state = Arc::new(EndpointState {
            key,
            issuer,
            stopped: ended,
            issued_tokens: issued,
            token_lifetime_s: life_s.into(),
        });
        let serving = state.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    // One at a time is enough; whoever says nothing is not waited for.
                    let _ = serving.handle_request(stream);
                }
            }
        });
        TokenEndpoint { base_url: base, state, thread: Some(thread) }
    }

    /// Where tokens are.
    pub fn token_url(&self) -> String {
        format!("{}/token", self.base_url)
    }

    /// Where the keys are that they are signed by.
    pub fn jwks_url(&self) -> String {
        format!("{}/keys", self.base_url)
    }

    /// A client's id, and its secret.
    pub fn client_credentials(&self) -> (&'static str, &'static str) {
        CLIENT_CREDENTIALS
    }

    /// Tokens given so far.
    pub fn issued_tokens(&self) -> u64 {
        self.state.issued_tokens.load(Ordering::SeqCst)
    }
}

impl Drop for TokenEndpoint {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
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
        let (mut first, mut length, mut basic) = (String::new(), 0, String::new());
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                "authorization" => basic = value.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (status, text) = if first.starts_with("GET /keys") {
            ("200 OK", self.jwks())
        } else if first.starts_with("POST /token") {
            self.issue_token(&basic, &String::from_utf8_lossy(&body))
        } else {
            ("404 Not Found", String::new())
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        )
    }

    fn jwks(&self) -> String {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key().as_ref();
        let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
        format!(
            r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"k1","use":"sig","alg":"ES256","x":"{}","y":"{}"}}]}}"#,
            encode(&point[1..33]),
            encode(&point[33..])
        )
    }

    fn issue_token(&self, basic: &str, body: &str) -> (&'static str, String) {
        let wanted =
            BASE64_STANDARD.encode(format!("{}:{}", CLIENT_CREDENTIALS.0, CLIENT_CREDENTIALS.1));
        if basic != format!("Basic {wanted}") || !body.contains("grant_type=client_credentials") {
            let why = r#"{"error":"invalid_client","error_description":"who are you?"}"#;
            return ("401 Unauthorized", why.to_owned());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let life = self.token_lifetime_s.load(Ordering::SeqCst);
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let head = encode(r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#);
        let claims = encode(&format!(
            r#"{{"iss":"{}","aud":"kafka","sub":"ottla","scope":"produce","iat":{now},"exp":{}}}"#,
            self.issuer,
            now + life
        ));
        let signed = format!("{head}.{claims}");
        let signature =
            self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.as_ref()));
        self.issued_tokens.fetch_add(1, Ordering::SeqCst);
        (
            "200 OK",
            format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{life}}}"#),
        )
    }
}
