//! Kafka's Selector: drives all channels of a client.
//!
//! [`Selector::poll`] connects, writes pending bytes, reads, and closes idle channels. It returns
//! at most one frame of each channel per poll, so that a busy connection cannot starve the others.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::channel::{DisconnectReason, KafkaChannel, WriteProgress};
use super::io::{ChannelKey, Io, Job, JobResult, Readiness};
use super::tls::TlsSession;
use super::tls_details::TlsDetails;
use crate::collections::HashMap;
use crate::env::{Wakeup, WorkerPool};
use crate::metrics::{Counters, Sensor, add};
use crate::time::Tick;

/// The size of the read buffer that all channels share.
const SCRATCH_BYTES: usize = 64 * 1024;

/// The events of one poll.
#[derive(Debug, Default)]
pub(crate) struct PollResult {
    /// The channels that have connected and finished the TLS handshake.
    pub(crate) connected: Vec<ChannelKey>,
    /// The channels whose socket accepted the last byte of a send.
    pub(crate) completed_sends: Vec<ChannelKey>,
    pub(crate) completed_receives: Vec<(ChannelKey, Bytes)>,
    pub(crate) disconnected: Vec<(ChannelKey, DisconnectReason)>,
    pub(crate) job_results: Vec<JobResult>,
    /// The end of the wait.
    pub(crate) woken_at: Tick,
}

/// All channels of a client.
pub(crate) struct Selector<I: Io> {
    io: I,
    channels: HashMap<ChannelKey, KafkaChannel<I::Stream>>,
    /// The last use of each channel, for `connections.max.idle.ms`.
    last_used: HashMap<ChannelKey, Tick>,
    /// The channels that the next poll must process without a new readiness event.
    keys_with_buffered_data: BTreeSet<ChannelKey>,
    next_key: ChannelKey,
    ready: Vec<Readiness>,
    scratch: Vec<u8>,
    frame_limit: usize,
    max_idle: Option<Duration>,
    counters: Arc<Counters>,
    /// The sends that failed since the last poll.
    failed_sends: Vec<(ChannelKey, DisconnectReason)>,
    /// The sends that completed since the last poll.
    completed_sends: Vec<ChannelKey>,
    /// The buffer of `poll`, empty between two polls.
    keys_to_process: Vec<ChannelKey>,
}

impl<I: Io> Selector<I> {
    pub(crate) fn new(
        io: I,
        frame_limit: usize,
        max_idle: Option<Duration>,
        counters: Arc<Counters>,
    ) -> Selector<I> {
        Selector {
            io,
            channels: HashMap::default(),
            last_used: HashMap::default(),
            keys_with_buffered_data: BTreeSet::new(),
            next_key: 0,
            ready: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            frame_limit,
            max_idle,
            counters,
            failed_sends: Vec::new(),
            completed_sends: Vec::new(),
            keys_to_process: Vec::new(),
        }
    }

    pub(crate) fn wakeup(&self) -> Arc<dyn Wakeup> {
        self.io.wakeup()
    }

    pub(crate) fn worker_pool(&self) -> Arc<dyn WorkerPool> {
        self.io.worker_pool()
    }

    pub(crate) fn start_job(&mut self, job: Job) {
        self.io.start_job(job);
    }

    /// Starts to connect, with TLS if there is a session.
    pub(crate) fn connect(
        &mut self,
        address: SocketAddr,
        tls: Option<TlsSession>,
        now: Tick,
    ) -> std::io::Result<ChannelKey> {
        self.next_key += 1;
        let key = self.next_key;
        let stream = self.io.connect(key, address)?;
        self.channels.insert(key, KafkaChannel::new(key, stream, tls, self.frame_limit));
        self.last_used.insert(key, now);
        Ok(key)
    }

    /// Returns whether the channel is open and has no send in progress.
    pub(crate) fn can_send(&self, key: ChannelKey) -> bool {
        self.channels.get(&key).is_some_and(|c| c.is_open() && !c.is_sending())
    }

