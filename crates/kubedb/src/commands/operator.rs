//! `kubedb operator`: the controllers, on a Kubernetes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};
use kubedb_api::agent_config::WAYS_OUT;
use kubedb_operator::{
    Namespaces, health,
    leader::Candidate,
    metrics::Metrics,
    platform::kubernetes::{KubernetesOptions, KubernetesPlatform},
    webhook,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{selection, signals::StopSignals};
use crate::{
    client::{ServerArgs, Session},
    error::CommandError,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Started by the Deployment that `kubedb install` makes; several may run, and one of them leads.

Examples:
  kubedb operator --image kubedb:0.1.0
  kubedb operator --image kubedb:0.1.0 --watch-namespace demo --watch-namespace prod")]
pub(crate) struct OperatorArgs {
    /// Image of kubedb itself, whose program is put beside PostgreSQL
    #[arg(long, env = "KUBEDB_IMAGE", value_name = "IMAGE", value_parser = NonEmptyStringValueParser::new())]
    image: String,
    /// Namespaces to stay within, repeatable or with commas between; all when absent or empty
    #[arg(long, env = "KUBEDB_WATCH_NAMESPACE", value_name = "NAMESPACE", value_delimiter = ',',
          value_parser = namespace_or_none)]
    watch_namespace: Vec<String>,
    /// Namespace of the Lease by which one of several operators leads; `kubedb` when empty
    #[arg(
        long,
        env = "POD_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = OWN_NAMESPACE,
        value_parser = namespace_or_own
    )]
    namespace: String,
    /// Name under which it leads; one of its own for each process
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// Address at which it says how it is, and answers with its metrics
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    health: SocketAddr,
    /// Address at which it answers API servers about objects to be stored; without it, it does not
    #[arg(long, value_name = "ADDRESS")]
    webhook: Option<SocketAddr>,
}

/// Where an operator that is told no other is at home.
const OWN_NAMESPACE: &str = "kubedb";

/// A namespace, or nothing: a variable of a manifest that is there and empty is as one that is not.
fn namespace_or_none(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Ok(String::new())
    } else {
        selection::namespace(text)
    }
}

fn namespace_or_own(text: &str) -> Result<String, String> {
    selection::namespace(if text.is_empty() { OWN_NAMESPACE } else { text })
}

impl OperatorArgs {
    /// The namespaces to stay within. An empty name alone means all; beside others it may be one that was lost, and all is not to be had by mistake.
    fn watched(&self) -> Result<Namespaces, CommandError> {
        let names = &self.watch_namespace;
        let is_empty = |name: &String| name.is_empty();
        if names.iter().all(is_empty) {
            return Ok(Namespaces::default());
        }
        if names.iter().any(is_empty) {
            let message = format!(
                "--watch-namespace (KUBEDB_WATCH_NAMESPACE) has an empty name among others: {:?}. Leave it out; alone it would mean all namespaces",
                names.join(",")
            );
            return Err(CommandError::usage(message));
        }
        Ok(names.iter().collect())
    }
}

/// Variables that agents get as the operator has them. What says who somebody is in a cloud is not among them: that is for each pod's own
/// service account to say.
fn handed_on() -> Vec<(String, String)> {
    let set = WAYS_OUT.iter().filter_map(|name| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        value.map(|value| ((*name).to_owned(), value))
    });
    set.collect()
}

/// How long the controllers may take to end what they are at.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long the webhook goes on answering when the operator stops: API servers learn of its going some time later.
const LINGER: Duration = Duration::from_secs(5);

/// Runs until SIGTERM, or until another leads.
pub(super) fn run(arguments: OperatorArgs, server: &ServerArgs) -> Result<(), CommandError> {
    super::log_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| local("start the runtime", source))?;
    let result = runtime.block_on(operate(arguments, server));
    runtime.shutdown_background();
    result
}

fn local(doing: &str, source: std::io::Error) -> CommandError {
    CommandError::Local {
        doing: doing.to_owned(),
        source,
    }
}

async fn operate(arguments: OperatorArgs, server: &ServerArgs) -> Result<(), CommandError> {
    let namespaces = arguments.watched()?;
    let mut signals =
        StopSignals::listen().map_err(|source| local("listen for signals", source))?;
    let session = Session::open(server).await?;
    let listener = TcpListener::bind(arguments.health)
        .await
        .map_err(|source| local("listen where the operator says how it is", source))?;
    let (ready, is_ready) = watch::channel(false);
    let stop = CancellationToken::new();
    let metrics = Metrics::default();
    let (told, ended) = (metrics.clone(), stop.clone());
    tokio::spawn(async move { health::serve(listener, is_ready, &told, ended).await });
    let hook = Hook::start(&arguments, &session.client, ready.clone(), &metrics).await?;
    let asked = (arguments, namespaces);
    let result = lead(asked, session.client, &metrics, &mut signals, &stop).await;
    // First it is no longer asked, then it no longer answers.
    ready.send_replace(false);
    if let Some(hook) = hook {
        hook.end().await;
    }
    stop.cancel();
    result
}

