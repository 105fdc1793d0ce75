//! Kafka's KafkaChannel: one connection that sends and receives frames, with optional TLS.
//!
//! The socket may accept and return any number of bytes. A send continues where the socket stopped
//! it, and a frame is complete when its length prefix says so.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use super::io::{ChannelKey, Io, Stream};
use super::tls::{PeerState, TlsSession};
use super::tls_details::TlsDetails;

/// The reason why a connection ended.
#[derive(Debug)]
pub(crate) enum DisconnectReason {
    /// The peer closed the connection.
    Eof,
    /// The operating system reported an error.
    Io(io::Error),
    /// A frame's length is negative or exceeds the limit.
    BadFrame { size: i32, limit: usize },
    /// The connection was unused for `connections.max.idle.ms`.
    Idle,
    /// TLS failed, but a retry may succeed.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    Tls {
        text: String,
        /// Whether the broker ended the session, with an alert or by closing the connection.
        by_broker: bool,
    },
    /// One side rejected the other's identity. A retry cannot succeed with the same credentials.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    AuthenticationFailed {
        text: String,
        /// Whether the broker rejected the client, and not the client the broker.
        by_broker: bool,
    },
}

impl std::fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DisconnectReason::Eof => f.write_str("the broker closed the connection"),
            DisconnectReason::Io(e) => write!(f, "{e}"),
            DisconnectReason::BadFrame { size, .. } if *size == i32::from_be_bytes(*b"HTTP") => {
                f.write_str("this is an HTTP server, not a Kafka broker; check the port")
            }
            // A TLS record of type alert (0x15), version 3.x.
            DisconnectReason::BadFrame { size, .. } if size.to_be_bytes()[..2] == [0x15, 0x03] => f
                .write_str(
                    "the response is a TLS alert: \
                     this is a TLS port; set security.protocol to match",
                ),
            DisconnectReason::BadFrame { size, limit } => write!(
                f,
                "invalid response length: {size} bytes \
                 (receive.message.max.bytes is {limit}); is this a Kafka broker?"
            ),
            DisconnectReason::Tls { text, .. }
            | DisconnectReason::AuthenticationFailed { text, .. } => f.write_str(text),
            DisconnectReason::Idle => f.write_str("idle for connections.max.idle.ms"),
        }
    }
}

/// The most bytes that a channel buffers beyond the current frame.
const READ_AHEAD: usize = 64 * 1024;

/// The most buffers passed to one vectored write.
const MAX_IO_SLICES: usize = 64;

/// Passes the front of the queue to `write`, removes what it accepted, and returns its bytes.
pub(super) fn write_slices(
    outgoing: &mut VecDeque<Bytes>,
    write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); MAX_IO_SLICES];
    let count = outgoing.len().min(MAX_IO_SLICES);
    for (slice, chunk) in slices.iter_mut().zip(&*outgoing) {
        *slice = IoSlice::new(chunk);
    }
    let written = write(&slices[..count])?;
    let mut n = written;
    while let Some(front) = outgoing.front_mut() {
        if n < front.len() {
            front.advance(n);
            break;
        }
        n -= front.len();
        outgoing.pop_front();
    }
    Ok(written)
}

/// The result of [`KafkaChannel::write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WriteProgress {
    /// The number of bytes that the socket accepted.
    pub(super) written: usize,
    /// Whether they include the last byte of a send.
    pub(super) send_completed: bool,
}

/// A connection.
pub(crate) struct KafkaChannel<S> {
    key: ChannelKey,
    stream: S,
    tls: Option<Box<TlsSession>>,
    connected: bool,
    /// Whether `report_open` has returned true.
    open_reported: bool,
    /// Whether a read may succeed. Only `WouldBlock` clears it: readiness is edge-triggered, and
    /// no event reports it again.
    pub(super) readable: bool,
    writable: bool,
    write_interest: bool,
    /// Whether a send is in progress.
    sending: bool,
    outgoing: VecDeque<Bytes>,
    incoming: BytesMut,
    /// Why the stream has ended. Complete frames in `incoming` are still returned first.
    end_reason: Option<DisconnectReason>,
    frame_limit: usize,
}