    /// Returns since when the peer owes the first response of the TLS handshake; `None` if it owes
    /// none.
    pub(crate) fn tls_response_awaited_since(&self, key: ChannelKey) -> Option<Tick> {
        let has_received_nothing =
            self.channels.get(&key).is_some_and(KafkaChannel::is_awaiting_tls_response);
        // The last use was the connect, or the write of that message.
        self.last_used.get(&key).copied().filter(|_| has_received_nothing)
    }

    /// Returns whether TCP is connected; TLS may not be.
    pub(crate) fn is_connected(&self, key: ChannelKey) -> bool {
        self.channels.get(&key).is_some_and(KafkaChannel::is_connected)
    }

    /// Returns what the TLS handshake has agreed on; `None` without TLS.
    pub(crate) fn tls_details(&self, key: ChannelKey) -> Option<TlsDetails> {
        self.channels.get(&key)?.tls_details()
    }

    /// Returns whether the channel needs a writable event: it is connecting or has bytes to write.
    #[cfg(test)]
    pub(super) fn has_pending_writes(&self, key: ChannelKey) -> bool {
        self.channels.get(&key).is_some_and(|c| !c.is_connected() || c.has_pending_writes())
    }

    /// Starts a send and writes what the socket accepts at once. The next poll reports the result.
    pub(crate) fn send(&mut self, key: ChannelKey, chunks: Vec<Bytes>, now: Tick) {
        let Some(channel) = self.channels.get_mut(&key) else {
            return;
        };
        channel.send(chunks);
        self.last_used.insert(key, now);
        match channel.write(&mut self.io) {
            Ok(WriteProgress { send_completed: true, .. }) => self.completed_sends.push(key),
            Ok(_) => {}
            Err(reason) => self.failed_sends.push((key, reason)),
        }
    }

    /// Appends the channels whose socket has accepted a whole send since the last poll. The next
    /// poll does not report them again.
    pub(crate) fn take_completed_sends(&mut self, into: &mut Vec<ChannelKey>) {
        into.append(&mut self.completed_sends);
    }

    /// Closes a channel. No poll reports it as disconnected.
    pub(crate) fn close(&mut self, key: ChannelKey, now: Tick) {
        self.keys_with_buffered_data.remove(&key);
        self.last_used.remove(&key);
        self.completed_sends.retain(|k| *k != key);
        self.failed_sends.retain(|f| f.0 != key);
        if let Some(channel) = self.channels.remove(&key) {
            let was_connected = channel.is_connected();
            self.io.close(key, channel.into_stream());
            if was_connected {
                add(&self.counters.connection_close_total, 1);
                self.counters.sensors.record(&[(Sensor::ConnectionClose, 1.0)], now);
            }
        }
    }

    /// Returns when `poll` has work even without a readiness event.
    ///
    /// That is at once if the last poll left work behind, else when a channel becomes idle.
    pub(crate) fn next_poll_deadline(&self) -> Tick {
        if !self.completed_sends.is_empty()
            || !self.failed_sends.is_empty()
            || !self.keys_with_buffered_data.is_empty()
        {
            return Tick(0);
        }
        let oldest = self.max_idle.and_then(|max| Some(self.last_used.values().min()?.after(max)));
        oldest.unwrap_or(Tick::NEVER)
    }

    /// Waits for events until the timeout at most, and processes the channels that have some.
    ///
    /// # Errors
    /// The operating system's poll failed.
    pub(crate) fn poll(
        &mut self,
        timeout: Option<Duration>,
        now: impl Fn() -> Tick,
        out: &mut PollResult,
    ) -> std::io::Result<()> {
        let deadline = self.next_poll_deadline();
        out.completed_sends.append(&mut self.completed_sends);
        let remaining = (deadline != Tick::NEVER).then(|| deadline.since(now()));
        let timeout = [timeout, remaining].into_iter().flatten().min();
        self.io.poll(&mut self.ready, &mut out.job_results, timeout)?;
        let now = now();
        out.woken_at = now;
        let mut keys = std::mem::take(&mut self.keys_to_process);
        while let Some(key) = self.keys_with_buffered_data.pop_first() {
            keys.push(key);
        }
        for ready in self.ready.drain(..) {
            if let Some(channel) = self.channels.get_mut(&ready.key) {
                channel.add_readiness(ready.readable, ready.writable);
                keys.push(ready.key);
            }
        }
        keys.sort_unstable();
        keys.dedup();
        for key in keys.drain(..) {
            if let Err(reason) = self.process_channel(key, now, out) {
                out.disconnected.push((key, reason));
            }
        }
        self.keys_to_process = keys;
        for (key, reason) in std::mem::take(&mut self.failed_sends) {
            let reason = match self.channels.get_mut(&key) {
                Some(channel) if !out.disconnected.iter().any(|d| d.0 == key) => {
                    Self::read_before_close(channel, &mut self.scratch, key, reason, out)
                }
                _ => continue,
            };
            out.disconnected.push((key, reason));
        }
        self.expire_idle(now, out);
        for (key, _) in &out.disconnected {
            self.close(*key, now);
        }
        Ok(())
    }

