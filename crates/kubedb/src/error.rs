//! From errors to what a user reads and a script sees: words, hints that name a command, exit codes.

use std::{error::Error, io, net::SocketAddr, process::ExitCode};

use kube::core::Status;
use kubedb_agent::find::FindError;
use kubedb_core::{recovery::PlanError, schedule::ScheduleError};
use kubedb_engine::{
    archive::ArchiveError, restore::RestoreError, store::StoreError, walg::WalgError,
};

use crate::client::kinds;

/// What a script learns without reading: the codes of `kubedb`, as docs/reference/cli.md lists them.
mod code {
    /// It was not done.
    pub(super) const FAILED: u8 = 1;
    /// What was typed is wrong; nothing was sent.
    pub(super) const USAGE: u8 = 2;
    /// The object is not there.
    pub(super) const NOT_FOUND: u8 = 3;
    /// Time ran out; the work goes on.
    pub(super) const TIMED_OUT: u8 = 4;
    /// What shells give for Ctrl-C: 128 and the signal's number.
    pub(super) const INTERRUPTED: u8 = 130;
}

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
    /// A piece of work on a store; one line, which the platform tells on.
    #[error("{reason}")]
    Task {
        /// Why it was not done, with every cause.
        reason: String,
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
    /// Another operator may lead from now on.
    #[error(
        "this operator does not lead any more: its Lease was not renewed in time, or another took it"
    )]
    LostLead,
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
        source: RootCause,
    },
    /// The server does not answer, or not as one.
    #[error("failed to reach the server at {url}")]
    ReachServer {
        /// Its address.
        url: String,
        #[source]
        source: RootCause,
    },
    /// The server at this address is not the one that the configuration knows.
    #[error("failed to trust the server at {url}")]
    TrustServer {
        /// Its address.
        url: String,
        #[source]
        source: RootCause,
    },
    /// The server answered with something that is no object.
    #[error("failed to read the answer of the server at {url}")]
    ReadAnswer {
        /// Its address.
        url: String,
        #[source]
        source: RootCause,
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
    /// A store did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A Snapshot was not restored out of a store.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The rows of one were not.
    #[error(transparent)]
    Load(Box<kubedb_engine::logical::LoadError>),
    /// There is no key to what is encrypted.
    #[error(transparent)]
    Key(#[from] kubedb_engine::encryption::KeyError),
    /// What nobody needs was not found or not deleted.
    #[error(transparent)]
    Prune(Box<kubedb_engine::repository::prune::PruneError>),
    /// Archived WAL was not found or fetched.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// An archive of wal-g's layout could not be used.
    #[error(transparent)]
    Walg(Box<WalgError>),
    /// What is asked for cannot come back. Nothing was written.
    #[error("nothing was restored: {0}")]
    Unreachable(#[from] PlanError),
    /// A store was asked, and has it not.
    #[error("{what} in {store}")]
    NotInStore {
        /// What is not there: `no complete Snapshot "x"`.
        what: String,
        /// The store, as users know it.
        store: String,
    },
    /// A bucket that is a folder, and there is none.
    #[error("{}", no_folder(.folder, *.exists))]
    NoFolder {
        /// The folder.
        folder: String,
        /// Whether something else is there.
        exists: bool,
    },
    /// Snapshots are not whole; what is wrong was printed.
    #[error("{damaged} of {checked} Snapshots in {store} cannot be restored as they were")]
    Damaged {
        /// So many are not.
        damaged: usize,
        /// Out of so many.
        checked: usize,
        /// The store.
        store: String,
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
    Reported {
        /// The code of what went wrong.
        code: u8,
    },
}

/// What went wrong with some of several objects, each of which was printed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Failures {
    code: Option<u8>,
}

impl Failures {
    /// One more. Failures of several kinds have the code of failures without a kind.
    pub(crate) fn add(&mut self, error: &CommandError) {
        let code = error.code();
        self.code = Some(match self.code {
            Some(known) if known != code => code::FAILED,
            _ => code,
        });
    }

    /// Whether there are any.
    pub(crate) fn any(self) -> bool {
        self.code.is_some()
    }

    /// How the command ends.
    pub(crate) fn end(self) -> Result<(), CommandError> {
        self.code
            .map_or(Ok(()), |code| Err(CommandError::Reported { code }))
    }
}

/// The last of a chain of causes: what the layers of a client put around it means nothing to users.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct RootCause {
    text: String,
    /// Whether the certificate of the other side was refused.
    is_certificate: bool,
}

impl RootCause {
    /// Looks below everything.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let (mut root, mut is_certificate) = (error, false);
        loop {
            is_certificate |= matches!(
                root.downcast_ref::<rustls::Error>(),
                Some(rustls::Error::InvalidCertificate(_))
            );
            match below(root) {
                Some(next) => root = next,
                None => break,
            }
        }
        // Some parsers quote the text they failed on below their first line; it may hold a token.
        let text = root.to_string();
        Self {
            text: text.lines().next().unwrap_or_default().to_owned(),
            is_certificate,
        }
    }
}

