//! One Kafka node with a listener for each kind of TLS and SASL.

use std::fs;
use std::path::{Path, PathBuf};

use crate::certificates::CertificateAuthority;
use crate::kafka::{Jars, Kafka, target_dir};
use crate::oidc::TokenEndpoint;
use crate::ports::reserve_ports;

/// A listener of [`SecureKafka`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// TLS.
    Ssl,
    /// TLS; the client must have a certificate.
    SslClientAuth,
    /// SASL without TLS.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
    /// SASL without TLS; sessions expire after 3 s, so clients must reauthenticate (KIP-368).
    SaslReauthentication,
    /// SASL OAUTHBEARER without TLS; tokens must be signed with a key of the token endpoint.
    Oidc,
    /// TLS; the broker's certificate expired in 2021.
    ExpiredCertificate,
    /// TLS; the broker's certificate is for another host.
    WrongHostCertificate,
}

struct ListenerConfig {
    listener: Listener,
    /// The name in Kafka's properties.
    name: &'static str,
    protocol: &'static str,
    /// The broker's key store, if the protocol uses TLS.
    keystore: &'static str,
}

impl ListenerConfig {
    const fn new(listener: Listener, name: &'static str, protocol: &'static str) -> ListenerConfig {
        ListenerConfig { listener, name, protocol, keystore: "broker.pem" }
    }

    const fn keystore(self, keystore: &'static str) -> ListenerConfig {
        ListenerConfig { keystore, ..self }
    }
}

const LISTENERS: [ListenerConfig; 8] = [
    ListenerConfig::new(Listener::Ssl, "ssl", "SSL"),
    ListenerConfig::new(Listener::SslClientAuth, "clientauth", "SSL"),
    ListenerConfig::new(Listener::SaslPlaintext, "sasl", "SASL_PLAINTEXT"),
    ListenerConfig::new(Listener::SaslSsl, "saslssl", "SASL_SSL"),
    ListenerConfig::new(Listener::SaslReauthentication, "reauth", "SASL_PLAINTEXT"),
    ListenerConfig::new(Listener::Oidc, "oidc", "SASL_PLAINTEXT"),
    ListenerConfig::new(Listener::ExpiredCertificate, "expired", "SSL").keystore("expired.pem"),
    ListenerConfig::new(Listener::WrongHostCertificate, "wronghost", "SSL")
        .keystore("wronghost.pem"),
];

/// A node with all [`Listener`]s.
///
/// Users: `alice` with `alice-secret` for SCRAM, `bob` with `bob-secret` for PLAIN.
#[derive(Debug)]
pub struct SecureKafka {
    /// The node.
    pub kafka: Kafka,
    /// The authority of the brokers' certificates. Brokers trust the client certificates it signs.
    pub authority: CertificateAuthority,
    /// The endpoint that issues OIDC tokens.
    pub token_endpoint: TokenEndpoint,
    /// The directory of certificates and keys.
    pub dir: PathBuf,
    ports: [u16; LISTENERS.len()],
}

impl SecureKafka {
    /// Starts the node.
    ///
    /// # Panics
    /// The node does not respond within a minute.
    pub fn start(jars: &Jars) -> SecureKafka {
        let ports = reserve_ports();
        let name = format!("secure-{}-{}", std::process::id(), ports[0]);
        let dir = target_dir().join("kafka").join(name);
        fs::create_dir_all(&dir).expect("the directory is created");
        let dir = fs::canonicalize(dir).expect("the directory exists");
        let authority = CertificateAuthority::new("Ottla test authority");
        write_certificates(&authority, &dir);
        let token_endpoint = TokenEndpoint::start(3600);
        let properties = |plaintext_port, controller_port| {
            listener_properties(&ports, &dir, &token_endpoint, plaintext_port, controller_port)
        };
        let users = [
            "--add-scram",
            "SCRAM-SHA-256=[name=alice,password=alice-secret]",
            "--add-scram",
            "SCRAM-SHA-512=[name=alice,password=alice-secret]",
        ];
        // Kafka 4 fetches keys only from URLs that this system property allows.
        let allowed_urls = format!(
            "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}",
            token_endpoint.jwks_url()
        );
        let kafka = Kafka::start_with(jars, properties, &users, &[&allowed_urls]);
        SecureKafka { kafka, authority, token_endpoint, dir, ports }
    }

    /// Returns the `bootstrap.servers` of a listener.
    ///
    /// # Panics
    /// Never: each listener has a port.
    pub fn bootstrap(&self, listener: Listener) -> String {
        let i = LISTENERS.iter().position(|l| l.listener == listener).expect("a known listener");
        format!("127.0.0.1:{}", self.ports[i])
    }

