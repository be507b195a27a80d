//! `cargo xtask bench backup`: our engine and its peers at the same work, in turn, on the same database and the same S3 server.

mod bare;
mod barman;
mod base_backup;
mod cluster;
mod latency;
mod ours;
mod peer;
mod report;
mod run;
mod s3;
mod wal;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Takes and restores Snapshots of one database by our engine, pgBackRest, barman-cloud and pg_basebackup, in turn, and compares.
#[derive(Parser, Debug)]
struct Arguments {
    /// Size of the database.
    #[arg(long, default_value_t = 3)]
    gigabytes: u32,
    /// Runs of each work by each tool.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench/backup.json")]
    out: PathBuf,
    /// Has our engine encrypt; the peers do not.
    #[arg(long)]
    encrypt: bool,
    /// Compares the storing of WAL alone, and what it costs those who write it.
    #[arg(long)]
    wal_only: bool,
    /// What `archive_command` runs of this program: a socket.
    #[arg(long, hide = true, requires = "name")]
    wal_push: Option<PathBuf>,
    /// And the file.
    #[arg(long, hide = true)]
    name: Option<String>,
    /// One piece of work, as a process of its own; written by this program for itself.
    #[arg(long, hide = true)]
    work: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match (&arguments.work, &arguments.wal_push) {
        (Some(work), _) => ours::work(work),
        (None, Some(socket)) => wal::push(socket, arguments.name.as_deref().unwrap_or_default()),
        (None, None) => run::compare(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            say(&format!("error: {reason}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line of progress.
#[expect(
    clippy::print_stderr,
    reason = "the one place where this program prints"
)]
fn say(line: &str) {
    eprintln!("{line}");
}

/// Words for what a call of the system refused.
fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("failed to {what}: {error}")
}
