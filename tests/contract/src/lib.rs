//! What the contract suite is made of: two engines, talks with them that are written down, and the comparison with what
//! kube-apiserver answered.

pub mod engine;
pub mod expected;
pub mod kubectl;
pub mod normalise;
pub mod scale;
pub mod suite;
pub mod talk;

use std::path::{Path, PathBuf};

/// A part of `deploy/`.
#[must_use]
pub fn deploy(part: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    root.join(part)
}
