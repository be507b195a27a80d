//! Readers of bytes that others wrote, each as one function of bytes, for those who try them with anything at all.

use std::path::{Component, PathBuf};

use crate::{
    backup::{check_wal, label_timeline},
    encryption::fixed,
    repository::map::Codec,
    restore::Decoder,
    tar::{TarError, entries, entries_of_others},
    walg,
};

/// A file of an archive: its path, how many bytes of it came, and whether it came to its end.
pub type TarFile = (PathBuf, u64, bool);

/// Reads an archive that arrives in pieces of these lengths, again and again; the last one is what is left.
pub fn tar(bytes: &[u8], pieces: &[usize]) -> Result<Vec<TarFile>, TarError> {
    entries(bytes, pieces)
}

/// The same of an archive that other programs have made.
pub fn tar_of_others(bytes: &[u8], pieces: &[usize]) -> Result<Vec<TarFile>, TarError> {
    entries_of_others(bytes, pieces)
}

/// Reads what says that a base backup of wal-g's layout is complete; where it begins.
pub fn sentinel(bytes: &[u8]) -> Result<u64, String> {
    walg::readers::sentinel(bytes)
}

/// Unpacks at most so many bytes of what an object of this name holds.
pub fn packed(name: &str, bytes: &[u8], limit: u64) -> Result<Vec<u8>, String> {
    walg::readers::packed(name, bytes, limit)
}

/// Reads an increment that arrives in pieces of this length; the file's length, and how many pages there were.
pub fn increment(bytes: &[u8], piece: usize) -> Result<(u64, u32), String> {
    walg::readers::increment(bytes, piece)
}

/// Whether a path leads nowhere but below where it begins.
#[must_use]
pub fn stays_below(path: &std::path::Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_)))
}

/// Reads the timeline out of a `backup_label`.
#[must_use]
pub fn backup_label(text: &str) -> Option<u32> {
    label_timeline(text)
}

/// Checks pages of WAL that begin at `begin` of a segment of 1 MiB, and are of a backup from `start` to `stop`.
pub fn wal(pages: &[u8], begin: u64, start: u64, stop: u64) -> Result<(), String> {
    check_wal(pages, begin, start, stop)
}

/// Unpacks what was stored, which must give `raw` bytes of this hash.
pub fn unit(codec: Codec, stored: &[u8], raw: usize, blake3: &str) -> Result<Vec<u8>, String> {
    let mut decoder = Decoder::default();
    decoder
        .unpack(codec, stored, raw, blake3)
        .map(<[u8]>::to_vec)
}

/// Takes a schema apart that arrives in pieces of this length: statements, and commands of psql.
pub fn statements(text: &[u8], length: usize) -> Result<Vec<Vec<u8>>, String> {
    crate::logical::statements(text, length)
}

/// Reads the list of what a logical Snapshot holds. Gives how many databases that are.
pub fn contents(bytes: &[u8]) -> Result<usize, String> {
    crate::logical::databases(bytes)
}

/// Opens an object that is sealed under the name `map` with the data key of all zeros.
pub fn sealed(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let opened = fixed::key().open("map", bytes);
    opened.map_err(|error| error.to_string())
}

/// One that opens.
#[must_use]
pub fn sealed_example(content: &[u8]) -> Option<Vec<u8>> {
    fixed::key().seal("map", content).ok()
}

/// Reads the object of a data key, and opens it by the identity of all ones; whether there is a key in it for that one.
pub fn wrapped_key(bytes: &[u8]) -> Result<bool, String> {
    fixed::open(bytes)
}

/// One that opens.
#[must_use]
pub fn wrapped_key_example() -> Option<Vec<u8>> {
    fixed::wrapped()
}
