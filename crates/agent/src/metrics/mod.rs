//! Metrics of an instance and its agent, for a Prometheus. Nothing here waits for the agent's loop, and the loop waits for nothing here: a PostgreSQL that hangs is told
//! of like any other.

mod collect;
pub mod families;
mod own;
pub mod postgres;
mod volume;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use jiff::Timestamp;
use kubedb_api::{
    Postgres,
    agent_config::AgentConfig,
    metrics,
    monitor::{self, MetricsStatus, Monitor},
    protocol::{InstanceRole, InstanceStatus},
};
use kubedb_core::metrics::{CONTENT_TYPE as TEXT, Exposition};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::Instant,
};

use self::{collect::Target, volume::Volume};
use crate::{archive::WalDesk, bootstrap::Place, sql::local};
use kubedb_listen as listen;

/// Who comes within this time is told what the one before was told.
const FRESH: Duration = Duration::from_secs(1);
/// A disk that does not answer keeps nobody waiting for longer.
const DISK_LIMIT: Duration = Duration::from_secs(2);
/// Pause before a port that somebody else has is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the agent's loop says of itself at the end of each round.
#[derive(Clone, Debug)]
struct Said {
    at: Instant,
    status: InstanceStatus,
    database: Option<Postgres>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    text: Arc<str>,
}

/// Answers with the metrics of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: AgentConfig,
    begun: Timestamp,
    desk: WalDesk,
    target: Target,
    volume: Volume,
    said: watch::Sender<Option<Said>>,
    /// Held while PostgreSQL is asked: whoever comes meanwhile waits for the same answer.
    told: Mutex<Option<Told>>,
}

impl Metrics {
    pub(crate) fn new(
        config: &AgentConfig,
        begun: Timestamp,
        place: &Place,
        desk: &WalDesk,
    ) -> Self {
        let mut server = local(&place.paths, config.port);
        server.application_name("kubedb metrics");
        Self(Arc::new(Inner {
            config: config.clone(),
            begun,
            desk: desk.clone(),
            target: Target {
                config: server,
                dialect: place.dialect,
            },
            volume: Volume::new(place.paths.data()),
            said: watch::channel(None).0,
            told: Mutex::default(),
        }))
    }

    /// Says how a round ended.
    pub(crate) fn note(&self, status: InstanceStatus, database: Option<&Postgres>) {
        let now = Instant::now();
        self.0.said.send_modify(|said| {
            // An API that is away takes nothing back.
            let known = said.take().and_then(|said| said.database);
            *said = Some(Said {
                at: now,
                status,
                database: database.cloned().or(known),
            });
        });
    }

    /// Where it answers: at the usual path, and at the one that the original has.
    pub(crate) fn router(&self) -> Router {
        let (one, other) = (self.clone(), self.clone());
        let config = &self.0.config;
        let path = monitor::path(&config.namespace, &config.database);
        Router::new()
            .route("/metrics", get(|| async move { one.answer().await }))
            .route(&path, get(|| async move { other.answer().await }))
    }

    async fn answer(&self) -> Response {
        let text = self.text().await;
        let kind = HeaderValue::from_static(TEXT);
        (StatusCode::OK, [(CONTENT_TYPE, kind)], text.to_string()).into_response()
    }

    /// One answer at a time; those who waited for it have it, too.
    async fn text(&self) -> Arc<str> {
        let mut told = self.0.told.lock().await;
        if let Some(known) = told.as_ref().filter(|told| told.at.elapsed() < FRESH) {
            return known.text.clone();
        }
        let (mut found, own) = tokio::join!(collect::collect(&self.0.target), self.own());
        found.extend(own);
        let text: Arc<str> = found.text().into();
        *told = Some(Told {
            at: Instant::now(),
            text: text.clone(),
        });
        text
    }

