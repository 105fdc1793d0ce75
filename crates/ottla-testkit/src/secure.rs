//! One node with a listener for every way in: TLS with and without certificates of clients, SASL in every
//! mechanism, in the clear and by TLS.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use crate::certificates::CertificateAuthority;
use crate::kafka::{Jars, Kafka, target_dir};
use crate::oidc::TokenEndpoint;

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// TLS.
    Ssl,
    /// TLS, where clients must show a certificate, too.
    SslClientAuth,
    /// SASL in the clear.
    SaslPlaintext,
    /// SASL by TLS.
    SaslSsl,
    /// SASL in the clear, where sessions end after 3 s (KIP-368).
    SaslReauthentication,
    /// OAUTHBEARER in the clear, where tokens are checked against an endpoint's keys.
    Oidc,
    /// TLS with a certificate that ended in 2021.
    ExpiredCertificate,
    /// TLS with a certificate for another host.
    WrongHostCertificate,
}

const LISTENERS: [(Listener, &str, &str); 8] = [
    (Listener::Ssl, "ssl", "SSL"),
    (Listener::SslClientAuth, "mutual", "SSL"),
    (Listener::SaslPlaintext, "sasl", "SASL_PLAINTEXT"),
    (Listener::SaslSsl, "saslssl", "SASL_SSL"),
    (Listener::SaslReauthentication, "renewed", "SASL_PLAINTEXT"),
    (Listener::Oidc, "oidc", "SASL_PLAINTEXT"),
    (Listener::ExpiredCertificate, "expired", "SSL"),
    (Listener::WrongHostCertificate, "elsewhere", "SSL"),
];

/// The node, and what is needed to get in. SCRAM knows `alice` with `alice-secret`, PLAIN `bob` with `bob-secret`.
#[derive(Debug)]
pub struct SecureKafka {
    /// The node.
    pub kafka: Kafka,
    /// Who signed its certificates, and trusts those it signs.
    pub authority: CertificateAuthority,
    /// Where OIDC tokens come from.
    pub token_endpoint: TokenEndpoint,
    /// Certificates and keys.
    pub dir: PathBuf,
    ports: Vec<u16>,
}

impl SecureKafka {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not come up within a minute.
    pub fn start(jars: &Jars) -> SecureKafka {
        let held: Vec<TcpListener> =
            LISTENERS.iter().map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let ports: Vec<u16> = held.iter().map(|l| l.local_addr().expect("bound").port()).collect();
        drop(held);
        let dir =
            target_dir().join("kafka").join(format!("secure-{}-{}", std::process::id(), ports[0]));
        fs::create_dir_all(&dir).expect("a directory");
        let dir = fs::canonicalize(dir).expect("a directory");
        let authority = CertificateAuthority::new("Ottla test authority");
        fs::write(dir.join("ca.pem"), authority.pem()).expect("ca.pem");
        authority.issue_local("broker").write_pem(&dir.join("broker.pem"));
        let expired = authority.issue("old broker", &["localhost", "127.0.0.1"], Some(2021));
        expired.write_pem(&dir.join("expired.pem"));
        authority
            .issue("other broker", &["kafka.example.org"], None)
            .write_pem(&dir.join("elsewhere.pem"));
        let tokens = TokenEndpoint::start(3600);
        let (keys, issuer) = (tokens.jwks_url(), tokens.base_url.clone());
        let (written, at) = (dir.clone(), ports.clone());
        let lines = |plain, controller| {
            listener_properties(&at, &written, plain, controller, &keys, &issuer)
        };
        let scram = ["--add-scram", "SCRAM-SHA-256=[name=alice,password=alice-secret]"];
        let scram =
            [&scram[..], &["--add-scram", "SCRAM-SHA-512=[name=alice,password=alice-secret]"]];
        let allowed = format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}");
        let kafka = Kafka::start_with(jars, lines, &scram.concat(), &[&allowed]);
        SecureKafka { kafka, authority, token_endpoint: tokens, dir, ports }
    }

    /// Where a way in is.
    ///
    /// # Panics
    /// Never.
    pub fn bootstrap(&self, listener: Listener) -> String {
        let i = LISTENERS.iter().position(|l| l.0 == listener).expect("one of all");
        format!("127.0.0.1:{}", self.ports[i])
    }

    /// One of its files.
    pub fn file_path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Has a listener read its certificate again.
    pub fn reload_certificate(&self, listener: Listener) {
        let name = LISTENERS.iter().find(|l| l.0 == listener).map_or("", |l| l.1);
        let set =
            format!("listener.name.{name}.ssl.keystore.location={}", self.file_path("broker.pem"));
        let at = ["--bootstrap-server", self.kafka.bootstrap.as_str()];
        let what =
            ["--alter", "--entity-type", "brokers", "--entity-name", "1", "--add-config", &set];
        self.kafka.jars.run_tool("kafka.admin.ConfigCommand", &[&at[..], &what].concat());
    }
}

