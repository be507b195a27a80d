//! Every page of every relation, as it lies on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const PAGE: usize = 8_192;

/// Differences that are told; more say no more.
const TOLD: usize = 20;

/// A relation's file by its name: number, fork, segment.
fn parts(name: &str) -> Option<(&str, &str, &str)> {
    let (stem, segment) = name.split_once('.').unwrap_or((name, "0"));
    let (number, fork) = stem.split_once('_').unwrap_or((stem, "main"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (is_digits(number) && is_digits(segment)).then_some((number, fork, segment))
}

/// Files of relations that outlive a crash, by their path below the data folder.
pub(crate) fn relations(data: &Path) -> BTreeMap<String, PathBuf> {
    let mut folders = vec!["global".to_owned()];
    let within = |folder: &str| {
        let entries = fs::read_dir(data.join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    folders.extend(within("base").iter().map(|oid| format!("base/{oid}")));
    for oid in within("pg_tblspc") {
        for version in within(&format!("pg_tblspc/{oid}")) {
            let folder = format!("pg_tblspc/{oid}/{version}");
            let databases = within(&folder);
            folders.extend(
                databases
                    .iter()
                    .map(|database| format!("{folder}/{database}")),
            );
        }
    }
    let mut found = BTreeMap::new();
    for folder in folders
        .iter()
        .filter(|folder| !folder.ends_with("pgsql_tmp"))
    {
        let names = within(folder);
        let numbers = names.iter().filter_map(|name| parts(name));
        let unlogged: BTreeSet<_> = numbers
            .filter(|(_, fork, _)| *fork == "init")
            .map(|(number, ..)| number)
            .collect();
        for name in &names {
            let is_kept = parts(name)
                .is_some_and(|(number, fork, _)| fork == "init" || !unlogged.contains(number));
            if is_kept {
                let path = format!("{folder}/{name}");
                found.insert(path.clone(), data.join(path));
            }
        }
    }
    found
}

/// Which differences two copies of a page may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    /// None.
    Nothing,
    /// What is not in the WAL, so that a primary and what was replayed from its WAL differ: hints, where there is room, the
    /// space that nobody uses.
    Unlogged,
}

/// What differs between the relations of two data folders.
pub(crate) fn differences(
    one: &Path,
    other: &Path,
    mask: Mask,
    leaves_out: impl Fn(&str) -> bool,
) -> Vec<String> {
    let (ones, others) = (relations(one), relations(other));
    let paths: BTreeSet<&String> = ones.keys().chain(others.keys()).collect();
    let mut different = Vec::new();
    for path in paths {
        let is_map_of_room = path.contains("_fsm");
        if leaves_out(path) || (mask == Mask::Unlogged && is_map_of_room) {
            continue;
        }
        let (Some(one), Some(other)) = (ones.get(path), others.get(path)) else {
            different.push(format!("{path} is in one alone"));
            continue;
        };
        compare(
            path,
            &fs::read(one).unwrap(),
            &fs::read(other).unwrap(),
            mask,
            &mut different,
        );
        if different.len() >= TOLD {
            break;
        }
    }
    different
}

fn compare(path: &str, one: &[u8], other: &[u8], mask: Mask, different: &mut Vec<String>) {
    if one.len() != other.len() {
        different.push(format!(
            "{path} has {} and {} bytes",
            one.len(),
            other.len()
        ));
        return;
    }
    for (block, (one, other)) in one.chunks(PAGE).zip(other.chunks(PAGE)).enumerate() {
        if one == other {
            continue;
        }
        let (mut one, mut other) = (one.to_vec(), other.to_vec());
        if mask == Mask::Unlogged {
            mask_unlogged(&mut one);
            mask_unlogged(&mut other);
        }
        let bytes = one.iter().zip(&other).enumerate();
        let places: Vec<usize> = bytes
            .filter(|(_, (a, b))| a != b)
            .map(|(at, _)| at)
            .collect();
        if !places.is_empty() && different.len() < TOLD {
            let first = &places[..places.len().min(8)];
            different.push(format!(
                "{path} block {block} at {first:?}, {} bytes",
                places.len()
            ));
        }
    }
}

fn u16_at(page: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([page[at], page[at + 1]]))
}

/// Takes out of a page what is not in the WAL.
fn mask_unlogged(page: &mut [u8]) {
    let (lower, upper, special) = (u16_at(page, 12), u16_at(page, 14), u16_at(page, 16));
    let is_layout = (24..=upper).contains(&lower) && upper <= special && special <= page.len();
    if !is_layout {
        return;
    }
    // LSN, checksum, hints of the page, and the oldest transaction that left something to prune.
    page[..12].fill(0);
    page[20..24].fill(0);
    page[lower..upper].fill(0);
    // Of tables alone: their pages end without a special part.
    if special == page.len() {
        for at in (24..lower).step_by(4) {
            let pointer = u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
            let (tuple, is_normal) = ((pointer & 0x7fff) as usize, pointer >> 15 & 3 == 1);
            if is_normal && tuple + 24 <= page.len() {
                // Number of the statement within its transaction, and whether that is known to have committed.
                page[tuple + 8..tuple + 12].fill(0);
                page[tuple + 21] &= 0xf0;
            }
        }
    }
}
