//! Drives all connections: connects, writes what waits, reads what came, hands on at most one frame a
//! connection and poll, closes what idles.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::channel::{DisconnectReason, KafkaChannel};
use super::io::{ChannelKey, Io, Job, JobResult, Readiness};
use super::tls::TlsSession;
use crate::collections::HashMap;
use crate::metrics::{Counters, Sensor, add};
use crate::time::{Tick, Wakeup, WorkerPool};

/// What a poll brought.
#[derive(Debug, Default)]
pub(crate) struct PollResult {
    /// Connections that can be used now: made, and with TLS agreed upon.
    pub(crate) connected: Vec<ChannelKey>,
    /// Sends whose last byte the socket took.
    pub(crate) completed_sends: Vec<ChannelKey>,
    pub(crate) completed_receives: Vec<(ChannelKey, Bytes)>,
    pub(crate) disconnected: Vec<(ChannelKey, DisconnectReason)>,
    pub(crate) job_results: Vec<JobResult>,
    /// When the wait was over, and the work began.
    pub(crate) woken_at: Tick,
}

/// All connections.
pub(crate) struct Selector<I: Io> {
    io: I,
    channels: HashMap<ChannelKey, KafkaChannel<I::Stream>>,
    /// Last use, for idle expiry.
    last_used: HashMap<ChannelKey, Tick>,
    /// Channels that can make progress without a new edge.
    keys_with_buffered_data: BTreeSet<ChannelKey>,
    next_key: ChannelKey,
    ready: Vec<Readiness>,
    scratch: Vec<u8>,
    frame_limit: usize,
    max_idle: Option<Duration>,
    counters: Arc<Counters>,
    /// Failures found outside a poll, reported by the next.
    failed_sends: Vec<(ChannelKey, DisconnectReason)>,
    completed_sends: Vec<ChannelKey>,
    /// Channels that are looked at in a poll; empty between two.
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
            scratch: vec![0; 64 * 1024],
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

    /// Begins to connect, and to speak TLS where there is a session for it.
    pub(crate) fn connect(
        &mut self,
        to: SocketAddr,
        tls: Option<TlsSession>,
        now: Tick,
    ) -> std::io::Result<ChannelKey> {
        self.next_key += 1;
        let key = self.next_key;
        let stream = self.io.connect(key, to)?;
        self.channels.insert(key, KafkaChannel::new(key, stream, tls, self.frame_limit));
        self.last_used.insert(key, now);
        Ok(key)
    }

    /// Whether a new send may be given.
    pub(crate) fn can_send(&self, key: ChannelKey) -> bool {
        self.channels.get(&key).is_some_and(|c| c.is_open() && !c.is_sending())
    }

    /// Whether bytes wait for the socket to take them, or it to be made.
    #[cfg(test)]
    pub(super) fn has_pending_writes(&self, key: ChannelKey) -> bool {
        self.channels.get(&key).is_some_and(|c| !c.is_connected() || c.has_pending_writes())
    }

    /// Takes a send and writes at once what the socket will have; the next poll tells the rest.
    pub(crate) fn send(&mut self, key: ChannelKey, pieces: Vec<Bytes>, now: Tick) {
        let Some(channel) = self.channels.get_mut(&key) else {
            return;
        };
        channel.send(pieces);
        self.last_used.insert(key, now);
        match channel.write(&mut self.io) {
            Ok((_, true)) => self.completed_sends.push(key),
            Ok((_, false)) => {}
            Err(why) => self.failed_sends.push((key, why)),
        }
    }

    /// Closes without a word.
    pub(crate) fn close(&mut self, key: ChannelKey, now: Tick) {
        self.keys_with_buffered_data.remove(&key);
        self.last_used.remove(&key);
        self.completed_sends.retain(|k| *k != key);
        self.failed_sends.retain(|f| f.0 != key);
        if let Some(channel) = self.channels.remove(&key) {
            let was_made = channel.is_connected();
            self.io.close(key, channel.into_stream());
            if was_made {
                add(&self.counters.connection_close_total, 1);
                self.counters.sensors.record(&[(Sensor::ConnectionClose, 1.0)], now);
            }
        }
    }

    /// When the next poll has something to do whatever sockets say: at once where something is left over from the
    /// last, else when a connection has been idle for too long.
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

