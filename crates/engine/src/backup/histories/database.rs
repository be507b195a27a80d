//! The database of the model: files, of which each change is known.

use std::{collections::BTreeMap, fs, path::Path};

use kubedb_core::lsn::Lsn;
use tempfile::TempDir;

use crate::postgres::{
    control::{ClusterState, ControlFile},
    page::{self, PAGE_BYTES},
};

/// Splitmix64: every history follows from its number.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    pub(super) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

pub(super) type Content = BTreeMap<String, Vec<u8>>;

/// A database as files, and its clock, which is its WAL's position.
pub(super) struct Database {
    pub(super) folder: TempDir,
    pub(super) content: Content,
    pub(super) clock: u64,
    pub(super) made: u64,
    /// Of database 5, as its row's transaction would say.
    pub(super) incarnation: u64,
}

impl Database {
    pub(super) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        for within in ["base/5", "global"] {
            fs::create_dir_all(folder.path().join(within)).unwrap();
        }
        let mut database = Self {
            folder,
            content: Content::new(),
            clock: 1_000,
            made: 0,
            incarnation: 700,
        };
        database.put("PG_VERSION", b"15\n".to_vec());
        database
    }

    pub(super) fn put(&mut self, path: &str, bytes: Vec<u8>) {
        fs::write(self.folder.path().join(path), &bytes).unwrap();
        self.content.insert(path.to_owned(), bytes);
    }

    pub(super) fn remove(&mut self, path: &str) {
        fs::remove_file(self.folder.path().join(path)).unwrap();
        self.content.remove(path);
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 8;
        self.clock
    }

    /// A page of a main fork as the server would leave it.
    pub(super) fn page(&mut self, block: usize, lsn: u64) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        self.made += 1;
        page[4..8].copy_from_slice(&u32::try_from(lsn).unwrap().to_le_bytes());
        page[24..32].copy_from_slice(&self.made.to_le_bytes());
        page[8_000..8_008].copy_from_slice(&self.made.to_be_bytes());
        let sum = page::checksum(&page, u32::try_from(block).unwrap());
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    pub(super) fn pages(&mut self, count: usize, lsn: u64) -> Vec<u8> {
        (0..count).flat_map(|block| self.page(block, lsn)).collect()
    }

    pub(super) fn mains(&self) -> Vec<String> {
        let is_main = |path: &&String| path.starts_with("base/5/") && !path.contains('_');
        self.content.keys().filter(is_main).cloned().collect()
    }

    /// One change of some kind.
    pub(super) fn change(&mut self, random: &mut Random, largest: usize) {
        let mains = self.mains();
        let kind = random.below(12);
        if mains.is_empty() || kind == 0 {
            self.made += 1;
            let path = format!("base/5/{}", 16_384 + self.made);
            let (count, lsn) = (1 + random.below(largest), self.tick());
            let pages = self.pages(count, lsn);
            self.put(&path, pages);
            return;
        }
        let path = mains[random.below(mains.len())].clone();
        let mut bytes = self.content[&path].clone();
        let blocks = bytes.len() / PAGE_BYTES;
        match kind {
            // Dropped.
            1 if mains.len() > 1 => return self.remove(&path),
            // Cut, and perhaps extended again, by zeros or by pages.
            2 if blocks > 1 => bytes.truncate((1 + random.below(blocks - 1)) * PAGE_BYTES),
            3 => bytes.resize(bytes.len() + (1 + random.below(3)) * PAGE_BYTES, 0),
            4 => {
                for more in 0..=random.below(2) {
                    let lsn = self.tick();
                    bytes.extend(self.page(blocks + more, lsn));
                }
            }
            // Bits of the visibility map, cleared without a trace in its page.
            5 => {
                let lsn = self.clock / 2;
                let pages = self.pages(1, lsn);
                return self.put(&format!("{path}_vm"), pages);
            }
            6 => return self.put("global/pg_filenode.map", self.made.to_le_bytes().to_vec()),
            // The database is dropped and made again under its number, from files whose pages say nothing new.
            7 if random.one_in(4) => {
                self.incarnation += 1;
                for path in mains {
                    let count = self.content[&path].len() / PAGE_BYTES;
                    let pages = self.pages(count.max(1), 900);
                    self.put(&path, pages);
                }
                return;
            }
            // Written without WAL.
            8 if random.one_in(3) && blocks > 0 => {
                let block = random.below(blocks);
                let page = self.page(block, 0);
                bytes[block * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(&page);
            }
            _ => {
                for _ in 0..=random.below(blocks.clamp(1, 4)) {
                    if blocks > 0 {
                        let (block, lsn) = (random.below(blocks), self.tick());
                        let page = self.page(block, lsn);
                        bytes[block * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(&page);
                    }
                }
            }
        }
        self.put(&path, bytes);
    }

    pub(super) fn control(&self) -> ControlFile {
        ControlFile {
            system_identifier: 7,
            control_version: 1_300,
            catalog_version: 202_209_061,
            state: ClusterState::InProduction,
            checkpoint: Lsn(self.clock),
            redo: Lsn(self.clock),
            timeline: 1,
            minimum_recovery_end: Lsn(0),
            backup_start: Lsn(0),
            max_connections: 1,
            max_worker_processes: 1,
            max_wal_senders: None,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
            block_bytes: 8_192,
            segment_blocks: 131_072,
            wal_segment_bytes: 16 << 20,
            checksum_version: 1,
        }
    }
}
