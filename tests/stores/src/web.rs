//! A little web server that answers what a test says, with TLS or without, and remembers what it was asked.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::{certificates::Signed, door::Door, process::HelperError};

/// Longest request that is read.
const REQUEST: u64 = 1 << 20;

/// Head and body of a request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// First line and headers, in lower case but for the first line.
    pub head: String,
    /// What followed.
    pub body: String,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Further header lines, each ended by CRLF.
    pub headers: String,
    /// Body.
    pub body: String,
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A server; it ends with its value.
pub struct Web {
    door: Door,
    is_secret: bool,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Web").field(&self.door.port()).finish()
    }
}

impl Web {
    /// Starts a server on a free port.
    pub fn start(
        signed: Option<&Signed>,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Result<Self, HelperError> {
        let tls = signed.map(configuration).transpose()?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let door = Door::open("a web server", move |stream| {
            meet(stream, tls.clone(), &heard, &answer);
        })?;
        Ok(Self {
            door,
            is_secret: signed.is_some(),
            asked,
        })
    }

    /// Host and port.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.door.port())
    }

    /// Base address.
    #[must_use]
    pub fn address(&self) -> String {
        let scheme = if self.is_secret { "https" } else { "http" };
        format!("{scheme}://{}", self.host())
    }

    /// What it was asked until now.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn configuration(signed: &Signed) -> Result<Arc<ServerConfig>, HelperError> {
    let failed = |reply: String| HelperError::Refused {
        what: "a server with TLS".to_owned(),
        reply,
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(signed.certificate.as_bytes()).collect();
    let chain = chain.map_err(|error| failed(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes())
        .map_err(|error| failed(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let configuration = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| failed(error.to_string()))?;
    Ok(Arc::new(configuration))
}

fn meet(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    asked: &Mutex<Vec<Asked>>,
    answer: &Handler,
) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    match tls {
        None => serve(stream, asked, answer),
        Some(configuration) => {
            if let Ok(connection) = ServerConnection::new(configuration) {
                serve(StreamOwned::new(connection, stream), asked, answer);
            }
        }
    }
}

/// One request, one answer, and an end.
fn serve(mut stream: impl Read + Write, asked: &Mutex<Vec<Asked>>, answer: &Handler) {
    let Some(request) = read(&mut stream) else {
        return;
    };
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request.clone());
    let Answer {
        status,
        headers,
        body,
    } = answer(&request);
    let is_head = request.head.starts_with("HEAD ");
    let length = body.len();
    let body = if is_head { "" } else { &body };
    let _ = write!(
        stream,
        "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    let _ = stream.flush();
}

fn read(stream: &mut impl Read) -> Option<Asked> {
    let mut text = Vec::new();
    let mut buffer = [0; 8_192];
    let end = loop {
        if let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        text.extend_from_slice(&buffer[..read]);
        if text.len() as u64 > REQUEST {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&text[..end]).into_owned();
    let (first, rest) = head.split_once("\r\n")?;
    let head = format!("{first}\r\n{}", rest.to_lowercase());
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0);
    let mut body = text.split_off(end);
    while body.len() < length {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        body.extend_from_slice(&buffer[..read]);
    }
    Some(Asked {
        head,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
