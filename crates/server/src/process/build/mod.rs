//! Which PostgreSQL runs: configured, else installed on the system, else fetched once and kept.

mod fetch;
mod tree;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use kubedb_core::release::{fits, major, said};

use super::user::ServiceUser;

/// A folder of programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Build {
    /// Folder that holds `postgres` and `initdb`.
    pub(super) bin_directory: PathBuf,
    /// Full version, such as `9.6.24`.
    pub(super) version: String,
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
    #[error(
        "it is not installed, and fetching it failed: {reason}; install postgresql-{major}, or set spec.binDirectory of its PostgresVersion; the fetch is tried again"
    )]
    Fetch {
        /// Major asked for.
        major: String,
        /// What went wrong.
        reason: String,
    },
    /// A folder could not be written.
    #[error("failed to keep the fetched build in {folder}: {source}")]
    Keep {
        /// The folder.
        folder: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The build that a database was made with is gone, or is another major by now.
    #[error(
        "the database was made with PostgreSQL {version} in {folder}, and there is {found} now; install postgresql-{major} again: another build may sort text differently"
    )]
    Vanished {
        /// The pinned folder.
        folder: String,
        /// The pinned version.
        version: String,
        /// Its major.
        major: String,
        /// What is there.
        found: String,
    },
}

/// Finds builds, and fetches each at most once at a time.
#[derive(Debug)]
pub(super) struct Builds {
    /// Where fetched builds are kept.
    cache: PathBuf,
    /// Where one is put that the service user could not reach.
    programs: PathBuf,
    user: ServiceUser,
    fetches: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Builds {
    pub(super) fn new(cache: &Path, programs: &Path, user: ServiceUser) -> Self {
        Self {
            cache: cache.join("postgres"),
            programs: programs.to_owned(),
            user,
            fetches: Mutex::default(),
        }
    }

    /// Finds a build of `wanted`, a full version or a major.
    pub(super) async fn resolve(
        &self,
        wanted: &str,
        configured: Option<&Path>,
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
                    found: named(found),
                    wanted: wanted.to_owned(),
                }),
            };
        }
        if let Some(build) = installed(wanted) {
            return Ok(build);
        }
        self.fetched(wanted).await
    }

    /// The build that a database was made with. One that we fetched is fetched again when it is lost or damaged; the system's may
    /// have become another release of its major.
    pub(super) async fn pinned(&self, build: Build) -> Result<Build, ResolveBuildError> {
        let folder = build.bin_directory.parent().unwrap_or(&build.bin_directory);
        if folder.starts_with(&self.programs) || folder.starts_with(&self.cache) {
            if let Some(build) = fetch::known(folder, &build.version) {
                return Ok(build);
            }
            tracing::warn!(folder = %folder.display(), "a fetched PostgreSQL is lost or damaged");
            return self.fetched(&build.version).await;
        }
        match version_of(&build.bin_directory) {
            Some(version) if fits(&major(&build.version), &version) => {
                Ok(Build { version, ..build })
            }
            found => Err(ResolveBuildError::Vanished {
                folder: build.bin_directory.display().to_string(),
                major: major(&build.version),
                version: build.version,
                found: named(found),
            }),
        }
    }

    async fn fetched(&self, wanted: &str) -> Result<Build, ResolveBuildError> {
        let turn = {
            let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(fetches.entry(wanted.to_owned()).or_default())
        };
        let _turn = turn.lock().await;
        let folder = self.cache.join(wanted);
        let fetched = match fetch::known(&folder, wanted) {
            Some(build) => build,
            None => fetch::fetch(wanted, &folder).await?,
        };
        if self.user.ids().is_none() {
            return Ok(fetched);
        }
        fetch::reachable_copy(&fetched, &self.programs)
    }
}

fn named(found: Option<String>) -> String {
    found.map_or("no PostgreSQL".to_owned(), |version| {
        format!("PostgreSQL {version}")
    })
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

/// Asks `postgres --version`.
fn version_of(folder: &Path) -> Option<String> {
    let output = Command::new(folder.join("postgres"))
        .arg("--version")
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    said(std::str::from_utf8(&output.stdout).ok()?).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builds(folder: &Path) -> Builds {
        Builds::new(
            &folder.join("cache"),
            &folder.join("bin"),
            ServiceUser::own(),
        )
    }

    /// A folder of programs that say they are this version.
    fn programs(folder: &Path, version: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let bin = folder.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let program = bin.join("postgres");
        std::fs::write(
            &program,
            format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version} (Debian)'\n"),
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        bin
    }

    #[tokio::test]
    async fn a_pinned_build_may_become_another_release_but_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let builds = builds(folder.path());
        let bin = programs(&folder.path().join("system"), "15.19");
        let pinned = Build {
            bin_directory: bin.clone(),
            version: "15.18".to_owned(),
        };
        let found = builds.pinned(pinned.clone()).await.unwrap();
        assert_eq!(
            (found.bin_directory, found.version.as_str()),
            (bin, "15.19")
        );
        programs(&folder.path().join("system"), "16.1");
        let error = builds.pinned(pinned.clone()).await.unwrap_err().to_string();
        assert!(
            error.contains("there is PostgreSQL 16.1 now; install postgresql-15 again"),
            "{error}"
        );
        std::fs::remove_dir_all(folder.path().join("system")).unwrap();
        let error = builds.pinned(pinned).await.unwrap_err().to_string();
        assert!(error.contains("there is no PostgreSQL now"), "{error}");
    }

    #[tokio::test]
    async fn a_whole_fetched_build_is_used_without_a_fetch() {
        let folder = tempfile::tempdir().unwrap();
        let builds = builds(folder.path());
        let build = folder.path().join("cache/postgres/15.18");
        programs(&build, "15.18");
        tree::seal(&build).unwrap();
        let found = builds.fetched("15.18").await.unwrap();
        assert_eq!(found.bin_directory, build.join("bin"));
        assert_eq!(builds.pinned(found.clone()).await.unwrap(), found);
    }
}
