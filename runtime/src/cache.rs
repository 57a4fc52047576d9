//! Compiled code, kept on disk between starts.
//!
//! Compiling takes seconds, reading code back milliseconds. A file holds the code of
//! one bundle for one engine behind a key of all that it depends on and a checksum; what
//! does not fit is compiled again and written anew. That a bundle does not compile is
//! not kept: a machine without memory to spare says the same of a good one.
//!
//! Code that is read back is run, so whoever can write these files can do what the
//! process can. They lie in a folder that is its user's alone, and what belongs to
//! somebody else, or can be written by somebody else, is not read. The checksum is
//! against damage alone: whoever may write there may also write the database and
//! read what the process reads.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use modmint_core::BundleHash;
use rustix::process::geteuid;
use wasmtime::component::Component;

use crate::{
    depth,
    engine::{Clock, Machine},
    runtime_hash,
};

/// A file begins with this, the key, and the BLAKE3 hash of the rest, which is the code.
const MAGIC: [u8; 8] = *b"MMCODE\x00\x02";
/// No bundle compiles to more.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A folder of compiled code.
#[derive(Debug)]
pub(crate) struct CodeCache(PathBuf);

impl CodeCache {
    /// Makes the folder if it is not there.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let metadata = fs::symlink_metadata(directory)?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        check_ours(&metadata)?;
        Ok(Self(directory.to_owned()))
    }

    /// A bundle's component on this engine, from the folder or compiled.
    ///
    /// # Errors
    /// Why the bundle does not compile.
    pub(crate) fn component(
        &self,
        machine: &Machine,
        hash: BundleHash,
        bytes: &[u8],
    ) -> Result<Component, String> {
        let path = self.path(machine.clock, hash);
        let key = key(machine, hash);
        let found = read(&path, &key);
        match found.and_then(|code| code.map(|code| load(machine, &code)).transpose()) {
            Ok(Some(component)) => return Ok(component),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled code is not used, the bundle is compiled again");
            }
        }
        let component = compile(machine, bytes)?;
        let code = component.serialize();
        let kept = code
            .map_err(|error| invalid(&format!("{error:#}")))
            .and_then(|code| self.write(&path, &key, &code));
        if let Err(error) = kept {
            tracing::warn!(path = %path.display(), %error, "compiled code cannot be kept");
        }
        Ok(component)
    }

    fn path(&self, clock: Clock, hash: BundleHash) -> PathBuf {
        let engine = match clock {
            Clock::Fuel => "consensus",
            Clock::Time => "query",
        };
        self.0.join(format!("{hash}.{engine}"))
    }

    /// Writes a file whole or not at all.
    fn write(&self, path: &Path, key: &[u8; 32], code: &[u8]) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (id, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let temporary = self.0.join(format!("{id}-{next}.tmp"));
        let written = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            for part in [&MAGIC[..], key, blake3::hash(code).as_bytes(), code] {
                file.write_all(part)?;
            }
            fs::rename(&temporary, path)
        };
        written().inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
    }
}

/// Compiles.
pub(crate) fn compile(machine: &Machine, bytes: &[u8]) -> Result<Component, String> {
    let counted = depth::counted(bytes)?;
    Component::from_binary(&machine.engine, &counted).map_err(|error| format!("{error:#}"))
}

/// A component of code that was read back.
fn load(machine: &Machine, code: &[u8]) -> io::Result<Component> {
    // SAFETY: these bytes are what `Component::serialize` gave: the file and its
    // folder are this user's and nobody else may write them (`check_ours`), it was
    // written whole by `CodeCache::write` (a rename) and not damaged since (the
    // checksum). That it was the same wasmtime, with the same options, is in the
    // key, and checked by wasmtime once more.
    #[allow(unsafe_code, reason = "wasmtime cannot tell code from bytes")]
    let component = unsafe { Component::deserialize(&machine.engine, code) };
    component.map_err(|error| invalid(&format!("{error:#}")))
}

/// A file's code; none where there is none, or one of another version.
fn read(path: &Path, key: &[u8; 32]) -> io::Result<Option<Vec<u8>>> {
    // A link in the place of a file would be somebody else's idea.
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(no_link)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    check_ours(&metadata)?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(invalid("it is longer than any code"));
    }
    let mut header = [0; MAGIC.len() + 32 + 32];
    let mut file: File = file;
    file.read_exact(&mut header)?;
    let (of_whom, checksum) = header.split_at(MAGIC.len() + 32);
    if of_whom != [&MAGIC[..], key].concat() {
        return Ok(None);
    }
    let mut code = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    file.take(MAX_FILE_BYTES).read_to_end(&mut code)?;
    if blake3::hash(&code).as_bytes() != checksum {
        return Err(invalid("it is damaged"));
    }
    Ok(Some(code))
}

/// Nobody but this user, and root, can have written it.
fn check_ours(metadata: &Metadata) -> io::Result<()> {
    if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it belongs to another user, or others may write it",
        ));
    }
    Ok(())
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

