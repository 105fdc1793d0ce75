//! What stands in the place of `tls` in a build without it: types that no value has.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};

use super::channel::Why;
use super::io::Stream;

/// No session is ever made.
pub(crate) enum Session {}

impl Session {
    pub(crate) fn is_handshaking(&self) -> bool {
        match *self {}
    }

    pub(crate) fn wants_write(&self) -> bool {
        match *self {}
    }

    pub(super) fn feed(&mut self, _: &[u8], _: &mut BytesMut) -> Result<bool, Why> {
        match *self {}
    }

    pub(super) fn write(
        &mut self,
        _: &mut VecDeque<Bytes>,
        _: &mut impl Stream,
    ) -> (usize, io::Result<()>) {
        match *self {}
    }

    pub(super) fn part(&mut self, _: &mut impl Stream) {
        match *self {}
    }

    pub(super) fn ended(&self) -> Option<Why> {
        match *self {}
    }
}

/// No source is ever made: settings that ask for one are refused.
pub(crate) enum TlsSource {}

impl TlsSource {
    pub(crate) fn has_files(&self) -> bool {
        match *self {}
    }

    pub(crate) fn refresh(&self) {
        match *self {}
    }

    pub(crate) fn session(&self, _: &str) -> Result<Session, String> {
        match *self {}
    }
}
