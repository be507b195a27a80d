//! `kubedb server`: API, operator and instances of one machine, in one process.

mod folder;
mod process;
mod rotate;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use kubedb_operator::{
    metrics::{self, Metrics},
    platform::DatabaseKey,
};
use kubedb_server::{
    AgentGrant, ApiServer, ServeError, Serving,
    process::{AgentAccess, ProcessPlatform, ProcessPlatformOptions, ServiceUser, stop_orphans},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::signals::StopSignals;
use crate::{
    client::{ServerArgs, default_data_folder},
    error::CommandError,
    ui::Ui,
};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  kubedb server                                     data under /var/lib/kubedb, or ~/.local/share/kubedb
  kubedb server --data-dir ./pg --listen 127.0.0.1:0
  kubedb server --metrics 127.0.0.1:7480            /metrics, and /targets for a Prometheus' http_sd_configs
  kubedb server rotate                              new certificates and tokens for the next start
Then, in another terminal:
  kubedb create -f scheduled-pg.yaml"
)]
pub(crate) struct ServeArgs {
    #[command(subcommand)]
    command: Option<ServeCommand>,
    /// Folder of everything: API objects, databases, keys
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the API, on loopback; port 0 picks one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// Address, on loopback, of metrics of the server and all databases, and of where each database's own are; none without it
    #[arg(long, env = "KUBEDB_METRICS", value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
enum ServeCommand {
    /// Forget certificates and tokens, so that the next start makes new ones
    Rotate(rotate::RotateArgs),
}

/// How long the operator may take to end what it is at. Nothing it does then can start an instance any more.
const OPERATOR_LIMIT: Duration = Duration::from_secs(3);
/// How long work on other threads, such as unpacking an archive, may hold up the end.
const THREADS_LIMIT: Duration = Duration::from_secs(1);

/// Runs until Ctrl-C, SIGTERM, or the end of its terminal; every instance is stopped cleanly then.
pub(super) fn run(arguments: ServeArgs, server: &ServerArgs, ui: &Ui) -> Result<(), CommandError> {
    super::log_to_stderr();
    if server.kubeconfig.is_some() || server.context.is_some() {
        return Err(CommandError::usage(
            "kubedb server serves an API of its own, and --kubeconfig and --context name another one; kubedb operator runs databases for that",
        ));
    }
    if let Some(ServeCommand::Rotate(arguments)) = arguments.command {
        return rotate::run(arguments, ui);
    }
    process::prepare();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| local("start the runtime", source))?;
    let result = runtime.block_on(serve(arguments, ui));
    runtime.shutdown_timeout(THREADS_LIMIT);
    result
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
    // Before anything is started: what a signal ended from here on would be left running.
    let mut signals =
        StopSignals::listen().map_err(|source| local("listen for signals", source))?;
    let data = folder::open(arguments.data_dir.unwrap_or_else(default_data_folder))?;
    let user = ServiceUser::find_or_make()
        .map_err(|error| server("prepare the service user")(error.into()))?;
    let program = folder::prepare(&data.path, user)
        .map_err(|source| local("prepare the data folder", source))?;
    let api = ApiServer::open(&data.path.join("api").join("kubedb.db"))
        .map_err(|error| server("open the API's objects")(error.into()))?;
    let (stop_api, stop_operator) = (CancellationToken::new(), CancellationToken::new());
    let serving = api
        .serve(arguments.listen, &data.path, stop_api.clone())
        .await
        .map_err(|error| match error {
            ServeError::Listen { address, source }
                if source.kind() == std::io::ErrorKind::AddrInUse =>
            {
                CommandError::AddressTaken { address }
            }
            error => server("serve the API")(error.into()),
        })?;
    let kubeconfig = serving.kubeconfig.clone();
    let platform = ProcessPlatform::new(ProcessPlatformOptions {
        data: data.path.clone(),
        cache: folder::cache(),
        program,
        user,
        access: access(&api, serving),
        client: api.client(),
    });
    let metrics = Metrics::default();
    metrics.leads(true);
    let measured = tell_metrics(arguments.metrics, &metrics, stop_operator.clone()).await?;
    let context = kubedb_operator::Context {
        client: api.client(),
        platform: Arc::new(platform.clone()),
        namespaces: kubedb_operator::Namespaces::default(),
        metrics,
    };
    let operator = tokio::spawn(kubedb_operator::run(context, stop_operator.clone()));
    let orphans = tokio::spawn(stop_orphans(platform.clone(), api.client()));
    ui.data(&format!("kubeconfig: {}", kubeconfig.display()));
    if let Some(address) = measured {
        ui.note(&format!("metrics: http://{address}/metrics"));
    }
    signals.next().await;
    ui.note("stopping: every instance is shut down cleanly; Ctrl-C again leaves them to it");
    orphans.abort();
    stop_operator.cancel();
    let stopped = async {
        let operator = tokio::time::timeout(OPERATOR_LIMIT, operator);
        tokio::join!(operator, platform.stop_all()).1
    };
    let is_down = tokio::select! {
        is_down = stopped => is_down,
        () = signals.next() => return Err(CommandError::Interrupted),
    };
    stop_api.cancel();
    if is_down {
        Ok(())
    } else {
        Err(CommandError::StillRunning)
    }
}

/// Answers with metrics, where somebody wants them. They name databases and say how they are, and hold no secret, so nobody is asked who he is; but others of the
/// machine's network are not among those who may ask.
async fn tell_metrics(
    address: Option<SocketAddr>,
    metrics: &Metrics,
    stop: CancellationToken,
) -> Result<Option<SocketAddr>, CommandError> {
    let Some(address) = address else {
        return Ok(None);
    };
    if !address.ip().is_loopback() {
        let error = ServeError::NotLoopback(address);
        return Err(server("answer with metrics")(error.into()));
    }
    let failed = |source| local("listen where metrics are asked for", source);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tokio::spawn(metrics::serve::serve(listener, metrics.clone(), stop));
    Ok(Some(address))
}

/// How agents come by their kubeconfigs.
fn access(api: &ApiServer, serving: Serving) -> AgentAccess {
    let api = api.clone();
    Arc::new(
        move |key: &DatabaseKey, instance: &str, secrets: &[(String, String)]| {
            let grant = AgentGrant {
                namespace: key.namespace.clone(),
                database: key.name.clone(),
                instance: instance.to_owned(),
                secrets: secrets.to_vec(),
            };
            Ok(api.agent_kubeconfig(grant, &serving)?)
        },
    )
}
