//! One request and one answer of HTTP/1.1, whole in memory: a proxy that spoils them must know where they end.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
};

/// Longest head that is read; real ones have a kilobyte.
const HEAD: u64 = 64 << 10;

/// Longest body: a pack has 32 MiB.
const BODY: usize = 64 << 20;

/// A request or an answer.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The first line, such as `GET /path HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub line: String,
    /// Names and values as they came.
    pub headers: Vec<(String, String)>,
    /// What follows.
    pub body: Vec<u8>,
}

impl Message {
    /// An answer of our own.
    #[must_use]
    pub fn answer(status: &str, body: &str) -> Self {
        Self {
            line: format!("HTTP/1.1 {status}"),
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
        }
    }

    /// The same with a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Method of a request.
    #[must_use]
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// Path and query of a request, with slashes that were escaped as slashes.
    #[must_use]
    pub fn target(&self) -> String {
        let target = self.line.split(' ').nth(1).unwrap_or_default();
        target.replace("%2F", "/").replace("%2f", "/")
    }

    /// Value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Sets a header, in place of any there was.
    pub fn set(&mut self, name: &str, value: &str) {
        self.headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Reads a request; nothing where the client has no more.
    pub(super) fn read_request(stream: &TcpStream) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(stream);
        let Some(mut request) = Self::read_head(&mut reader)? else {
            return Ok(None);
        };
        // Somebody who waits for leave to send gets it, and is not told to the server.
        if request.header("expect").is_some() {
            let mut to = stream;
            to.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            request
                .headers
                .retain(|(key, _)| !key.eq_ignore_ascii_case("expect"));
        }
        request.body = match request.length()? {
            Some(length) => exactly(&mut reader, length)?,
            None if request.is_chunked() => request.read_chunks(&mut reader)?,
            None => Vec::new(),
        };
        Ok(Some(request))
    }

    /// Reads an answer; one to HEAD has no body, whatever its headers say.
    pub(super) fn read_answer(stream: &TcpStream, is_to_head: bool) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        loop {
            let Some(mut answer) = Self::read_head(&mut reader)? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let status = answer.line.split(' ').nth(1).unwrap_or_default().to_owned();
            if status == "100" {
                continue;
            }
            answer.body = if is_to_head || status == "204" || status == "304" {
                Vec::new()
            } else if answer.is_chunked() {
                answer.read_chunks(&mut reader)?
            } else if let Some(length) = answer.length()? {
                exactly(&mut reader, length)?
            } else {
                let mut rest = Vec::new();
                reader.take(BODY as u64).read_to_end(&mut rest)?;
                rest
            };
            return Ok(answer);
        }
    }

    fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut message = Self::default();
        let mut reader = reader.take(HEAD);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end_matches(['\r', '\n']);
            match line.split_once(": ").or_else(|| line.split_once(':')) {
                _ if message.line.is_empty() => message.line = line.to_owned(),
                _ if line.is_empty() => return Ok(Some(message)),
                Some((name, value)) => message.headers.push((name.to_owned(), value.to_owned())),
                None => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    fn length(&self) -> io::Result<Option<usize>> {
        let told = self.header("content-length").map(str::trim);
        match told.map(str::parse::<usize>) {
            None => Ok(None),
            Some(Ok(length)) if length <= BODY => Ok(Some(length)),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    /// Puts chunks together; from then on the message has a length.
    fn read_chunks(&mut self, reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut size = String::new();
            reader.take(HEAD).read_line(&mut size)?;
            let digits = size.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
            if body.len() + size > BODY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            body.extend(exactly(reader, size)?);
            let mut end = String::new();
            reader.take(HEAD).read_line(&mut end)?;
            if size == 0 {
                break;
            }
        }
        self.headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case("transfer-encoding"));
        self.set("content-length", &body.len().to_string());
        Ok(body)
    }

    /// Line and headers as they travel.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        (text + "\r\n").into_bytes()
    }

    /// Writes it whole.
    pub(super) fn write(&self, mut to: &TcpStream) -> io::Result<()> {
        to.write_all(&self.head())?;
        to.write_all(&self.body)?;
        to.flush()
    }
}

fn exactly(reader: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together_and_escaped_slashes_are_slashes() {
        let mut text: &[u8] = b"POST /a%2Fb?c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let mut request = Message::read_head(&mut text).unwrap().unwrap();
        assert_eq!((request.method(), &*request.target()), ("POST", "/a/b?c"));
        assert!(request.is_chunked());
        assert_eq!(request.read_chunks(&mut text).unwrap(), b"abcde");
        assert_eq!(request.header("CONTENT-LENGTH"), Some("5"));
        assert!(!request.is_chunked());
    }
}
