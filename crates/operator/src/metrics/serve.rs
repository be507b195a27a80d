//! Where a Prometheus asks.

use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use kubedb_core::metrics::CONTENT_TYPE as TEXT;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// Answers `/metrics`, and `/targets` with where the databases' own metrics are.
pub fn router(metrics: &Metrics) -> Router {
    let (one, other) = (metrics.clone(), metrics.clone());
    Router::new()
        .route("/metrics", get(|| async move { text(&one) }))
        .route("/targets", get(|| async move { targets(&other) }))
}

fn text(metrics: &Metrics) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, TEXT)], metrics.text().to_string())
}

fn targets(metrics: &Metrics) -> impl IntoResponse + use<> {
    let json = "application/json";
    ([(CONTENT_TYPE, json)], metrics.targets().to_string())
}

/// Answers until `shutdown`.
pub async fn serve(listener: TcpListener, metrics: Metrics, shutdown: CancellationToken) {
    let answer = kubedb_listen::serve(listener, router(&metrics));
    shutdown.run_until_cancelled(answer).await;
}
