//! A Snapshot on its way into a folder, and what is said meanwhile.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use kubedb_engine::{
    backup::BackupProgress,
    postgres::dialect::PgDialect,
    repository::manifest::Manifest,
    restore::{Ground, RestoreRequest, Spared, Written, write},
    store::Store,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{commands::describe::size, error::CommandError, ui::Ui};

/// Time between two words about how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Which Snapshot goes where.
pub(in crate::commands) struct Job {
    pub(in crate::commands) request: RestoreRequest,
    pub(in crate::commands) ground: Ground,
}

impl Job {
    /// A Snapshot for a server of its own version, and as many threads as there are processors.
    pub(in crate::commands) fn new(
        store: Store,
        key: String,
        manifest: &Manifest,
        to: &Path,
        ground: Ground,
    ) -> Result<Self, CommandError> {
        let dialect = PgDialect::of(&manifest.cluster.major);
        let dialect = dialect.map_err(|error| CommandError::State {
            message: error.to_string(),
            hint: None,
        })?;
        let request = RestoreRequest {
            store,
            manifest: key,
            data_folder: absolute(to)?,
            dialect,
            postgres_version: manifest.cluster.postgres_version.clone(),
            threads: thread::available_parallelism().map_or(1, usize::from),
        };
        Ok(Self { request, ground })
    }

    /// Writes it, says how far it is now and then, and ends on Ctrl-C.
    pub(in crate::commands) async fn write(self, ui: &Ui) -> Result<Written, CommandError> {
        let (progress, told) = watch::channel(BackupProgress::default());
        let cancel = CancellationToken::new();
        let ground = self.ground;
        let write = write(self.request, ground, progress, cancel.clone());
        let telling = Telling { told, ground };
        let written = telling
            .follow(async { Ok(write.await?) }, &cancel, ui)
            .await?;
        if ground != Ground::Empty {
            ui.note(&spared_line(&written.spared));
        }
        Ok(written)
    }
}

fn absolute(folder: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(folder).map_err(|source| CommandError::Local {
        doing: format!("find {}", folder.display()),
        source,
    })
}

fn spared_line(spared: &Spared) -> String {
    let removed = match spared.removed {
        0 => String::new(),
        count => format!("; removed {count} files and folders that it does not have"),
    };
    format!(
        "kept {} that were as in the Snapshot, wrote {}, for which {} were fetched{removed}",
        size(spared.kept_bytes),
        size(spared.written_bytes),
        size(spared.fetched_bytes),
    )
}

/// Work that tells how far it is.
pub(super) struct Telling {
    pub(super) told: watch::Receiver<BackupProgress>,
    pub(super) ground: Ground,
}

impl Telling {
    /// Says how far work is now and then, and ends it on Ctrl-C.
    pub(super) async fn follow<T>(
        self,
        work: impl Future<Output = Result<T, CommandError>>,
        cancel: &CancellationToken,
        ui: &Ui,
    ) -> Result<T, CommandError> {
        let (verb, end) = match self.ground {
            Ground::Empty => ("written", "stopping; what was written is removed"),
            Ground::Existing(_) => (
                "in place",
                "stopping; the folder stays unfinished, and the same command goes on with it",
            ),
        };
        tokio::pin!(work);
        let begun = Instant::now();
        let mut interrupted = false;
        let mut ticks = tokio::time::interval(SAY_EVERY);
        ticks.tick().await;
        loop {
            tokio::select! {
                result = &mut work => {
                    return if interrupted { Err(CommandError::Interrupted) } else { result };
                }
                _ = ticks.tick() => {
                    let now = *self.told.borrow();
                    ui.note(&progress_line(now, begun.elapsed(), verb));
                }
                _ = tokio::signal::ctrl_c(), if !interrupted => {
                    ui.note(end);
                    interrupted = true;
                    cancel.cancel();
                }
            }
        }
    }
}

fn progress_line(now: BackupProgress, elapsed: Duration, verb: &str) -> String {
    let rest = now.total_bytes.saturating_sub(now.done_bytes);
    let left = match now.done_bytes {
        0 => String::new(),
        done => {
            let seconds = elapsed.as_secs_f64() * rest as f64 / done as f64;
            format!(", about {seconds:.0} s to go")
        }
    };
    format!(
        "{} of {} {verb}{left}",
        size(now.done_bytes),
        size(now.total_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_says_how_long_it_takes() {
        let half = BackupProgress {
            done_bytes: 1 << 30,
            total_bytes: 3 << 30,
            uploaded_bytes: 0,
        };
        assert_eq!(
            progress_line(half, Duration::from_secs(10), "written"),
            "1.0 GiB of 3.0 GiB written, about 20 s to go"
        );
        let none = BackupProgress::default();
        assert_eq!(
            progress_line(none, Duration::from_secs(1), "written"),
            "0 bytes of 0 bytes written"
        );
    }
}
