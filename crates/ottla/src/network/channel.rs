//! One connection: a send that may stop at any byte and goes on there, a receive that may arrive in any
//! pieces, frames cut out of it by their length; with TLS between it and the socket where that is spoken.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use super::io::{ChannelKey, Io, Stream};
use super::tls::TlsSession;

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Why {
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
    Refused(String),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Eof => f.write_str("the broker closed the connection"),
            Why::Io(e) => write!(f, "{e}"),
            Why::BadFrame { size, .. } if *size == i32::from_be_bytes(*b"HTTP") => {
                f.write_str("this is an HTTP server, not a Kafka broker; check the port")
            }
            Why::BadFrame { size, .. } if size.to_be_bytes()[..2] == [0x15, 0x03] => f.write_str(
                "the answer is a TLS alert; this is a TLS port, set security.protocol to match",
            ),
            Why::BadFrame { size, limit } => write!(
                f,
                "an answer of {size} bytes, where receive.message.max.bytes allows {limit}; \
                 is this a Kafka broker?"
            ),
            Why::Tls(words) | Why::Refused(words) => f.write_str(words),
            Why::Idle => f.write_str("idle for connections.max.idle.ms"),
        }
    }
}

/// Bytes read ahead of the frame that is handed on.
const READ_AHEAD: usize = 64 * 1024;
/// Pieces given to one system call.
const PIECES: usize = 64;

/// Has some of what is at the front taken, and lets go of what was: so many bytes.
pub(super) fn hand_over(
    outgoing: &mut VecDeque<Bytes>,
    take: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); PIECES];
    let count = outgoing.len().min(PIECES);
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
pub(crate) struct Channel<S> {
    key: ChannelKey,
    stream: S,
    tls: Option<Box<TlsSession>>,
    connected: bool,
    /// Whether it was told that it can be used.
    told: bool,
    /// Remembered, since the seam reports an edge once; cleared by `WouldBlock` alone.
    pub(super) readable: bool,
    writable: bool,
    wants_write: bool,
    /// A frame was given whose last byte is not out.
    sending: bool,
    outgoing: VecDeque<Bytes>,
    incoming: BytesMut,
    /// The stream has ended; frames that arrived whole are still handed on.
    ended: Option<Why>,
    limit: usize,
}

impl<S: Stream> Channel<S> {
    pub(crate) fn new(
        key: ChannelKey,
        stream: S,
        tls: Option<TlsSession>,
        limit: usize,
    ) -> Channel<S> {
        Channel {
            key,
            stream,
            tls: tls.map(Box::new),
            connected: false,
            told: false,
            readable: false,
            writable: false,
            wants_write: true,
            sending: false,
            outgoing: VecDeque::new(),
            incoming: BytesMut::new(),
            ended: None,
            limit,
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
    pub(super) fn opens(&mut self) -> bool {
        self.is_open() && !std::mem::replace(&mut self.told, true)
    }

    pub(super) fn is_ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// True once, when the connection is made.
    pub(super) fn connect(&mut self, io: &mut impl Io<Stream = S>) -> Result<bool, Why> {
        if self.connected || !self.writable {
            return Ok(false);
        }
        match self.stream.finish_connect() {
            Ok(()) => {
                self.connected = true;
                self.want_write(io, false)?;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(false)
            }
            Err(e) => Err(Why::Io(e)),
        }
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Whether bytes wait for the socket, a frame's or the handshake's.
    pub(super) fn has_bytes(&self) -> bool {
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
    pub(super) fn write(&mut self, io: &mut impl Io<Stream = S>) -> Result<(usize, bool), Why> {
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
                self.want_write(io, true)?;
                return Ok((written, false));
            }
            Err(e) => return Err(Why::Io(e)),
        }
        self.want_write(io, false)?;
        // With a handshake under way, what is to be sent waits for it.
        let done = self.sending && self.outgoing.is_empty();
        self.sending &= !done;
        Ok((written, done))
    }

    fn write_plain(&mut self) -> (usize, io::Result<()>) {
        let mut written = 0;
        while !self.outgoing.is_empty() {
            match hand_over(&mut self.outgoing, |pieces| self.stream.write_vectored(pieces)) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (written, Err(e)),
            }
        }
        (written, Ok(()))
    }

    fn want_write(&mut self, io: &mut impl Io<Stream = S>, on: bool) -> Result<(), Why> {
        if std::mem::replace(&mut self.wants_write, on) != on {
            io.want_write(self.key, &mut self.stream, on).map_err(Why::Io)?;
        }
        Ok(())
    }

    /// Reads while there is something and room for it; bytes read.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> usize {
        let mut total = 0;
        while self.readable && self.ended.is_none() && self.has_room() {
            match self.stream.read(scratch) {
                Ok(0) => {
                    let in_handshake = self.tls.as_ref().and_then(|tls| tls.eof_reason());
                    self.ended = Some(in_handshake.unwrap_or(Why::Eof));
                }
                Ok(n) => {
                    total += n;
                    match &mut self.tls {
                        None => self.incoming.extend_from_slice(&scratch[..n]),
                        Some(tls) => match tls.read_tls(&scratch[..n], &mut self.incoming) {
                            Ok(true) => {}
                            Ok(false) => self.ended = Some(Why::Eof),
                            Err(why) => self.ended = Some(why),
                        },
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => self.ended = Some(Why::Io(e)),
            }
        }
        total
    }

    fn size(&self) -> Option<i32> {
        let head = self.incoming.first_chunk::<4>()?;
        Some(i32::from_be_bytes(*head))
    }

    /// One frame and a read-ahead is all that is kept here.
    fn has_room(&self) -> bool {
        let frame = self.size().map_or(0, |n| usize::try_from(n).unwrap_or(0).min(self.limit));
        self.incoming.len() < frame + 4 + READ_AHEAD
    }

    /// Cuts the next frame out, without its length; or says why there will be no more.
    pub(super) fn receive(&mut self) -> Result<Option<Bytes>, Why> {
        if let Some(size) = self.size() {
            let limit = self.limit;
            let length = usize::try_from(size).ok().filter(|n| *n <= limit);
            let Some(length) = length else {
                return Err(Why::BadFrame { size, limit });
            };
            if self.incoming.len() >= 4 + length {
                self.incoming.advance(4);
                return Ok(Some(self.incoming.split_to(length).freeze()));
            }
        }
        match self.ended.take() {
            Some(why) => Err(why),
            None => Ok(None),
        }
    }

    /// Whether a frame that is here whole, or an end, waits to be handed on.
    pub(super) fn has_more(&self) -> bool {
        let whole = self.size().is_some_and(|n| match usize::try_from(n) {
            Ok(n) => n > self.limit || self.incoming.len() >= 4 + n,
            Err(_) => true,
        });
        whole || self.ended.is_some() || self.readable
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
