//! Where a kubelet asks how the operator is.

use crate::metrics::{self, Metrics};
use axum::{Router, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

/// Answers `/healthz` as long as the process lives, and `/readyz` once `ready`: an operator that waits to lead is ready, too. Beside them `/metrics`.
pub async fn serve(
    listener: TcpListener,
    ready: watch::Receiver<bool>,
    metrics: &Metrics,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let readyz = move || async move {
        if *ready.borrow() {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
        }
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .merge(metrics::serve::router(metrics));
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}
