//! A proxy as companies have them: it leads to one server, whatever the name that was asked for, and remembers the names.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use crate::{door::Door, process::HelperError};

/// A proxy; it ends with its value.
#[derive(Debug)]
pub struct Proxy {
    door: Door,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts one before a port of this machine.
    pub fn start(before: u16) -> Result<Self, HelperError> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let door = Door::open("a proxy", move |client| {
            // A client that goes away is none of our business.
            let _ = meet(client, before, &heard);
        })?;
        Ok(Self { door, asked })
    }

    /// As `HTTPS_PROXY` wants it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.door.port())
    }

    /// First lines of all that was asked.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }
}

fn meet(client: TcpStream, before: u16, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    from_client.read_line(&mut first)?;
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(first.trim_end().to_owned());
    let mut server = TcpStream::connect(("127.0.0.1", before))?;
    let mut to_client = client;
    if first.starts_with("CONNECT ") {
        let mut line = String::from("-");
        while !line.trim().is_empty() {
            line.clear();
            from_client.read_line(&mut line)?;
        }
        to_client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        // A whole address stands in the first line; a server wants the path alone.
        let parts: Vec<&str> = first.split(' ').collect();
        let path = parts.get(1).and_then(|address| {
            let (_, rest) = address.split_once("://")?;
            Some(rest.find('/').map_or("/", |at| &rest[at..]))
        });
        write!(server, "{} {} HTTP/1.1\r\n", parts[0], path.unwrap_or("/"))?;
        // One request on each connection, so that the next one is met here again.
        server.write_all(b"Connection: close\r\n")?;
    }
    let mut back = server.try_clone()?;
    let answers = thread::spawn(move || {
        let copied = io::copy(&mut back, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
        copied
    });
    let _ = io::copy(&mut from_client, &mut server);
    let _ = server.shutdown(Shutdown::Write);
    let _ = answers.join();
    Ok(())
}
