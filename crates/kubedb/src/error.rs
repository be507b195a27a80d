//! From errors to what a user reads and a script sees: words, hints that name a command, exit codes.

use std::{error::Error, io, net::SocketAddr, process::ExitCode};

use kube::core::Status;
use kubedb_core::schedule::ScheduleError;

/// What shells give for Ctrl-C: 128 and the signal's number.
const INTERRUPTED: u8 = 130;

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
    /// A part of the server, or an instance, could not do its work.
    #[error("failed to {doing}")]
    Server {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another server holds the data folder.
    #[error("another kubedb server{} runs on {folder}", .process.map(|id| format!(" (process {id})")).unwrap_or_default())]
    ServerRuns {
        /// The folder.
        folder: String,
        /// Its process.
        process: Option<u32>,
    },
    /// A data folder that holds something else.
    #[error("{folder} is no data folder of kubedb: it holds {other}")]
    FolderOfOthers {
        /// The folder.
        folder: String,
        /// What it holds.
        other: String,
    },
    /// The API's port.
    #[error("failed to listen on {address}: another program does")]
    AddressTaken {
        /// The address.
        address: SocketAddr,
    },
    /// A stop that took too long.
    #[error("some instances did not stop in time; the next server takes them over")]
    StillRunning,
    /// Flags and arguments that do not fit together; the whole message.
    #[error("{message}")]
    Usage {
        /// What does not fit.
        message: String,
    },
    /// No kind is called so.
    #[error("kubedb doesn't support a resource type \"{typed}\"")]
    UnknownKind {
        /// As typed.
        typed: String,
    },
    /// No configuration was found.
    #[error("failed to find a server: no configuration at {}", .tried.join(", "))]
    NoServer {
        /// The places.
        tried: Vec<String>,
    },
    /// A configuration is there and of no use.
    #[error("failed to use the configuration {origin}")]
    UseKubeconfig {
        /// The file or files.
        origin: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The server does not answer, or not as one.
    #[error("failed to reach the server at {url}")]
    ReachServer {
        /// Its address.
        url: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The server answered with something that is no object.
    #[error("failed to read the answer of the server at {url}")]
    ReadAnswer {
        /// Its address.
        url: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The server refused. Printed without `error: `, as kubectl does.
    #[error("Error from server ({}): {}{}", .status.reason, .doing.as_deref().map(|doing| format!("{doing}: ")).unwrap_or_default(), .status.message)]
    Refused {
        /// What was tried, such as `error when creating "f"`.
        doing: Option<String>,
        /// The answer.
        status: Box<Status>,
    },
    /// A manifest cannot be read or sent; the whole message.
    #[error("{message}")]
    Manifest {
        /// What is wrong, and where.
        message: String,
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// A file or a program.
    #[error("failed to {doing}")]
    Local {
        /// Verb and object.
        doing: String,
        #[source]
        source: io::Error,
    },
    /// An object is not in the state the command needs; the whole message.
    #[error("{message}")]
    State {
        /// What is missing.
        message: String,
        /// What to run.
        hint: Option<String>,
    },
    /// Time ran out; the work goes on in the server.
    #[error("timed out waiting for {what}")]
    TimedOut {
        /// What was waited for.
        what: String,
    },
    /// Ctrl-C, while something else went on.
    #[error("interrupted")]
    Interrupted,
    /// Everything that went wrong was printed already.
    #[error("some objects failed")]
    Reported,
}

impl CommandError {
    /// Sorts what the client reports.
    pub(crate) fn from_kube(error: kube::Error, url: &str, doing: Option<String>) -> Self {
        let url = url.to_owned();
        match error {
            kube::Error::Api(mut status) => {
                if status.reason.is_empty() {
                    status.reason = format!("HTTP {}", status.code);
                }
                Self::Refused { doing, status }
            }
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::ReadAnswer {
                url,
                source: Box::new(error),
            },
            other => Self::ReachServer {
                url,
                source: Box::new(other),
            },
        }
    }

    /// Flags and arguments that do not fit together.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
        }
    }

    /// A manifest that cannot be read or sent.
    pub(crate) fn manifest(message: impl Into<String>) -> Self {
        Self::Manifest {
            message: message.into(),
            source: None,
        }
    }

    /// HTTP status of a refusal.
    pub(crate) fn status_code(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(status.code),
            _ => None,
        }
    }

    /// 2 for what was typed wrongly, 130 for Ctrl-C, 1 for everything else.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::ReadSchedule { .. }
            | Self::ReadTime { .. }
            | Self::Usage { .. }
            | Self::UnknownKind { .. } => ExitCode::from(2),
            Self::Interrupted => ExitCode::from(INTERRUPTED),
            _ => ExitCode::FAILURE,
        }
    }

    /// The message with its prefix; nothing when it was printed already.
    pub(crate) fn line(&self) -> Option<String> {
        match self {
            Self::Reported | Self::Interrupted => None,
            Self::Refused { .. } => Some(self.to_string()),
            _ => Some(format!("error: {self}")),
        }
    }

    /// What to do about it, with the command to run.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ReadSchedule { .. } => {
                "kubedb schedule next '0 2 * * *' shows when an expression fires; kubedb schedule --help lists the forms"
            }
            Self::UnknownKind { .. } => {
                "kubedb get --help lists the types; pg, snap and drmn are the short ones"
            }
            Self::NoServer { .. } => {
                "kubedb server starts one on this machine; --kubeconfig FILE names the configuration of another"
            }
            Self::UseKubeconfig { .. } => {
                "--kubeconfig FILE names another file, --context NAME another context"
            }
            Self::ReachServer { .. } => {
                "kubedb server starts a server on this machine; --kubeconfig FILE names another one"
            }
            Self::ServerRuns { .. } => {
                "kubedb get pg -A shows its databases; --data-dir names a folder for a server of its own"
            }
            Self::FolderOfOthers { .. } => {
                "--data-dir names a folder that is empty or does not exist yet"
            }
            Self::AddressTaken { .. } => {
                "--listen 127.0.0.1:0 takes any free port; clients find it by the kubeconfig"
            }
            Self::Refused { status, .. } => return refusal_hint(status),
            Self::State { hint, .. } => return hint.clone(),
            Self::TimedOut { .. } => "the server goes on; kubedb get --watch follows it",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn refusal_hint(status: &Status) -> Option<String> {
    let hint = match status.code {
        401 => "the server does not know this token: is --kubeconfig the one it wrote?",
        404 if status
            .message
            .contains("could not find the requested resource") =>
        {
            "this server has no such kind: kubedb server has it; on Kubernetes the CustomResourceDefinitions come first"
        }
        404 if status.message.starts_with("namespaces ") => {
            let name = status
                .details
                .as_ref()
                .map_or("NAME", |details| &details.name);
            return Some(format!(
                "kubectl create namespace {name}, or a manifest of kind Namespace through kubedb create -f"
            ));
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, reason: &str, message: &str) -> CommandError {
        let status = Status {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            ..Status::default()
        };
        CommandError::from_kube(kube::Error::Api(Box::new(status)), "https://s/", None)
    }

    #[test]
    fn the_servers_words_come_through() {
        let error = refused(404, "NotFound", "postgreses.kubedb.com \"x\" not found");
        let line = "Error from server (NotFound): postgreses.kubedb.com \"x\" not found";
        assert_eq!(error.line().as_deref(), Some(line));
        assert_eq!(error.hint(), None);
        assert_eq!(
            refused(502, "", "bad gateway").line().unwrap(),
            "Error from server (HTTP 502): bad gateway"
        );
    }

    #[test]
    fn hints_name_what_to_run() {
        assert!(
            refused(401, "Unauthorized", "Unauthorized")
                .hint()
                .unwrap()
                .contains("--kubeconfig")
        );
        let error = refused(404, "NotFound", "namespaces \"demo\" not found");
        assert!(error.hint().unwrap().contains("kubectl create namespace"));
        let error = CommandError::NoServer {
            tried: vec!["/a".to_owned(), "/b".to_owned()],
        };
        assert_eq!(
            error.to_string(),
            "failed to find a server: no configuration at /a, /b"
        );
        assert!(error.hint().unwrap().contains("kubedb server"));
    }
}
