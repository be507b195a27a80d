//! Page checksums against pages that a real PostgreSQL wrote.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use kubedb_engine::postgres::page::{PAGE_BYTES, PageState, lsn, verify};

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A fresh cluster with data checksums, made by initdb as user `postgres` where we are root.
fn cluster() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut initdb = Command::new(format!("{BIN}/initdb"));
    initdb
        .args(["--data-checksums", "--no-sync", "--auth=trust", "-D"])
        .arg(&data);
    initdb.current_dir("/");
    if let Some((user, group)) = unprivileged() {
        chown(folder.path(), Some(user), Some(group)).unwrap();
        initdb.uid(user).gid(group);
    }
    let output = initdb
        .output()
        .expect("PostgreSQL 15 is missing; run: cargo xtask tools");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (folder, data)
}

/// User and group `postgres`, when we are root: PostgreSQL refuses to run as root.
fn unprivileged() -> Option<(u32, u32)> {
    let root = fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .unwrap()
        == 0;
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .unwrap();
    let part = |number: usize| line.split(':').nth(number).unwrap().parse::<u32>().unwrap();
    root.then(|| (part(2), part(3)))
}

/// Data files of relations: names of digits, perhaps with a fork or a segment.
fn relation_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            relation_files(&path, into);
        } else if name.starts_with(|c: char| c.is_ascii_digit()) {
            into.push(path);
        }
    }
}

#[test]
fn every_page_of_a_fresh_cluster_verifies_and_a_flipped_bit_does_not() {
    let (_folder, data) = cluster();
    let mut files = Vec::new();
    for folder in ["base", "global"] {
        relation_files(&data.join(folder), &mut files);
    }
    let (mut good, mut with_lsn) = (0, 0);
    for file in &files {
        let bytes = fs::read(file).unwrap();
        assert_eq!(bytes.len() % PAGE_BYTES, 0, "{}", file.display());
        for (block, page) in (0..).zip(bytes.chunks_exact(PAGE_BYTES)) {
            let mut page: [u8; PAGE_BYTES] = page.try_into().unwrap();
            match verify(&page, block) {
                PageState::New => continue,
                PageState::Good => good += 1,
                bad => panic!("{} block {block}: {bad:?}", file.display()),
            }
            with_lsn += u32::from(lsn(&page).0 > 0);
            page[PAGE_BYTES / 2 + usize::try_from(block % 64).unwrap()] ^= 0x10;
            assert!(matches!(verify(&page, block), PageState::Bad { .. }));
            page[PAGE_BYTES / 2 + usize::try_from(block % 64).unwrap()] ^= 0x10;
            assert!(
                matches!(verify(&page, block + 1), PageState::Bad { .. }),
                "a moved page passed"
            );
        }
    }
    assert!(
        good > 1_000 && with_lsn > 0,
        "only {good} pages in {} files",
        files.len()
    );
}
