//! The unit log: what a guardian must remember of a session to go on after a
//! crash without contradicting itself.
//!
//! A file a session. It begins with a header that names federation and session;
//! a record is a unit as AlephBFT wrote it, behind its length and a checksum.
//! Before one of our own units leaves the machine it is on the disk, and with it
//! all before it; other guardians' units wait for that, since their makers have
//! them.
//!
//! The file is as long as what will be written soon, zeros to begin with: a sync
//! need not tell the file system of a new length then, which is most of its time.
//!
//! Each start reads the log up to the first record that is not whole, and writes a
//! new generation beside it, which takes the old one's place by a rename at the
//! first own unit that the old one lacks: until then the old one is all there is
//! to remember.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::AsyncWrite;
use modmint_core::{FederationId, PeerId};
use parity_scale_codec::{Decode as _, DecodeAll};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{info, warn};

use super::{
    MAX_PAYLOAD_BYTES,
    format::{Coord, Unit},
};

const MAGIC: [u8; 8] = *b"MMUNITS\x01";
pub(super) const HEADER_BYTES: usize = 8 + 32 + 8;
const CHECKSUM_BYTES: usize = 8;
/// A payload, and ample room for what surrounds it.
const MAX_RECORD_BYTES: usize = MAX_PAYLOAD_BYTES + (32 << 10);

/// So many bytes the file grows by.
const ROOM_BYTES: usize = 256 << 10;

/// Whose log it is.
#[derive(Clone)]
pub(super) struct LogId {
    pub directory: PathBuf,
    pub tag: FederationId,
    pub session: u64,
    pub me: PeerId,
}

impl LogId {
    /// Named by session and federation: a data directory may have seen a founding
    /// that came to nothing.
    pub fn path(&self) -> PathBuf {
        self.directory
            .join(format!("{}{}", self.session, suffix(&self.tag)))
    }

    /// The generation that is being written.
    pub fn next_path(&self) -> PathBuf {
        self.path().with_extension("new")
    }

    /// The same guardian's log of another session.
    pub fn of(&self, session: u64) -> Self {
        Self {
            session,
            ..self.clone()
        }
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..40].copy_from_slice(&self.tag.0);
        header[40..].copy_from_slice(&self.session.to_le_bytes());
        header
    }

    fn checksum(&self, length: [u8; 4], record: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let mut hash = blake3::Hasher::new();
        hash.update(&self.header()).update(&length).update(record);
        let mut checksum = [0; CHECKSUM_BYTES];
        checksum.copy_from_slice(&hash.finalize().as_bytes()[..CHECKSUM_BYTES]);
        checksum
    }

    /// Makes durable the file that bears the log's name, and the name.
    fn make_durable(&self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        File::open(&self.directory)?.sync_all()?;
        #[cfg(test)]
        test_disk::synced(&self.path(), file.metadata()?.len());
        Ok(())
    }

    /// Deletes the session's log.
    pub fn delete(&self) {
        for path in [self.path(), self.next_path()] {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => warn!(path = %path.display(), %error, "cannot delete a unit log"),
            }
        }
    }
}

/// The sessions of which this federation has logs in a directory, ascending;
/// makes the directory if it is missing.
pub(super) fn sessions(directory: &Path, tag: &FederationId) -> io::Result<Vec<u64>> {
    fs::create_dir_all(directory)?;
    let mut sessions = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let session = name
            .to_str()
            .and_then(|name| name.strip_suffix(&suffix(tag)));
        sessions.extend(session.and_then(|session| session.parse::<u64>().ok()));
    }
    sessions.sort_unstable();
    Ok(sessions)
}

fn suffix(tag: &FederationId) -> String {
    format!("-{}.units", &tag.to_string()[..16])
}

/// What a log held.
pub(super) struct Remembered {
    /// Units as AlephBFT wrote them, one behind the other.
    pub units: Vec<u8>,
    /// How many they are.
    pub count: usize,
    /// The highest round of an own unit.
    pub own_top: Option<u16>,
}