/// What an error is about. One of IO names as its source what its own source has below it, and hides that one.
fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let hidden = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match hidden {
        Some(hidden) => Some(hidden),
        None => error.source(),
    }
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
                if status.reason == "Invalid" {
                    status.message = without_messenger(&status.message).to_owned();
                }
                Self::Refused { doing, status }
            }
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::ReadAnswer {
                url,
                source: RootCause::of(&error),
            },
            other => {
                let source = RootCause::of(&other);
                if source.is_certificate {
                    Self::TrustServer { url, source }
                } else {
                    Self::ReachServer { url, source }
                }
            }
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

    /// The code the program ends with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::ReadSchedule { .. }
            | Self::ReadTime { .. }
            | Self::Usage { .. }
            | Self::UnknownKind { .. } => code::USAGE,
            // A kind or a namespace that is not there is no answer to the question whether the object is.
            Self::Refused { status, .. }
                if status.code == 404
                    && status.details.as_ref().is_some_and(|details| {
                        !details.name.is_empty() && details.kind != "namespaces"
                    }) =>
            {
                code::NOT_FOUND
            }
            Self::NotInStore { .. } | Self::NoFolder { .. } => code::NOT_FOUND,
            Self::TimedOut { .. } => code::TIMED_OUT,
            Self::Interrupted => code::INTERRUPTED,
            Self::Reported { code } => *code,
            _ => code::FAILED,
        }
    }

    /// The message with its prefix; nothing when it was printed already.
    pub(crate) fn line(&self) -> Option<String> {
        match self {
            Self::Reported { .. } | Self::Interrupted => None,
            Self::Refused { .. } => Some(self.to_string()),
            _ => Some(format!("error: {self}")),
        }
    }

    /// What the store said, where that is all there is to it.
    fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error)
            | Self::Archive(ArchiveError::Store(error))
            | Self::Restore(RestoreError::Store(error)) => Some(error),
            Self::Walg(error) => match error.as_ref() {
                WalgError::Store(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    /// What to do about it, with the command to run.
    pub(crate) fn hint(&self) -> Option<String> {
        if let Some(StoreError::Unreachable { .. }) = self.store() {
            let hint = "the store is asked from this machine, at the endpoint of the storage (kubedb describe shows it) or at --endpoint of kubedb repo: is that right, and can it be reached from here?";
            return Some(hint.to_owned());
        }
        let hint = match self {
            Self::ReadSchedule { .. } => {
                "kubedb schedule next '0 2 * * *' shows when an expression fires; kubedb schedule --help lists the forms"
            }
            Self::UnknownKind { typed } => return Some(kind_hint(typed)),
            Self::NoServer { .. } => {
                "kubedb server starts one on this machine; --kubeconfig FILE names the configuration of another"
            }
            Self::UseKubeconfig { .. } => {
                "--kubeconfig FILE names another file, --context NAME another context"
            }
            Self::ReachServer { .. } => {
                "kubedb server starts one on this machine, with the --data-dir it had before; --kubeconfig FILE names another server"
            }
            Self::TrustServer { .. } => {
                "this is not the server that wrote this configuration, or its certificate is old: kubedb server prints the path of its own when it starts; --kubeconfig FILE names it"
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
            Self::NotInStore { .. } => {
                "kubedb repo list BUCKET shows what there is; the prefix of the storage belongs to the address, as in gs://BUCKET/PREFIX"
            }
            Self::Unreachable { .. } => {
                "the same command with --latest in place of the target says how far the archive goes; kubedb repo restore takes --dry-run, too"
            }
            Self::NoFolder { .. } => {
                "the folder is local.hostPath.path of the storage, with local.subPath below it, on the machine that ran the database; kubedb describe snap NAME shows both"
            }
            Self::Damaged { .. } => {
                "make another Snapshot while the database runs (kubectl create -f, kind Snapshot); kubedb repo list BUCKET shows those of before"
            }
            Self::Restore(error) => return restore_hint(error).map(str::to_owned),
            Self::TimedOut { .. } => "the server goes on; kubedb get --watch follows it",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<kubedb_engine::logical::LoadError> for CommandError {
    fn from(error: kubedb_engine::logical::LoadError) -> Self {
        Self::Load(Box::new(error))
    }
}

impl From<FindError> for CommandError {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Archive(error) => Self::Archive(error),
            FindError::Walg(error) => Self::Walg(Box::new(error)),
            FindError::Plan(error) => Self::State {
                hint: Some(plan_hint(&error).to_owned()),
                message: error.to_string(),
            },
            FindError::ReadTarget(error) => Self::usage(error.to_string()),
            FindError::Name(error) => Self::usage(error.to_string()),
        }
    }
}

impl From<kubedb_engine::repository::prune::PruneError> for CommandError {
    fn from(error: kubedb_engine::repository::prune::PruneError) -> Self {
        Self::Prune(Box::new(error))
    }
}

/// What to change in a manifest by which nothing can come back.
fn plan_hint(error: &PlanError) -> &'static str {
    match error {
        PlanError::NoBase { .. } => {
            "init.postgresWAL names the folder that has basebackups_005 in it where layout is wal-g, and else the path of an archive, which ends in kubedb/NAMESPACE/DATABASE/archive"
        }
        PlanError::UnknownBase { .. } => {
            "init.postgresWAL.backupName names one of these, or none for the latest that serves"
        }
        _ => "a manifest without a target says how far the archive goes",
    }
}

/// Which flag of `kubedb repo restore` permits what was refused.
fn restore_hint(error: &RestoreError) -> Option<&'static str> {
    Some(match error {
        RestoreError::NotEmpty { .. } => {
            "--to names a folder that is empty or does not exist yet; with --delta it may be a data folder of the same cluster"
        }
        RestoreError::Living { .. } => {
            "pg_ctl stop -D FOLDER stops a server of your own; a database of kubedb stops when it is deleted, which pauses it"
        }
        RestoreError::OtherCluster { .. } | RestoreError::UnknownCluster { .. } => {
            "--force overwrites it all the same, and what it holds is lost"
        }
        RestoreError::ForeignTablespace { .. } => {
            "--keep-tablespaces restores it there; where the link in pg_tblspc is removed, it goes beside the folder, into tablespaces/OID"
        }
        _ => return None,
    })
}

/// What is wrong with a manifest, without which of our webhooks said so: a server that has no webhooks says the same.
fn without_messenger(message: &str) -> &str {
    let told = message
        .strip_prefix("admission webhook \"")
        .and_then(|rest| rest.split_once("\" denied the request: "));
    match told {
        Some((name, words)) if name.ends_with("ators.kubedb.com") => words,
        _ => message,
    }
}

fn kind_hint(typed: &str) -> String {
    let list = "kubedb get --help lists the types; pg, snap and drmn are the short ones";
    match kinds::nearest(typed) {
        Some(kind) => format!("did you mean {} ({})? {list}", kind.singular, kind.short),
        None => list.to_owned(),
    }
}

fn refusal_hint(status: &Status) -> Option<String> {
    let hint = match status.code {
        401 => {
            "the server does not know this token: --kubeconfig FILE names the configuration that it printed when it started"
        }
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

fn no_folder(folder: &str, exists: bool) -> String {
    if exists {
        format!("{folder} is no folder, so it is no bucket either")
    } else {
        format!("the folder {folder} does not exist")
    }
}

#[cfg(test)]
mod tests;
