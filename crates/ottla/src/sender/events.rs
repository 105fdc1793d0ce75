//! What callers post, and what metadata brings them.

use std::sync::Arc;

use super::Sender;
use super::ends::PendingFlush;
use super::producer_state::ProducerIdState;
use crate::accumulator::event_queue::Event;
use crate::accumulator::waiters::FlushCompletion;
use crate::error::Error;
use crate::network::io::Io;
use crate::time::Tick;

/// Deadlines below this many are not worth tidying.
const MIN_DEADLINES_TO_PRUNE: usize = 1024;

impl<I: Io> Sender<I> {
    pub(super) fn handle_events(&mut self, now: Tick) {
        self.accumulator.events().set_awake();
        let mut mail = std::mem::take(&mut self.event_buffer);
        self.accumulator.events().drain(&mut mail);
        if mail.iter().any(Event::is_for_all_partitions) {
            self.track_nonempty_partitions(&mut mail);
        }
        for event in mail.drain(..) {
            match event {
                Event::BatchOpened(p) => self.ready.insert(p),
                Event::BatchClosed(p) => {
                    self.purge_closed(&p);
                    self.ready.insert(p);
                }
                Event::BatchAwaited(p, number) => self.ready.mark_awaited(p, number),
                Event::Split(cut) => self.reenqueue_parts(*cut),
                Event::Purge { up_to_batch: to, include_in_flight: in_flight } => {
                    self.purge(to, in_flight);
                }
                Event::MemoryWanted => {}
                Event::TopicWanted(name) => {
                    self.client.add_topic(&name, now);
                    // It may be known, and lack a partition that somebody waits for.
                    self.client.request_metadata(now);
                }
                Event::Waiter(due, wait) => {
                    self.last_deadline_id += 1;
                    self.waiter_deadlines.insert((due, self.last_deadline_id), wait);
                }
                Event::Flush(flush) => self.begin_flush(flush),
                Event::Close(by) => {
                    self.close_deadline = Some(self.close_deadline.map_or(by, |b| b.min(by)));
                }
            }
        }
        self.event_buffer = mail;
    }

    /// Callers whose time is over are woken, and what they were granted but did not fetch is handed on.
    pub(super) fn wake_expired_waiters(&mut self, now: Tick) -> Tick {
        if self.waiter_deadlines.len() > MIN_DEADLINES_TO_PRUNE
            && self.last_deadline_id.is_multiple_of(MIN_DEADLINES_TO_PRUNE as u64)
        {
            // Most callers are long served; only those who still wait hold on to theirs.
            self.waiter_deadlines.retain(|_, wait| Arc::strong_count(wait) > 1);
        }
        while let Some(first) = self.waiter_deadlines.first_entry() {
            // A caller that was served has let go of its side: nothing is due for it.
            let served = Arc::strong_count(first.get()) == 1;
            if first.key().0 > now && !served {
                return first.key().0;
            }
            let wait = first.remove();
            if served {
                continue;
            }
            self.accumulator.pool.revoke(wait.ticket.load(crate::sync::atomic::Ordering::Relaxed));
            wait.wake();
        }
        Tick::NEVER
    }

    /// Brings in every partition that held something when a flush (or a close, or a purge) was posted: another
    /// caller may have appended to a batch whose opener is still on the way to the mailbox. Where somebody is,
    /// all partitions are looked at; else whoever was has posted, behind what was taken.
    fn track_nonempty_partitions(&mut self, mail: &mut Vec<Event>) {
        if self.accumulator.events().drain_with_pending(mail) {
            return;
        }
        for p in self.accumulator.topics.all_partitions() {
            let mut queue = p.lock_for_sender();
            let holds = !queue.is_empty();
            queue.announced |= holds;
            drop(queue);
            if holds {
                self.ready.insert(p);
            }
        }
    }

    /// A flush waits for every batch there is now, and for no later one.
    fn begin_flush(&mut self, flush: Arc<FlushCompletion>) {
        let mut pending: crate::collections::HashSet<u64> = (self.in_flight_batches.values())
            .flat_map(|f| &f.batches)
            .filter(|b| !b.closed.is_completed())
            .map(|b| b.closed.meta.number)
            .collect();
        for p in self.ready.iter() {
            let queue = p.lock_for_sender();
            pending.extend(queue.batches.iter().map(|s| s.number()));
            pending.extend(queue.open().map(|b| b.meta.number));
        }
        self.flush_up_to = self.flush_up_to.max(pending.iter().copied().max().unwrap_or(0));
        self.pending_flushes.push(PendingFlush { completion: flush, incomplete_batches: pending });
    }

    /// New topics for callers, and errors for those who wait for one.
    pub(super) fn handle_metadata_update(&mut self) {
        let news = self.client.take_metadata_update();
        if news.updated {
            let cluster = self.client.cluster();
            self.accumulator.topics.publish(&cluster, &self.accumulator.rack);
            if self.accumulator.settings.adaptive_partitioning {
                self.ready.reset_load_stats(cluster.topics.keys().cloned());
            }
        }
        if let Some(e) = news.authentication_error {
            self.accumulator.topics.notify_error_all(&e);
            // Without a producer id nothing can go out: what waits for one is told (SA5). Whoever has one may come
            // by a better broker, or credentials, in its time.
            let waits = matches!(
                self.producer_state.producer_id,
                ProducerIdState::Needed(_) | ProducerIdState::Requested
            );
            if waits && !self.producer_state.has_had_producer_id() {
                self.abort_undrained_batches(&e);
            }
        }
        for (name, code) in news.topic_errors {
            let place = format!("topic {name}, says {}", news.responder);
            let e = Error::broker(code, None, &place);
            if !e.is_retriable() {
                self.client.remove_topic(&name);
                self.abort_undrained_batches_in(&e, |p| *p.topic == *name);
            }
            self.accumulator.topics.notify_error(&name, &e);
        }
    }
}
