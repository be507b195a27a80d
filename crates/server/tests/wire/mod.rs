//! A server over TLS, and bytes to it.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kubedb_server::{ApiServer, Limits, Serving};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Longer than any answer takes on a busy machine, and shorter than what the libraries below wait by themselves.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Wired {
    pub server: ApiServer,
    pub serving: Serving,
    pub token: String,
    shutdown: CancellationToken,
    folder: tempfile::TempDir,
}

impl Drop for Wired {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub async fn wired(limits: Limits) -> Wired {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubedb.sqlite");
    let server = ApiServer::open_within(&file, limits).unwrap();
    let shutdown = CancellationToken::new();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let serving = server
        .serve(listen, folder.path(), shutdown.clone())
        .await
        .unwrap();
    let kubeconfig = std::fs::read_to_string(&serving.kubeconfig).unwrap();
    let kubeconfig: serde_json::Value = serde_yaml_ng::from_str(&kubeconfig).unwrap();
    let token = kubeconfig["users"][0]["user"]["token"].as_str().unwrap();
    Wired {
        server,
        token: token.to_owned(),
        serving,
        shutdown,
        folder,
    }
}

/// What was answered, as far as it came.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub text: String,
}

pub type Stream = TlsStream<TcpStream>;

impl Wired {
    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.serving.address).await.unwrap()
    }

    /// A connection whose client speaks this protocol.
    pub async fn tls(&self, protocol: &str) -> Stream {
        let authority = CertificateDer::from_pem_file(self.folder.path().join("ca.crt")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, self.tcp().await).await.unwrap()
    }

    /// The head of a request with the administrator's token, without the empty line that ends it.
    pub fn head(&self, line: &str) -> String {
        let token = &self.token;
        format!("{line} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n")
    }

    /// A connection on which the administrator has been answered already.
    pub async fn known(&self) -> Stream {
        let mut stream = self.tls("http/1.1").await;
        let head = self.head("GET /version");
        stream
            .write_all(format!("{head}\r\n").as_bytes())
            .await
            .unwrap();
        assert_eq!(answer(&mut stream).await.unwrap().code, 200);
        stream
    }
}

/// Reads one answer; nothing when the connection ends before there is one.
pub async fn answer(stream: &mut Stream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let read = async {
        let mut buffer = [0_u8; 8192];
        loop {
            if let Some(whole) = whole(&bytes) {
                return Some(whole);
            }
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, read).await;
    found.expect("an answer or the end of the connection")
}

/// The answer, once it is there with as many bytes as it names.
fn whole(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let code = head.split(' ').nth(1)?.parse().ok()?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.trim().parse::<usize>().unwrap());
    let text = String::from_utf8_lossy(&bytes[end..]).into_owned();
    (bytes.len() >= end + length).then_some(Answer { code, text })
}

/// Whether the server ends the connection.
pub async fn ends(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut buffer = [0_u8; 1024];
    let read = async {
        // What it says on leaving (an alert, a frame) is no sign of life.
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    };
    tokio::time::timeout(PATIENCE, read).await.is_ok()
}
