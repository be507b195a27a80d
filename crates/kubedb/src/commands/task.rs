//! `kubedb task`: work on a store without an instance. Started by a platform, not by people.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use clap::{Args, Subcommand};
use kubedb_agent::{
    served::{listen, serve},
    task::{delete_data, line},
};
use kubedb_api::agent_config::{
    TASK, TASK_SECRET, TaskInput, VOLUME_CERTIFICATES, VOLUME_TASK, VolumeTask,
};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::{agent::confine, signals::StopSignals};
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
    /// Serve a mounted volume to the agents of one database; says in the pod's environment which
    ServeVolume,
}

pub(super) fn run(arguments: TaskArgs) -> Result<(), CommandError> {
    confine();
    super::log_to_stderr();
    match arguments.command {
        TaskCommand::DeleteData { pod } => delete(pod),
        TaskCommand::ServeVolume => serve_volume(),
    }
}

fn local(doing: &str) -> impl Fn(io::Error) -> CommandError {
    let doing = doing.to_owned();
    move |source| CommandError::Local {
        doing: doing.clone(),
        source,
    }
}

fn runtime() -> Result<Runtime, CommandError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(local("start the runtime"))
}

fn failed(reason: &str) -> CommandError {
    CommandError::Task {
        reason: reason.replace('\n', " "),
    }
}

fn serve_volume() -> Result<(), CommandError> {
    let text = std::env::var(VOLUME_TASK).map_err(io::Error::other);
    let task = text.and_then(|text| Ok(serde_json::from_str::<VolumeTask>(&text)?));
    let task = task.map_err(local("read what to serve"))?;
    runtime()?.block_on(async {
        let mut signals = StopSignals::listen().map_err(local("listen for signals"))?;
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            signals.next().await;
            stop.cancel();
        });
        let serving = async {
            let listener = listen().await?;
            serve(&task, listener, Path::new(VOLUME_CERTIFICATES), shutdown).await
        };
        serving.await.map_err(|error| failed(&line(&error)))
    })
}

fn delete(pod: bool) -> Result<(), CommandError> {
    let input = if pod { of_pod() } else { of_input() };
    let TaskInput { task, credentials } = input.map_err(local("read what to do"))?;
    let deleted = runtime()?.block_on(async {
        let work = tokio::time::timeout(LONGEST, delete_data(&task, credentials));
        match work.await {
            Ok(done) => done.map_err(|error| failed(&error.line())),
            Err(_) => Err(failed(&format!("not done within {} s", LONGEST.as_secs()))),
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
