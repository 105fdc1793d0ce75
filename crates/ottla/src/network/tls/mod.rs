//! TLS of one connection: bytes in, bytes out, no socket of its own.

mod connector;
mod keystore;
#[cfg(test)]
mod tests;
mod diagnostics;

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustls::ClientConnection;

use super::channel::{DisconnectReason, write_slices};
use super::io::Stream;
use connector::CertificateVerifier;
pub(crate) use connector::TlsConnector;
#[cfg(feature = "oidc")]
pub(crate) use connector::crypto_provider;

/// Ciphertext that waits for the socket at most: what is encrypted ahead of it.
const CIPHERTEXT_BUFFER_LIMIT: usize = 64 * 1024;

/// One connection's session.
pub(crate) struct TlsSession {
    conn: ClientConnection,
    verifier: Arc<CertificateVerifier>,
    host: String,
    /// Whether the peer has taken it as a client; until then an alert means that it does not want us.
    pub(super) has_received_data: bool,
}

impl TlsSession {
    pub(crate) fn is_handshaking(&self) -> bool {
        self.conn.is_handshaking()
    }

    pub(crate) fn wants_write(&self) -> bool {
        self.conn.wants_write()
    }

    /// Takes what came from the socket; plaintext goes to `into`. False once the peer has said that it is over.
    pub(super) fn read_tls(
        &mut self,
        mut bytes: &[u8],
        into: &mut BytesMut,
    ) -> Result<bool, DisconnectReason> {
        let mut goes_on = true;
        while !bytes.is_empty() {
            self.conn.read_tls(&mut bytes).map_err(DisconnectReason::Io)?;
            let state = self.conn.process_new_packets();
            // What came before an alert was said all the same.
            let ready = match &state {
                Ok(state) => state.plaintext_bytes_to_read(),
                Err(_) => CIPHERTEXT_BUFFER_LIMIT,
            };
            if ready > 0 {
                self.read_plaintext(ready, into);
            }
            goes_on = !state.map_err(|e| self.disconnect_reason(&e))?.peer_has_closed();
            if !goes_on {
                break;
            }
        }
        Ok(goes_on)
    }

    fn read_plaintext(&mut self, most: usize, into: &mut BytesMut) {
        let (at, mut end) = (into.len(), into.len());
        into.resize(at + most, 0);
        while end < into.len() {
            match self.conn.reader().read(&mut into[end..]) {
                Ok(n @ 1..) => end += n,
                _ => break,
            }
        }
        self.has_received_data |= end > at;
        into.truncate(end);
    }

    /// Encrypts what waits, as far as there is room, and writes what the socket takes. `WouldBlock` is said after what
    /// was written.
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
        while !outgoing.is_empty() && !self.conn.is_handshaking() {
            if write_slices(outgoing, |pieces| self.conn.writer().write_vectored(pieces))? == 0 {
                // There is no room until the socket takes some.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Tells the peer, as far as the socket takes it, why there will be no more: an alert, or that it is over.
    pub(super) fn send_close_notify(&mut self, stream: &mut impl Stream) {
        self.conn.send_close_notify();
        while self.conn.wants_write() {
            if !matches!(self.conn.write_tls(&mut StreamWriter(stream)), Ok(1..)) {
                return;
            }
        }
    }

    fn disconnect_reason(&self, e: &rustls::Error) -> DisconnectReason {
        let (words, refused) = diagnostics::explain(e, &self.host, &self.verifier);
        match refused && !self.has_received_data {
            true => DisconnectReason::AuthenticationFailed(words),
            false => DisconnectReason::Tls(words),
        }
    }

    /// What an end of the stream means now.
    pub(super) fn eof_reason(&self) -> Option<DisconnectReason> {
        let words = "it closed the connection during the TLS handshake; if this is a plaintext port, set \
                     security.protocol to match";
        self.conn.is_handshaking().then(|| DisconnectReason::Tls(words.to_owned()))
    }
}

/// The seam's stream as the standard library's.
struct StreamWriter<'s, S>(&'s mut S);

impl<S: Stream> Write for StreamWriter<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
