//! Free ports, and asking a server whether it is up.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::process::HelperError;

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16, HelperError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| HelperError::Prepare {
            what: "a free port".to_owned(),
            source,
        })
}

/// A plain HTTP/1.0 GET; enough to ask whether a server is up.
#[must_use]
pub fn get(port: u16, path: &str) -> Option<String> {
    send(port, "GET", path, "")
}

/// The same of a server at another address of this machine.
#[must_use]
pub fn get_at(host: Ipv4Addr, port: u16, path: &str) -> Option<String> {
    ask((host, port), "GET", path, "", "")
}

/// A plain HTTP/1.0 request with further header lines, each ended by CRLF.
#[must_use]
pub fn send(port: u16, method: &str, path: &str, headers: &str) -> Option<String> {
    send_with(port, method, path, headers, "")
}

/// The same with a body.
#[must_use]
pub fn send_with(port: u16, method: &str, path: &str, headers: &str, body: &str) -> Option<String> {
    ask((Ipv4Addr::LOCALHOST, port), method, path, headers, body)
}

fn ask(
    (host, port): (Ipv4Addr, u16),
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Option<String> {
    let mut stream = TcpStream::connect((host, port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {host}:{port}\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .ok()?;
    let mut reply = String::new();
    stream.take(1 << 20).read_to_string(&mut reply).ok()?;
    Some(reply)
}

/// Value of a header of such a reply.
#[must_use]
pub fn header(reply: &str, name: &str) -> Option<String> {
    let head = reply.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

/// Asks until `is_up` says so.
pub(crate) fn wait_until(
    what: &str,
    within: Duration,
    is_up: impl Fn() -> bool,
) -> Result<(), HelperError> {
    let end = Instant::now() + within;
    while Instant::now() < end {
        if is_up() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    Err(HelperError::NotReady {
        what: what.to_owned(),
        seconds: within.as_secs(),
    })
}

/// A tool that `cargo xtask tools` put into the cache, by its path below the cache.
pub(crate) fn tool(below: &str) -> PathBuf {
    cache(below)
}

/// A path in the cache of the tests, outside the checkout.
#[must_use]
pub fn cache(below: &str) -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_default();
    base.join("kubedb-test").join(below)
}
