//! From errors to what a user reads and a script sees.

use std::process::ExitCode;

use kubedb_core::schedule::ScheduleError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The expression is not one.
    #[error("failed to read schedule {expression:?}: {source}")]
    ReadSchedule {
        /// As typed.
        expression: String,
        /// The field and the reason.
        source: ScheduleError,
    },
    /// `--after` is not a time.
    #[error(
        "failed to read --after {text:?}: not a time in RFC 3339, such as 2018-02-08T10:53:41Z"
    )]
    ReadTime {
        /// As typed.
        text: String,
    },
    /// A command whose parts are not there yet.
    #[error("kubedb {command} is not built yet")]
    NotBuilt {
        /// The command.
        command: &'static str,
    },
}

impl CommandError {
    /// 2 for what was typed wrongly, 1 for everything else.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::ReadSchedule { .. } | Self::ReadTime { .. } => ExitCode::from(2),
            Self::NotBuilt { .. } => ExitCode::FAILURE,
        }
    }

    /// What to do about it, with the command to run.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::ReadSchedule { .. } => Some(
                "kubedb schedule next '0 2 * * *' shows when an expression fires; kubedb schedule --help lists the forms"
                    .to_owned(),
            ),
            Self::ReadTime { .. } => None,
            Self::NotBuilt { .. } => Some("CHANGELOG.md says what works".to_owned()),
        }
    }
}