impl Drop for SecureKafka {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn listener_properties(
    ports: &[u16],
    dir: &std::path::Path,
    plain: u16,
    controller: u16,
    keys: &str,
    issuer: &str,
) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{plain}");
    let mut map = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned();
    let mut more = String::new();
    let modules = "org.apache.kafka.common.security";
    let unsecured = format!(
        "{modules}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";"
    );
    for ((_, name, protocol), port) in LISTENERS.iter().zip(ports) {
        listeners += &format!(",{}://127.0.0.1:{port}", name.to_uppercase());
        map += &format!(",{}:{protocol}", name.to_uppercase());
        if protocol.starts_with("SASL") {
            let all = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER";
            let mechanisms = if *name == "oidc" { "OAUTHBEARER" } else { all };
            more += &format!(
                "listener.name.{name}.sasl.enabled.mechanisms={mechanisms}\n\
                 listener.name.{name}.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required \
                 user_bob=\"bob-secret\";\n\
                 listener.name.{name}.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;\n\
                 listener.name.{name}.scram-sha-512.sasl.jaas.config={modules}.scram.ScramLoginModule required;\n\
                 listener.name.{name}.oauthbearer.sasl.jaas.config={unsecured}\n"
            );
        }
        if protocol.ends_with("SSL") {
            let store = match *name {
                "expired" | "elsewhere" => format!("{name}.pem"),
                _ => "broker.pem".to_owned(),
            };
            more += &format!(
                "listener.name.{name}.ssl.keystore.type=PEM\nlistener.name.{name}.ssl.keystore.location={}\n\
                 listener.name.{name}.ssl.truststore.type=PEM\nlistener.name.{name}.ssl.truststore.location={}\n",
                file(&store),
                file("ca.pem")
            );
        }
    }
    let handler = format!("{modules}.oauthbearer.OAuthBearerValidatorCallbackHandler");
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512", "oauthbearer"] {
        more += &format!("listener.name.renewed.{mechanism}.connections.max.reauth.ms=3000\n");
    }
    more += &format!(
        "listener.name.mutual.ssl.client.auth=required\n\
         listener.name.oidc.oauthbearer.sasl.server.callback.handler.class={handler}\n\
         listener.name.oidc.sasl.oauthbearer.jwks.endpoint.url={keys}\n\
         listener.name.oidc.sasl.oauthbearer.expected.audience=kafka\n\
         listener.name.oidc.sasl.oauthbearer.expected.issuer={issuer}\n\
         listener.name.oidc.oauthbearer.sasl.jaas.config={modules}.oauthbearer.OAuthBearerLoginModule required;\n"
    );
    format!(
        "listeners={listeners},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners={listeners}\n\
         listener.security.protocol.map={map}\ninter.broker.listener.name=PLAINTEXT\n{more}"
    )
}
