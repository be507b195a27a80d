//! BASE_BACKUP: a whole copy of a server's data through the replication connection, with the WAL that makes it consistent.

use std::{path::Path, time::Duration};

use bytes::{Buf as _, Bytes};
use kubedb_core::lsn::Lsn;
use postgres_protocol::message::backend::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    WalSender, WalSenderError,
    unpack::{Piece, UnpackError, check_empty, tablespaces_folder, unpack},
    wire::{Row, SILENCE_LIMIT, Wire},
};
use crate::postgres::dialect::PgDialect;

/// Longest wait for the first byte: the server checkpoints first, which writes all of its changed buffers. At 50 MB/s
/// this is enough for 30 GB of them.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(600);

/// Pieces on their way to disk: at 32 to 128 KiB each, at most 8 MiB.
const QUEUE: usize = 64;

/// Bytes between two reports of progress.
const REPORT_BYTES: u64 = 1 << 20;

/// Longest label; PostgreSQL's own limit is 1023.
const LABEL_LIMIT: usize = 200;

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyProgress {
    /// Bytes that arrived, archive headers included.
    pub done_bytes: u64,
    /// The server's estimate; it leaves WAL out, and is raised when more than that arrives.
    pub total_bytes: u64,
}

/// What a copy is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseBackup {
    /// Replay must begin here.
    pub start: Lsn,
    /// The copy is consistent once replay got here; the WAL up to here is in it.
    pub stop: Lsn,
    /// Timeline of the start.
    pub timeline: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WalSender<S> {
    /// Copies the server's data into `target`, and its tablespaces into folders named by oid in `tablespaces` beside
    /// it. Files get mode 0600, folders 0700, and all of it is durable at the end. The copy holds the WAL it needs, so
    /// it starts alone; it keeps the configuration of its source.
    ///
    /// `target` is absolute, and missing or empty. After an error, or when the future is dropped, what was written is
    /// removed; in the second case shortly after.
    pub async fn base_backup(
        &mut self,
        dialect: PgDialect,
        label: &str,
        target: &Path,
        progress: &watch::Sender<CopyProgress>,
    ) -> Result<BaseBackup, WalSenderError> {
        let command = command(dialect, label)?;
        tablespaces_folder(target)
            .and_then(|_| check_empty(target))
            .map_err(|source| WalSenderError::Unpack { source })?;
        self.wire.silence_limit = CHECKPOINT_LIMIT;
        self.wire.send_command("BASE_BACKUP", &command).await?;
        let begin = self.wire.rows().await;
        self.wire.silence_limit = SILENCE_LIMIT;
        let (start, timeline) = position(&self.wire, &begin?)?;
        let header = self.wire.rows().await?;
        let archives = archives(&self.wire, &header)?;
        if !dialect.base_backup_has_option_list() {
            check_locations(&self.wire, &header)?;
        }
        let mut copy = Copy::begin(target, &archives, total_bytes(&header), progress);
        let received = if dialect.base_backup_has_option_list() {
            copy.receive_one_stream(&mut self.wire, &archives).await
        } else {
            copy.receive_streams(&mut self.wire, &archives).await
        };
        let received = match received {
            Ok(()) => finish(&mut self.wire).await,
            Err(error) => Err(error),
        };
        let stop = copy.end(received).await?;
        Ok(BaseBackup {
            start,
            stop,
            timeline,
        })
    }
}

fn command(dialect: PgDialect, label: &str) -> Result<String, WalSenderError> {
    if label.is_empty() || label.len() > LABEL_LIMIT || label.chars().any(char::is_control) {
        return Err(WalSenderError::Argument {
            what: "label",
            value: label.to_owned(),
            rule: "1 to 200 bytes without control characters",
        });
    }
    let label = label.replace('\'', "''");
    Ok(if dialect.base_backup_has_option_list() {
        format!(
            "BASE_BACKUP (LABEL '{label}', PROGRESS, CHECKPOINT 'fast', WAL, WAIT false, TABLESPACE_MAP, MANIFEST 'no')"
        )
    } else {
        format!("BASE_BACKUP LABEL '{label}' PROGRESS FAST WAL NOWAIT TABLESPACE_MAP")
    })
}

