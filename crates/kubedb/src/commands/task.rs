//! `kubedb task`: work on a store without an instance. Started by a platform, not by people.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use clap::{Args, Subcommand};
use kubedb_agent::task::delete_data;
use kubedb_api::agent_config::{TASK, TASK_SECRET, TaskInput};

use super::agent::confine;
use crate::error::CommandError;

/// What is read from standard input at most: a Secret has one MiB, which is longer as JSON.
const INPUT_MAX: u64 = 8 << 20;
/// Largest value of a Secret that is read.
const VALUE_MAX: u64 = 1 << 20;
/// Nobody waits longer; what is left then is the next attempt's.
const LONGEST: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    #[command(subcommand)]
    command: TaskCommand,
}

#[derive(Debug, Subcommand)]
enum TaskCommand {
    /// Delete the data of one Snapshot
    DeleteData {
        /// Read what to do from the pod's environment and the Secret that is mounted; else from standard input
        #[arg(long)]
        pod: bool,
    },
}

pub(super) fn run(arguments: TaskArgs) -> Result<(), CommandError> {
    let TaskCommand::DeleteData { pod } = arguments.command;
    confine();
    super::log_to_stderr();
    let local = |doing: &str| {
        let doing = doing.to_owned();
        move |source| CommandError::Local { doing, source }
    };
    let input = if pod { of_pod() } else { of_input() };
    let TaskInput { task, credentials } = input.map_err(local("read what to do"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(local("start the runtime"))?;
    let deleted = runtime.block_on(async {
        let work = tokio::time::timeout(LONGEST, delete_data(&task, credentials));
        let failed = |reason: String| CommandError::Task {
            reason: reason.replace('\n', " "),
        };
        match work.await {
            Ok(done) => done.map_err(|error| failed(error.line())),
            Err(_) => Err(failed(format!("not done within {} s", LONGEST.as_secs()))),
        }
    })?;
    tracing::info!(
        snapshot = task.snapshot,
        objects = deleted.objects,
        bytes = deleted.bytes,
        "deleted"
    );
    Ok(())
}

fn of_input() -> io::Result<TaskInput> {
    let mut text = Vec::new();
    io::stdin().take(INPUT_MAX).read_to_end(&mut text)?;
    // What is wrong with it could quote it.
    serde_json::from_slice(&text).map_err(|_| io::Error::other("standard input is no task"))
}

fn of_pod() -> io::Result<TaskInput> {
    let text = std::env::var(TASK).map_err(io::Error::other)?;
    Ok(TaskInput {
        task: serde_json::from_str(&text)?,
        credentials: secret(Path::new(TASK_SECRET))?,
    })
}

/// The files of a mounted Secret; none where none is mounted. What begins with a dot is the kubelet's.
fn secret(folder: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut values = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let Some(key) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        if key.starts_with("..") {
            continue;
        }
        let mut value = Vec::new();
        let file = fs::File::open(entry.path())?;
        file.take(VALUE_MAX).read_to_end(&mut value)?;
        values.insert(key, value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_secret_is_its_files() {
        let folder = tempfile::tempdir().unwrap();
        assert!(secret(&folder.path().join("absent")).unwrap().is_empty());
        // As a kubelet writes it: the values lie in a folder that links lead to.
        let real = folder.path().join("..2026_11_26");
        fs::create_dir(&real).unwrap();
        fs::write(real.join("KEY"), "value").unwrap();
        let mounted = folder.path().join("KEY");
        std::os::unix::fs::symlink(real.join("KEY"), mounted).unwrap();
        let found = secret(folder.path()).unwrap();
        assert_eq!(
            found,
            BTreeMap::from([("KEY".to_owned(), b"value".to_vec())])
        );
    }
}
