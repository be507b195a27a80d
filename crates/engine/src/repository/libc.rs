//! The C library of this machine. Text is sorted by it, and an index that another one sorted may miss rows.

use std::{fs, path::PathBuf};

/// Where glibc lies, by distribution and processor.
const FOLDERS: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
];

/// glibc is 2 MB; anything much larger is not it.
const LIBRARY_BYTES: u64 = 64 << 20;

/// Words that stand before and after glibc's version within itself.
const BEFORE: &[u8] = b"GNU C Library";
const VERSION: &[u8] = b"release version ";

/// Collations that sort by bytes, the same everywhere.
const BYTEWISE: [&str; 4] = ["C", "POSIX", "C.UTF-8", "C.utf8"];

/// `glibc 2.36`, `musl`, or `None` where neither is found. Blocks.
#[must_use]
pub fn name() -> Option<String> {
    let glibc = FOLDERS
        .iter()
        .map(|folder| PathBuf::from(folder).join("libc.so.6"))
        .filter(|file| fs::metadata(file).is_ok_and(|meta| meta.len() <= LIBRARY_BYTES))
        .find_map(|file| glibc_version(&fs::read(file).ok()?));
    glibc
        .map(|version| format!("glibc {version}"))
        .or_else(|| is_musl().then(|| "musl".to_owned()))
}

/// Whether a collation sorts alike under every C library.
#[must_use]
pub fn is_bytewise(collation: &str) -> bool {
    BYTEWISE.contains(&collation)
}

fn glibc_version(library: &[u8]) -> Option<String> {
    let from = find(library, BEFORE)?;
    let line = library.get(from..)?.get(..200)?;
    let version = line.get(find(line, VERSION)? + VERSION.len()..)?;
    let version: String = version
        .iter()
        .map(|byte| char::from(*byte))
        .take_while(|found| found.is_ascii_digit() || *found == '.')
        .collect();
    let version = version.trim_end_matches('.');
    (!version.is_empty()).then(|| version.to_owned())
}

fn find(within: &[u8], wanted: &[u8]) -> Option<usize> {
    within
        .windows(wanted.len())
        .position(|found| found == wanted)
}

fn is_musl() -> bool {
    let loaders = fs::read_dir("/lib").into_iter().flatten().flatten();
    loaders
        .take(10_000)
        .any(|entry| entry.file_name().to_string_lossy().starts_with("ld-musl-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_the_library() {
        let mut library = vec![0; 300];
        library.extend_from_slice(
            b"GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.\nCopyright",
        );
        library.extend([0; 300]);
        assert_eq!(glibc_version(&library).as_deref(), Some("2.36"));
        assert_eq!(glibc_version(b"GNU C Library"), None);
        assert!(is_bytewise("C") && !is_bytewise("en_US.utf8"));
    }
}