/// Reads a session's log and begins its new generation; `on_saved` is told of
/// each unit once it is as durable as it must be.
pub(super) fn open(
    id: LogId,
    on_saved: impl FnMut(&Unit, &[u8]) + Send + Sync + 'static,
) -> io::Result<(Remembered, Writer)> {
    let path = id.path();
    let (remembered, exists) = match File::open(&path) {
        Ok(mut file) => {
            // What a killed process wrote may not be on the disk yet, and AlephBFT
            // is about to send it again.
            id.make_durable(&file)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            (id.parse(&bytes)?, true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (id.parse(&[])?, false),
        Err(error) => return Err(error),
    };
    let writing = if exists { id.next_path() } else { path };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&writing)?;
    file.write_all(&id.header())?;
    let writer = Writer {
        own_top: remembered.own_top,
        renamed: !exists,
        file: Arc::new(file),
        id,
        unit: Vec::new(),
        syncing: None,
        written: HEADER_BYTES as u64,
        length: HEADER_BYTES as u64,
        readable: Arc::new(AtomicU64::new(HEADER_BYTES as u64)),
        name_is_durable: false,
        on_saved: Box::new(on_saved),
    };
    Ok((remembered, writer))
}

impl LogId {
    /// The log's units up to the first record that is not whole.
    fn parse(&self, bytes: &[u8]) -> io::Result<Remembered> {
        let mut remembered = Remembered {
            units: Vec::new(),
            count: 0,
            own_top: None,
        };
        let Some((header, mut rest)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Ok(remembered);
        };
        if header == [0; HEADER_BYTES] {
            // A crash before the first sync.
            return Ok(remembered);
        }
        if header != self.header() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} is not this federation's log of this session",
                    self.path().display()
                ),
            ));
        }
        let mut known = HashSet::new();
        while let Some((record, unit, behind)) = self.next_record(rest, &known) {
            known.insert(unit.coord);
            if unit.coord.creator == u64::from(self.me.0) {
                remembered.own_top = remembered.own_top.max(Some(unit.coord.round));
            }
            remembered.units.extend_from_slice(record);
            remembered.count += 1;
            rest = behind;
        }
        if rest.iter().any(|byte| *byte != 0) {
            let (session, bytes) = (self.session, rest.len());
            info!(session, bytes, "the unit log's end is torn and was cut off");
        }
        Ok(remembered)
    }

    fn next_record<'a>(
        &self,
        bytes: &'a [u8],
        known: &HashSet<Coord>,
    ) -> Option<(&'a [u8], Unit, &'a [u8])> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (checksum, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
        let (record, behind) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        if *checksum != self.checksum(*length, record) {
            return None;
        }
        let unit = Unit::decode_all(&mut &record[..]).ok()?;
        // AlephBFT refuses a log in which a unit stands before its parents.
        let parents = (0..).zip(&unit.parents);
        let complete = parents
            .filter_map(|(creator, round)| round.map(|round| Coord { round, creator }))
            .all(|parent| known.contains(&parent));
        (complete && unit.session == self.session).then_some((record, unit, behind))
    }
}

type OnSaved = Box<dyn FnMut(&Unit, &[u8]) + Send + Sync>;

/// Where AlephBFT saves units: each is one write and one flush.
pub(super) struct Writer {
    id: LogId,
    file: Arc<File>,
    /// The highest own unit that a crash cannot take away.
    own_top: Option<u16>,
    /// Whether the file bears the log's name.
    renamed: bool,
    /// Whether a crash cannot take its name away.
    name_is_durable: bool,
    unit: Vec<u8>,
    written: u64,
    /// Zeros follow what is written, up to here.
    length: u64,
    /// So much of the file may leave the machine.
    readable: Arc<AtomicU64>,
    syncing: Option<(Unit, JoinHandle<io::Result<()>>)>,
    on_saved: OnSaved,
}

/// Reads what is in a log that is being written, as far as it is saved.
#[derive(Clone)]
pub(super) struct Reader {
    id: LogId,
    file: Arc<File>,
    readable: Arc<AtomicU64>,
}

/// How much of a log is read for one answer.
const MAX_READ_BYTES: u64 = 8 << 20;

impl Reader {
    /// Units behind `from`, 0 being the beginning, that are `wanted`, about
    /// `max_bytes` of them, and where to go on.
    pub fn read(
        &self,
        from: u64,
        wanted: impl Fn(&Coord) -> bool,
        max_bytes: usize,
    ) -> io::Result<(Vec<Vec<u8>>, u64)> {
        let end = self.readable.load(Ordering::Acquire);
        // Behind the end is where somebody stood in a former generation.
        let start = if from > end { 0 } else { from }.max(HEADER_BYTES as u64);
        let (mut at, mut bytes, mut units) = (start, 0, Vec::new());
        while at < end && bytes < max_bytes && at - start < MAX_READ_BYTES {
            let mut head = [0; 4 + CHECKSUM_BYTES];
            self.file.read_exact_at(&mut head, at)?;
            let (length, checksum) = head.split_at(4);
            let length: [u8; 4] = length.try_into().map_err(io::Error::other)?;
            let size = u32::from_le_bytes(length) as usize;
            let mut record = vec![0; size.min(MAX_RECORD_BYTES)];
            self.file
                .read_exact_at(&mut record, at + head.len() as u64)?;
            if *checksum != self.id.checksum(length, &record) {
                return Err(io::Error::other("no record begins there"));
            }
            at += (head.len() + size) as u64;
            let coord = Coord::decode(&mut record.as_slice()).map_err(io::Error::other)?;
            if wanted(&coord) {
                bytes += record.len();
                units.push(record);
            }
        }
        Ok((units, at))
    }
}

