//! A recovery from a bucket alone: which Snapshot, which WAL, and what will come back, said before anything is written.

use std::path::Path;

use kubedb_core::recovery::{Goal, Target};
use kubedb_engine::{
    archive::{Found, Placement, Wish, find, inventory},
    backup::BackupProgress,
    repository::{catalogue::Catalogue, keys::DatabaseFolder},
    store::Store,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Complete, complete, is_meant, list::second, one};
use crate::{commands::describe::size, error::CommandError, ui::Ui};

/// A recovery as it was planned.
pub(in crate::commands) struct Recovery {
    pub(in crate::commands) namespace: String,
    pub(in crate::commands) database: String,
    pub(in crate::commands) target: Target,
    pub(in crate::commands) found: Found,
}

/// Plans a recovery of the database, or from the Snapshot, that `wanted` means, and says what it is.
pub(super) async fn plan(
    store: &Store,
    catalogue: &Catalogue,
    wanted: &str,
    target: Target,
    ui: &Ui,
) -> Result<Recovery, CommandError> {
    let databases: Vec<&(String, String)> = catalogue
        .databases
        .keys()
        .filter(|(namespace, database)| is_meant(&format!("{namespace}/{database}"), wanted))
        .collect();
    let is_snapshot = !complete(catalogue, Some(wanted)).is_empty();
    let (namespace, database, snapshot) = match (databases.as_slice(), is_snapshot) {
        ([(namespace, database)], false) => (namespace.clone(), database.clone(), None),
        (several, false) if several.len() > 1 => {
            let names = several
                .iter()
                .map(|(namespace, name)| format!("{namespace}/{name}"));
            return Err(CommandError::State {
                message: format!(
                    "{wanted:?} means several databases: {}",
                    names.collect::<Vec<_>>().join(", ")
                ),
                hint: Some("name it as NAMESPACE/DATABASE".to_owned()),
            });
        }
        _ => {
            let one = one(catalogue, wanted, store)?;
            (one.namespace, one.database, Some(one.manifest))
        }
    };
    let folder = DatabaseFolder::new(&namespace, &database)
        .map_err(|error| CommandError::usage(error.to_string()))?;
    let lineages = inventory(store, store, &folder).await?;
    let wish = Wish {
        target: &target,
        snapshot: snapshot.as_deref(),
        covered: None,
    };
    let found = find(&lineages, store, &folder, wish)?;
    let recovery = Recovery {
        namespace,
        database,
        target,
        found: found?,
    };
    ui.note(&recovery.told());
    Ok(recovery)
}

impl Recovery {
    /// The Snapshot that it begins from.
    pub(super) fn begin(&self) -> Complete {
        let base = &self.found.plan.base;
        Complete {
            namespace: self.namespace.clone(),
            database: self.database.clone(),
            snapshot: base.snapshot.clone(),
            manifest: base.manifest.clone(),
        }
    }

    /// What will come back, and from what.
    pub(in crate::commands) fn told(&self) -> String {
        let what = format!("{}/{}", self.namespace, self.database);
        told(&what, &self.target, &self.found)
    }

    /// Puts the WAL into the restored folder.
    pub(super) async fn place(
        &self,
        into: Placement<'_>,
        progress: &watch::Sender<BackupProgress>,
        cancel: &CancellationToken,
    ) -> Result<(), CommandError> {
        let Found { plan, archive, .. } = &self.found;
        let placed = archive.place(into, plan, &self.target, progress, cancel);
        Ok(placed.await?)
    }

    /// What to do now.
    pub(super) fn advice(&self, major: &str, folder: &Path) -> String {
        let end = match self.target.goal {
            Goal::Latest => "it replays all of it and then takes writes".to_owned(),
            _ => format!(
                "it replays up to {} and then takes writes; where that does not come in the archive, it waits in recovery and never takes any",
                self.target
            ),
        };
        format!(
            "start PostgreSQL {major} on it, as the user who owns the folder: {end}\n  postgres -D {}\nwhat postgresql.auto.conf says of this recovery goes at its end",
            folder.display()
        )
    }
}

/// What will come back, and from what.
pub(in crate::commands) fn told(what: &str, target: &Target, found: &Found) -> String {
    let plan = &found.plan;
    let wal = match plan.segments {
        0 => "no WAL is archived behind it".to_owned(),
        count => format!(
            "{count} segments of WAL ({}), timeline {}, archived until {}{}",
            size(count * found.archive.segment_bytes()),
            plan.timeline.0,
            second(plan.latest),
            // The last segment is whole, or its beginning is there.
            plan.tail
                .map_or_else(String::new, |end| format!(" and LSN {end}"))
        ),
    };
    format!(
        "{what} comes back as of {target}\n  begins from Snapshot {}, complete at {} ({}): {}\n  replays {wal}",
        plan.base.snapshot,
        second(plan.base.created),
        size(plan.base.bytes),
        plan.reason,
    )
}

#[cfg(test)]
mod tests {
    use kubedb_core::recovery::PlanError;

    use super::*;

    #[test]
    fn a_refusal_says_what_can_be_done() {
        let error = CommandError::from(PlanError::NoBase {
            place: "gs:kubedb".to_owned(),
        });
        assert!(
            error
                .to_string()
                .starts_with("nothing was restored: no Snapshot")
        );
        assert!(error.hint().is_some());
    }
}
