//! Messages over a stream: whole ones in, whole ones out, each wait with a limit.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use postgres_protocol::message::{
    backend::{DataRowBody, ErrorResponseBody, Header, Message},
    frontend,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_postgres::fallible_iterator::FallibleIterator as _;

use super::WalSenderError;

/// Longest silence of the server while it answers. It sends something at least every few seconds while it copies.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// Largest message accepted. PostgreSQL sends copies in pieces of 32 KiB to 128 KiB, and errors of a few kB.
const MESSAGE_LIMIT: usize = 16 << 20;

/// Most rows accepted in one answer: a row per tablespace is the longest answer there is.
const ROW_LIMIT: usize = 10_000;

/// Most messages thrown away while waiting for the server to be ready again after an error.
const DRAIN_LIMIT: usize = 10_000;

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 128 << 10;

/// A row of an answer: texts, or nothing for null.
pub(super) type Row = Vec<Option<String>>;

/// Whole messages over a stream.
pub(super) struct Wire<S> {
    stream: S,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// What is being done, for errors.
    pub(super) command: &'static str,
    /// Longest silence accepted now.
    pub(super) silence_limit: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            incoming: BytesMut::with_capacity(READ_BYTES),
            outgoing: BytesMut::new(),
            command: "startup",
            silence_limit: SILENCE_LIMIT,
        }
    }

    /// Sends what `build` writes.
    pub(super) async fn send(
        &mut self,
        build: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), WalSenderError> {
        let command = self.command;
        let exchange = |source| WalSenderError::Exchange { command, source };
        self.outgoing.clear();
        build(&mut self.outgoing).map_err(exchange)?;
        let limit = self.silence_limit;
        let writing = async {
            self.stream.write_all(&self.outgoing).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(limit, writing).await {
            Ok(result) => result.map_err(exchange),
            Err(_) => Err(WalSenderError::Silent { command, limit }),
        }
    }

    /// Sends a command whose text holds no secret; `name` stands in errors.
    pub(super) async fn send_command(
        &mut self,
        name: &'static str,
        text: &str,
    ) -> Result<(), WalSenderError> {
        self.command = name;
        self.send(|buffer| frontend::query(text, buffer)).await
    }

    /// The next message that is about the command: notices and changed parameters are passed over, a refusal is an
    /// error after which the connection takes commands again, if the server keeps it.
    pub(super) async fn next(&mut self) -> Result<Message, WalSenderError> {
        loop {
            match self.next_of_any_kind().await? {
                Message::NoticeResponse(notice) => {
                    let text = notice.fields().find(|field| Ok(field.type_() == b'M'));
                    if let Ok(Some(field)) = text {
                        let notice = String::from_utf8_lossy(field.value_bytes());
                        tracing::debug!(command = self.command, %notice, "the server notes");
                    }
                }
                Message::ParameterStatus(_) => {}
                Message::ErrorResponse(body) => {
                    let (refusal, is_fatal) = self.refusal(&body);
                    if !is_fatal && self.command != "startup" {
                        self.drain().await?;
                    }
                    return Err(refusal);
                }
                message => return Ok(message),
            }
        }
    }

    async fn next_of_any_kind(&mut self) -> Result<Message, WalSenderError> {
        let command = self.command;
        loop {
            let header = Header::parse(&self.incoming);
            let header = header.map_err(|source| WalSenderError::Exchange { command, source })?;
            let length = header.map_or(0, |header| {
                usize::try_from(header.len()).unwrap_or(usize::MAX)
            });
            if length > MESSAGE_LIMIT {
                return Err(self.unexpected(format!("a message of {length} bytes")));
            }
            let message = Message::parse(&mut self.incoming);
            let message = message.map_err(|source| WalSenderError::Exchange { command, source })?;
            match message {
                Some(message) => return Ok(message),
                None => self.read_more().await?,
            }
        }
    }

    async fn read_more(&mut self) -> Result<(), WalSenderError> {
        let (command, limit) = (self.command, self.silence_limit);
        self.incoming.reserve(READ_BYTES);
        let reading = self.stream.read_buf(&mut self.incoming);
        match tokio::time::timeout(limit, reading).await {
            Ok(Ok(0)) => Err(WalSenderError::Cut { command }),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) if source.kind() == std::io::ErrorKind::ConnectionReset => {
                Err(WalSenderError::Cut { command })
            }
            Ok(Err(source)) => Err(WalSenderError::Exchange { command, source }),
            Err(_) => Err(WalSenderError::Silent { command, limit }),
        }
    }

    fn refusal(&self, body: &ErrorResponseBody) -> (WalSenderError, bool) {
        let field = |kind: u8| {
            let found = body.fields().find(|field| Ok(field.type_() == kind)).ok()?;
            found.map(|field| String::from_utf8_lossy(field.value_bytes()).into_owned())
        };
        // V is S without translation; 9.5 and older have only S.
        let severity = field(b'V').or_else(|| field(b'S')).unwrap_or_default();
        let is_fatal = severity != "ERROR";
        let error = WalSenderError::Server {
            command: self.command,
            severity,
            code: field(b'C').unwrap_or_default(),
            message: field(b'M').unwrap_or_default(),
            detail: field(b'D'),
        };
        (error, is_fatal)
    }

    /// Reads on until the server takes commands again.
    async fn drain(&mut self) -> Result<(), WalSenderError> {
        for _ in 0..DRAIN_LIMIT {
            if let Message::ReadyForQuery(_) = self.next_of_any_kind().await? {
                return Ok(());
            }
        }
        Err(self.unexpected("no end of the answer after an error"))
    }

    /// Reads the rows of one answer, through its CommandComplete.
    pub(super) async fn rows(&mut self) -> Result<Vec<Row>, WalSenderError> {
        let Message::RowDescription(_) = self.next().await? else {
            return Err(self.unexpected("no rows where rows are due"));
        };
        let mut rows = Vec::new();
        while rows.len() <= ROW_LIMIT {
            match self.next().await? {
                Message::DataRow(body) => rows.push(self.row(&body)?),
                Message::CommandComplete(_) => return Ok(rows),
                _ => break,
            }
        }
        Err(self.unexpected("the rows do not end as rows end"))
    }

    fn row(&self, body: &DataRowBody) -> Result<Row, WalSenderError> {
        let command = self.command;
        let ranges: Vec<_> = body
            .ranges()
            .collect()
            .map_err(|source| WalSenderError::Exchange { command, source })?;
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8(body.buffer().get(range).unwrap_or_default().to_vec())
                .map_err(|_| self.unexpected("a value is no UTF-8"))
        };
        ranges
            .into_iter()
            .map(|range| range.map(text).transpose())
            .collect()
    }

    /// Reads through the end of a command's answer.
    pub(super) async fn ready(&mut self) -> Result<(), WalSenderError> {
        // One CommandComplete or two come first, by version.
        for _ in 0..3 {
            match self.next().await? {
                Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                _ => break,
            }
        }
        Err(self.unexpected("more than the answer"))
    }

    /// Reads through the end of an answer that has at most a few rows, and throws them away.
    pub(super) async fn skip_answer(&mut self) -> Result<(), WalSenderError> {
        for _ in 0..ROW_LIMIT {
            match self.next().await? {
                Message::RowDescription(_) | Message::DataRow(_) | Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                _ => break,
            }
        }
        Err(self.unexpected("something else than rows"))
    }

    pub(super) fn unexpected(&self, what: impl Into<String>) -> WalSenderError {
        WalSenderError::Protocol {
            command: self.command,
            what: what.into(),
        }
    }

    /// Bids the server farewell, so that its log shows no broken connection.
    pub(super) async fn close(mut self) {
        self.incoming.advance(self.incoming.len());
        let farewell = self.send(|buffer| {
            frontend::terminate(buffer);
            Ok(())
        });
        if farewell.await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn a_silent_server_and_a_cut_one_are_told_apart() {
        let (near, far) = duplex(64);
        let mut wire = Wire::new(near);
        assert_eq!(wire.silence_limit, Duration::from_secs(60));
        wire.silence_limit = Duration::from_millis(20);
        assert!(matches!(
            wire.next().await,
            Err(WalSenderError::Silent { .. })
        ));
        // Nobody reads: sending must end, too.
        let sent = wire.send_command("TEST", &"x".repeat(100)).await;
        assert!(matches!(
            sent,
            Err(WalSenderError::Silent {
                command: "TEST",
                ..
            })
        ));
        drop(far);
        assert!(matches!(
            wire.next().await,
            Err(WalSenderError::Cut { command: "TEST" })
        ));
    }

    #[tokio::test]
    async fn a_message_without_bounds_is_refused_before_it_is_kept() {
        let (near, mut far) = duplex(64);
        far.write_all(b"d\x7f\xff\xff\xff").await.unwrap();
        let error = Wire::new(near).next().await.err().unwrap();
        assert!(
            error.to_string().contains("a message of 2147483647 bytes"),
            "{error}"
        );
    }
}
