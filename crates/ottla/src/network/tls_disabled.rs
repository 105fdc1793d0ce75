//! Replaces the module `tls` in builds without TLS: the same types, but without values.
//!
//! The settings reject `security.protocol=SSL` and `SASL_SSL` in such a build.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};

use super::channel::DisconnectReason;
use super::io::Stream;
use super::tls_details::TlsDetails;

/// A TLS session; this build cannot create one.
pub(crate) enum TlsSession {}

impl TlsSession {
    pub(crate) fn is_handshaking(&self) -> bool {
        match *self {}
    }

    pub(super) fn has_received_nothing(&self) -> bool {
        match *self {}
    }

    pub(crate) fn wants_write(&self) -> bool {
        match *self {}
    }

    pub(crate) fn details(&self) -> TlsDetails {
        match *self {}
    }

    pub(super) fn read_tls(
        &mut self,
        _: &[u8],
        _: &mut BytesMut,
    ) -> Result<PeerState, DisconnectReason> {
        match *self {}
    }

    pub(super) fn write(
        &mut self,
        _: &mut VecDeque<Bytes>,
        _: &mut impl Stream,
    ) -> (usize, io::Result<()>) {
        match *self {}
    }

    pub(super) fn send_close_notify(&mut self, _: &mut impl Stream) {
        match *self {}
    }

    pub(super) fn eof_reason(&self) -> Option<DisconnectReason> {
        match *self {}
    }
}

/// Whether the broker may still send data.
#[allow(dead_code)]
pub(super) enum PeerState {
    Open,
    Closed,
}

/// Creates TLS sessions; this build cannot create one.
pub(crate) enum TlsConnector {}

impl TlsConnector {
    pub(crate) fn has_files(&self) -> bool {
        match *self {}
    }

    pub(crate) fn reload_if_changed(&self) {
        match *self {}
    }

    pub(crate) fn create_session(&self, _: &str) -> Result<TlsSession, String> {
        match *self {}
    }
}