/// All that a bundle's code depends on: its bytes, our version of the runtime, and
/// wasmtime's version, options and target.
fn key(machine: &Machine, hash: BundleHash) -> [u8; 32] {
    let mut key = KeyHasher(blake3::Hasher::new_derive_key("modmint compiled code"));
    key.write(&hash.0);
    key.write(&runtime_hash());
    key.write(&[machine.clock as u8]);
    machine
        .engine
        .precompile_compatibility_hash()
        .hash(&mut key);
    key.0.finalize().into()
}

/// Hashes what wasmtime gives to be hashed.
struct KeyHasher(blake3::Hasher);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        let (first, _) = hash.as_bytes().split_at(8);
        first
            .iter()
            .fold(0, |all, byte| all << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::{
        os::unix::fs::{PermissionsExt, symlink},
        sync::Arc,
    };

    use modmint_core::sha256;

    use super::*;
    use crate::{Bundle, Engines, tests::fixture::server};

    const ACCEPTED: &str = "(global.get $accepted)";

    struct Folder {
        directory: tempfile::TempDir,
        engines: Arc<Engines>,
        bundle: Vec<u8>,
    }

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let engines = Engines::wallet().unwrap();
            engines.keep_code_in(&folder.path().join("code")).unwrap();
            Self {
                directory: folder,
                engines,
                bundle: server("", "", ACCEPTED),
            }
        }

        fn file(&self) -> PathBuf {
            let hash = BundleHash(sha256(&self.bundle));
            self.directory
                .path()
                .join("code")
                .join(format!("{hash}.query"))
        }

        /// Loads the bundle; whether it was compiled and written anew.
        fn compiles(&self) -> bool {
            let before = fs::symlink_metadata(self.file()).map(|m| m.ino()).ok();
            Bundle::load(&self.engines, &self.bundle).unwrap();
            let after = fs::symlink_metadata(self.file()).map(|m| m.ino()).ok();
            before != after
        }
    }

    #[test]
    fn a_bundle_is_compiled_once() {
        let folder = Folder::new();
        assert!(folder.compiles());
        assert!(!folder.compiles());
        let others = Engines::wallet().unwrap();
        others
            .keep_code_in(&folder.directory.path().join("code"))
            .unwrap();
        let again = Folder {
            engines: others,
            ..folder
        };
        assert!(!again.compiles());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&again.file()), 0o600);
        assert_eq!(mode(again.file().parent().unwrap()), 0o700);
        let files = fs::read_dir(again.file().parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1, "nothing else is left");
    }

    #[test]
    fn damaged_code_is_compiled_again_wherever_the_damage_is() {
        let folder = Folder::new();
        folder.compiles();
        let good = fs::read(folder.file()).unwrap();
        for at in [0, 8, 39, 40, 71, 72, 73, good.len() / 2, good.len() - 1] {
            let mut damaged = good.clone();
            damaged[at] ^= 1;
            fs::write(folder.file(), &damaged).unwrap();
            assert!(folder.compiles(), "a byte changed at {at}");
            assert!(!folder.compiles());
        }
        for length in [0, 10, 72, good.len() - 1] {
            fs::write(folder.file(), &good[..length]).unwrap();
            assert!(folder.compiles(), "cut to {length} bytes");
        }
        assert!(!folder.compiles());
    }

    #[test]
    fn code_that_others_may_have_written_is_not_run() {
        let folder = Folder::new();
        folder.compiles();
        for mode in [0o620, 0o602] {
            fs::set_permissions(folder.file(), fs::Permissions::from_mode(mode)).unwrap();
            assert!(folder.compiles(), "{mode:o}");
        }
        let elsewhere = folder.directory.path().join("elsewhere");
        fs::rename(folder.file(), &elsewhere).unwrap();
        symlink(&elsewhere, folder.file()).unwrap();
        assert!(folder.compiles(), "a link");
        assert!(fs::symlink_metadata(folder.file()).unwrap().is_file());

        let code = folder.directory.path().join("code");
        fs::set_permissions(&code, fs::Permissions::from_mode(0o770)).unwrap();
        let engines = Engines::wallet().unwrap();
        let refused = engines.keep_code_in(&code).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn code_of_another_bundle_or_engine_is_not_run() {
        let folder = Folder::new();
        folder.compiles();
        let code = fs::read(folder.file()).unwrap();
        let other = Folder {
            bundle: server("", "", "unreachable"),
            ..folder
        };
        fs::write(other.file(), &code).unwrap();
        fs::set_permissions(other.file(), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(other.compiles());
    }

    #[test]
    fn that_a_bundle_does_not_compile_is_not_kept() {
        let folder = Folder::new();
        let code = folder.directory.path().join("code");
        let cache = CodeCache::open(&code).unwrap();
        let hash = BundleHash([7; 32]);
        cache
            .component(&folder.engines.query, hash, b"no component")
            .unwrap_err();
        assert_eq!(fs::read_dir(&code).unwrap().count(), 0);
    }
}
