//! A way to a pod's PostgreSQL from outside of its cluster, through the API server.

use std::{io, net::SocketAddr, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use kubedb_api::agent_config::POSTGRES_PORT;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};

use crate::error::CommandError;

/// Connections at once: a client has one, some tools a few.
const CONNECTIONS: usize = 32;

/// As long as it lives, a port of this machine leads to the pod.
pub(crate) struct Tunnel {
    /// The port, on loopback.
    pub(crate) address: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Tunnel {
    /// Listens. The pod is asked with the first connection.
    pub(crate) async fn open(
        client: Client,
        namespace: &str,
        pod: &str,
    ) -> Result<Self, CommandError> {
        let local = |source| CommandError::Local {
            doing: "listen on loopback".to_owned(),
            source,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(local)?;
        let address = listener.local_addr().map_err(local)?;
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let pod = pod.to_owned();
        let server = tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(CONNECTIONS));
            loop {
                let Ok(place) = places.clone().acquire_owned().await else {
                    return;
                };
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (pods, pod) = (pods.clone(), pod.clone());
                tokio::spawn(async move {
                    if let Err(error) = lead(stream, &pods, &pod).await {
                        // The client sees no more than that its connection ends.
                        tracing::debug!(%error, pod, "a connection through the API server ended");
                    }
                    drop(place);
                });
            }
        });
        Ok(Self { address, server })
    }
}

async fn lead(mut stream: TcpStream, pods: &Api<Pod>, pod: &str) -> io::Result<()> {
    let mut forwarder = pods
        .portforward(pod, &[POSTGRES_PORT])
        .await
        .map_err(io::Error::other)?;
    let Some(mut upstream) = forwarder.take_stream(POSTGRES_PORT) else {
        return Ok(());
    };
    copy_bidirectional(&mut stream, &mut upstream).await?;
    drop(upstream);
    forwarder.join().await.map_err(io::Error::other)
}