/// The webhook, which every operator answers, whoever leads.
struct Hook {
    serving: webhook::Serving,
    stop: CancellationToken,
}

impl Hook {
    /// Says that the operator is ready once it has a certificate; without a webhook, at once.
    async fn start(
        arguments: &OperatorArgs,
        client: &kube::Client,
        ready: watch::Sender<bool>,
        metrics: &Metrics,
    ) -> Result<Option<Self>, CommandError> {
        let Some(listen) = arguments.webhook else {
            ready.send_replace(true);
            return Ok(None);
        };
        let stop = CancellationToken::new();
        let options = webhook::Options {
            listen,
            metrics: metrics.clone(),
            ..webhook::Options::new(&arguments.namespace)
        };
        let serving = webhook::start(client.clone(), options, stop.clone()).await;
        let serving = serving.map_err(|error| match error {
            webhook::WebhookError::Listen { source, .. } => {
                local("listen where the webhook answers", source)
            }
        })?;
        let has_certificate = serving.ready();
        tokio::spawn(async move {
            has_certificate.await;
            ready.send_replace(true);
        });
        Ok(Some(Self { serving, stop }))
    }

    async fn end(self) {
        tokio::time::sleep(LINGER).await;
        self.stop.cancel();
        self.serving.ended().await;
    }
}

/// Waits to lead, and leads until a signal or until another does.
async fn lead(
    (arguments, namespaces): (OperatorArgs, Namespaces),
    client: kube::Client,
    metrics: &Metrics,
    signals: &mut StopSignals,
    stop: &CancellationToken,
) -> Result<(), CommandError> {
    let identity = arguments
        .identity
        .unwrap_or_else(|| format!("{}-{}", hostname(), std::process::id()));
    let mut candidate = Candidate::new(client.clone(), &arguments.namespace, identity);
    let leads = tokio::select! {
        leads = candidate.acquire(stop) => leads,
        () = signals.next() => false,
    };
    if !leads {
        return Ok(());
    }
    metrics.leads(true);
    let options = KubernetesOptions {
        image: arguments.image,
        namespaces: namespaces.clone(),
        environment: handed_on(),
    };
    // The controllers end before the webhook does.
    let stop = stop.child_token();
    // What the platform asks is counted as well.
    let counted = metrics.counted(client.clone());
    let platform = KubernetesPlatform::start(counted, options, stop.clone());
    let context = kubedb_operator::Context {
        client,
        platform: Arc::new(platform),
        namespaces,
        metrics: metrics.clone(),
    };
    let controllers = tokio::spawn(kubedb_operator::run(context, stop.clone()));
    let lost = tokio::select! {
        () = candidate.hold() => true,
        () = signals.next() => false,
    };
    metrics.leads(false);
    stop.cancel();
    if tokio::time::timeout(STOP_LIMIT, controllers).await.is_err() {
        tracing::warn!("the controllers do not end; what they are at is left to the next leader");
    }
    if lost {
        return Err(CommandError::LostLead);
    }
    candidate.release().await;
    Ok(())
}

/// Name of the machine, or of the pod.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "operator".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        operator: OperatorArgs,
    }

    fn parsed(arguments: &[&str]) -> Result<OperatorArgs, String> {
        let words = ["operator", "--image", "kubedb:1"].iter().chain(arguments);
        let parsed = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(parsed.operator)
    }

    fn watched(arguments: &[&str]) -> Result<Namespaces, String> {
        let arguments = parsed(arguments)?;
        arguments.watched().map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_namespace_to_watch_means_all() {
        let all = Namespaces::default();
        assert_eq!(watched(&[]), Ok(all.clone()));
        assert_eq!(watched(&["--watch-namespace", ""]), Ok(all.clone()));
        assert_eq!(watched(&["--watch-namespace="]), Ok(all));
        let some: Namespaces = ["demo", "prod"].into_iter().collect();
        assert_eq!(watched(&["--watch-namespace", "demo,prod"]), Ok(some));
        for names in ["demo,", ",demo", "demo,,prod"] {
            let refused = watched(&["--watch-namespace", names]).unwrap_err();
            assert!(refused.contains("an empty name among others"), "{refused}");
        }
        let refused = watched(&["--watch-namespace", "Demo"]).unwrap_err();
        assert!(refused.contains("only lower-case letters"), "{refused}");
    }

    #[test]
    fn an_empty_namespace_of_its_own_is_the_usual_one() {
        assert_eq!(parsed(&["--namespace", ""]).unwrap().namespace, "kubedb");
        assert_eq!(parsed(&["--namespace", "here"]).unwrap().namespace, "here");
        assert!(parsed(&["--namespace", "../secrets"]).is_err());
    }
}
