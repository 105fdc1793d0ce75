//! The TLS session of one connection: it encrypts and decrypts bytes and has no socket.
//!
//! `network::channel` feeds it with the bytes of the socket and takes the plaintext of the frames.
//! [`TlsConnector`] creates it.

mod connector;
mod keystore;
mod pem;
mod jks;
mod pkcs12;
mod decryption;
mod private_key;
mod public_key;
mod store_format;
mod asn1;
mod verifier;
mod diagnostics;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustls::ClientConnection;

use super::channel::{DisconnectReason, write_slices};
use super::io::Stream;
use super::tls_details::TlsDetails;
pub(crate) use connector::TlsConnector;
#[cfg(feature = "oidc")]
pub(crate) use connector::crypto_provider;
use diagnostics::TlsDiagnosis;
use verifier::CertificateVerifier;

/// Largest number of bytes that a session buffers in each direction: ciphertext that waits for the
/// socket, and plaintext that was received before an alert. Outgoing frames beyond it stay plain in
/// the channel's queue.
const TLS_BUFFER_LIMIT: usize = 64 * 1024;

/// The TLS session of one connection.
pub(crate) struct TlsSession {
    conn: ClientConnection,
    verifier: Arc<CertificateVerifier>,
    /// The host that the client connects to, for messages.
    host: String,
    pub(super) received: Received,
}

/// What the broker has sent so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Received {
    Nothing,
    /// Handshake messages. An alert is an authentication failure: with TLS 1.3, the broker rejects
    /// the client's certificate after the handshake.
    Handshake,
    ApplicationData,
}

impl TlsSession {
    pub(crate) fn is_handshaking(&self) -> bool {
        self.conn.is_handshaking()
    }

    /// Returns whether the broker has sent nothing yet.
    pub(super) fn has_received_nothing(&self) -> bool {
        self.received == Received::Nothing
    }

    pub(crate) fn wants_write(&self) -> bool {
        self.conn.wants_write()
    }

    /// Returns what the handshake has agreed on.
    pub(crate) fn details(&self) -> TlsDetails {
        let suite = self.conn.negotiated_cipher_suite().and_then(|s| s.suite().as_str());
        let version = self.conn.protocol_version().and_then(|v| v.as_str());
        let certificates = self.conn.peer_certificates().unwrap_or_default();
        TlsDetails {
            protocol: version.unwrap_or_default().replace('_', "."),
            cipher_suite: suite.unwrap_or_default().replace("TLS13_", "TLS_"),
            certificates: certificates.iter().filter_map(|c| diagnostics::describe(c)).collect(),
        }
    }

    /// Decrypts bytes from the socket and appends the plaintext to `plaintext`.
    ///
    /// # Errors
    /// The handshake failed, the broker sent an alert, or the bytes are not TLS.
    pub(super) fn read_tls(
        &mut self,
        mut bytes: &[u8],
        plaintext: &mut BytesMut,
    ) -> Result<PeerState, DisconnectReason> {
        if self.received == Received::Nothing {
            self.received = Received::Handshake;
        }
        while !bytes.is_empty() {
            self.conn.read_tls(&mut bytes).map_err(DisconnectReason::Io)?;
            let state = self.conn.process_new_packets();
            // Plaintext before an alert is valid: it may hold the response that explains the alert.
            let available = match &state {
                Ok(state) => state.plaintext_bytes_to_read(),
                Err(_) => TLS_BUFFER_LIMIT,
            };
            if available > 0 {
                self.read_plaintext(available, plaintext);
            }
            if state.map_err(|e| self.disconnect_reason(&e))?.peer_has_closed() {
                return Ok(PeerState::Closed);
            }
        }
        Ok(PeerState::Open)
    }

    fn read_plaintext(&mut self, max_bytes: usize, plaintext: &mut BytesMut) {
        let begin = plaintext.len();
        let mut end = begin;
        plaintext.resize(begin + max_bytes, 0);
        while end < plaintext.len() {
            match self.conn.reader().read(&mut plaintext[end..]) {
                Ok(n @ 1..) => end += n,
                _ => break,
            }
        }
        if end > begin {
            self.received = Received::ApplicationData;
        }
        plaintext.truncate(end);
    }

    /// Encrypts frames from `outgoing` as far as the ciphertext buffer has room, and writes
    /// ciphertext until the socket takes no more. Returns the number of ciphertext bytes written,
    /// also when the result is an error such as `WouldBlock`.
    pub(super) fn write(
        &mut self,
        outgoing: &mut VecDeque<Bytes>,
        stream: &mut impl Stream,
    ) -> (usize, io::Result<()>) {
        let mut written = 0;
        loop {
            if let Err(e) = self.encrypt(outgoing) {
                return (written, Err(e));
            }
            if !self.conn.wants_write() {
                return (written, Ok(()));
            }
            match self.conn.write_tls(&mut StreamWriter(stream)) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (written, Err(e)),
            }
        }
    }

    fn encrypt(&mut self, outgoing: &mut VecDeque<Bytes>) -> io::Result<()> {
        // During the handshake rustls would buffer plaintext, beyond its limit.
        while !outgoing.is_empty() && !self.conn.is_handshaking() {
            if write_slices(outgoing, |slices| self.conn.writer().write_vectored(slices))? == 0 {
                // The ciphertext buffer is full until the socket takes some of it.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends the pending alert, or else close_notify, as far as the socket takes it without
    /// blocking. Without it the broker could not tell the end of the connection from a truncation.
    pub(super) fn send_close_notify(&mut self, stream: &mut impl Stream) {
        self.conn.send_close_notify();
        while self.conn.wants_write() {
            if !matches!(self.conn.write_tls(&mut StreamWriter(stream)), Ok(1..)) {
                return;
            }
        }
    }

    fn disconnect_reason(&self, e: &rustls::Error) -> DisconnectReason {
        let TlsDiagnosis { text, is_rejection } =
            diagnostics::explain(e, &self.host, &self.verifier, self.has_agreed());
        let by_broker = matches!(e, rustls::Error::AlertReceived(_));
        if is_rejection && self.received < Received::ApplicationData {
            DisconnectReason::AuthenticationFailed { text, by_broker }
        } else {
            DisconnectReason::Tls { text, by_broker }
        }
    }

    /// Whether client and broker have agreed on a TLS version and a cipher suite.
    fn has_agreed(&self) -> bool {
        self.conn.negotiated_cipher_suite().is_some()
    }

    /// Returns the reason for a disconnect if the broker closes the connection now: an end within
    /// the handshake has a text of its own, any other end has none.
    pub(super) fn eof_reason(&self) -> Option<DisconnectReason> {
        let text = if self.has_agreed() {
            "the broker closed the connection during the TLS handshake, after both agreed on \
             version and cipher suite; it may require a client certificate \
             (ssl.keystore.location), and its log names the reason"
        } else {
            "the broker closed the connection during the TLS handshake; if this is a plaintext \
             port, set security.protocol to match (a TLS broker's log names the reason)"
        };
        self.conn
            .is_handshaking()
            .then(|| DisconnectReason::Tls { text: text.to_owned(), by_broker: true })
    }
}

/// Whether the broker may still send data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerState {
    Open,
    /// The broker has sent close_notify.
    Closed,
}

/// Lets rustls write to a [`Stream`].
struct StreamWriter<'s, S>(&'s mut S);

impl<S: Stream> Write for StreamWriter<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
