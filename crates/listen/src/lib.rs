//! Listens for whoever asks how a program of ours is, and for its metrics, with limits for whoever finds the port.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// Connections at once: a kubelet and a Prometheus or two have one each.
const CONNECTIONS: usize = 32;
/// Time for the head of a request, also of the next one on a connection: a scraper that comes each minute keeps its own.
const HEAD: Duration = Duration::from_secs(90);
/// A connection is not kept for longer, whatever comes over it.
const CONNECTION: Duration = Duration::from_secs(3_600);
/// Bytes of a head, and its lines.
const HEAD_MAX: usize = 16 << 10;
const HEADERS: usize = 50;
/// Pause after an accept that failed, which mostly means too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Listens at an address; at all of them, those of IPv6 too where there are any, if there is none.
///
/// # Errors
/// When the address is not this machine's, or taken.
pub async fn bind(address: Option<&str>, port: u16) -> io::Result<TcpListener> {
    match address {
        Some(address) => TcpListener::bind((address, port)).await,
        None => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Ok(listener) => Ok(listener),
            // A node without IPv6 has no such address.
            Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await,
        },
    }
}

/// Handles each connection by itself, until this is dropped. Where more than `most` are open, the one that has been there for longest goes: nobody keeps another from
/// asking.
pub async fn each<H>(
    listener: &TcpListener,
    most: usize,
    handle: impl Fn(TcpStream, SocketAddr) -> H,
) where
    H: Future<Output = ()> + Send + 'static,
{
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() >= most
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let _ = stream.set_nodelay(true);
                let task = tokio::spawn(handle(stream, from));
                open.push_back(task.abort_handle());
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers until this is dropped. A connection that is open then ends with the process.
pub async fn serve(listener: TcpListener, router: Router) {
    let answer = |stream, _| {
        let connection = connection(stream, router.clone());
        async move { drop(tokio::time::timeout(CONNECTION, connection).await) }
    };
    each(&listener, CONNECTIONS, answer).await;
}

async fn connection(stream: TcpStream, router: Router) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_MAX);
    let service = TowerToHyperService::new(router);
    // A client that goes away in the middle is no news.
    let _ = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn nobody_keeps_another_from_asking() {
        let listener = bind(Some("127.0.0.1"), 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/livez", get(|| async { "ok" }));
        let server = tokio::spawn(serve(listener, router));
        // They come and say nothing.
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut asker = TcpStream::connect(address).await.unwrap();
        asker
            .write_all(b"GET /livez HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        let asked = asker.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(10), asked)
            .await
            .unwrap()
            .unwrap();
        assert!(answer.ends_with("ok"), "{answer}");
        // The first one was sent away.
        let mut nothing = [0];
        let read = silent[0].read(&mut nothing);
        let read = tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .unwrap();
        assert!(matches!(read, Ok(0) | Err(_)));
        server.abort();
    }
}
