//! How far a restore replays the archive, as flags.

use clap::Args;
use kubedb_api::archiver::RecoveryTarget;
use kubedb_core::recovery::{Target, TargetFields};

use crate::error::CommandError;

/// Without any of these the Snapshot alone comes back.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Replay of archived WAL")]
pub(in crate::commands) struct TargetArgs {
    /// Replay everything that is archived
    #[arg(long)]
    latest: bool,
    /// Replay up to this time, with its zone: 2026-11-26T14:05:00Z
    #[arg(long, value_name = "TIME")]
    target_time: Option<String>,
    /// Replay up to this position: 0/3000060
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<String>,
    /// Replay up to the end of this transaction
    #[arg(long, value_name = "XID")]
    target_xid: Option<String>,
    /// Replay up to this restore point
    #[arg(long, value_name = "NAME")]
    target_name: Option<String>,
    /// Follow this timeline; the latest that the Snapshot leads to when absent
    #[arg(long, value_name = "NUMBER")]
    target_timeline: Option<String>,
    /// End just before the target instead of just after it
    #[arg(long)]
    exclusive: bool,
}

/// Refuses what PostgreSQL of this version cannot aim at, before anything is written.
pub(in crate::commands) fn check_version(
    target: &Target,
    version: &str,
) -> Result<(), CommandError> {
    match target.unknown_to(version) {
        Some(why) => Err(CommandError::usage(format!(
            "--target-lsn {why}: give --target-time, --target-xid or --target-name"
        ))),
        None => Ok(()),
    }
}

impl TargetArgs {
    /// The same as a field of `init.snapshotSource`.
    pub(in crate::commands) fn field(&self) -> RecoveryTarget {
        RecoveryTarget {
            time: self.target_time.clone(),
            lsn: self.target_lsn.clone(),
            xid: self.target_xid.clone(),
            name: self.target_name.clone(),
            immediate: None,
            timeline: self.target_timeline.clone(),
            inclusive: self.exclusive.then_some(false),
        }
    }

    /// The target; none where the Snapshot alone is wanted.
    pub(in crate::commands) fn read(&self) -> Result<Option<Target>, CommandError> {
        let fields = TargetFields {
            time: self.target_time.as_deref(),
            lsn: self.target_lsn.as_deref(),
            xid: self.target_xid.as_deref(),
            name: self.target_name.as_deref(),
            immediate: false,
            timeline: self.target_timeline.as_deref(),
            inclusive: Some(!self.exclusive),
        };
        let nothing = TargetFields {
            inclusive: Some(true),
            ..TargetFields::default()
        };
        if !self.latest && fields == nothing {
            return Ok(None);
        }
        let goals = [
            &self.target_time,
            &self.target_lsn,
            &self.target_xid,
            &self.target_name,
        ];
        let has_goal = goals.iter().any(|goal| goal.is_some());
        if has_goal && self.latest {
            return Err(CommandError::usage(
                "--latest and a target exclude each other".to_owned(),
            ));
        }
        if self.exclusive && !has_goal {
            return Err(CommandError::usage(
                "--exclusive needs a target to end before, such as --target-xid".to_owned(),
            ));
        }
        let target = fields
            .read()
            .map_err(|error| CommandError::usage(format!("--target-{error}")))?;
        if self.exclusive && !target.can_exclude() {
            return Err(CommandError::usage(format!(
                "--exclusive says nothing beside {target}: only a time, an LSN or a transaction can be left out"
            )));
        }
        Ok(Some(target))
    }
}
