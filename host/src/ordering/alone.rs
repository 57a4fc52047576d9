//! A federation of one guardian: there is nobody to agree with, and no AlephBFT.
//!
//! Payloads are epochs in the order in which they come, one each. The discipline is
//! the same as among several: a payload is in the session's unit log, on the disk,
//! before its epoch leaves, and a start hands out the session's epochs from the log
//! again.

use std::{io, sync::Arc, time::Duration};

use futures::AsyncWriteExt as _;
use modmint_core::{PeerId, consensus::OrderedUnit};
use parity_scale_codec::{Decode as _, Encode as _};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    Epoch, MAX_PAYLOAD_BYTES, PayloadSource,
    format::{Coord, Payload, Unit},
    log::{self, LogId, Remembered, Writer},
};

/// The pause before a log that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The last epoch that came of the log, if any, or what is still to be read.
type Replay = Result<Option<(u64, u32)>, String>;

/// Orders what one guardian has to say.
pub(super) struct Sequencer {
    log: LogId,
    session: watch::Sender<u64>,
    replay: Arc<Mutex<Replay>>,
    problem: Arc<Mutex<Option<String>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Sequencer {
    /// Fills the session that `log` names, then those behind it. Logs of earlier
    /// sessions, which `known` lists, are of no use: nobody asks for them.
    pub fn start(
        log: LogId,
        known: &[u64],
        payloads: Arc<dyn PayloadSource>,
        epochs: mpsc::Sender<Epoch>,
    ) -> Self {
        for &session in known.iter().filter(|known| **known < log.session) {
            log.of(session).delete();
        }
        let session = watch::Sender::new(log.session);
        let problem = Arc::default();
        let unread = format!("session {}: the log is still to be read", log.session);
        let replay = Arc::new(Mutex::new(Err(unread)));
        let worker = Worker {
            log: log.clone(),
            session: session.subscribe(),
            replay: Arc::clone(&replay),
            problem: Arc::clone(&problem),
            payloads,
            epochs,
        };
        Self {
            log,
            session,
            replay,
            problem,
            task: Mutex::new(Some(tokio::spawn(worker.run()))),
        }
    }

    /// Goes on with this session if it is a later one.
    pub fn go_to(&self, session: u64) {
        self.session.send_if_modified(|present| {
            let later = session > *present;
            *present = session.max(*present);
            later
        });
    }

    /// Deletes the log of a session that is over.
    pub fn retire(&self, session: u64) {
        if session < *self.session.borrow() {
            self.log.of(session).delete();
        }
    }

    /// See [`super::Ordering::replay`].
    pub fn replay(&self) -> Replay {
        self.replay.lock().clone()
    }

    pub fn problems(&self) -> Vec<String> {
        self.problem.lock().iter().cloned().collect()
    }

    /// Stops; what is in the log and was not handed out is handed out by the next
    /// start.
    pub async fn stop(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Sequencer {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

struct Worker {
    log: LogId,
    session: watch::Receiver<u64>,
    replay: Arc<Mutex<Replay>>,
    problem: Arc<Mutex<Option<String>>>,
    payloads: Arc<dyn PayloadSource>,
    epochs: mpsc::Sender<Epoch>,
}

impl Worker {
    async fn run(self) {
        while !self.epochs.is_closed() {
            let session = *self.session.borrow();
            let mut over = self.session.clone();
            let filled = tokio::select! {
                filled = self.fill(session) => filled,
                _ = over.wait_for(|present| *present > session) => continue,
            };
            if let Err(error) = filled {
                let problem = format!("session {session}: the unit log cannot be written: {error}");
                tracing::error!("{problem}");
                *self.problem.lock() = Some(problem);
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Hands out a session's epochs, those in the log first, for ever.
    async fn fill(&self, session: u64) -> io::Result<()> {
        let id = self.log.of(session);
        let opened = tokio::task::spawn_blocking(move || log::open(id, |_, _| {}));
        let (Remembered { units, .. }, mut writer) = opened.await.map_err(io::Error::other)??;
        let (mut index, mut rest) = (0, units.as_slice());
        while !rest.is_empty() {
            let unit = Unit::decode(&mut rest).map_err(io::Error::other)?;
            self.write(&mut writer, &unit).await?;
            self.hand_out(session, index, unit).await;
            index += 1;
        }
        *self.replay.lock() = Ok(index.checked_sub(1).map(|last: u32| (session, last)));
        loop {
            let payload = self.next_payload(session).await;
            let unit = self.unit(session, index, payload)?;
            self.write(&mut writer, &unit).await?;
            *self.problem.lock() = None;
            self.hand_out(session, index, unit).await;
            index += 1;
        }
    }

    async fn next_payload(&self, session: u64) -> Vec<u8> {
        let changed = self.payloads.changed();
        loop {
            let changed = changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.payloads.take(session, MAX_PAYLOAD_BYTES) {
                Some(payload) if payload.len() <= MAX_PAYLOAD_BYTES => return payload,
                Some(payload) => {
                    let bytes = payload.len();
                    tracing::error!(bytes, "a payload is too long and was dropped");
                }
                None => changed.await,
            }
        }
    }

    /// The log holds units; nobody else reads this one's signature.
    fn unit(&self, session: u64, index: u32, payload: Vec<u8>) -> io::Result<Unit> {
        let round = u16::try_from(index)
            .map_err(|_| io::Error::other("the session is longer than its log can be"))?;
        Ok(Unit {
            coord: Coord {
                round,
                creator: u64::from(self.log.me.0),
            },
            parents: vec![round.checked_sub(1)],
            control_hash: [0; 32],
            payload: Some(Payload(Arc::new(payload))),
            session,
            signature: [0; 64],
        })
    }

    /// The unit is on the disk afterwards, if it was not there before.
    async fn write(&self, writer: &mut Writer, unit: &Unit) -> io::Result<()> {
        writer.write_all(&unit.encode()).await?;
        writer.flush().await
    }

    async fn hand_out(&self, session: u64, index: u32, unit: Unit) {
        let units = unit.payload.into_iter().map(|payload| OrderedUnit {
            creator: PeerId(self.log.me.0),
            payload: Arc::unwrap_or_clone(payload.0),
        });
        let epoch = Epoch {
            session,
            index,
            units: units.collect(),
        };
        // An error: everything is being shut down.
        let _ = self.epochs.send(epoch).await;
    }
}
