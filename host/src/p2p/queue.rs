//! What waits to be sent to one guardian.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// More than all units of a session; a guardian that lets so much pile up is
/// not reading.
pub(super) const MAX_QUEUED_BYTES: usize = 128 << 20;

/// Frames up to this size overtake longer ones: leases, heartbeats, requests and
/// signatures are short, and a unit is longer.
const SHORT_FRAME: usize = 128;

/// How much a writer takes at once.
const BATCH_BYTES: usize = 256 << 10;

/// Why a connection gets no more frames.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Another took its place.
    Replaced,
    /// The guardian at its other end misbehaves.
    Failed(String),
}

/// Frames for one guardian, short ones first. Belongs to one connection at a
/// time: what was queued for the one before is gone with it, but for what was
/// told to wait.
pub(super) struct Queue {
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    /// 0 while there is no connection.
    connection: u64,
    short: VecDeque<Bytes>,
    long: VecDeque<Bytes>,
    /// Sent with the next connection if there is none.
    patient: VecDeque<Bytes>,
    bytes: usize,
    /// Why the connection is to end.
    failed: Option<String>,
}

impl Queue {
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            ready: Notify::new(),
        }
    }

    /// Begins afresh for this connection.
    pub fn open(&self, connection: u64) {
        let mut state = self.state.lock();
        state.drop_queued();
        state.connection = connection;
        drop(state);
        self.ready.notify_waiters();
    }

    /// Ends this connection; tells whether it was the present one.
    pub fn close(&self, connection: u64) -> bool {
        let mut state = self.state.lock();
        if state.connection != connection {
            return false;
        }
        state.drop_queued();
        state.connection = 0;
        true
    }

    /// Queues a frame. Without a connection it is dropped, unless it is `patient`.
    pub fn push(&self, frame: Bytes, patient: bool) {
        let mut state = self.state.lock();
        if !patient && state.connection == 0 {
            return;
        }
        if state.bytes + frame.len() > MAX_QUEUED_BYTES {
            state.failed = Some("it does not read what it is sent".into());
        } else {
            state.bytes += frame.len();
            if patient {
                state.patient.push_back(frame);
            } else if frame.len() <= SHORT_FRAME {
                state.short.push_back(frame);
            } else {
                state.long.push_back(frame);
            }
        }
        drop(state);
        self.ready.notify_waiters();
    }

    /// Ends the present connection, if there is one.
    pub fn fail(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.connection != 0 && state.failed.is_none() {
            state.failed = Some(reason.to_owned());
        }
        drop(state);
        self.ready.notify_waiters();
    }

    /// The next frames for this connection, waiting for them.
    pub async fn next(&self, connection: u64) -> Result<Vec<Bytes>, Ended> {
        loop {
            let ready = self.ready.notified();
            tokio::pin!(ready);
            ready.as_mut().enable();
            {
                let mut state = self.state.lock();
                if state.connection != connection {
                    return Err(Ended::Replaced);
                }
                if let Some(reason) = &state.failed {
                    return Err(Ended::Failed(reason.clone()));
                }
                let batch = state.take_batch();
                if !batch.is_empty() {
                    return Ok(batch);
                }
            }
            ready.await;
        }
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }
}

impl State {
    fn take_batch(&mut self) -> Vec<Bytes> {
        let mut batch = Vec::new();
        let mut size = 0;
        while size < BATCH_BYTES {
            let next = self
                .short
                .pop_front()
                .or_else(|| self.patient.pop_front())
                .or_else(|| self.long.pop_front());
            let Some(frame) = next else { break };
            size += frame.len();
            batch.push(frame);
        }
        self.bytes -= size;
        batch
    }

    fn drop_queued(&mut self) {
        self.short.clear();
        self.long.clear();
        self.bytes = self.patient.iter().map(Bytes::len).sum();
        self.failed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(fill: u8, len: usize) -> Bytes {
        vec![fill; len].into()
    }

    #[tokio::test]
    async fn short_frames_overtake_long_ones() {
        let queue = Queue::new();
        queue.open(1);
        queue.push(frame(1, 1000), false);
        queue.push(frame(2, 10), false);
        let batch = queue.next(1).await.expect("two frames");
        let order: Vec<u8> = batch.iter().map(|frame| frame[0]).collect();
        assert_eq!(order, [2, 1]);
        assert_eq!(queue.bytes(), 0);
    }

    #[tokio::test]
    async fn without_a_connection_only_patient_frames_are_kept() {
        let queue = Queue::new();
        queue.push(frame(1, 10), false);
        queue.push(frame(2, 10), true);
        queue.open(1);
        assert_eq!(queue.next(1).await.expect("one frame"), [frame(2, 10)]);
    }

    #[tokio::test]
    async fn a_queue_that_overflows_ends_its_connection_and_begins_afresh() {
        let queue = Queue::new();
        queue.open(1);
        let big = frame(1, 1 << 20);
        for _ in 0..=MAX_QUEUED_BYTES >> 20 {
            queue.push(big.clone(), false);
        }
        assert!(matches!(queue.next(1).await, Err(Ended::Failed(_))));
        assert!(queue.close(1));
        queue.open(2);
        assert_eq!(queue.bytes(), 0);
        queue.push(frame(3, 10), false);
        assert_eq!(queue.next(2).await.expect("one frame"), [frame(3, 10)]);
    }

    #[tokio::test]
    async fn a_connection_that_was_replaced_ends() {
        let queue = Queue::new();
        queue.open(1);
        queue.open(2);
        queue.push(frame(1, 10), false);
        assert_eq!(queue.next(1).await, Err(Ended::Replaced));
        assert!(!queue.close(1));
        assert!(queue.next(2).await.is_ok());
    }
}
