//! Everything that reads what others wrote, tried with anything at all.
//!
//! A target is a function of bytes that panics when a promise is broken: that nothing panics, that what was read and written again is the same,
//! that time and memory stay in proportion. `cargo xtask fuzz` runs one guided by coverage; the tests run all of them for some seconds.

pub mod drive;
pub mod random;
pub mod targets;

use std::{
    fs,
    path::{Path, PathBuf},
};

pub use targets::{TARGETS, Target};

/// Folder of this crate's data.
fn data() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Inputs that a target begins with: files of real programs, and what only we can make.
#[must_use]
pub fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let mut seeds = (target.seeds)();
    seeds.extend(files(&data().join("seeds").join(target.name)));
    seeds.extend(files(&regressions(target)));
    seeds
}

/// Folder of the inputs that once broke a promise of a target.
#[must_use]
pub fn regressions(target: &Target) -> PathBuf {
    data().join("regressions").join(target.name)
}

/// Contents of the files of a folder, by name; none where there is no folder.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .collect()
}