impl<S: Stream> KafkaChannel<S> {
    pub(crate) fn new(
        key: ChannelKey,
        stream: S,
        tls: Option<TlsSession>,
        frame_limit: usize,
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
            frame_limit,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Returns whether frames may be sent: TCP is connected and the TLS handshake is finished.
    pub(crate) fn is_open(&self) -> bool {
        self.connected && !self.tls.as_ref().is_some_and(|t| t.is_handshaking())
    }

    /// Returns what the TLS handshake has agreed on; `None` without TLS.
    pub(crate) fn tls_details(&self) -> Option<TlsDetails> {
        self.tls.as_ref().map(|tls| tls.details())
    }

    /// Returns whether TCP is connected and the peer has not sent anything in response to the
    /// first message of the TLS handshake.
    pub(super) fn is_awaiting_tls_response(&self) -> bool {
        self.connected && self.tls.as_ref().is_some_and(|t| t.has_received_nothing())
    }

    /// Returns true once, when the channel is open.
    pub(super) fn report_open(&mut self) -> bool {
        self.is_open() && !std::mem::replace(&mut self.open_reported, true)
    }

    pub(super) fn add_readiness(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Returns true once, when TCP is connected.
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

    /// Returns whether a frame or a TLS message waits to be written.
    pub(super) fn has_pending_writes(&self) -> bool {
        self.sending || self.tls.as_ref().is_some_and(|t| t.wants_write())
    }

    /// Starts to send a frame. The previous send must be complete.
    pub(super) fn send(&mut self, chunks: impl IntoIterator<Item = Bytes>) {
        assert!(!self.sending, "one send at a time");
        self.sending = true;
        self.outgoing.extend(chunks.into_iter().filter(|c| !c.is_empty()));
    }

    /// Writes until the socket is full or nothing is left. Write interest follows.
    pub(super) fn write(
        &mut self,
        io: &mut impl Io<Stream = S>,
    ) -> Result<WriteProgress, DisconnectReason> {
        if !self.connected {
            return Ok(WriteProgress { written: 0, send_completed: false });
        }
        let (written, result) = match &mut self.tls {
            Some(tls) => tls.write(&mut self.outgoing, &mut self.stream),
            None => self.write_plaintext(),
        };
        match result {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.set_write_interest(io, true)?;
                return Ok(WriteProgress { written, send_completed: false });
            }
            Err(e) => return Err(DisconnectReason::Io(e)),
        }
        self.set_write_interest(io, false)?;
        // During a TLS handshake the frame stays in `outgoing`.
        let send_completed = self.sending && self.outgoing.is_empty();
        self.sending &= !send_completed;
        Ok(WriteProgress { written, send_completed })
    }

    fn write_plaintext(&mut self) -> (usize, io::Result<()>) {
        let mut written = 0;
        while !self.outgoing.is_empty() {
            match write_slices(&mut self.outgoing, |slices| self.stream.write_vectored(slices)) {
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
        enabled: bool,
    ) -> Result<(), DisconnectReason> {
        // Each change is a system call.
        if std::mem::replace(&mut self.write_interest, enabled) != enabled {
            io.set_write_interest(self.key, &mut self.stream, enabled)
                .map_err(DisconnectReason::Io)?;
        }
        Ok(())
    }

    /// Reads until the socket is empty, the stream ends, or the buffer is full. Returns the number
    /// of bytes.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> usize {
        let mut total = 0;
        while self.readable && self.end_reason.is_none() && self.has_room() {
            match self.stream.read(scratch) {
                Ok(0) => {
                    let tls_reason = self.tls.as_ref().and_then(|tls| tls.eof_reason());
                    self.end_reason = Some(tls_reason.unwrap_or(DisconnectReason::Eof));
                }
                Ok(n) => {
                    total += n;
                    match &mut self.tls {
                        None => self.incoming.extend_from_slice(&scratch[..n]),
                        Some(tls) => match tls.read_tls(&scratch[..n], &mut self.incoming) {
                            Ok(PeerState::Open) => {}
                            Ok(PeerState::Closed) => {
                                self.end_reason = Some(DisconnectReason::Eof);
                            }
                            Err(reason) => self.end_reason = Some(reason),
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
        let prefix = self.incoming.first_chunk::<4>()?;
        Some(i32::from_be_bytes(*prefix))
    }

    /// Returns whether the buffer may grow. It holds one frame and `READ_AHEAD` bytes at most.
    fn has_room(&self) -> bool {
        let frame = self
            .next_frame_len()
            .map_or(0, |n| usize::try_from(n).unwrap_or(0).min(self.frame_limit));
        self.incoming.len() < frame + 4 + READ_AHEAD
    }

    /// Removes and returns the next frame, without its length prefix.
    ///
    /// # Errors
    /// The frame's length is invalid, or the stream has ended and no complete frame is left.
    pub(super) fn take_frame(&mut self) -> Result<Option<Bytes>, DisconnectReason> {
        if let Some(size) = self.next_frame_len() {
            let limit = self.frame_limit;
            let len = usize::try_from(size).ok().filter(|n| *n <= limit);
            let Some(len) = len else {
                return Err(DisconnectReason::BadFrame { size, limit });
            };
            if self.incoming.len() >= 4 + len {
                self.incoming.advance(4);
                return Ok(Some(self.incoming.split_to(len).freeze()));
            }
        }
        match self.end_reason.take() {
            Some(reason) => Err(reason),
            None => Ok(None),
        }
    }

    /// Returns whether `take_frame` or `read` can make progress without a new readiness event.
    pub(super) fn has_unprocessed_input(&self) -> bool {
        let has_frame = self.next_frame_len().is_some_and(|n| match usize::try_from(n) {
            Ok(n) => n > self.frame_limit || self.incoming.len() >= 4 + n,
            Err(_) => true,
        });
        has_frame || self.end_reason.is_some() || self.readable
    }

    /// Returns the socket to close, after TLS has sent its close_notify alert.
    pub(super) fn into_stream(mut self) -> S {
        if let Some(tls) = &mut self.tls
            && self.connected
        {
            tls.send_close_notify(&mut self.stream);
        }
        self.stream
    }
}
