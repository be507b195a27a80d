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
) {
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
    let answer = kubedb_listen::serve(listener, router);
    shutdown.run_until_cancelled(answer).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn who_comes_and_says_nothing_does_not_keep_a_kubelet_from_asking() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ready, is_ready) = watch::channel(false);
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        let ended = stop.clone();
        let server = tokio::spawn(async move { serve(listener, is_ready, &metrics, ended).await });
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let limit = Duration::from_secs(10);
        let ask = async || {
            let mut asker = TcpStream::connect(address).await.unwrap();
            let request = b"GET /readyz HTTP/1.0\r\n\r\n";
            asker.write_all(request).await.unwrap();
            let mut answer = String::new();
            let read = timeout(limit, asker.read_to_string(&mut answer)).await;
            read.unwrap().unwrap();
            answer
        };
        assert!(ask().await.ends_with("not ready\n"));
        ready.send_replace(true);
        assert!(ask().await.ends_with("\r\nok\n"));
        // The first one was sent away: there is a limit.
        let read = timeout(limit, silent[0].read(&mut [0])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        stop.cancel();
        timeout(limit, server).await.unwrap().unwrap();
    }
}
