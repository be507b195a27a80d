//! `kubedb agent`: the process beside one PostgreSQL. Started by a platform, not by people.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kubedb_agent::{
    archive::client::{self, Answer},
    pod,
};
use kubedb_api::agent_config::{AgentConfig, POD_CONFIG, POD_NAME, PodConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::CommandError;

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Run one instance
    Run(RunArgs),
    /// Archive a file of WAL; PostgreSQL runs this
    WalPush(WalPushArgs),
    /// Fetch a file of WAL; PostgreSQL runs this
    WalFetch(WalFetchArgs),
    /// Copy this program to where the database's container finds it
    Install {
        /// Folder that the container shares
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
struct WalPushArgs {
    /// Where the agent listens
    socket: PathBuf,
    /// The file
    name: String,
}

#[derive(Debug, Args)]
struct WalFetchArgs {
    /// Where the agent listens
    socket: PathBuf,
    /// The file
    name: String,
    /// Where to put it
    to: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true)]
struct RunArgs {
    /// What the platform wrote for this instance
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read it from the pod's environment
    #[arg(long, conflicts_with = "config")]
    pod: bool,
}

pub(super) fn run(arguments: AgentArgs) -> Result<(), CommandError> {
    match arguments.command {
        AgentCommand::Run(arguments) => run_instance(arguments),
        AgentCommand::WalPush(arguments) => {
            let answer = client::push(&arguments.socket, &arguments.name);
            finish("archive", NOT_ARCHIVED, &arguments.name, answer)
        }
        AgentCommand::WalFetch(arguments) => {
            let WalFetchArgs { socket, name, to } = arguments;
            let answer = client::fetch(&socket, &name, &to);
            finish("fetch", NOT_FETCHED, &name, answer)
        }
        AgentCommand::Install { folder } => pod::install(&folder).map(drop).map_err(failed),
    }
}

/// PostgreSQL takes 1 for "there is no such file", ends its recovery and promotes; so nothing but a proven absence may end so.
fn finish(
    verb: &str,
    code: u8,
    name: &str,
    answer: std::io::Result<Answer>,
) -> Result<(), CommandError> {
    let why = match answer {
        Ok(Answer::Done) => return Ok(()),
        Ok(Answer::Absent) => return Err(CommandError::Reported { code: ABSENT }),
        Ok(Answer::Failed(why)) => why,
        Err(error) => format!("the agent does not answer: {error}"),
    };
    tell(&format!("kubedb: failed to {verb} {name}: {why}"));
    Err(CommandError::Reported { code })
}

#[expect(
    clippy::print_stderr,
    reason = "PostgreSQL puts it into its log, whose lines have a form of their own"
)]
fn tell(line: &str) {
    eprintln!("{line}");
}

/// What PostgreSQL's `restore_command` says of a file that is not there.
const ABSENT: u8 = 1;
/// From 126 on it stops a recovery instead of ending it.
const NOT_FETCHED: u8 = 255;
/// Its archiver asks again.
const NOT_ARCHIVED: u8 = 1;

fn failed(error: pod::PodError) -> CommandError {
    CommandError::Server {
        doing: "run in this pod",
        source: error.into(),
    }
}

/// From the file that a platform wrote, or from what a pod is told.
fn configuration(arguments: RunArgs) -> Result<AgentConfig, CommandError> {
    let local = |doing: String| move |source| CommandError::Local { doing, source };
    if let Some(path) = arguments.config {
        let text = std::fs::read(&path).map_err(local(format!("read {}", path.display())))?;
        return serde_json::from_slice(&text)
            .map_err(std::io::Error::other)
            .map_err(local(format!("understand {}", path.display())));
    }
    let variable = |name: &str| {
        std::env::var(name)
            .map_err(std::io::Error::other)
            .map_err(local(format!("read variable {name}")))
    };
    let told: PodConfig = serde_json::from_str(&variable(POD_CONFIG)?)
        .map_err(std::io::Error::other)
        .map_err(local(format!("understand variable {POD_CONFIG}")))?;
    pod::configuration(told, &variable(POD_NAME)?).map_err(failed)
}

fn run_instance(arguments: RunArgs) -> Result<(), CommandError> {
    confine();
    super::log_to_stderr();
    let local = |doing: String| move |source| CommandError::Local { doing, source };
    let config = configuration(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(local("start the runtime".to_owned()))?;
    runtime.block_on(async {
        let failed = |source| CommandError::Local {
            doing: "listen for signals".to_owned(),
            source,
        };
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        // A server that ends makes orphans of its agents, and the kernel hangs up on orphans that are stopped. They have no terminal:
        // that the signal is listened for is all it takes to outlive it.
        let _hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let asked = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            asked.cancel();
        });
        kubedb_agent::run(config, shutdown)
            .await
            .map_err(|error| CommandError::Server {
                doing: "run the instance",
                source: error.into(),
            })
    })
}

/// Leaves behind what whoever started the platform may have handed on. Once, before any thread or file.
pub(super) fn confine() {
    // PostgreSQL and the agent never need more rights than they begin with.
    let _ = nix::sys::prctl::set_no_new_privs();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let inherited: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|file| *file > 2)
        .collect();
    for file in inherited {
        // One of them was the listing itself, and is closed already.
        let _ = nix::unistd::close(file);
    }
}
