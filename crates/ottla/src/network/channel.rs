//! One connection: a send that may stop at any byte and goes on there, a receive that may arrive in any
//! pieces, frames cut out of it by their length; with TLS between it and the socket where that is spoken.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use super::io::{ChannelKey, Io, Stream};
use super::tls::TlsSession;

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum DisconnectReason {
    /// The peer closed it.
    Eof,
    /// The system says so.
    Io(io::Error),
    /// A frame's length is negative or over the limit.
    BadFrame { size: i32, limit: usize },
    /// Nothing happened on it for `connections.max.idle.ms`.
    Idle,
    /// TLS ended it.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    Tls(String),
    /// One side does not accept who the other is: trying again is no use until something is changed.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    AuthenticationFailed(String),
}

impl std::fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DisconnectReason::Eof => f.write_str("the broker closed the connection"),
            DisconnectReason::Io(e) => write!(f, "{e}"),
            DisconnectReason::BadFrame { size, .. } if *size == i32::from_be_bytes(*b"HTTP") => {
                f.write_str("this is an HTTP server, not a Kafka broker; check the port")
            }
            DisconnectReason::BadFrame { size, .. } if size.to_be_bytes()[..2] == [0x15, 0x03] => f
                .write_str(
                    "the answer is a TLS alert; this is a TLS port, set security.protocol to match",
                ),
            DisconnectReason::BadFrame { size, limit } => write!(
                f,
                "an answer of {size} bytes, where receive.message.max.bytes allows {limit}; \
                 is this a Kafka broker?"
            ),
            DisconnectReason::Tls(words) | DisconnectReason::AuthenticationFailed(words) => {
                f.write_str(words)
            }
            DisconnectReason::Idle => f.write_str("idle for connections.max.idle.ms"),
        }
    }
}

/// Bytes read ahead of the frame that is handed on.
const READ_AHEAD: usize = 64 * 1024;
/// Pieces given to one system call.
const MAX_IO_SLICES: usize = 64;

/// Has some of what is at the front taken, and lets go of what was: so many bytes.
pub(super) fn write_slices(
    outgoing: &mut VecDeque<Bytes>,
    take: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); MAX_IO_SLICES];
    let count = outgoing.len().min(MAX_IO_SLICES);
    for (slice, piece) in slices.iter_mut().zip(&*outgoing) {
        *slice = IoSlice::new(piece);
    }
    let taken = take(&slices[..count])?;
    let mut n = taken;
    while let Some(front) = outgoing.front_mut() {
        if n < front.len() {
            front.advance(n);
            break;
        }
        n -= front.len();
        outgoing.pop_front();
    }
    Ok(taken)
}

/// A connection.
pub(crate) struct KafkaChannel<S> {
    key: ChannelKey,
    stream: S,
    tls: Option<Box<TlsSession>>,
    connected: bool,
    /// Whether it was told that it can be used.
    open_reported: bool,
    /// Remembered, since the seam reports an edge once; cleared by `WouldBlock` alone.
    pub(super) readable: bool,
    writable: bool,
    write_interest: bool,
    /// A frame was given whose last byte is not out.
    sending: bool,
    outgoing: VecDeque<Bytes>,
    incoming: BytesMut,
    /// The stream has ended; frames that arrived whole are still handed on.
    end_reason: Option<DisconnectReason>,
    frame_limit: usize,
}

