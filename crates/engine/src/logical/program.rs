//! pg_dump: where it is, and how it is run. PostgreSQL builds that consist of the server alone have none.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::{client::Address, error::LogicalError};
use crate::postgres::dialect::PgDialect;

/// A program that is asked for its version answers within this.
const ANSWER: Duration = Duration::from_secs(20);

/// Bytes of what it says of an error that are told.
const WORDS: usize = 2_000;

/// Where Debian keeps its own, by major.
const SYSTEM: &str = "/usr/lib/postgresql";

/// A pg_dump that can read a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    path: PathBuf,
    major: u32,
    /// Its version in its own words.
    pub(crate) version: String,
}

/// Folders in which to look for pg_dump: that of the server's own build, those of the search path, and where systems keep one for each major.
#[must_use]
pub fn program_folders(build: &Path, search_path: Option<&OsStr>) -> Vec<PathBuf> {
    let mut folders = vec![build.to_owned()];
    folders.extend(search_path.into_iter().flat_map(std::env::split_paths));
    let system = std::fs::read_dir(SYSTEM).into_iter().flatten();
    folders.extend(
        system
            .filter_map(Result::ok)
            .map(|entry| entry.path().join("bin")),
    );
    folders
}

/// The major of a version such as `15.18` or `17beta1`.
fn major_of(version: &str) -> Option<u32> {
    let digits = version
        .split(|letter: char| !letter.is_ascii_digit())
        .next()?;
    digits.parse().ok()
}

impl Program {
    /// Finds the one to read a server of this major with: of the same major, else the next later one. An earlier one is never used: it does not know
    /// what it would leave out.
    pub(crate) async fn find(folders: &[PathBuf], server: PgDialect) -> Result<Self, LogicalError> {
        let mut found: Vec<Self> = Vec::new();
        for folder in folders {
            let path = folder.join("pg_dump");
            if found.iter().all(|known| known.path != path) {
                found.extend(Self::ask(path).await);
            }
        }
        let needed = server.number();
        let fits = found.iter().filter(|program| program.major >= needed);
        if let Some(best) = fits.min_by_key(|program| program.major) {
            return Ok(best.clone());
        }
        let told = found
            .iter()
            .map(|program| format!("{} ({})", program.path.display(), program.version));
        let told: Vec<String> = told.collect();
        Err(LogicalError::NoProgram {
            server: server.to_string(),
            found: if told.is_empty() {
                "none was found".to_owned()
            } else {
                format!("found was only {}", told.join(", "))
            },
        })
    }

    async fn ask(path: PathBuf) -> Option<Self> {
        if !path.is_file() {
            return None;
        }
        let asked = Command::new(&path)
            .arg("--version")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(ANSWER, asked).await.ok()?.ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .trim()
            .strip_prefix("pg_dump (PostgreSQL) ")?
            .to_owned();
        let major = major_of(&version)?;
        Some(Self {
            path,
            major,
            version,
        })
    }

    /// Runs it for a section of a database's schema, as a snapshot that was exported has it.
    pub(crate) fn run(
        &self,
        address: &Address,
        database: &str,
        encoding: &str,
        snapshot: &str,
        section: &'static str,
    ) -> Result<Running, LogicalError> {
        let child = Command::new(&self.path)
            .arg(format!("--section={section}"))
            .arg(format!("--snapshot={snapshot}"))
            .arg(format!("--encoding={encoding}"))
            // Somebody who waits for a table longer than this would keep others from it, who queue up behind.
            .args(["--lock-wait-timeout=60s", "--quote-all-identifiers"])
            // Where the tablespaces of the other server would be, nobody knows.
            .arg("--no-tablespaces")
            .arg("--no-password")
            // Names as they are: an argument would be read as a connection string.
            .env("PGDATABASE", database)
            .env("PGHOST", &address.folder)
            .env("PGPORT", address.port.to_string())
            .env("PGUSER", &address.user)
            .env("PGAPPNAME", "kubedb snapshot")
            .env("LC_ALL", "C")
            .env_remove("PGOPTIONS")
            .env_remove("PGSERVICE")
            .env_remove("PGCLIENTENCODING")
            .env_remove("PGPASSFILE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|source| self.failed(source))?;
        let output = child.stdout.take();
        let output = output.ok_or_else(|| self.failed(io::ErrorKind::BrokenPipe.into()))?;
        let complaints = child.stderr.take();
        let words = tokio::spawn(async move {
            let mut kept = Vec::new();
            let Some(mut complaints) = complaints else {
                return kept;
            };
            let mut buffer = vec![0; 8_192];
            while let Ok(read @ 1..) = complaints.read(&mut buffer).await {
                kept.extend_from_slice(&buffer[..read]);
                let surplus = kept.len().saturating_sub(WORDS);
                kept.drain(..surplus);
            }
            kept
        });
        Ok(Running {
            child,
            output,
            words,
            database: database.to_owned(),
        })
    }

    fn failed(&self, source: io::Error) -> LogicalError {
        LogicalError::RunProgram {
            program: self.path.display().to_string(),
            source,
        }
    }
}

/// A pg_dump at work.
pub(crate) struct Running {
    child: Child,
    pub(crate) output: ChildStdout,
    words: tokio::task::JoinHandle<Vec<u8>>,
    database: String,
}

impl Running {
    /// Waits for its end. What it wrote counts only if that was a good one.
    pub(crate) async fn end(mut self) -> Result<(), LogicalError> {
        let status = self.child.wait().await;
        let words = self.words.await.unwrap_or_default();
        match status {
            Ok(status) if status.success() => Ok(()),
            _ => {
                let words = String::from_utf8_lossy(&words);
                // It shows the statement that failed last, which tells least.
                let told = words.lines().find(|line| line.contains("rror:"));
                Err(LogicalError::Program {
                    database: self.database,
                    words: told.unwrap_or(words.trim()).to_owned(),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn fake(folder: &Path, version: &str) -> PathBuf {
        let folder = folder.join(version);
        fs::create_dir(&folder).unwrap();
        let program = folder.join("pg_dump");
        fs::write(
            &program,
            format!("#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}'\n"),
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[tokio::test]
    async fn t29_a_pg_dump_of_an_earlier_major_is_never_used() {
        let folder = tempfile::tempdir().unwrap();
        let of = |version: &str| PgDialect::of(version).unwrap();
        let find = |folders: Vec<PathBuf>, server: &str| {
            let server = of(server);
            async move { Program::find(&folders, server).await }
        };
        let old = fake(folder.path(), "9.6.24");
        let middle = fake(folder.path(), "14.2 (Debian 14.2-1)");
        let new = fake(folder.path(), "17beta1");
        let all = || vec![new.clone(), old.clone(), middle.clone()];
        for (server, chosen) in [
            ("9.6", "9.6.24"),
            ("10", "14.2"),
            ("14", "14.2"),
            ("15", "17beta1"),
        ] {
            let found = find(all(), server).await.unwrap();
            assert!(found.version.starts_with(chosen), "{server}: {found:?}");
        }
        let refused = find(vec![old.clone(), middle], "15.18").await.unwrap_err();
        let words = refused.to_string();
        assert!(
            words.contains("needs pg_dump of PostgreSQL 15 or later"),
            "{words}"
        );
        assert!(
            words.contains("postgresql-client-15") && words.contains("9.6.24"),
            "{words}"
        );
        assert!(!refused.is_retryable());
        let none = find(vec![folder.path().to_owned()], "9.6")
            .await
            .unwrap_err();
        assert!(none.to_string().contains("none was found"), "{none}");
    }
}
