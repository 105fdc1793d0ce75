//! Ends of a handshake after client and broker have agreed on a version and a cipher suite.

use super::*;

/// Connects to a server that sends its first messages, then `last`, and closes the connection.
fn end_after_first_messages(versions: TlsVersions, last: &[u8]) -> DisconnectReason {
    let ca = create_authority("A");
    let certificate = issue_certificate(&ca, &["b"], None);
    let config = server_config(&certificate, None);
    let connector = new_connector(TlsSettings { versions, ..tls_settings(&ca) }).unwrap();
    let mut fixture = SelectorFixture::new(5, Faults::NONE);
    fixture.connect(Some(connector.create_session("b").unwrap()));
    let mut session = ServerConnection::new(config).unwrap();
    let mut result = PollResult::default();
    let mut has_responded = false;
    loop {
        assert!(fixture.step(&mut result));
        for (conn, bytes) in fixture.received_bytes() {
            if std::mem::replace(&mut has_responded, true) {
                continue;
            }
            session.read_tls(&mut &bytes[..]).unwrap();
            session.process_new_packets().unwrap();
            let mut messages = Vec::new();
            session.write_tls(&mut messages).unwrap();
            messages.extend_from_slice(last);
            fixture.machine.send_to_client(conn, messages, Duration::ZERO);
            fixture.machine.close_connection(conn);
        }
        if let Some((_, reason)) = result.disconnected.pop() {
            return reason;
        }
    }
}

const TLS12: TlsVersions = TlsVersions { tls12: true, tls13: false };

/// OpenSSL sends this alert with TLS 1.2 if the client has no certificate.
// CASES: TL5.
#[test]
fn handshake_failure_after_the_first_messages_is_about_the_client_certificate() {
    let reason = end_after_first_messages(TLS12, &[21, 3, 3, 0, 2, 2, 40]).to_string();
    assert!(reason.contains("requires a client certificate"), "{reason}");
    assert!(!reason.contains("share no TLS version"), "{reason}");
}

// CASES: TL4.
#[test]
fn close_after_the_first_messages_does_not_suggest_a_plaintext_port() {
    let reason = end_after_first_messages(TLS12, &[]).to_string();
    assert!(reason.contains("may require a client certificate"), "{reason}");
    assert!(!reason.contains("plaintext port"), "{reason}");
}