impl<S: Stream> KafkaChannel<S> {
    pub(crate) fn new(
        key: ChannelKey,
        stream: S,
        tls: Option<TlsSession>,
        limit: usize,
    ) -> KafkaChannel<S> {
        KafkaChannel {
            key,
            stream,
            tls: tls.map(Box::new),
            connected: false,
            open_reported: false,
            readable: false,
            writable: false,
            write_interest: true,
            sending: false,
            outgoing: VecDeque::new(),
            incoming: BytesMut::new(),
            end_reason: None,
            frame_limit: limit,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether frames may be sent: connected, and with TLS agreed upon.
    pub(crate) fn is_open(&self) -> bool {
        self.connected && !self.tls.as_ref().is_some_and(|t| t.is_handshaking())
    }

    /// True once, when frames may be sent.
    pub(super) fn report_open(&mut self) -> bool {
        self.is_open() && !std::mem::replace(&mut self.open_reported, true)
    }

    pub(super) fn add_readiness(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// True once, when the connection is made.
    pub(super) fn finish_connect(
        &mut self,
        io: &mut impl Io<Stream = S>,
    ) -> Result<bool, DisconnectReason> {
        if self.connected || !self.writable {
            return Ok(false);
        }
        match self.stream.finish_connect() {
            Ok(()) => {
                self.connected = true;
                self.set_write_interest(io, false)?;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(false)
            }
            Err(e) => Err(DisconnectReason::Io(e)),
        }
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Whether bytes wait for the socket, a frame's or the handshake's.
    pub(super) fn has_pending_writes(&self) -> bool {
        self.sending || self.tls.as_ref().is_some_and(|t| t.wants_write())
    }

    /// Takes a frame to send; the one before must be out.
    pub(super) fn send(&mut self, pieces: impl IntoIterator<Item = Bytes>) {
        assert!(!self.sending, "one send at a time");
        self.sending = true;
        self.outgoing.extend(pieces.into_iter().filter(|p| !p.is_empty()));
    }

    /// Writes what it can: bytes written, and whether a send is complete. Write interest is on exactly while
    /// bytes wait.
    pub(super) fn write(
        &mut self,
        io: &mut impl Io<Stream = S>,
    ) -> Result<(usize, bool), DisconnectReason> {
        if !self.connected {
            return Ok((0, false));
        }
        let (written, result) = match &mut self.tls {
            Some(tls) => tls.write(&mut self.outgoing, &mut self.stream),
            None => self.write_plain(),
        };
        match result {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.set_write_interest(io, true)?;
                return Ok((written, false));
            }
            Err(e) => return Err(DisconnectReason::Io(e)),
        }
        self.set_write_interest(io, false)?;
        // With a handshake under way, what is to be sent waits for it.
        let done = self.sending && self.outgoing.is_empty();
        self.sending &= !done;
        Ok((written, done))
    }

    fn write_plain(&mut self) -> (usize, io::Result<()>) {
        let mut written = 0;
        while !self.outgoing.is_empty() {
            match write_slices(&mut self.outgoing, |pieces| self.stream.write_vectored(pieces)) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (written, Err(e)),
            }
        }
        (written, Ok(()))
    }

    fn set_write_interest(
        &mut self,
        io: &mut impl Io<Stream = S>,
        on: bool,
    ) -> Result<(), DisconnectReason> {
        if std::mem::replace(&mut self.write_interest, on) != on {
            io.set_write_interest(self.key, &mut self.stream, on).map_err(DisconnectReason::Io)?;
        }
        Ok(())
    }

    /// Reads while there is something and room for it; bytes read.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> usize {
        let mut total = 0;
        while self.readable && self.end_reason.is_none() && self.has_room() {
            match self.stream.read(scratch) {
                Ok(0) => {
                    let in_handshake = self.tls.as_ref().and_then(|tls| tls.eof_reason());
                    self.end_reason = Some(in_handshake.unwrap_or(DisconnectReason::Eof));
                }
                Ok(n) => {
                    total += n;
                    match &mut self.tls {
                        None => self.incoming.extend_from_slice(&scratch[..n]),
                        Some(tls) => match tls.read_tls(&scratch[..n], &mut self.incoming) {
                            Ok(true) => {}
                            Ok(false) => self.end_reason = Some(DisconnectReason::Eof),
                            Err(why) => self.end_reason = Some(why),
                        },
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => self.end_reason = Some(DisconnectReason::Io(e)),
            }
        }
        total
    }

    fn next_frame_len(&self) -> Option<i32> {
        let head = self.incoming.first_chunk::<4>()?;
        Some(i32::from_be_bytes(*head))
    }

    /// One frame and a read-ahead is all that is kept here.
    fn has_room(&self) -> bool {
        let frame = self
            .next_frame_len()
            .map_or(0, |n| usize::try_from(n).unwrap_or(0).min(self.frame_limit));
        self.incoming.len() < frame + 4 + READ_AHEAD
    }

    /// Cuts the next frame out, without its length; or says why there will be no more.
    pub(super) fn take_frame(&mut self) -> Result<Option<Bytes>, DisconnectReason> {
        if let Some(size) = self.next_frame_len() {
            let limit = self.frame_limit;
            let length = usize::try_from(size).ok().filter(|n| *n <= limit);
            let Some(length) = length else {
                return Err(DisconnectReason::BadFrame { size, limit });
            };
            if self.incoming.len() >= 4 + length {
                self.incoming.advance(4);
                return Ok(Some(self.incoming.split_to(length).freeze()));
            }
        }
        match self.end_reason.take() {
            Some(why) => Err(why),
            None => Ok(None),
        }
    }

    /// Whether a frame that is here whole, or an end, waits to be handed on.
    pub(super) fn has_unprocessed_input(&self) -> bool {
        let whole = self.next_frame_len().is_some_and(|n| match usize::try_from(n) {
            Ok(n) => n > self.frame_limit || self.incoming.len() >= 4 + n,
            Err(_) => true,
        });
        whole || self.end_reason.is_some() || self.readable
    }

    /// The socket, to be closed; the peer is told why, as TLS wants it.
    pub(super) fn into_stream(mut self) -> S {
        if let Some(tls) = &mut self.tls
            && self.connected
        {
            tls.send_close_notify(&mut self.stream);
        }
        self.stream
    }
}
