//! The bytes of a connection, plain or encrypted.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use rustls::ServerConnection;

/// A connection with a buffer of received bytes.
pub(crate) trait Transport {
    /// Returns received bytes. There are none only if the buffer is empty.
    fn buffered(&mut self) -> &[u8];

    /// Removes the first bytes from the buffer.
    fn consume(&mut self, n: usize);

    /// Waits until the empty buffer contains bytes.
    fn receive(&mut self) -> io::Result<()>;

    /// Waits for at most `n` bytes, and drops some or all of them. The buffer is empty.
    fn discard(&mut self, n: usize) -> io::Result<usize> {
        self.receive()?;
        let received = self.buffered().len().min(n);
        self.consume(received);
        Ok(received)
    }

    /// Sends all bytes.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
}

pub(crate) struct PlainTransport {
    socket: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl PlainTransport {
    const BUFFER_BYTES: usize = 512 << 10;
    /// For fewer bytes, a copy is cheaper than a system call.
    const MIN_DISCARD: usize = 32 << 10;

    pub(crate) fn new(socket: TcpStream) -> PlainTransport {
        let buffer = vec![0; PlainTransport::BUFFER_BYTES].into_boxed_slice();
        PlainTransport { socket, buffer, start: 0, end: 0 }
    }
}

impl Transport for PlainTransport {
    fn buffered(&mut self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
    }

    fn receive(&mut self) -> io::Result<()> {
        self.start = 0;
        self.end = self.socket.read(&mut self.buffer)?;
        if self.end == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn discard(&mut self, n: usize) -> io::Result<usize> {
        if n < PlainTransport::MIN_DISCARD {
            self.receive()?;
            let received = self.end.min(n);
            self.start = received;
            return Ok(received);
        }
        let n = n.min(self.buffer.len());
        // With MSG_TRUNC, TCP drops the bytes instead of copying them.
        let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_WAITALL;
        match recv(self.socket.as_raw_fd(), &mut self.buffer[..n], flags)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            received => Ok(received),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }
}

pub(crate) struct TlsTransport {
    socket: TcpStream,
    session: ServerConnection,
}

impl TlsTransport {
    pub(crate) fn new(socket: TcpStream, mut session: ServerConnection) -> TlsTransport {
        session.set_buffer_limit(None);
        TlsTransport { socket, session }
    }

    fn write_pending(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

impl Transport for TlsTransport {
    fn buffered(&mut self) -> &[u8] {
        // The error says that nothing is buffered.
        self.session.reader().into_first_chunk().unwrap_or_default()
    }

    fn consume(&mut self, n: usize) {
        self.session.reader().consume(n);
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.write_pending()?;
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match self.session.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() > 0 => return Ok(()),
                Ok(_) => {}
                Err(e) => {
                    // The client reads the alert.
                    self.write_pending()?;
                    return Err(io::Error::new(ErrorKind::InvalidData, e));
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.session.writer().write_all(bytes)?;
        self.write_pending()
    }
}
