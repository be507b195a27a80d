//! Connections of who shows a certificate of ours.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use kubedb_listen::each;

/// Connections whose handshake is under way: agents are few.
const HANDSHAKES: usize = 32;
/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Files of a mounted Secret, by the keys that Secrets of certificates have.
const AUTHORITY: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What came through the handshake.
pub(super) struct Authenticated {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: io::Result<SocketAddr>,
}

impl Authenticated {
    /// Accepts until `shutdown`. Certificates are read for each connection: they are renewed under us.
    pub(super) fn start(
        listener: TcpListener,
        certificates: &Path,
        shutdown: CancellationToken,
    ) -> Self {
        let address = listener.local_addr();
        let (sender, ready) = mpsc::channel(HANDSHAKES);
        let certificates = certificates.to_owned();
        tokio::spawn(async move {
            let all = accept(&listener, &certificates, &sender);
            shutdown.run_until_cancelled(all).await;
        });
        Self { ready, address }
    }
}

impl axum::serve::Listener for Authenticated {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // Nobody comes any more; the server stops by itself.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(io::Error::from(error.kind())),
        }
    }
}

async fn accept(
    listener: &TcpListener,
    certificates: &Path,
    ready: &mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let greet = |stream, from| {
        let (certificates, ready) = (certificates.to_owned(), ready.clone());
        async move {
            match tokio::time::timeout(HANDSHAKE, greet(stream, certificates)).await {
                Ok(Ok(stream)) => drop(ready.send((stream, from)).await),
                Ok(Err(error)) => tracing::warn!(%from, %error, "a connection is refused"),
                Err(_) => tracing::warn!(%from, "a connection says nothing"),
            }
        }
    };
    each(listener, HANDSHAKES, greet).await;
}

async fn greet(stream: TcpStream, certificates: PathBuf) -> io::Result<TlsStream<TcpStream>> {
    let config = tokio::task::spawn_blocking(move || configuration(&certificates));
    let config = config.await.map_err(io::Error::other)??;
    TlsAcceptor::from(Arc::new(config)).accept(stream).await
}

fn configuration(folder: &Path) -> io::Result<ServerConfig> {
    let file = |name: &str| folder.join(name);
    let pem = |error: rustls::pki_types::pem::Error| io::Error::other(error);
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(file(AUTHORITY)).map_err(pem)? {
        roots
            .add(authority.map_err(pem)?)
            .map_err(io::Error::other)?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file(CERTIFICATE))
        .map_err(pem)?
        .collect();
    let key = PrivateKeyDer::from_pem_file(file(KEY)).map_err(pem)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(io::Error::other)?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.map_err(pem)?, key)
        .map_err(io::Error::other)
}