/// The row of a position and a timeline that stands before and after the archives.
fn position<S>(wire: &Wire<S>, rows: &[Row]) -> Result<(Lsn, u32), WalSenderError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let found = rows.first().and_then(|row| match row.as_slice() {
        [Some(lsn), Some(timeline), ..] => Some((lsn.parse().ok()?, timeline.parse().ok()?)),
        _ => None,
    });
    found.ok_or_else(|| wire.unexpected(format!("no position: {rows:?}")))
}

/// The archives in the order in which older servers send them; nothing stands for the data folder.
fn archives<S>(wire: &Wire<S>, rows: &[Row]) -> Result<Vec<Option<u32>>, WalSenderError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let archive = |row: &Row| match row.as_slice() {
        [None, ..] => Some(None),
        // A relative location is a folder within pg_tblspc, a developers' setting.
        [Some(oid), Some(location), ..] if location.starts_with('/') => oid.parse().ok().map(Some),
        _ => None,
    };
    let archives: Option<Vec<_>> = rows.iter().map(archive).collect();
    archives
        .filter(|all| all.iter().filter(|archive| archive.is_none()).count() == 1)
        .ok_or_else(|| {
            wire.unexpected(format!(
                "a list of tablespaces as of no known server: {rows:?}"
            ))
        })
}

/// 9.6 escapes a line end in a location, looks for the tablespace there, and sends an empty archive without a word.
fn check_locations<S>(wire: &Wire<S>, rows: &[Row]) -> Result<(), WalSenderError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let location = |row: &Row| row.get(1).cloned().flatten();
    let lost = rows
        .iter()
        .filter_map(location)
        .find(|location| location.contains(['\n', '\r']));
    match lost {
        None => Ok(()),
        Some(location) => Err(wire.unexpected(format!(
            "this server leaves the files of the tablespace at {location:?} out, because of the line end"
        ))),
    }
}

/// Sizes are in KiB, the third column.
fn total_bytes(rows: &[Row]) -> u64 {
    let kib = |row: &Row| row.get(2)?.as_ref()?.parse::<u64>().ok();
    rows.iter()
        .filter_map(kib)
        .fold(0, |sum, kib| sum.saturating_add(kib.saturating_mul(1024)))
}

/// Reads what follows the archives.
async fn finish<S>(wire: &mut Wire<S>) -> Result<Lsn, WalSenderError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let rows = wire.rows().await?;
    let (stop, _) = position(wire, &rows)?;
    wire.ready().await?;
    Ok(stop)
}

/// A copy under way: a thread writes it, fed through a queue.
struct Copy<'a> {
    pieces: mpsc::Sender<Piece>,
    writing: JoinHandle<Result<(), UnpackError>>,
    progress: &'a watch::Sender<CopyProgress>,
    state: CopyProgress,
    reported: u64,
}

/// The thread that writes is gone; its own error says why.
struct WriterGone;

impl<'a> Copy<'a> {
    fn begin(
        target: &Path,
        archives: &[Option<u32>],
        total_bytes: u64,
        progress: &'a watch::Sender<CopyProgress>,
    ) -> Self {
        let (pieces, receiver) = mpsc::channel(QUEUE);
        let target = target.to_owned();
        let tablespaces: Vec<u32> = archives.iter().copied().flatten().collect();
        let writing = tokio::task::spawn_blocking(move || unpack(receiver, &target, &tablespaces));
        let state = CopyProgress {
            done_bytes: 0,
            total_bytes,
        };
        progress.send_replace(state);
        Self {
            pieces,
            writing,
            progress,
            state,
            reported: 0,
        }
    }

