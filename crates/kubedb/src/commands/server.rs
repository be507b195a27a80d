//! `kubedb server`: API, operator and instances of one machine, in one process.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use kubedb_operator::platform::DatabaseKey;
use kubedb_server::{
    AgentGrant, ApiServer,
    process::{ProcessPlatform, ProcessPlatformOptions, ServiceUser},
};
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{client::default_data_folder, error::CommandError, ui::Ui};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubedb server                                     data under /var/lib/kubedb, or ~/.local/share/kubedb
  kubedb server --data-dir ./pg --listen 127.0.0.1:0
Then, in another terminal:
  kubedb create -f scheduled-pg.yaml")]
pub(crate) struct ServeArgs {
    /// Folder of everything: API objects, databases, keys
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the API, on loopback; port 0 picks one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
}

/// Runs until Ctrl-C or SIGTERM; every instance is stopped cleanly then.
pub(super) fn run(arguments: ServeArgs, ui: &Ui) -> Result<(), CommandError> {
    super::log_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| local("start the runtime", source))?;
    runtime.block_on(serve(arguments, ui))
}

fn local(doing: &str, source: std::io::Error) -> CommandError {
    CommandError::Local {
        doing: doing.to_owned(),
        source,
    }
}

fn server(
    doing: &'static str,
) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> CommandError {
    move |source| CommandError::Server { doing, source }
}

async fn serve(arguments: ServeArgs, ui: &Ui) -> Result<(), CommandError> {
    let data = match arguments.data_dir {
        Some(folder) => folder,
        None => default_data_folder(),
    };
    fs::create_dir_all(&data)
        .map_err(|source| local(&format!("make folder {}", data.display()), source))?;
    let data = fs::canonicalize(&data).map_err(|source| local("find the data folder", source))?;
    let _lock = lock(&data)?;
    let user = ServiceUser::find_or_make()
        .map_err(|error| server("prepare the service user")(error.into()))?;
    let program =
        prepare_folders(&data, user).map_err(|source| local("prepare the data folder", source))?;
    let api = ApiServer::open(&data.join("api").join("kubedb.db"))
        .map_err(|error| server("open the API's objects")(error.into()))?;
    let (stop_api, stop_operator) = (CancellationToken::new(), CancellationToken::new());
    let serving = api
        .serve(arguments.listen, &data, stop_api.clone())
        .await
        .map_err(|error| server("serve the API")(error.into()))?;
    let access = {
        let (api, serving) = (api.clone(), Arc::new(serving));
        let kubeconfig = serving.kubeconfig.clone();
        let access: kubedb_server::process::AgentAccess = Arc::new(
            move |key: &DatabaseKey, instance: &str, secrets: &[(String, String)]| {
                let grant = AgentGrant {
                    namespace: key.namespace.clone(),
                    database: key.name.clone(),
                    instance: instance.to_owned(),
                    secrets: secrets.to_vec(),
                };
                Ok(api.agent_kubeconfig(grant, &serving)?)
            },
        );
        (access, kubeconfig)
    };
    let platform = ProcessPlatform::new(ProcessPlatformOptions {
        data: data.clone(),
        cache: cache_folder(),
        program,
        user,
        access: access.0,
    });
    let context = kubedb_operator::Context {
        client: api.client(),
        platform: Arc::new(platform.clone()),
    };
    let operator = tokio::spawn(kubedb_operator::run(context, stop_operator.clone()));
    ui.data(&format!("kubeconfig: {}", access.1.display()));
    wait_for_signal().await?;
    tracing::info!("stops: every instance is shut down cleanly");
    stop_operator.cancel();
    let _ = tokio::time::timeout(std::time::Duration::from_secs(10), operator).await;
    platform.stop_all().await;
    stop_api.cancel();
    Ok(())
}

async fn wait_for_signal() -> Result<(), CommandError> {
    let failed = |source| local("listen for signals", source);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Two servers on one folder would run every instance twice.
fn lock(data: &Path) -> Result<Flock<fs::File>, CommandError> {
    let path = data.join("lock");
    let file = fs::File::create(&path)
        .map_err(|source| local(&format!("write {}", path.display()), source))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| CommandError::ServerRuns {
        folder: data.display().to_string(),
    })
}

/// Folders, and the program where the service user can run it.
fn prepare_folders(data: &Path, user: ServiceUser) -> std::io::Result<PathBuf> {
    let mode = |path: &Path, mode| {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    let program = std::env::current_exe()?;
    mode(&data.join("api"), 0o700)?;
    if user.ids().is_none() {
        mode(data, 0o700)?;
        return Ok(program);
    }
    mode(data, 0o711)?;
    check_passage(data)?;
    let folder = data.join("bin");
    mode(&folder, 0o755)?;
    let copy = folder.join("kubedb");
    let temporary = folder.join("kubedb.new");
    fs::copy(&program, &temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
    // By rename, because running agents hold the old one.
    fs::rename(&temporary, &copy)?;
    Ok(copy)
}

/// PostgreSQL refuses to be root, so its user must be able to pass through every folder above its data.
fn check_passage(data: &Path) -> std::io::Result<()> {
    for folder in data.ancestors() {
        if fs::metadata(folder)?.permissions().mode() & 0o001 == 0 {
            return Err(std::io::Error::other(format!(
                "the databases' user cannot pass through {}: run chmod o+x on it, or choose another --data-dir",
                folder.display()
            )));
        }
    }
    Ok(())
}

fn cache_folder() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("kubedb")
}
