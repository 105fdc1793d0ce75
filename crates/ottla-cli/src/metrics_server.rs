//! `--metrics-listen`: serves the producer's metrics to Prometheus over HTTP.
//!
//! One thread serves one request after the other, and ends with the process.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use ottla::{Producer, prometheus_text};

use crate::console::report;
use crate::{CliError, start_thread};

/// The bytes of the largest request head. Prometheus sends a few hundred.
const MAX_REQUEST_BYTES: usize = 8192;
/// How long a client may take for its request, and again for the response. Other clients wait
/// meanwhile.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a connection that could not be accepted, for example without a free file
/// descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket of `--metrics-listen`, open before a record is sent.
pub(crate) struct MetricsServer(TcpListener);

/// What a client gets.
struct Response {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl MetricsServer {
    /// Opens the socket, and reports its address: the port may be 0.
    pub(crate) fn bind(address: &str) -> Result<MetricsServer, CliError> {
        let failed = |e: io::Error| {
            CliError::usage(format!("cannot listen on {address} of --metrics-listen: {e}"))
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        report!("metrics at http://{local}/metrics");
        Ok(MetricsServer(listener))
    }

    /// Starts the thread that serves the metrics of a producer.
    pub(crate) fn start(self, producer: Producer) -> Result<(), CliError> {
        start_thread("metrics", move || self.serve(&producer)).map(|_| ())
    }

    fn serve(&self, producer: &Producer) {
        loop {
            // A client that goes away concerns only itself.
            let served = self.0.accept().map(|(client, _)| respond(client, producer));
            if served.is_err() {
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn respond(mut client: TcpStream, producer: &Producer) -> io::Result<()> {
    let Response { status, content_type, body } = match read_request(&mut client)? {
        Some(head) => response_to(&head, producer),
        None => Response::error("431 Request Header Fields Too Large"),
    };
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    write_response(&mut client, response.as_bytes())
}

/// Writes a response. A client that reads a byte now and then must not keep the thread.
fn write_response(client: &mut TcpStream, mut response: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    while !response.is_empty() {
        client.set_write_timeout(Some(time_left(deadline)?))?;
        match client.write(response) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => response = &response[len..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Returns the time until the deadline; an error if it has passed.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Reads a request up to the empty line. Returns `None` if it is too large.
fn read_request(client: &mut TcpStream) -> io::Result<Option<String>> {
    let (deadline, mut head) = (Instant::now() + REQUEST_TIMEOUT, Vec::new());
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() > MAX_REQUEST_BYTES {
            return Ok(None);
        }
        // A client that sends a byte now and then must not keep the thread.
        client.set_read_timeout(Some(time_left(deadline)?))?;
        match client.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => head.extend_from_slice(&buffer[..len]),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn response_to(head: &str, producer: &Producer) -> Response {
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    match (method, path) {
        ("GET", "/metrics") => Response {
            status: "200 OK",
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: prometheus_text(&producer.metrics()),
        },
        ("GET", _) => Response::error("404 Not Found"),
        _ => Response::error("405 Method Not Allowed"),
    }
}

impl Response {
    fn error(status: &'static str) -> Response {
        let body = format!("{status}; the metrics are at GET /metrics\n");
        Response { status, content_type: "text/plain; charset=utf-8", body }
    }
}
