//! Stable endpoints: a port that leads to the primary, and one that leads to the standbys in turn.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::timeout,
};

/// A local server takes a connection at once.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Connections of one endpoint: what one PostgreSQL takes, several times over.
const CONNECTIONS_MAX: usize = 1_000;

/// One endpoint. Dropping it closes the port; open connections end with it.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on a port of loopback; 0 picks one.
    pub(super) async fn listen(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let targets = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(accept(listener, Arc::clone(&targets)));
        Ok(Self {
            address,
            targets,
            task,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections there. Open ones stay with whom they are: PostgreSQL ends them when it must.
    pub(super) fn lead_to(&self, targets: Vec<String>) {
        *self.targets.lock().unwrap_or_else(PoisonError::into_inner) = targets;
    }
}

async fn accept(listener: TcpListener, targets: Arc<Mutex<Vec<String>>>) {
    let turn = AtomicUsize::new(0);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                // Out of file handles, most likely; others may give some back.
                tracing::warn!(%error, "an endpoint could not take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!(limit = CONNECTIONS_MAX, "an endpoint refused a connection");
            continue;
        };
        let targets = targets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let start = turn.fetch_add(1, Ordering::Relaxed);
        connections.spawn(async move {
            relay(client, &targets, start).await;
            drop(permit);
        });
    }
}

/// Connects to the first target that takes it, beginning with the one whose turn it is.
async fn relay(mut client: TcpStream, targets: &[String], start: usize) {
    for offset in 0..targets.len() {
        let target = &targets[(start + offset) % targets.len()];
        if let Ok(Ok(mut server)) = timeout(CONNECT_LIMIT, TcpStream::connect(target)).await {
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            // Either side may hang up whenever it likes.
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
