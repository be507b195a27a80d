//! WAL and settings put into a restored data folder, so that PostgreSQL recovers from it without an archive and without us.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubedb_core::{
    lsn::TimelineId,
    recovery::{Goal, RecoveryPlan, Target},
};
use tokio::{sync::watch, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{ArchiveError, Wal, WalContent};
use crate::{
    backup::BackupProgress,
    postgres::dialect::{PgDialect, RecoveryFiles, quote_setting},
};

/// Where PostgreSQL keeps what ALTER SYSTEM says, and what it said before the recovery.
const AUTO: &str = "postgresql.auto.conf";
const KEPT: &str = "postgresql.auto.conf.kubedb";
/// Segments on their way at once.
const AT_ONCE: usize = 4;

/// A restored data folder.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// The folder.
    pub data: &'a Path,
    /// Major that will run on it.
    pub dialect: PgDialect,
    /// Settings that replay needs at least, as the Snapshot tells them.
    pub settings: &'a BTreeMap<String, String>,
}

impl Wal {
    /// Fetches all WAL of a plan into a restored data folder, and tells PostgreSQL where to end. `progress` counts bytes of WAL.
    pub async fn place(
        &self,
        into: Placement<'_>,
        plan: &RecoveryPlan,
        target: &Target,
        progress: &watch::Sender<BackupProgress>,
        cancel: &CancellationToken,
    ) -> Result<(), ArchiveError> {
        let Placement {
            data,
            dialect,
            settings,
        } = into;
        let folder = data.join(dialect.wal_folder());
        let total_bytes = plan.segments * self.segment_bytes();
        progress.send_replace(BackupProgress {
            total_bytes,
            ..BackupProgress::default()
        });
        let histories = plan
            .path
            .iter()
            .map(|switch| switch.timeline)
            .filter(|timeline| *timeline != TimelineId(1))
            .map(TimelineId::history_name);
        let segments = plan
            .needed(self.segment_bytes())
            .map(|segment| segment.name(self.segment_bytes()));
        let names: Vec<String> = histories.chain(segments).collect();
        let placed = stream::iter(names)
            .map(|name| self.place_one(&folder, name))
            .buffer_unordered(AT_ONCE)
            .try_for_each(|bytes| {
                progress.send_modify(|told| told.done_bytes += bytes);
                std::future::ready(Ok(()))
            });
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ArchiveError::Cancelled),
            placed = placed => placed?,
        }
        let recovery = recovery_settings(plan, target);
        let mode = Mode::of(target);
        let (data, settings) = (data.to_owned(), settings.clone());
        spawn_blocking(move || {
            File::open(folder)?.sync_all()?;
            instruct(&data, dialect, mode, &recovery, &settings)
        })
        .await
        .map_err(|_| ArchiveError::Worker)?
        .map_err(|source| ArchiveError::Write {
            name: "the recovery's settings".to_owned(),
            source,
        })
    }

    async fn place_one(&self, folder: &Path, name: String) -> Result<u64, ArchiveError> {
        let path = folder.join(&name);
        let content = self.fetch_content(&name).await?;
        let Some(content) = content.map(WalContent::into_bytes) else {
            // The Snapshot brings the history of its own timeline along.
            if name.ends_with(".history") && path.exists() {
                return Ok(0);
            }
            return Err(ArchiveError::Gone {
                name,
                label: self.label().to_owned(),
            });
        };
        let bytes = if name.ends_with(".history") {
            0
        } else {
            content.len() as u64
        };
        spawn_blocking(move || replace(&path, &content))
            .await
            .map_err(|_| ArchiveError::Worker)?
            .map_err(|source| ArchiveError::Write { name, source })?;
        Ok(bytes)
    }
}

/// Writes a file beside its place and puts it there whole: the Snapshot has half of the first segment.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut new = PathBuf::from(path);
    new.set_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(new, path)
}

/// How PostgreSQL recovers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// To a target: PostgreSQL promotes when it reaches it, and waits where it does not come.
    Standby,
    /// To the end of the WAL folder, which is where a plain recovery ends.
    Plain,
}

impl Mode {
    fn of(target: &Target) -> Self {
        match target.goal {
            Goal::Latest => Self::Plain,
            _ => Self::Standby,
        }
    }
}

fn recovery_settings(plan: &RecoveryPlan, target: &Target) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("recovery_target_timeline", plan.timeline.0.to_string()),
        ("recovery_end_command", format!("mv -f {KEPT} {AUTO}")),
    ];
    settings.extend(target.settings());
    if Mode::of(target) == Mode::Plain {
        // All there is lies in the folder. This says of each file that the archive has none.
        settings.push(("restore_command", "false".to_owned()));
    }
    settings
}

fn lines<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    settings
        .map(|(name, value)| format!("{name} = {}\n", quote_setting(value)))
        .collect()
}

fn instruct(
    data: &Path,
    dialect: PgDialect,
    mode: Mode,
    recovery: &[(&'static str, String)],
    settings: &BTreeMap<String, String>,
) -> io::Result<()> {
    // A server that replays WAL must allow as much as the one that wrote it. What stands last counts.
    let needs = lines(
        settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    let file = data.join(AUTO);
    let old = fs::read_to_string(&file).unwrap_or_default();
    // PostgreSQL puts it back at the end of its recovery: a target that was left would be one of the next.
    replace(&data.join(KEPT), old.as_bytes())?;
    // Where it answers nobody before the end, settings that its source has raised meanwhile do not stop it.
    let mut text =
        format!("{old}\n# Written by kubedb for a recovery.\nhot_standby = 'off'\n{needs}");
    let recovery = lines(recovery.iter().map(|(name, value)| (*name, value.as_str())));
    match dialect.recovery_files() {
        RecoveryFiles::RecoveryConf => {
            let standby = if mode == Mode::Standby { "on" } else { "off" };
            let recovery = format!("standby_mode = {standby}\n{recovery}");
            replace(&data.join("recovery.conf"), recovery.as_bytes())?;
        }
        RecoveryFiles::SignalFile => {
            let left = dialect.no_source().iter().chain(dialect.no_target());
            text += &lines(left.copied());
            text += &recovery;
            let signal = match mode {
                Mode::Standby => "standby.signal",
                Mode::Plain => "recovery.signal",
            };
            replace(&data.join(signal), b"")?;
        }
    }
    replace(&file, text.as_bytes())
}
