//! A session over the Unix socket that speaks in bytes: schemas and rows need not be UTF-8, and a row may be larger than memory has room for.
//!
//! It knows the simple protocol alone, and no authentication: the server trusts whoever reaches its socket.

use std::{io, path::PathBuf, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};
use tokio_postgres::config::Host;

/// A server on the same machine lets us in within this.
const CONNECT: Duration = Duration::from_secs(30);

/// Longest silence while a statement runs: an index on a large table takes hours.
const SILENCE: Duration = Duration::from_secs(24 * 3_600);

/// Longest message that is kept whole: a row of an answer, an error, a notice.
const MESSAGE: usize = 64 << 20;

/// Most rows of one answer: a row for each table of a database is the longest there is.
const ROWS: usize = 4 << 20;

/// Bytes asked of the socket at once.
const READ: usize = 256 << 10;

/// Settings that would end a session that is silent for hours, or change how values are written; a major that lacks one passes it over. Money is read
/// and written without a fraction of anybody's taste, so that it comes back whatever the other server's locale is.
const PREPARE: &str = "SELECT pg_catalog.set_config(name, CASE pg_catalog.lower(name)
        WHEN 'row_security' THEN 'off' WHEN 'bytea_output' THEN 'hex' WHEN 'extra_float_digits' THEN '3' WHEN 'datestyle' THEN 'ISO, YMD'
        WHEN 'intervalstyle' THEN 'postgres' WHEN 'lc_monetary' THEN 'C' WHEN 'xmloption' THEN 'content' WHEN 'synchronize_seqscans' THEN 'off'
        WHEN 'client_min_messages' THEN 'warning' WHEN 'log_statement' THEN 'none' WHEN 'log_min_error_statement' THEN 'panic'
        WHEN 'log_min_duration_statement' THEN '-1' WHEN 'standard_conforming_strings' THEN 'on' WHEN 'check_function_bodies' THEN 'off'
        WHEN 'search_path' THEN '' WHEN 'default_transaction_read_only' THEN 'off' WHEN 'default_transaction_isolation' THEN 'read committed' ELSE '0' END, false)
    FROM pg_catalog.pg_settings WHERE pg_catalog.lower(name) IN ('statement_timeout', 'lock_timeout', 'idle_session_timeout',
        'idle_in_transaction_session_timeout', 'transaction_timeout', 'row_security', 'bytea_output', 'extra_float_digits', 'datestyle', 'intervalstyle',
        'lc_monetary', 'xmloption', 'synchronize_seqscans', 'client_min_messages', 'log_statement', 'log_min_error_statement',
        'log_min_duration_statement', 'standard_conforming_strings', 'check_function_bodies', 'search_path', 'default_transaction_read_only',
        'default_transaction_isolation')";

/// Why the server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// No connection.
    #[error("failed to connect to database {database:?}: {source}")]
    Connect {
        /// The database.
        database: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server says no.
    #[error("{message} (SQLSTATE {code})")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// What it says.
        message: String,
    },
    /// The connection is gone.
    #[error("the connection to the server broke: {0}")]
    Broken(#[source] io::Error),
    /// What came makes no sense.
    #[error("the server answers with {0}")]
    Answer(String),
    /// Nothing came.
    #[error("the server has said nothing for {} s", SILENCE.as_secs())]
    Silent,
}

impl SqlError {
    /// SQLSTATE, where the server gave one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the same may succeed later: the server was short of something, stopping, or ended it for a conflict, a lock or a broken connection.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused { code, .. } => ["08", "40", "53", "55", "57", "58"]
                .iter()
                .any(|class| code.starts_with(class)),
            Self::Connect { .. } | Self::Broken(_) | Self::Silent => true,
            Self::Answer(_) => false,
        }
    }
}

/// A row: texts, or nothing for null.
pub(crate) type Row = Vec<Option<String>>;

/// Where a server is reached, as superuser.
#[derive(Clone, Debug)]
pub struct Address {
    /// Folder of its socket.
    pub folder: PathBuf,
    /// Port that names the socket.
    pub port: u16,
    /// The superuser.
    pub user: String,
}