    /// What is known without PostgreSQL.
    async fn own(&self) -> Exposition {
        let (inner, now) = (&self.0, Timestamp::now());
        let mut to = Exposition::new();
        let said = inner.said.borrow().clone();
        let mut is_primary = false;
        if let Some(said) = &said {
            let silence = said.at.elapsed().as_secs_f64();
            own::instance(&inner.config, &said.status, inner.begun, silence, &mut to);
            is_primary = said.status.role == Some(InstanceRole::Primary);
        }
        if let Some(database) = said.as_ref().and_then(|said| said.database.as_ref())
            && database.metadata.namespace.is_some()
        {
            metrics::database(database, now, &mut to);
        }
        // Both look at the disk, which may hang.
        let (desk, folder) = (inner.desk.clone(), inner.volume.folder().to_owned());
        let looked = tokio::task::spawn_blocking(move || {
            let figures = desk.archiver().map(|archiver| archiver.figures());
            (figures, volume::room(&folder))
        });
        let looked = tokio::time::timeout(DISK_LIMIT, looked).await;
        if let Ok(Ok((figures, room))) = looked {
            own::volume(&inner.config, &inner.volume, room, &mut to);
            if let Some(figures) = figures.filter(|_| is_primary) {
                own::archive(&inner.config, &figures, now, &mut to);
            }
        }
        to
    }
}

/// The port that `spec.monitor` asks for, and who answers there.
#[derive(Debug)]
pub(crate) struct Listening {
    metrics: Metrics,
    port: Option<u16>,
    server: Option<JoinHandle<()>>,
    reason: Option<String>,
    retry: Instant,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Listening {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            port: None,
            server: None,
            reason: None,
            retry: Instant::now(),
        }
    }

    /// Answers where the database says, from now on; nowhere while it says nothing.
    pub(crate) async fn follow(&mut self, database: Option<&Postgres>) {
        // An API that does not answer changes nothing.
        let Some(database) = database.filter(|database| database.metadata.namespace.is_some())
        else {
            return;
        };
        let metrics = self.metrics.clone();
        let config = &metrics.0.config;
        let port = database
            .spec
            .monitor
            .as_ref()
            .and_then(|monitor| port(monitor, config));
        let is_failed = port.is_some() && self.server.is_none() && Instant::now() >= self.retry;
        if port == self.port && !is_failed {
            return;
        }
        self.stop();
        self.port = port;
        self.reason = None;
        let Some(port) = port.filter(|port| Some(*port) != config.health_port) else {
            return;
        };
        let address = (config.listen_address != "*").then_some(config.listen_address.as_str());
        match listen::bind(address, port).await {
            Ok(listener) => {
                tracing::info!(port, "answers with metrics");
                let router = metrics.router();
                self.server = Some(tokio::spawn(listen::serve(listener, router)));
            }
            Err(error) => {
                tracing::warn!(port, %error, "cannot answer with metrics");
                self.reason = Some(format!("failed to listen on port {port}: {error}"));
                self.retry = Instant::now() + RETRY;
            }
        }
    }

    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }

    /// What is told of it; nothing while nobody asked for it.
    pub(crate) fn status(&self) -> Option<MetricsStatus> {
        let port = self.port?;
        let config = &self.metrics.0.config;
        let host = config
            .advertised_host
            .as_ref()
            .unwrap_or(&config.listen_address);
        let endpoint = self.reason.is_none().then(|| format!("{host}:{port}"));
        Some(MetricsStatus {
            endpoint,
            reason: self.reason.clone(),
        })
    }
}

/// Pods have an address each, and so the same port. On one machine instances share one: the first has the port that was asked for, each further one the next; and
/// where none was asked for, each has the one that its platform keeps for it.
fn port(monitor: &Monitor, config: &AgentConfig) -> Option<u16> {
    if config.health_port.is_some() {
        return Some(monitor.port());
    }
    match monitor.asked_port() {
        Some(first) => first.checked_add(u16::try_from(config.ordinal).ok()?),
        None => config.metrics_port,
    }
}