    /// 9.6 to 14: one stream for each archive.
    async fn receive_streams<S>(
        &mut self,
        wire: &mut Wire<S>,
        archives: &[Option<u32>],
    ) -> Result<(), WalSenderError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        for archive in archives {
            open_stream(wire).await?;
            if self.push(Piece::Archive(*archive)).await.is_err() {
                return Ok(());
            }
            while let Some(data) = stream_piece(wire).await? {
                if self.data(data).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// 15 and later: one stream, in which the first byte of a piece says what it is.
    async fn receive_one_stream<S>(
        &mut self,
        wire: &mut Wire<S>,
        archives: &[Option<u32>],
    ) -> Result<(), WalSenderError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        open_stream(wire).await?;
        let mut missing = archives.to_vec();
        while let Some(mut piece) = stream_piece(wire).await? {
            // Empty pieces occur.
            if piece.is_empty() {
                continue;
            }
            let pushed = match piece.get_u8() {
                b'd' if missing.len() < archives.len() => self.data(piece).await,
                b'n' => {
                    let archive = named(&piece).filter(|archive| missing.contains(archive));
                    let archive = archive
                        .ok_or_else(|| wire.unexpected("an unknown archive, or one twice"))?;
                    missing.retain(|other| *other != archive);
                    self.push(Piece::Archive(archive)).await
                }
                // The server's own count.
                b'p' => Ok(()),
                kind => {
                    return Err(wire.unexpected(format!("a piece of kind {:?}", char::from(kind))));
                }
            };
            if pushed.is_err() {
                return Ok(());
            }
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(wire.unexpected("an archive is missing"))
        }
    }

    async fn data(&mut self, data: Bytes) -> Result<(), WriterGone> {
        self.state.done_bytes += data.len() as u64;
        if self.state.done_bytes - self.reported >= REPORT_BYTES {
            self.report();
        }
        self.push(Piece::Data(data)).await
    }

    fn report(&mut self) {
        self.reported = self.state.done_bytes;
        self.state.total_bytes = self.state.total_bytes.max(self.state.done_bytes);
        self.progress.send_replace(self.state);
    }

    async fn push(&self, piece: Piece) -> Result<(), WriterGone> {
        self.pieces.send(piece).await.map_err(|_| WriterGone)
    }

    /// Completes the copy if all was received, and waits until it is durable, or removed.
    async fn end(mut self, received: Result<Lsn, WalSenderError>) -> Result<Lsn, WalSenderError> {
        if received.is_ok() {
            let _ = self.push(Piece::Done).await;
            self.state.total_bytes = self.state.done_bytes;
            self.report();
        }
        drop(self.pieces);
        let written = self.writing.await.unwrap_or(Err(UnpackError::Abandoned));
        match (received, written) {
            (Ok(stop), Ok(())) => Ok(stop),
            // The writer ended early only because the server did.
            (Err(error), Ok(()) | Err(UnpackError::Abandoned)) => Err(error),
            (_, Err(source)) => Err(WalSenderError::Unpack { source }),
        }
    }
}

async fn open_stream<S>(wire: &mut Wire<S>) -> Result<(), WalSenderError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match wire.next().await? {
        Message::CopyOutResponse(_) => Ok(()),
        _ => Err(wire.unexpected("no archive where one is due")),
    }
}

async fn stream_piece<S>(wire: &mut Wire<S>) -> Result<Option<Bytes>, WalSenderError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match wire.next().await? {
        Message::CopyData(body) => Ok(Some(body.into_bytes())),
        Message::CopyDone => Ok(None),
        _ => Err(wire.unexpected("something else within an archive")),
    }
}

/// The archive of a name such as `base.tar` or `16384.tar`, closed by a zero; its location follows.
fn named(piece: &[u8]) -> Option<Option<u32>> {
    let name = piece.split(|byte| *byte == 0).next()?;
    match std::str::from_utf8(name).ok()?.strip_suffix(".tar")? {
        "base" => Some(None),
        oid => oid.parse().ok().map(Some),
    }
}