impl Writer {
    /// For others to read what is saved.
    pub fn reader(&self) -> Reader {
        Reader {
            id: self.id.clone(),
            file: Arc::clone(&self.file),
            readable: Arc::clone(&self.readable),
        }
    }

    fn saved(&mut self, unit: &Unit) {
        self.readable.store(self.written, Ordering::Release);
        (self.on_saved)(unit, &self.unit);
        self.unit.clear();
    }

    /// Appends the unit that was written; it may have to be synced then.
    fn append(&mut self) -> io::Result<()> {
        let unit = Unit::decode_all(&mut &self.unit[..])
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        if self.unit.len() > MAX_RECORD_BYTES {
            return Err(io::Error::other(format!(
                "a unit of {} bytes, the limit is {MAX_RECORD_BYTES}",
                self.unit.len()
            )));
        }
        let length = (self.unit.len() as u32).to_le_bytes();
        let checksum = self.id.checksum(length, &self.unit);
        let record = [&length[..], &checksum, &self.unit].concat();
        self.make_room(record.len())?;
        self.file.write_all_at(&record, self.written)?;
        self.written += record.len() as u64;
        if unit.coord.creator == u64::from(self.id.me.0) && Some(unit.coord.round) > self.own_top {
            self.own_top = Some(unit.coord.round);
            self.syncing = Some((unit, spawn_blocking(self.sync())));
        } else {
            self.saved(&unit);
        }
        Ok(())
    }

    /// Makes the file longer if so many bytes do not fit.
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        while self.length < self.written + bytes as u64 {
            self.file.write_all_at(&[0; ROOM_BYTES], self.length)?;
            self.length += ROOM_BYTES as u64;
        }
        Ok(())
    }

    /// Makes the file durable, and its name if it is not.
    fn sync(&mut self) -> impl FnOnce() -> io::Result<()> + Send + 'static {
        let (id, file) = (self.id.clone(), self.file.clone());
        let rename = !std::mem::replace(&mut self.renamed, true);
        let first = !std::mem::replace(&mut self.name_is_durable, true);
        #[cfg(test)]
        let written = self.written;
        move || {
            if !first {
                file.sync_data()?;
            } else {
                if rename {
                    file.sync_all()?;
                    fs::rename(id.next_path(), id.path())?;
                }
                id.make_durable(&file)?;
            }
            #[cfg(test)]
            test_disk::synced(&id.path(), written);
            Ok(())
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unit.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.syncing.is_none() && !this.unit.is_empty() {
            this.append()?;
        }
        if let Some((_, sync)) = &mut this.syncing {
            let result = ready!(Pin::new(sync).poll(cx));
            let (unit, _) = this.syncing.take().expect("it was just polled");
            result.map_err(io::Error::other)??;
            this.saved(&unit);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// A disk that can lose what was not synced.
#[cfg(test)]
pub(super) mod test_disk {
    use std::{
        collections::HashMap,
        fs::{self, OpenOptions},
        path::{Path, PathBuf},
    };

    use parking_lot::Mutex;

    static SYNCED: Mutex<Option<HashMap<PathBuf, u64>>> = Mutex::new(None);

    pub fn synced(path: &Path, length: u64) {
        let mut synced = SYNCED.lock();
        let known = synced.get_or_insert_default();
        known.insert(path.to_path_buf(), length);
    }

    /// Drops every unsynced byte and name in a directory of logs.
    pub fn lose_power(directory: &Path) {
        let synced = SYNCED.lock();
        for entry in fs::read_dir(directory).expect("a directory of logs") {
            let path = entry.expect("an entry").path();
            match synced.as_ref().and_then(|known| known.get(&path)) {
                Some(length) => OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.set_len(*length))
                    .expect("a log"),
                None => fs::remove_file(&path).expect("a log"),
            }
        }
    }
}