    /// Returns the path of a file in [`dir`](Self::dir).
    pub fn file_path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Makes the broker read `broker.pem` again for a listener.
    pub fn reload_certificate(&self, listener: Listener) {
        let config = LISTENERS.iter().find(|l| l.listener == listener);
        let name = config.map_or("", |l| l.name);
        // Setting the property makes the broker reload the file, also at the same path (KIP-226).
        let property =
            format!("listener.name.{name}.ssl.keystore.location={}", self.file_path("broker.pem"));
        let args = [
            "--bootstrap-server",
            &self.kafka.bootstrap,
            "--alter",
            "--entity-type",
            "brokers",
            "--entity-name",
            "1",
            "--add-config",
            &property,
        ];
        self.kafka.jars.run_tool("kafka.admin.ConfigCommand", &args);
    }
}

impl Drop for SecureKafka {
    fn drop(&mut self) {
        // A failed test keeps the files for inspection.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn write_certificates(authority: &CertificateAuthority, dir: &Path) {
    fs::write(dir.join("ca.pem"), authority.pem()).expect("ca.pem is written");
    authority.issue_local("broker").write_pem(&dir.join("broker.pem"));
    authority
        .issue("old broker", &["localhost", "127.0.0.1"], Some(2021))
        .write_pem(&dir.join("expired.pem"));
    authority
        .issue("other broker", &["kafka.example.org"], None)
        .write_pem(&dir.join("wronghost.pem"));
}

/// The package of Kafka's login modules.
const SECURITY_PACKAGE: &str = "org.apache.kafka.common.security";

/// Returns the properties of all listeners.
fn listener_properties(
    ports: &[u16],
    dir: &Path,
    token_endpoint: &TokenEndpoint,
    plaintext_port: u16,
    controller_port: u16,
) -> String {
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{plaintext_port}");
    let mut protocols = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned();
    let mut properties = String::new();
    for (config, port) in LISTENERS.iter().zip(ports) {
        let name = config.name.to_uppercase();
        listeners += &format!(",{name}://127.0.0.1:{port}");
        protocols += &format!(",{name}:{}", config.protocol);
        if config.protocol.starts_with("SASL") {
            properties += &sasl_properties(config.name);
        }
        if config.protocol.ends_with("SSL") {
            properties += &ssl_properties(config, dir);
        }
    }
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512", "oauthbearer"] {
        properties += &format!("listener.name.reauth.{mechanism}.connections.max.reauth.ms=3000\n");
    }
    properties += "listener.name.clientauth.ssl.client.auth=required\n";
    properties += &oidc_properties(token_endpoint);
    format!(
        "listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners={listeners}\nlistener.security.protocol.map={protocols}\n\
         inter.broker.listener.name=PLAINTEXT\n{properties}"
    )
}

fn sasl_properties(listener: &str) -> String {
    let mechanisms = match listener {
        "oidc" => "OAUTHBEARER",
        _ => "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
    };
    let prefix = format!("listener.name.{listener}");
    let scram = format!("{SECURITY_PACKAGE}.scram.ScramLoginModule required;");
    format!(
        "{prefix}.sasl.enabled.mechanisms={mechanisms}\n\
         {prefix}.plain.sasl.jaas.config={SECURITY_PACKAGE}.plain.PlainLoginModule required \
         user_bob=\"bob-secret\";\n\
         {prefix}.scram-sha-256.sasl.jaas.config={scram}\n\
         {prefix}.scram-sha-512.sasl.jaas.config={scram}\n\
         {prefix}.oauthbearer.sasl.jaas.config={SECURITY_PACKAGE}.oauthbearer.\
         OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";\n"
    )
}

fn ssl_properties(config: &ListenerConfig, dir: &Path) -> String {
    let prefix = format!("listener.name.{}", config.name);
    let keystore = dir.join(config.keystore).display().to_string();
    let truststore = dir.join("ca.pem").display().to_string();
    format!(
        "{prefix}.ssl.keystore.type=PEM\n{prefix}.ssl.keystore.location={keystore}\n\
         {prefix}.ssl.truststore.type=PEM\n{prefix}.ssl.truststore.location={truststore}\n"
    )
}

/// Returns the properties that make the listener `oidc` validate tokens of the endpoint. They must
/// follow those of [`sasl_properties`], because the last value of a property counts.
fn oidc_properties(token_endpoint: &TokenEndpoint) -> String {
    let package = format!("{SECURITY_PACKAGE}.oauthbearer");
    let (jwks_url, issuer) = (token_endpoint.jwks_url(), &token_endpoint.base_url);
    format!(
        "listener.name.oidc.oauthbearer.sasl.server.callback.handler.class=\
         {package}.OAuthBearerValidatorCallbackHandler\n\
         listener.name.oidc.sasl.oauthbearer.jwks.endpoint.url={jwks_url}\n\
         listener.name.oidc.sasl.oauthbearer.expected.audience=kafka\n\
         listener.name.oidc.sasl.oauthbearer.expected.issuer={issuer}\n\
         listener.name.oidc.oauthbearer.sasl.jaas.config=\
         {package}.OAuthBearerLoginModule required;\n"
    )
}