impl Address {
    /// That of a connection over a socket.
    #[must_use]
    pub fn of(config: &tokio_postgres::Config) -> Option<Self> {
        let folder = config.get_hosts().iter().find_map(|host| match host {
            Host::Unix(folder) => Some(folder.clone()),
            Host::Tcp(_) => None,
        })?;
        Some(Self {
            folder,
            port: config.get_ports().first().copied().unwrap_or(5_432),
            user: config.get_user().unwrap_or("postgres").to_owned(),
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{}", self.port))
    }
}

/// A session.
pub(crate) struct Client {
    stream: UnixStream,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Bytes of the message in work that have not come yet, of one that is read in pieces.
    left: usize,
    pub(crate) database: String,
}

/// The head of a message.
struct Head {
    kind: u8,
    bytes: usize,
}

/// What the server says next.
enum Told {
    Row(Row),
    /// A command is done; its tag.
    Done(String),
    Ready,
    /// Rows of a copy come, or are awaited.
    Copy,
    /// A piece of a copy.
    Data(Bytes),
    CopyEnd,
    Other,
}

impl Client {
    /// Connects and prepares the session. `encoding` is what text is sent and read in.
    pub(crate) async fn connect(
        address: &Address,
        database: &str,
        encoding: &str,
    ) -> Result<Self, SqlError> {
        let connecting = async {
            let stream = UnixStream::connect(address.socket()).await;
            let stream = stream.map_err(|source| SqlError::Connect {
                database: database.to_owned(),
                source,
            })?;
            let mut client = Self {
                stream,
                incoming: BytesMut::new(),
                outgoing: BytesMut::new(),
                left: 0,
                database: database.to_owned(),
            };
            client.introduce(&address.user, encoding).await?;
            client.run(PREPARE.as_bytes()).await?;
            Ok(client)
        };
        match timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(SqlError::Connect {
                database: database.to_owned(),
                source: io::ErrorKind::TimedOut.into(),
            }),
        }
    }

    async fn introduce(&mut self, user: &str, encoding: &str) -> Result<(), SqlError> {
        let database = self.database.clone();
        let parameters = [
            ("user", user),
            ("database", database.as_str()),
            ("application_name", "kubedb snapshot"),
            ("client_encoding", encoding),
        ];
        frontend::startup_message(parameters, &mut self.outgoing).map_err(SqlError::Broken)?;
        self.flush().await?;
        loop {
            let head = self.head().await?;
            let body = self.body(&head).await?;
            match head.kind {
                b'R' if body.get(..4) == Some(&[0; 4]) => {}
                b'R' => {
                    let what = "a wish for a password, where it should trust its own socket";
                    return Err(SqlError::Answer(what.to_owned()));
                }
                b'E' => return Err(refusal(&body)),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    async fn flush(&mut self) -> Result<(), SqlError> {
        let sent = timeout(SILENCE, self.stream.write_all(&self.outgoing)).await;
        self.outgoing.clear();
        sent.map_err(|_| SqlError::Silent)?
            .map_err(SqlError::Broken)
    }

    async fn more(&mut self) -> Result<(), SqlError> {
        self.incoming.reserve(READ);
        let read = timeout(SILENCE, self.stream.read_buf(&mut self.incoming)).await;
        match read.map_err(|_| SqlError::Silent)? {
            Ok(0) => Err(SqlError::Broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(SqlError::Broken(error)),
        }
    }

    async fn head(&mut self) -> Result<Head, SqlError> {
        while self.incoming.len() < 5 {
            self.more().await?;
        }
        let kind = self.incoming.get_u8();
        let length = self.incoming.get_u32() as usize;
        match length.checked_sub(4) {
            Some(bytes) if bytes <= MESSAGE || kind == b'd' => Ok(Head { kind, bytes }),
            _ => Err(SqlError::Answer(format!("a message of {length} bytes"))),
        }
    }

    async fn body(&mut self, head: &Head) -> Result<Bytes, SqlError> {
        while self.incoming.len() < head.bytes {
            self.more().await?;
        }
        Ok(self.incoming.split_to(head.bytes).freeze())
    }

    /// The next thing that is about the command. A refusal is an error, after which the session takes commands again.
    async fn told(&mut self) -> Result<Told, SqlError> {
        loop {
            if self.left > 0 {
                if self.incoming.is_empty() {
                    self.more().await?;
                }
                let piece = self.left.min(self.incoming.len());
                self.left -= piece;
                return Ok(Told::Data(self.incoming.split_to(piece).freeze()));
            }
            let head = self.head().await?;
            if head.kind == b'd' {
                self.left = head.bytes;
                continue;
            }
            let body = self.body(&head).await?;
            return Ok(match head.kind {
                b'D' => Told::Row(row(&body)?),
                b'C' => Told::Done(text(body.strip_suffix(&[0]).unwrap_or(&body))?),
                b'Z' => Told::Ready,
                b'H' | b'G' => Told::Copy,
                b'c' => Told::CopyEnd,
                b'E' => {
                    let error = refusal(&body);
                    self.drain().await?;
                    return Err(error);
                }
                // Notices, changed parameters, the names of columns.
                b'N' | b'S' | b'A' | b'T' | b'I' => Told::Other,
                other => return Err(SqlError::Answer(format!("message {other:?}"))),
            });
        }
    }

    async fn drain(&mut self) -> Result<(), SqlError> {
        loop {
            let head = self.head().await?;
            self.body(&head).await?;
            if head.kind == b'Z' {
                return Ok(());
            }
        }
    }

    fn query(&mut self, statement: &[u8]) -> Result<(), SqlError> {
        let length = u32::try_from(statement.len() + 5);
        let length = length.map_err(|_| SqlError::Answer("a statement too long".to_owned()))?;
        self.outgoing.put_u8(b'Q');
        self.outgoing.put_u32(length);
        self.outgoing.put_slice(statement);
        self.outgoing.put_u8(0);
        Ok(())
    }

    /// Runs statements and throws away what they give.
    pub(crate) async fn run(&mut self, statements: &[u8]) -> Result<(), SqlError> {
        self.query(statements)?;
        self.flush().await?;
        loop {
            match self.told().await? {
                Told::Ready => return Ok(()),
                Told::Copy => return Err(SqlError::Answer("a copy that nobody asked for".into())),
                _ => {}
            }
        }
    }

    /// Runs statements and gives all rows.
    pub(crate) async fn rows(&mut self, statements: &str) -> Result<Vec<Row>, SqlError> {
        self.query(statements.as_bytes())?;
        self.flush().await?;
        let mut rows = Vec::new();
        loop {
            match self.told().await? {
                Told::Row(row) if rows.len() < ROWS => rows.push(row),
                Told::Row(_) => return Err(SqlError::Answer("more rows than there can be".into())),
                Told::Ready => return Ok(rows),
                _ => {}
            }
        }
    }

    /// The first column of the only row.
    pub(crate) async fn value(&mut self, query: &str) -> Result<String, SqlError> {
        let rows = self.rows(query).await?;
        let value = rows
            .into_iter()
            .next_back()
            .and_then(|row| row.into_iter().next());
        Ok(value.flatten().unwrap_or_default())
    }

    /// Begins a copy, to us or from us.
    pub(crate) async fn begin_copy(&mut self, statement: &str) -> Result<(), SqlError> {
        self.query(statement.as_bytes())?;
        self.flush().await?;
        loop {
            match self.told().await? {
                Told::Copy => return Ok(()),
                Told::Other => {}
                _ => return Err(SqlError::Answer("no copy".to_owned())),
            }
        }
    }

    /// The next piece of a copy to us; at its end nothing, and the session takes commands again. A piece may end anywhere.
    pub(crate) async fn next_piece(&mut self) -> Result<Option<Bytes>, SqlError> {
        loop {
            match self.told().await? {
                Told::Data(piece) => return Ok(Some(piece)),
                Told::Ready => return Ok(None),
                _ => {}
            }
        }
    }

    /// Sends a piece of a copy from us, which may end anywhere.
    pub(crate) async fn send(&mut self, piece: &[u8]) -> Result<(), SqlError> {
        // A message may be of any length, and the server keeps each whole.
        for part in piece.chunks(READ) {
            self.outgoing.put_u8(b'd');
            self.outgoing
                .put_u32(u32::try_from(part.len() + 4).unwrap_or(u32::MAX));
            self.outgoing.put_slice(part);
            self.flush().await?;
            self.listen().await?;
        }
        Ok(())
    }

    /// Looks whether the server has something to say while rows are sent: once it has refused one, it wants no more.
    async fn listen(&mut self) -> Result<(), SqlError> {
        match self.stream.try_read_buf(&mut self.incoming) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) => return Err(SqlError::Broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Err(SqlError::Broken(error)),
        }
        while !self.incoming.is_empty() {
            self.told().await?;
        }
        Ok(())
    }

    /// Ends it. Gives the rows that the server has taken.
    pub(crate) async fn end_copy(&mut self) -> Result<u64, SqlError> {
        frontend::copy_done(&mut self.outgoing);
        self.flush().await?;
        let mut rows = None;
        loop {
            match self.told().await? {
                Told::Done(tag) => rows = tag.rsplit(' ').next().and_then(|n| n.parse().ok()),
                Told::Ready => {
                    return rows.ok_or_else(|| SqlError::Answer("no count of rows".to_owned()));
                }
                _ => {}
            }
        }
    }

    /// Bids the server farewell, so that its log shows no broken connection.
    pub(crate) async fn close(mut self) {
        frontend::terminate(&mut self.outgoing);
        let _ = self.flush().await;
    }
}

fn text(bytes: &[u8]) -> Result<String, SqlError> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| SqlError::Answer("a name that is not UTF-8".to_owned()))
}

fn row(mut body: &[u8]) -> Result<Row, SqlError> {
    let short = || SqlError::Answer("half a row".to_owned());
    let mut number = || -> Result<usize, SqlError> {
        let (head, rest) = body.split_first_chunk::<2>().ok_or_else(short)?;
        body = rest;
        Ok(usize::from(u16::from_be_bytes(*head)))
    };
    let columns = number()?;
    let mut row = Row::with_capacity(columns);
    for _ in 0..columns {
        let (head, rest) = body.split_first_chunk::<4>().ok_or_else(short)?;
        body = rest;
        let length = i32::from_be_bytes(*head);
        let Ok(length) = usize::try_from(length) else {
            row.push(None);
            continue;
        };
        let (value, rest) = body.split_at_checked(length).ok_or_else(short)?;
        body = rest;
        row.push(Some(text(value)?));
    }
    Ok(row)
}

/// Of an error, what may be told: its detail and its context may hold what stands in a table.
fn refusal(body: &[u8]) -> SqlError {
    let (mut code, mut message) = (String::new(), String::new());
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, value)) = field.split_first() else {
            continue;
        };
        let value = String::from_utf8_lossy(value);
        match kind {
            b'C' => code = value.into_owned(),
            b'M' => message = value.into_owned(),
            _ => {}
        }
    }
    SqlError::Refused { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_refusals_are_read_and_what_is_cut_off_is_none() {
        let body = b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff";
        assert_eq!(row(body).unwrap(), [Some("ab".to_owned()), None]);
        for end in 0..body.len() {
            assert!(row(&body[..end]).is_err(), "{end}");
        }
        let told = refusal(b"SERROR\0VERROR\0C42P01\0Mno such thing\0Dsecret\0\0");
        assert_eq!(told.to_string(), "no such thing (SQLSTATE 42P01)");
        assert!(!told.is_passing());
        assert!(refusal(b"C40001\0Mconflict\0\0").is_passing());
    }
}
