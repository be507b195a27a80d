//! The admission webhook: sets defaults and refuses wrong manifests before they are stored, in the words that `kubedb server` has for them. Every
//! replica serves it, with certificates that the replicas make and renew together.

mod certificates;
pub mod configuration;
mod keeper;
mod listen;
mod review;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kube::Client;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use self::certificates::Lifetimes;
use self::keeper::{Keeper, Tls};
use crate::metrics::Metrics;

/// What to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The operator's namespace, where the Service and the Secret are.
    pub namespace: String,
    /// How long authorities and certificates live.
    pub lifetimes: Lifetimes,
    /// Between two looks at the Secret and the configurations.
    pub look_every: Duration,
    /// Who counts the questions.
    pub metrics: Metrics,
}

impl Options {
    /// As it is in a cluster: all addresses, since API servers come from elsewhere.
    #[must_use]
    pub fn new(namespace: impl Into<String>) -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], configuration::PORT)),
            namespace: namespace.into(),
            lifetimes: Lifetimes::default(),
            look_every: Duration::from_secs(15),
            metrics: Metrics::default(),
        }
    }

    /// Names of the certificate; API servers ask for the first.
    fn names(&self) -> Vec<String> {
        let (service, namespace) = (configuration::SERVICE, &self.namespace);
        vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
        ]
    }
}

/// Why the webhook does not run.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The port.
    #[error("failed to listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A webhook at work.
#[derive(Debug)]
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    ready: watch::Receiver<Option<Tls>>,
    task: JoinHandle<()>,
}

impl Serving {
    /// Whether it has a certificate to answer with; for a readiness probe.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.borrow().is_some()
    }

    /// Until it has one.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ready = self.ready.clone();
        async move {
            let _ = ready.wait_for(Option::is_some).await;
        }
    }

    /// Until the shutdown that it was started with.
    pub async fn ended(self) {
        let _ = self.task.await;
    }
}

/// Starts the webhook. An API server that is away holds nothing up: it is asked until it answers.
///
/// # Errors
/// When the port cannot be had.
pub async fn start(
    client: Client,
    options: Options,
    shutdown: CancellationToken,
) -> Result<Serving, WebhookError> {
    let failed = |source| WebhookError::Listen {
        address: options.listen,
        source,
    };
    let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (serve, ready) = watch::channel(None);
    let reviewer = Arc::new(review::Reviewer {
        client: client.clone(),
        metrics: options.metrics.clone(),
    });
    let keeper = Keeper {
        client,
        options,
        serve,
        served: String::new(),
    };
    let listening = listen::run(listener, ready.clone(), reviewer, shutdown.clone());
    let task = tokio::spawn(async move {
        tokio::join!(keeper.run(shutdown), listening);
    });
    Ok(Serving {
        address,
        ready,
        task,
    })
}

/// Runs the webhook until `shutdown`.
///
/// # Errors
/// When the port cannot be had.
pub async fn serve(
    client: Client,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), WebhookError> {
    start(client, options, shutdown).await?.ended().await;
    Ok(())
}
