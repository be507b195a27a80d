//! The images that nodes have: made once, unpacked once into a store of containerd's, and given to every node as links to the same files.

mod archive;
mod debian;
mod store;

use std::{
    path::{Path, PathBuf},
    thread,
};

use crate::{error::StartError, layout::kept, machine::pause};

pub(crate) use archive::on_top;
pub use archive::{Contents, Image};
pub(crate) use store::{ctr, give, import, renew, wait};

/// What every pod has: it keeps the pod's namespaces.
pub const PAUSE_IMAGE: &str = "kubedb-tests/pause:1";

/// The image of a PostgreSQL of tests, as the catalogue of versions names it.
pub const POSTGRES_IMAGES: [&str; 2] = ["postgres:9.6.24", "postgres:15"];

/// Where archives lie that each cluster gets.
pub(crate) fn archives() -> PathBuf {
    kept("images")
}

/// Makes what is missing of the images that every cluster has. `tell` hears of what takes a while.
///
/// # Errors
/// When a tool is missing or fails.
pub fn make(tell: impl Fn(&str) + Sync) -> Result<(), StartError> {
    let folder = archives();
    std::fs::create_dir_all(&folder).map_err(StartError::prepare(&folder))?;
    if !pause().exists() {
        return Err(StartError::Missing {
            what: "pause".to_owned(),
            command: "cluster install",
        });
    }
    let pause_layer = Contents::File(pause(), "pause");
    Image {
        name: PAUSE_IMAGE,
        user: "65535:65535",
        entrypoint: &["/pause"],
        environment: &[],
        command: &[],
    }
    .write(&pause_layer, &folder.join("pause.tar"), "1")?;
    thread::scope(|scope| {
        let other = scope.spawn(|| debian::postgres_15(&folder, &tell));
        debian::postgres_9_6(&folder, &tell)?;
        let lost = |_| Err(StartError::Unfit("failed to make images".to_owned()));
        other.join().unwrap_or_else(lost)
    })
}

/// Writes the image with our one program. That of a release is static; one that was built for tests, which is not, has its libraries beside it,
/// and runs in images of the same Debian.
///
/// # Errors
/// When it cannot be written.
pub fn kubedb(program: &Path, name: &str, target: &Path) -> Result<(), StartError> {
    let version = std::fs::metadata(program)
        .and_then(|data| Ok((data.len(), data.modified()?)))
        .map_err(StartError::prepare(program))?;
    Image {
        name,
        user: "65532:65532",
        entrypoint: &["/kubedb"],
        environment: &[],
        command: &[],
    }
    .write(
        &Contents::Program(program.to_owned(), "kubedb"),
        target,
        &format!("{name} {version:?}"),
    )
}
