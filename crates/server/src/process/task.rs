//! Work on a store that belongs to no instance: a process of the databases' user, which ends when it is done.

use std::{
    collections::HashMap,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use kubedb_api::agent_config::{DataTask, TaskInput};
use kubedb_operator::platform::TaskState;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    task::JoinHandle,
};

use super::{platform::BoxError, user::ServiceUser};

/// What is kept of what a process says.
const SAID_MAX: u64 = 64 << 10;

/// A process, or what became of it.
#[derive(Debug)]
struct Task {
    state: Arc<Mutex<TaskState>>,
    handle: JoinHandle<()>,
}

/// Processes by the UID of their Snapshot.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    tasks: Mutex<HashMap<String, Task>>,
}

impl Tasks {
    /// Begins it unless it was begun, and says where it stands.
    pub(super) fn look(
        &self,
        task: &DataTask,
        program: &Path,
        user: ServiceUser,
        client: &Client,
    ) -> TaskState {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = tasks.entry(task.snapshot_uid.clone()).or_insert_with(|| {
            let state = Arc::new(Mutex::new(TaskState::Running { obstacle: None }));
            let (end, task) = (Arc::clone(&state), task.clone());
            let (program, client) = (program.to_owned(), client.clone());
            let handle = tokio::spawn(async move {
                let ended = run(&task, &program, user, client).await;
                let ended = match ended {
                    Ok(()) => TaskState::Succeeded,
                    Err(error) => TaskState::Failed {
                        reason: error.to_string(),
                    },
                };
                *end.lock().unwrap_or_else(PoisonError::into_inner) = ended;
            });
            Task { state, handle }
        });
        let state = begun.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone()
    }

    /// Forgets it; a process that still runs is ended.
    pub(super) fn forget(&self, task: &DataTask) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = tasks.remove(&task.snapshot_uid) {
            task.handle.abort();
        }
    }

    /// Ends all of them: the next server begins them anew.
    pub(super) fn end(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, task) in tasks.drain() {
            task.handle.abort();
        }
    }
}

/// Runs the process to its end; the error is its last word.
async fn run(
    task: &DataTask,
    program: &Path,
    user: ServiceUser,
    client: Client,
) -> Result<(), BoxError> {
    let input = TaskInput {
        credentials: credentials(task, client).await?,
        task: task.clone(),
    };
    let mut command = Command::from(user.command(program));
    command
        .args(["task", "delete-data"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .current_dir("/")
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let told = async move {
        if let Some(mut stdin) = stdin {
            // One that ended says why itself.
            let _ = stdin.write_all(&serde_json::to_vec(&input)?).await;
        }
        Ok::<_, serde_json::Error>(())
    };
    let said = async move {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let mut stderr = stderr;
            let _ = (&mut stderr).take(SAID_MAX).read_to_end(&mut said).await;
            // Whoever is not read from stands still.
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        }
        said
    };
    let (told, said, status) = tokio::join!(told, said, child.wait());
    told?;
    let status = status?;
    let said = String::from_utf8_lossy(&said);
    if status.success() {
        return Ok(());
    }
    let line = said.trim().lines().last().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    Err(if line.is_empty() {
        format!("its process ended: {status}").into()
    } else {
        line.to_owned().into()
    })
}

/// The values of the storage Secret. They go from the API to the one process that needs them, and are kept nowhere.
async fn credentials(
    task: &DataTask,
    client: Client,
) -> Result<std::collections::BTreeMap<String, Vec<u8>>, BoxError> {
    let name = match &task.storage.storage_secret_name {
        Some(name) if task.storage.local.is_none() => name,
        _ => return Ok(std::collections::BTreeMap::new()),
    };
    let secrets: Api<Secret> = Api::namespaced(client, &task.namespace);
    let secret = secrets.get_opt(name).await?;
    let secret = secret.ok_or_else(|| format!("secrets \"{name}\" not found"))?;
    let data = secret.data.unwrap_or_default().into_iter();
    Ok(data.map(|(key, value)| (key, value.0)).collect())
}
