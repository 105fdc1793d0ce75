//! What stands in the place of `tls` in a build without it: types that no value has.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};

use super::channel::DisconnectReason;
use super::io::Stream;

/// No session is ever made.
pub(crate) enum TlsSession {}

impl TlsSession {
    pub(crate) fn is_handshaking(&self) -> bool {
        match *self {}
    }

    pub(crate) fn wants_write(&self) -> bool {
        match *self {}
    }

    pub(super) fn read_tls(
        &mut self,
        _: &[u8],
        _: &mut BytesMut,
    ) -> Result<bool, DisconnectReason> {
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

/// No source is ever made: settings that ask for one are refused.
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
