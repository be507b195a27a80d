//! One file per command.

mod agent;
mod compare;
mod completion;
mod connect;
mod create;
mod delete;
mod demo;
mod describe;
mod edit;
mod export;
mod get;
mod install;
mod operator;
mod repo;
mod restore;
mod schedule;
mod selection;
mod server;
mod signals;
mod snapshot;
mod summarize;
mod task;
mod verify;

use std::{future::Future, io};

use crate::{
    cli::{Cli, Command},
    error::CommandError,
    ui::Ui,
};

pub(crate) use agent::AgentArgs;
pub(crate) use compare::CompareArgs;
pub(crate) use connect::ConnectArgs;
pub(crate) use create::CreateArgs;
pub(crate) use delete::DeleteArgs;
pub(crate) use describe::DescribeArgs;
pub(crate) use edit::EditArgs;
pub(crate) use get::GetArgs;
pub(crate) use install::{InstallArgs, UninstallArgs};
pub(crate) use operator::OperatorArgs;
pub(crate) use repo::RepoArgs;
pub(crate) use restore::RestoreArgs;
pub(crate) use server::ServeArgs;
pub(crate) use snapshot::SnapshotArgs;
pub(crate) use summarize::SummarizeArgs;
pub(crate) use task::TaskArgs;
pub(crate) use verify::VerifyArgs;

/// Runs what was typed.
pub(crate) fn run(cli: Cli, ui: &Ui) -> Result<(), CommandError> {
    install_crypto();
    let server = cli.server;
    match cli.command {
        Command::Create(arguments) => online(create::run(arguments, &server, ui)),
        Command::Delete(arguments) => online(delete::run(arguments, &server, ui)),
        Command::Describe(arguments) => online(describe::run(arguments, &server, ui)),
        Command::Connect(arguments) => online(connect::run(arguments, &server, ui)),
        Command::Edit(arguments) => online(edit::run(arguments, &server, ui)),
        Command::Get(arguments) => online(get::run(arguments, &server, ui)),
        Command::Install(arguments) => online(install::run(arguments, &server, ui)),
        Command::Uninstall(arguments) => online(install::uninstall(arguments, &server, ui)),
        Command::Schedule(arguments) => schedule::run(arguments.command, ui),
        Command::Repo(arguments) => online(repo::run(arguments, ui)),
        Command::Restore(arguments) => online(restore::run(arguments, &server, ui)),
        Command::Snapshot(arguments) => online(self::snapshot::run(arguments, &server, ui)),
        Command::Summarize(arguments) => online(summarize::run(arguments, &server, ui)),
        Command::Compare(arguments) => compare::run(&arguments, ui),
        Command::Verify(arguments) => online(verify::run(arguments, &server, ui)),
        Command::Server(arguments) => self::server::run(arguments, &server, ui),
        Command::Operator(arguments) => self::operator::run(arguments, &server),
        Command::Agent(arguments) => self::agent::run(arguments),
        Command::Task(arguments) => self::task::run(arguments),
        Command::Demo => demo::run(ui),
        Command::Version { short } => {
            let program = if short { "" } else { "kubedb " };
            ui.data(&format!("{program}{}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Command::Completion { shell } => {
            ui.block(&completion::script(shell));
            Ok(())
        }
    }
}

/// TLS needs one provider of cryptography for the whole process. Only the first call counts.
fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Long-running commands log to standard error; `RUST_LOG` chooses what.
fn log_to_stderr() {
    // A target is matched by how it begins: `kube` would be ours as well. What a client failed at is told by whoever asked.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(
            "info,kube_client=warn,kube_client::client=off,kube_runtime=warn,hyper=warn",
        )
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        // It would be said on standard error as well, and what cannot be said there ends the program: an agent whose disk is full must live.
        .log_internal_errors(false)
        .init();
}

/// Runs a command that talks to a server, on this thread: starting more costs more than they would save.
fn online(command: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CommandError::Local {
            doing: "start the runtime".to_owned(),
            source,
        })?;
    let result = runtime.block_on(command);
    // A read of standard input cannot be cancelled; it must not hold up the end.
    runtime.shutdown_background();
    result
}
