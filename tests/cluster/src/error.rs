//! Why a control plane, a node or an image is not what it should be.

use std::path::Path;

/// A failure, in words for the one who runs the tests.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is not installed.
    #[error("failed to find {what}: run cargo xtask {command}")]
    Missing {
        /// What.
        what: String,
        /// What installs it.
        command: &'static str,
    },
    /// A file.
    #[error("failed to write {what}")]
    Prepare {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate.
    #[error("failed to make certificates")]
    Certificates(#[from] rcgen::Error),
    /// A process.
    #[error("failed to start {program}")]
    Start {
        /// Which.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A command that ended with a failure.
    #[error("failed to run {command}: {said}")]
    Refused {
        /// Its words.
        command: String,
        /// What it printed last.
        said: String,
    },
    /// It ended or did not answer.
    #[error("failed to reach {program}: {why}; the end of its log:\n{log}")]
    NotReady {
        /// Which.
        program: String,
        /// What happened.
        why: String,
        /// Last lines.
        log: String,
    },
    /// PostgreSQL for an image could not be fetched.
    #[error("failed to fetch PostgreSQL {version}: {why}")]
    Fetch {
        /// Which.
        version: &'static str,
        /// Why.
        why: String,
    },
    /// The cluster is not in the state for this.
    #[error("{0}")]
    Unfit(String),
}

/// Lines of a log that are shown.
const LOG_LINES: usize = 15;

impl StartError {
    /// A file that could not be written.
    pub(crate) fn prepare(what: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Prepare {
            what: what.as_ref().display().to_string(),
            source,
        }
    }

    /// A process that did not become ready, with the end of its log.
    pub(crate) fn not_ready(program: &str, why: String, log: &Path) -> Self {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        Self::NotReady {
            program: program.to_owned(),
            why,
            log: lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"),
        }
    }
}

/// An error with its causes.
#[must_use]
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}
