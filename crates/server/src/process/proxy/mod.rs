//! Stable endpoints: a port that leads to the primary, and one that leads to the standbys in turn.

mod relay;
mod startup;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// Connections of one endpoint: what one PostgreSQL takes, several times over.
const CONNECTIONS_MAX: usize = 1_000;
/// Clients that are told at the same time why they are refused; more of them are only hung up on.
const REFUSALS_MAX: usize = 100;
/// How long a client has to hear that.
const REFUSAL_LIMIT: Duration = Duration::from_secs(5);

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
    /// Listens on a port of loopback; 0 picks one. `absent` is what a client reads while there is nowhere to lead it to.
    pub(super) async fn listen(port: u16, absent: String) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let targets = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(accept(listener, Arc::clone(&targets), absent.into()));
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

async fn accept(listener: TcpListener, targets: Arc<Mutex<Vec<String>>>, absent: Arc<str>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut connections = JoinSet::new();
    let mut turn = 0_usize;
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
        let mut targets = targets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        turn = turn.wrapping_add(1);
        if let Some(first) = turn.checked_rem(targets.len()) {
            targets.rotate_left(first);
        }
        if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
            let absent = Arc::clone(&absent);
            connections.spawn(async move {
                relay::serve(client, &targets, &absent).await;
                drop(permit);
            });
        } else if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
            connections.spawn(async move {
                refuse_as_full(client).await;
                drop(permit);
            });
        }
    }
}

async fn refuse_as_full(mut client: TcpStream) {
    let message = format!("sorry, too many clients already: this endpoint takes {CONNECTIONS_MAX}");
    let refusal = async {
        let first = startup::read_first(&mut client).await?;
        startup::refuse(&mut client, first, startup::TOO_MANY_CONNECTIONS, &message).await
    };
    // A client that does not listen loses nothing.
    let _ = timeout(REFUSAL_LIMIT, refusal).await;
}