    fn process_channel(
        &mut self,
        key: ChannelKey,
        now: Tick,
        out: &mut PollResult,
    ) -> Result<(), DisconnectReason> {
        let Some(channel) = self.channels.get_mut(&key) else {
            return Ok(());
        };
        let mut progress = 0;
        if channel.finish_connect(&mut self.io)? {
            add(&self.counters.connection_creation_total, 1);
            self.counters.sensors.record(&[(Sensor::ConnectionCreation, 1.0)], now);
            progress += 1;
        }
        if !channel.is_connected() {
            return Ok(());
        }
        if channel.has_pending_writes() {
            progress += Self::write(channel, &mut self.io, &mut self.scratch, key, out)?;
        }
        progress += channel.read(&mut self.scratch);
        // The bytes read may be handshake messages that TLS must respond to.
        if !channel.is_sending() && channel.has_pending_writes() {
            progress += Self::write(channel, &mut self.io, &mut self.scratch, key, out)?;
        }
        if channel.report_open() {
            out.connected.push(key);
        }
        if let Some(frame) = channel.take_frame()? {
            progress += 1;
            out.completed_receives.push((key, frame));
        }
        if channel.has_unprocessed_input() {
            self.keys_with_buffered_data.insert(key);
        }
        if progress > 0 {
            self.last_used.insert(key, now);
        }
        Ok(())
    }

    /// Writes pending bytes and returns how many the socket accepted.
    fn write(
        channel: &mut KafkaChannel<I::Stream>,
        io: &mut I,
        scratch: &mut [u8],
        key: ChannelKey,
        out: &mut PollResult,
    ) -> Result<usize, DisconnectReason> {
        match channel.write(io) {
            Ok(WriteProgress { written, send_completed }) => {
                if send_completed {
                    out.completed_sends.push(key);
                }
                Ok(written)
            }
            Err(reason) => Err(Self::read_before_close(channel, scratch, key, reason, out)),
        }
    }

    /// Reads what is left in the socket after a failed write, and returns the reason to report.
    ///
    /// A peer that closes first may have sent responses, which must complete their requests, or a
    /// TLS alert, which is the better reason. The failed write itself shows only a reset.
    fn read_before_close(
        channel: &mut KafkaChannel<I::Stream>,
        scratch: &mut [u8],
        key: ChannelKey,
        write_error: DisconnectReason,
        out: &mut PollResult,
    ) -> DisconnectReason {
        channel.add_readiness(true, false);
        loop {
            channel.read(scratch);
            match channel.take_frame() {
                Ok(Some(frame)) => out.completed_receives.push((key, frame)),
                Err(
                    alert @ (DisconnectReason::AuthenticationFailed { .. }
                    | DisconnectReason::Tls { .. }),
                ) => return alert,
                Ok(None) | Err(_) => return write_error,
            }
        }
    }

    /// Disconnects the channels that were unused for `connections.max.idle.ms`, oldest use first.
    fn expire_idle(&mut self, now: Tick, out: &mut PollResult) {
        let Some(max) = self.max_idle else { return };
        let mut idle: Vec<(Tick, ChannelKey)> = (self.last_used.iter())
            .filter(|(_, last_used)| last_used.after(max) <= now)
            .map(|(key, last_used)| (*last_used, *key))
            .collect();
        idle.sort_unstable();
        for (_, key) in idle {
            if !out.disconnected.iter().any(|d| d.0 == key) {
                out.disconnected.push((key, DisconnectReason::Idle));
            }
        }
    }
}