    /// Waits until something happens, something is due or the time-out is over, and does it.
    pub(crate) fn poll(
        &mut self,
        timeout: Option<Duration>,
        now: impl Fn() -> Tick,
        out: &mut PollResult,
    ) -> std::io::Result<()> {
        let due = self.next_poll_deadline();
        out.completed_sends.append(&mut self.completed_sends);
        let due = (due != Tick::NEVER).then(|| due.since(now()));
        let timeout = [timeout, due].into_iter().flatten().min();
        self.io.poll(&mut self.ready, &mut out.job_results, timeout)?;
        let now = now();
        out.woken_at = now;
        let mut turn = std::mem::take(&mut self.keys_to_process);
        while let Some(key) = self.keys_with_buffered_data.pop_first() {
            turn.push(key);
        }
        for ready in self.ready.drain(..) {
            if let Some(channel) = self.channels.get_mut(&ready.key) {
                channel.add_readiness(ready.readable, ready.writable);
                turn.push(ready.key);
            }
        }
        turn.sort_unstable();
        turn.dedup();
        for key in turn.drain(..) {
            if let Err(why) = self.process_channel(key, now, out) {
                out.disconnected.push((key, why));
            }
        }
        self.keys_to_process = turn;
        for (key, why) in std::mem::take(&mut self.failed_sends) {
            let words = match self.channels.get_mut(&key) {
                Some(channel) if !out.disconnected.iter().any(|d| d.0 == key) => {
                    Self::read_before_close(channel, &mut self.scratch, key, why, out)
                }
                _ => continue,
            };
            out.disconnected.push((key, words));
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
        let mut moved = 0;
        if channel.finish_connect(&mut self.io)? {
            add(&self.counters.connection_creation_total, 1);
            self.counters.sensors.record(&[(Sensor::ConnectionCreation, 1.0)], now);
            moved += 1;
        }
        if !channel.is_connected() {
            return Ok(());
        }
        if channel.has_pending_writes() {
            moved += Self::write(channel, &mut self.io, &mut self.scratch, key, out)?;
        }
        moved += channel.read(&mut self.scratch);
        // What came may be the handshake's, and ask for an answer.
        if !channel.is_sending() && channel.has_pending_writes() {
            moved += Self::write(channel, &mut self.io, &mut self.scratch, key, out)?;
        }
        if channel.report_open() {
            out.connected.push(key);
        }
        if let Some(frame) = channel.take_frame()? {
            moved += 1;
            out.completed_receives.push((key, frame));
        }
        if channel.has_unprocessed_input() {
            self.keys_with_buffered_data.insert(key);
        }
        if moved > 0 {
            self.last_used.insert(key, now);
        }
        Ok(())
    }

    fn write(
        channel: &mut KafkaChannel<I::Stream>,
        io: &mut I,
        scratch: &mut [u8],
        key: ChannelKey,
        out: &mut PollResult,
    ) -> Result<usize, DisconnectReason> {
        match channel.write(io) {
            Ok((n, done)) => {
                if done {
                    out.completed_sends.push(key);
                }
                Ok(n)
            }
            Err(why) => Err(Self::read_before_close(channel, scratch, key, why, out)),
        }
    }

    /// A write that fails may have answers before it in the socket, or what TLS was told: they are read first.
    fn read_before_close(
        channel: &mut KafkaChannel<I::Stream>,
        scratch: &mut [u8],
        key: ChannelKey,
        why: DisconnectReason,
        out: &mut PollResult,
    ) -> DisconnectReason {
        channel.add_readiness(true, false);
        loop {
            channel.read(scratch);
            match channel.take_frame() {
                Ok(Some(frame)) => out.completed_receives.push((key, frame)),
                Err(
                    said @ (DisconnectReason::AuthenticationFailed(_) | DisconnectReason::Tls(_)),
                ) => return said,
                Ok(None) | Err(_) => return why,
            }
        }
    }

    fn expire_idle(&mut self, now: Tick, out: &mut PollResult) {
        let Some(max) = self.max_idle else { return };
        let mut idle: Vec<(Tick, ChannelKey)> = (self.last_used.iter())
            .filter(|(_, used)| used.after(max) <= now)
            .map(|(key, used)| (*used, *key))
            .collect();
        // The longest unused first.
        idle.sort_unstable();
        for (_, key) in idle {
            if !out.disconnected.iter().any(|d| d.0 == key) {
                out.disconnected.push((key, DisconnectReason::Idle));
            }
        }
    }
}
