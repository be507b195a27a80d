//! The first bytes of a client of PostgreSQL, and how one is told no in its own protocol.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// `cannot_connect_now`: what PostgreSQL itself says while it starts.
pub(super) const CANNOT_CONNECT_NOW: &str = "57P03";
/// `too_many_connections`.
pub(super) const TOO_MANY_CONNECTIONS: &str = "53300";

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
/// Bytes of a request for a cancellation: length, code, process, key.
const CANCEL_BYTES: usize = 16;
/// Longest startup packet that PostgreSQL takes.
const STARTUP_MAX: u32 = 10_000;
/// A client may ask for two kinds of encryption before it starts in the clear.
const REQUESTS_MAX: usize = 3;

/// Length and code, with which every client begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    pub(super) bytes: [u8; 8],
}

impl First {
    fn length(self) -> u32 {
        u32::from_be_bytes([self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]])
    }

    fn code(self) -> u32 {
        u32::from_be_bytes([self.bytes[4], self.bytes[5], self.bytes[6], self.bytes[7]])
    }

    pub(super) fn is_cancel_request(self) -> bool {
        self.length() == 16 && self.code() == CANCEL_REQUEST
    }
}

/// Reads them.
pub(super) async fn read_first(client: &mut (impl AsyncRead + Unpin)) -> io::Result<First> {
    let mut bytes = [0; 8];
    client.read_exact(&mut bytes).await?;
    Ok(First { bytes })
}

/// Reads the rest of a request for a cancellation; returns the whole of it.
pub(super) async fn read_cancel(
    client: &mut (impl AsyncRead + Unpin),
    first: First,
) -> io::Result<[u8; CANCEL_BYTES]> {
    let mut request = [0; CANCEL_BYTES];
    request[..8].copy_from_slice(&first.bytes);
    client.read_exact(&mut request[8..]).await?;
    Ok(request)
}

/// Tells a client why it cannot be served. It listens only once it has started, so it is led through that first.
pub(super) async fn refuse(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut first: First,
    state: &str,
    message: &str,
) -> io::Result<()> {
    for _ in 0..REQUESTS_MAX {
        if !matches!(first.code(), SSL_REQUEST | GSS_REQUEST) {
            break;
        }
        // No encryption here.
        client.write_all(b"N").await?;
        first = read_first(client).await?;
    }
    let rest = first.length().wrapping_sub(8);
    if first.is_cancel_request() || rest > STARTUP_MAX {
        return Ok(());
    }
    // Read to its end: bytes that nobody reads would reset the connection before the answer arrives.
    tokio::io::copy(&mut client.take(rest.into()), &mut tokio::io::sink()).await?;
    client.write_all(&error_response(state, message)).await?;
    client.shutdown().await
}

/// `ErrorResponse` with what every client needs: severity, SQLSTATE, message.
fn error_response(state: &str, message: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (kind, value) in [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        (b'C', state),
        (b'M', message),
    ] {
        fields.push(kind);
        fields.extend_from_slice(value.as_bytes());
        fields.push(0);
    }
    fields.push(0);
    // The length counts itself.
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    let mut response = vec![b'E'];
    response.extend_from_slice(&length.to_be_bytes());
    response.extend_from_slice(&fields);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(rest.len() + 8).unwrap();
        [&length.to_be_bytes(), &code.to_be_bytes(), rest].concat()
    }

    async fn answer(sent: &[u8]) -> Vec<u8> {
        let (mut client, mut server) = tokio::io::duplex(1 << 16);
        client.write_all(sent).await.unwrap();
        let first = read_first(&mut server).await.unwrap();
        refuse(&mut server, first, CANNOT_CONNECT_NOW, "no")
            .await
            .unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_client_is_refused_after_it_was_denied_encryption() {
        let start = packet(196_608, b"user\0postgres\0\0");
        let refusal = b"E\0\0\0\x1eSFATAL\0VFATAL\0C57P03\0Mno\0\0";
        assert_eq!(answer(&start).await, refusal);
        let ssl = [packet(SSL_REQUEST, b""), start.clone()].concat();
        assert_eq!(answer(&ssl).await, [b"N", refusal.as_slice()].concat());
        let both = [packet(GSS_REQUEST, b""), packet(SSL_REQUEST, b""), start].concat();
        assert_eq!(answer(&both).await, [b"NN", refusal.as_slice()].concat());
    }

    #[tokio::test]
    async fn what_is_no_startup_gets_no_answer() {
        assert_eq!(answer(b"GET / HTTP/1.1\r\n").await, b"");
        assert_eq!(answer(&packet(CANCEL_REQUEST, b"12345678")).await, b"");
    }
}
