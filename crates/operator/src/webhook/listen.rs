//! Answers over TLS, with limits for whoever in the cluster finds the port.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{keeper::Tls, review::Reviewer};

/// Connections at once: an API server keeps a few, and clusters have three to five of them.
const CONNECTIONS: usize = 128;
/// Bytes of a question: an object and what it was before, each 3 MiB at most as an API server takes them, with room for who asks.
const BODY_MAX: usize = 8 << 20;
/// Bytes of all bodies at once, in pieces of one: more questions wait.
const BODIES: usize = 8;
/// Header lines, and their bytes; an API server sends a handful.
const HEADERS: usize = 50;
const HEAD_MAX: usize = 16 << 10;
/// Time for a handshake, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// Time for a question and its answer: API servers wait as long as the configurations say, and no longer.
const ANSWER: Duration = Duration::from_secs(super::configuration::TIMEOUT_SECONDS as u64);
/// Streams at once on a connection of HTTP/2.
const STREAMS: u32 = 100;
/// Between questions whether the other side is there, and time for its answer.
const PULSE: Duration = Duration::from_secs(30);
/// Time that questions have to be answered when we stop.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, which mostly means too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Until `shutdown`.
pub(super) async fn run(
    listener: TcpListener,
    mut serve: watch::Receiver<Option<Tls>>,
    reviewer: Arc<Reviewer>,
    shutdown: CancellationToken,
) {
    // Without a certificate there is nothing to say.
    tokio::select! {
        found = serve.wait_for(Option::is_some) => if found.is_err() { return },
        () = shutdown.cancelled() => return,
    }
    let (connections, bodies) = (TaskTracker::new(), Arc::new(Semaphore::new(BODIES)));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let next = tokio::select! {
            next = next => next,
            () = shutdown.cancelled() => None,
        };
        let Some((place, accepted)) = next else { break };
        let tls = serve.borrow().clone();
        let (stream, tls) = match (accepted, tls) {
            (Ok((stream, _)), Some(tls)) => (stream, tls),
            (Ok(_), None) => continue,
            (Err(error), _) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (reviewer, bodies, shutdown) = (reviewer.clone(), bodies.clone(), shutdown.clone());
        connections.spawn(async move {
            let answer = |request| answer(request, reviewer.clone(), bodies.clone());
            connection(stream, TlsAcceptor::from(tls), answer, shutdown).await;
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection<F, A>(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    answer: F,
    stop: CancellationToken,
) where
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
    let Ok(Ok(stream)) = handshake.await else {
        return;
    };
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_MAX as u32)
        .keep_alive_interval(PULSE)
        .keep_alive_timeout(PULSE)
        .max_concurrent_streams(STREAMS);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // A client that goes away in the middle is no news.
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(GRACE, connection).await;
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    reviewer: Arc<Reviewer>,
    bodies: Arc<Semaphore>,
) -> Response<Full<Bytes>> {
    let is_mutating = match (request.method(), request.uri().path()) {
        (&Method::POST, super::configuration::MUTATE_PATH) => Some(true),
        (&Method::POST, super::configuration::VALIDATE_PATH) => Some(false),
        _ => None,
    };
    let metrics = reviewer.metrics.clone();
    let reviewed = tokio::time::timeout(ANSWER, async {
        let is_mutating = is_mutating.ok_or(StatusCode::NOT_FOUND)?;
        let _place = bodies.acquire().await;
        let body = Limited::new(request.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?.to_bytes();
        let review = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
        reviewer
            .answer(is_mutating, &review)
            .await
            .ok_or(StatusCode::BAD_REQUEST)
    });
    let reviewed = reviewed.await;
    if let Some(is_mutating) = is_mutating {
        let webhook = if is_mutating { "mutate" } else { "validate" };
        let outcome = match &reviewed {
            Ok(Ok(answer)) if answer["response"]["allowed"] == true => "allowed",
            Ok(Ok(_)) => "denied",
            _ => "error",
        };
        metrics.webhook(webhook, outcome);
    }
    let (code, body) = match reviewed {
        Ok(Ok(answer)) => (StatusCode::OK, answer.to_string()),
        Ok(Err(code)) => (code, String::new()),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}
