//! The API over TLS on loopback.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ApiServer;
use crate::api::route::Route;
use crate::api::service;
use crate::api::status::ApiError;
use crate::auth::{AgentGrant, Identity};
use crate::keys::{self, KeyError};
use crate::kubeconfig;
use crate::strangers::{Guest, Strangers};
use crate::tokens::TokenError;

/// Requests at once on one HTTP/2 connection; a watch is one.
const MAX_STREAMS: u32 = 500;
/// Header lines of a request; kubectl sends about ten.
const MAX_HEADERS: usize = 100;
/// Bytes of the head of a request: a selector that names a thousand objects in full length fits, and 1,024 connections
/// hold 64 MiB at most.
const MAX_HEAD: u32 = 64 << 10;
/// Time between questions to a client of HTTP/2 whether it is there, and time for its answer: one that stopped reading
/// has none.
const PULSE: Duration = Duration::from_secs(30);
/// Time that requests have to end when the server stops; watches never would.
const GRACE: Duration = Duration::from_secs(2);
/// Pause after an accept that failed, which mostly means too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Others could reach it.
    #[error("failed to listen on {0}: the server listens on loopback only")]
    NotLoopback(SocketAddr),
    /// The port.
    #[error("failed to listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder.
    #[error("failed to write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Certificates.
    #[error("failed to prepare the certificates")]
    Keys(#[from] KeyError),
    /// Tokens.
    #[error("failed to prepare a token")]
    Token(#[from] TokenError),
    /// YAML.
    #[error("failed to encode the kubeconfig")]
    Encode(#[from] serde_yaml_ng::Error),
}

/// A listener at work.
#[derive(Debug)]
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Ends after the shutdown token was cancelled.
    pub task: JoinHandle<()>,
    authority: String,
}

impl ApiServer {
    /// Serves on a loopback address until `shutdown` is cancelled. Keeps `ca.crt`, `ca.key`, `server.crt` and
    /// `server.key` in `folder`, and writes `kubeconfig` there, all 0600.
    ///
    /// # Errors
    /// When the address is not on loopback or in use, or a file cannot be written.
    pub async fn serve(
        &self,
        listen: SocketAddr,
        folder: &Path,
        shutdown: CancellationToken,
    ) -> Result<Serving, ServeError> {
        if !listen.ip().is_loopback() {
            return Err(ServeError::NotLoopback(listen));
        }
        let failed = |source| ServeError::Listen {
            address: listen,
            source,
        };
        let keys = keys::load_or_make(folder)?;
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let token = self.tokens.admin();
        let text = kubeconfig::render(address, &keys.authority, "admin", token, "default")?;
        let path = folder.join("kubeconfig");
        keys::write_private(&path, &text).map_err(|source| ServeError::Write {
            path: path.clone(),
            source,
        })?;
        let acceptor = TlsAcceptor::from(keys.tls);
        let task = tokio::spawn(self.clone().accept(listener, acceptor, shutdown));
        Ok(Serving {
            address,
            kubeconfig: path,
            task,
            authority: keys.authority,
        })
    }

    /// A kubeconfig in YAML for one agent. The same instance keeps its token; its rights become those of `grant`.
    ///
    /// # Errors
    /// When the token cannot be kept.
    pub fn agent_kubeconfig(
        &self,
        grant: AgentGrant,
        serving: &Serving,
    ) -> Result<String, ServeError> {
        let namespace = grant.namespace.clone();
        let user = Identity::Agent(Arc::new(grant.clone())).user();
        let token = self.tokens.issue(&self.api.store, grant)?;
        Ok(kubeconfig::render(
            serving.address,
            &serving.authority,
            &user,
            &token,
            &namespace,
        )?)
    }

    async fn accept(
        self,
        listener: TcpListener,
        acceptor: TlsAcceptor,
        shutdown: CancellationToken,
    ) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let strangers = Strangers::new(self.limits.strangers);
        loop {
            let permit = tokio::select! {
                permit = places.clone().acquire_owned() => permit,
                () = shutdown.cancelled() => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, acceptor) = (self.clone(), acceptor.clone());
                    let (shutdown, guest) = (shutdown.clone(), Arc::new(strangers.arrive()));
                    connections.spawn(async move {
                        tokio::select! {
                            () = server.connection(stream, acceptor, shutdown, &guest) => {}
                            () = guest.sent_away(server.limits.introduction) => {}
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    async fn connection(
        &self,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        shutdown: CancellationToken,
        guest: &Arc<Guest>,
    ) {
        // Small answers should not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.unread));
        let handshake =
            tokio::time::timeout(self.limits.handshake, acceptor.accept(Box::pin(stream)));
        let Ok(Ok(stream)) = handshake.await else {
            return;
        };
        let service = service_fn(|request: Request<Incoming>| {
            let (server, guest) = (self.clone(), guest.clone());
            async move { Ok::<_, Infallible>(server.answer(request.map(Body::new), &guest).await) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD as usize)
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(PULSE)
            .keep_alive_timeout(PULSE)
            .max_concurrent_streams(MAX_STREAMS);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // A client that goes away in the middle is no news.
            _ = connection.as_mut() => {}
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(GRACE, connection).await;
            }
        }
    }

    async fn answer(&self, request: Request<Body>, guest: &Guest) -> Response<Body> {
        let bearer = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let identity = bearer.and_then(|token| self.tokens.identify(token.trim()));
        match identity {
            Some(identity) => {
                guest.introduce();
                self.api.clone().handle(identity, request).await
            }
            // As in kube-apiserver, whether it lives and which version it is everybody may know.
            None if bearer.is_none() && is_public(&request) => {
                self.api.clone().handle(Identity::Admin, request).await
            }
            None => service::refusal(&ApiError::unauthorized()),
        }
    }
}

fn is_public(request: &Request<Body>) -> bool {
    matches!(
        Route::parse(request.uri()),
        Ok(Route::Health | Route::Version)
    )
}
