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
pub(super) const MAX_FRAME_BYTES: usize = 112 << 20;

/// The longest frame that is not AlephBFT's. They are decoded into structures
/// that take several times their length.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Frames a second that a guardian reads from another in the long run.
const FRAMES_PER_SECOND: u32 = 8000;
/// Bytes a second likewise.
const BYTES_PER_SECOND: u32 = 64 << 20;
/// How far a guardian may be ahead of these rates.
const BURST: Duration = Duration::from_secs(2);

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
/// cannot fill queues that have no bound of their own.
pub(super) struct Pace {
    due: Instant,
}

impl Pace {
    pub fn new() -> Self {
        Self {
            due: Instant::now(),
        }
    }

    /// Waits until a frame of this length is due.
    pub async fn admit(&mut self, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let cost = Duration::from_secs(1) / FRAMES_PER_SECOND
            + Duration::from_secs(1) / BYTES_PER_SECOND * length;
        let now = Instant::now();
        self.due = self.due.max(now.checked_sub(BURST).unwrap_or(now)) + cost;
        if self.due > now {
            tokio::time::sleep_until(self.due).await;
        }
    }
}
