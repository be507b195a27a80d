//! The command line, as clap sees it.

#[cfg(test)]
pub(crate) mod reference;

use std::{env, ffi::OsStr, path::Path};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::{
    client::ServerArgs,
    commands::{
        AgentArgs, CompareArgs, ConnectArgs, CreateArgs, DeleteArgs, DescribeArgs, EditArgs,
        GetArgs, InstallArgs, OperatorArgs, RepoArgs, RestoreArgs, ServeArgs, SnapshotArgs,
        SummarizeArgs, TaskArgs, UninstallArgs, VerifyArgs,
    },
};

/// PostgreSQL databases with scheduled backups that people can trust
#[derive(Debug, Parser)]
#[command(name = "kubedb", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Name of the program where `kubectl` finds it as its own command.
const PLUGIN: &str = "kubectl-kubedb";

/// Reads what was typed; ends the process for help and for what clap refuses.
pub(crate) fn parse() -> Cli {
    let name = called(env::args_os().next().as_deref());
    let command = with_examples(Cli::command(), name).bin_name(name);
    let matches = command.get_matches();
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    }
}

/// The same command, whose examples begin with the words that users type.
fn with_examples(command: clap::Command, name: &str) -> clap::Command {
    let examples = command.get_after_help().map(ToString::to_string);
    let command = match examples {
        Some(text) => {
            let text = text.replace("  kubedb ", &format!("  {name} "));
            command.after_help(text.replace("| kubedb ", &format!("| {name} ")))
        }
        None => command,
    };
    command.mut_subcommands(|command| with_examples(command, name))
}

/// The words that users type to start this program, for help and examples of usage.
fn called(program: Option<&OsStr>) -> &'static str {
    let name = program.map(Path::new).and_then(Path::file_stem);
    if name == Some(OsStr::new(PLUGIN)) {
        "kubectl kubedb"
    } else {
        "kubedb"
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create objects from manifests
    Create(CreateArgs),
    /// Print objects
    Get(GetArgs),
    /// Show all that is known of objects
    Describe(DescribeArgs),
    /// Change an object in an editor
    Edit(EditArgs),
    /// Delete objects and wait until they are gone
    Delete(DeleteArgs),
    /// Open psql on a database
    Connect(ConnectArgs),
    /// Show when a schedule fires, or say it in words
    Schedule(ScheduleArgs),
    /// Say which Snapshots stay and why; pin one
    Snapshot(SnapshotArgs),
    /// Say what would come back, before anything is restored
    Restore(RestoreArgs),
    /// Prove that a Snapshot can be restored
    Verify(VerifyArgs),
    /// Write down what a database holds: tables, their rows and their largest id
    Summarize(SummarizeArgs),
    /// Compare two of what summarize wrote, such as before a backup and after its restore
    Compare(CompareArgs),
    /// Look into a bucket and restore from it, without any server
    Repo(RepoArgs),
    /// Install kubedb into a Kubernetes cluster, or bring it to this version
    Install(InstallArgs),
    /// Take kubedb out of a cluster; databases and Snapshots stay
    Uninstall(UninstallArgs),
    /// Run databases on this machine: API, operator and instances in one process
    Server(ServeArgs),
    /// Run the controllers on a Kubernetes
    Operator(OperatorArgs),
    /// Run one instance (platforms do)
    #[command(hide = true)]
    Agent(AgentArgs),
    /// Do a piece of work on a store (platforms do)
    #[command(hide = true)]
    Task(TaskArgs),
    /// Tell the story of a scheduled backup on this machine
    #[command(after_help = "\
Everything happens in a folder of its own below TMPDIR, with a server of its own; the end, Ctrl-C too, removes both.

Examples:
  kubedb demo")]
    Demo,
    /// Print the version
    #[command(after_help = "Examples:\n  kubedb version --short")]
    Version {
        /// The number alone
        #[arg(long)]
        short: bool,
    },
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  source <(kubedb completion bash)
  kubedb completion bash > /etc/bash_completion.d/kubedb
  kubedb completion zsh > \"${fpath[1]}/_kubedb\"
  kubedb completion fish > ~/.config/fish/completions/kubedb.fish")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

const FORMS: &str = "\
Forms:
  minute hour day-of-month month day-of-week     0 2 * * 1-5
  second minute hour day-of-month month dow      */30 * * * * *
  @yearly @monthly @weekly @daily @hourly        @daily
  @every DURATION                                @every 6h
  TZ=ZONE before any of them                     TZ=Asia/Tokyo 0 5 * * *

Examples:
  kubedb schedule next '0 2 * * *' --count 3
  kubedb schedule next '@every 6h' --after 2018-02-08T10:53:41Z -o json
  kubedb schedule explain '*/15 8-18 * * 1-5' --time-zone Europe/Berlin";

#[derive(Debug, Args)]
#[command(after_help = FORMS)]
pub(crate) struct ScheduleArgs {
    #[command(subcommand)]
    pub(crate) command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Print the next times, in UTC
    #[command(after_help = FORMS)]
    Next {
        /// The schedule
        #[arg(value_name = "EXPR", allow_hyphen_values = true)]
        expression: String,
        /// Count from this time (RFC 3339); default now
        #[arg(long, value_name = "TIME")]
        after: Option<String>,
        /// How many times to print
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
        /// Zone of the expression; default UTC
        #[arg(long, value_name = "ZONE")]
        time_zone: Option<String>,
        /// How to print
        #[arg(short, long)]
        output: Option<ListOutput>,
    },
    /// Say a schedule in words
    #[command(after_help = FORMS)]
    Explain {
        /// The schedule
        #[arg(value_name = "EXPR", allow_hyphen_values = true)]
        expression: String,
        /// Zone of the expression; default UTC
        #[arg(long, value_name = "ZONE")]
        time_zone: Option<String>,
    },
}

/// Formats of a plain list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListOutput {
    /// A JSON array of strings
    Json,
}
