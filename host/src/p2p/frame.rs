//! Frames: a length of four bytes, little-endian, and so many bytes.

use std::{io, time::Duration};

use borsh::BorshDeserialize;
use bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use super::PeerMessage;

/// The longest frame: an alert about a fork carries all units of one guardian in
/// one session.
pub const MAX_FRAME_BYTES: usize = 112 << 20;

/// The longest frame that is not AlephBFT's. They are decoded into structures
/// that take several times their length.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Frames a second that a guardian reads from another in the long run.
const FRAMES_PER_SECOND: u32 = 8000;
/// Bytes a second likewise.
const BYTES_PER_SECOND: u32 = 64 << 20;
/// How far a guardian may be ahead of these rates.
const BURST: Duration = Duration::from_secs(2);
/// For how long a guardian may send more than is read before it is dropped.
const FLOOD_PATIENCE: Duration = Duration::from_secs(10);

/// The frame of a message.
pub(super) fn encode(message: &PeerMessage) -> Bytes {
    let mut frame = BytesMut::new().writer();
    frame.get_mut().put_u32_le(0);
    borsh::to_writer(&mut frame, message).expect("writing to memory does not fail");
    let mut frame = frame.into_inner();
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame.freeze()
}

/// The message in a frame's body.
pub(super) fn decode(body: &[u8]) -> io::Result<PeerMessage> {
    const ALEPH: u8 = 0;
    if body.len() > MAX_MESSAGE_BYTES && body[0] != ALEPH {
        return Err(invalid(format!(
            "a message of {} bytes, the limit is {MAX_MESSAGE_BYTES}",
            body.len()
        )));
    }
    PeerMessage::try_from_slice(body)
}

/// Reads a frame of at most `limit` bytes; memory grows with what arrives, not
/// with what is announced.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Vec<u8>> {
    let length = from.read_u32_le().await? as usize;
    if length == 0 || length > limit {
        return Err(invalid(format!(
            "a frame of {length} bytes, 1 to {limit} are accepted"
        )));
    }
    let mut body = Vec::with_capacity(length.min(64 << 10));
    let read = from.take(length as u64).read_to_end(&mut body).await?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Holds a guardian to a rate by reading no faster: nothing is dropped, and it
/// cannot fill queues that have no bound of their own. Who is always faster floods.
pub(super) struct Pace {
    due: Instant,
    /// Since when every frame had to wait.
    late_since: Option<Instant>,
}

impl Pace {
    pub fn new() -> Self {
        Self {
            due: Instant::now(),
            late_since: None,
        }
    }

    /// Waits until a frame of this length is due.
    pub async fn admit(&mut self, length: usize) -> io::Result<()> {
        if let Some(due) = self.schedule(Instant::now(), length)? {
            tokio::time::sleep_until(due).await;
        }
        Ok(())
    }

    /// When a frame that comes now is due, if that is not at once.
    fn schedule(&mut self, now: Instant, length: usize) -> io::Result<Option<Instant>> {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let cost = Duration::from_secs(1) / FRAMES_PER_SECOND
            + Duration::from_secs(1) / BYTES_PER_SECOND * length;
        self.due = self.due.max(now.checked_sub(BURST).unwrap_or(now)) + cost;
        if self.due <= now {
            self.late_since = None;
            return Ok(None);
        }
        if now.duration_since(*self.late_since.get_or_insert(now)) > FLOOD_PATIENCE {
            return Err(invalid(format!(
                "a flood: more than {FRAMES_PER_SECOND} frames or {BYTES_PER_SECOND} bytes a \
                 second for {} seconds",
                FLOOD_PATIENCE.as_secs()
            )));
        }
        Ok(Some(self.due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long frames of this length are taken that come `pause` after each other,
    /// or as soon as they are due; a minute at most.
    fn taken_for(length: usize, pause: Duration) -> Duration {
        let start = Instant::now();
        let (mut pace, mut now) = (Pace::new(), start);
        while now - start < Duration::from_secs(60) {
            match pace.schedule(now, length) {
                Ok(due) => now = due.unwrap_or(now).max(now + pause),
                Err(_) => break,
            }
        }
        now - start
    }

    #[test]
    fn who_always_sends_faster_than_is_read_is_dropped_and_a_busy_guardian_is_not() {
        let at_once = Duration::ZERO;
        for length in [10, 1 << 20] {
            let taken = taken_for(length, at_once);
            assert!(taken >= FLOOD_PATIENCE, "{taken:?}");
            assert!(taken <= FLOOD_PATIENCE + 3 * BURST, "{taken:?}");
        }
        let busy = taken_for(1000, Duration::from_micros(150));
        assert!(busy >= Duration::from_secs(60), "{busy:?}");
        let long = taken_for(1 << 20, Duration::from_millis(20));
        assert!(long >= Duration::from_secs(60), "{long:?}");
    }
}
