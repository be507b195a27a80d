//! A Snapshot as SQL: schemas by pg_dump, rows by `COPY` of several tables at once, all as snapshots have them that were opened at one point. Rows go into
//! packs as they come; nothing is kept on a disk.

mod rows;

use std::{collections::BTreeMap, path::PathBuf};

use kubedb_core::lsn::Lsn;
use tokio::{sync::watch, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::rows::Dump;
use super::{
    Attempt, BackupError, BackupOutcome, BackupProgress, BackupRequest,
    assemble::{Collected, MapWriter},
    base::Found,
    commit::Surroundings,
    compare::{Frame, Run},
    pack::Packer,
    read::Content,
    session::{Session, read_control},
    transfer::{Copied, history_of},
};
use crate::{
    logical::{
        Address, Client, LogicalError, Opening, Program,
        contents::{CONTENTS, Contents},
        globals, pause_note,
    },
    repository::{libc, manifest},
};

/// Whole, always: rows have no pages to compare.
const WHOLE: &str = "a logical Snapshot is stored as a whole";

/// What to dump.
#[derive(Clone, Debug)]
pub struct LogicalRequest {
    /// As for any Snapshot. The connection must be over a socket, as the superuser that initdb made.
    pub backup: BackupRequest,
    /// Folders in which pg_dump may lie, see [`crate::logical::program_folders`].
    pub programs: Vec<PathBuf>,
}

/// Takes a logical Snapshot. It exists once this returns `Ok`: its manifest was written last, and read back.
pub async fn take_logical(
    request: LogicalRequest,
    progress: watch::Sender<BackupProgress>,
    cancel: CancellationToken,
) -> Result<BackupOutcome, BackupError> {
    let LogicalRequest { backup, programs } = request;
    // Before anything is written, and anything is asked of the store.
    let program = Program::find(&programs, backup.dialect).await?;
    let address = Address::of(&backup.connection).ok_or(LogicalError::Address)?;
    let stop = cancel.child_token();
    let _guard = stop.clone().drop_guard();
    let attempt = Attempt::new(&backup, progress, stop, &cancel).await?;
    let dump = Logical {
        attempt: &attempt,
        program: &program,
        address: &address,
    };
    let outcome = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(BackupError::Cancelled),
        outcome = dump.run() => outcome,
    };
    attempt.clear_up(&outcome).await;
    outcome
}

/// One attempt.
struct Logical<'a> {
    attempt: &'a Attempt<'a>,
    program: &'a Program,
    address: &'a Address,
}

/// A piece of a file on its way into a pack. The pieces of one file come in order.
struct Piece {
    file: String,
    raw: usize,
    /// Nothing of an empty file.
    content: Option<Content>,
}

/// What becomes of pieces.
struct Store<'a> {
    attempt: &'a Attempt<'a>,
    packer: Packer,
    files: BTreeMap<String, Collected>,
    told: BackupProgress,
}

impl Logical<'_> {
    async fn run(&self) -> Result<BackupOutcome, BackupError> {
        let request = self.attempt.request;
        let (control, _) = read_control(&request.data_folder).await?;
        let session = Session::open(
            &request.connection,
            request.dialect,
            &request.snapshot_uid,
            request.attempt,
            &control,
        )
        .await?;
        let dumped = self.dump(&session, control).await;
        session.close().await;
        dumped
    }

    async fn dump(
        &self,
        session: &Session,
        control: crate::postgres::control::ControlFile,
    ) -> Result<BackupOutcome, BackupError> {
        let request = self.attempt.request;
        let (dialect, is_standby) = (request.dialect, session.is_standby);
        if is_standby && !dialect.standby_exports_snapshots() {
            let what = format!("a standby of PostgreSQL {dialect} lends no snapshots");
            return Err(LogicalError::PrimaryAlone { what }.into());
        }
        self.attempt.announce().await?;
        if let Some(needed) = request.minimum_lsn {
            session.reach(needed).await?;
        }
        let mut client = Client::connect(self.address, "postgres", "UTF8")
            .await
            .map_err(LogicalError::sql("open a session", "postgres"))?;
        let databases = globals::databases(&mut client).await?;
        let opening = Opening {
            address: self.address,
            dialect,
            databases: &databases,
            is_standby,
            note: pause_note(&request.data_folder),
        };
        let point = opening.open(&mut client).await?;
        if !point.is_one {
            tracing::info!(
                databases = databases.len(),
                "transactions ended while snapshots were opened one beside another: databases are some milliseconds apart"
            );
        }
        let mut contents = globals::read(&mut client, dialect.number()).await?;
        client.close().await;
        contents.pg_dump = self.program.version.clone();
        contents.databases = databases;
        let (start_lsn, stop_lsn, is_one_point) = (point.start, point.stop, point.is_one);
        let (contents, stored) = Dump {
            attempt: self.attempt,
            program: self.program,
            address: self.address,
            is_standby,
        }
        .read(point, contents)
        .await?;
        let timeline = session.timeline().await?;
        let history = history_of(&request.data_folder, dialect, timeline).await?;
        let logical = manifest::Logical {
            databases: contents.databases.len() as u64,
            tables: contents
                .databases
                .iter()
                .map(|one| one.tables.len() as u64)
                .sum(),
            rows: contents.databases.iter().map(|one| one.rows()).sum(),
            is_one_point,
            pg_dump: contents.pg_dump.clone(),
        };
        let copied = stored
            .finish(
                &contents,
                Copied {
                    maps: Default::default(),
                    packs: Vec::new(),
                    found: Found::Whole(WHOLE.to_owned()),
                    incarnations: BTreeMap::new(),
                    control,
                    tablespaces: Vec::new(),
                    wal: Vec::new(),
                    history,
                    timeline,
                    start_lsn: start_lsn.max(Lsn(1)),
                    stop_lsn: stop_lsn.max(Lsn(1)),
                    read_bytes: 0,
                    uploaded_bytes: 0,
                    logical: Some(logical),
                },
            )
            .await?;
        let surroundings = Surroundings {
            is_standby,
            locales: session.locales().await?,
            libc: spawn_blocking(libc::name).await.unwrap_or_default(),
        };
        self.attempt.commit(copied, surroundings).await
    }
}

impl<'a> Store<'a> {
    fn new(attempt: &'a Attempt<'a>, total_bytes: u64) -> Result<Self, BackupError> {
        let request = attempt.request;
        let packer = Packer::new(
            request.store.clone(),
            attempt.folder.clone(),
            &attempt.id.uid,
            attempt.begun.clone(),
            attempt.data_key.as_ref(),
            request.effort.uploads,
        )?;
        Ok(Self {
            attempt,
            packer,
            files: BTreeMap::new(),
            told: BackupProgress {
                total_bytes,
                ..BackupProgress::default()
            },
        })
    }

    async fn add(&mut self, piece: Piece) -> Result<(), BackupError> {
        let mut run = None;
        let at = self.files.get(&piece.file).map_or(0, |file| file.bytes);
        if let Some(content) = piece.content {
            let place = self.packer.add(&content.stored).await?;
            let raw = u32::try_from(piece.raw).unwrap_or(u32::MAX);
            run = Some(Run {
                at,
                raw,
                from: 0,
                frame: std::sync::Arc::new(Frame {
                    pack: place.pack,
                    offset: place.offset,
                    stored: u32::try_from(place.stored).unwrap_or(u32::MAX),
                    whole: raw,
                    codec: content.codec,
                    blake3: content.blake3,
                }),
                blake3: None,
            });
        }
        let file = self.files.entry(piece.file).or_default();
        file.add(at, piece.raw, run);
        self.told.done_bytes += piece.raw as u64;
        self.told.total_bytes = self.told.total_bytes.max(self.told.done_bytes);
        self.told.uploaded_bytes = self.packer.uploaded();
        self.attempt.progress.send_replace(self.told);
        Ok(())
    }

    /// Sends the last packs, then the lists.
    async fn finish(mut self, contents: &Contents, copied: Copied) -> Result<Copied, BackupError> {
        let list = serde_json::to_vec(contents).map_err(LogicalError::Contents)?;
        for (number, part) in list.chunks(rows::UNIT).enumerate() {
            let part = part.to_vec();
            let raw = part.len();
            let path = format!("{CONTENTS} ({number})");
            let (content, _) = rows::encode(part, &path, &self.attempt.pace).await?;
            let file = CONTENTS.to_owned();
            self.add(Piece { file, raw, content }).await?;
        }
        let read_bytes = self.told.done_bytes;
        let (packs, uploaded) = self.packer.finish().await?;
        let attempt = self.attempt;
        let mut maps = MapWriter::new(
            attempt.request.store.clone(),
            attempt.folder.clone(),
            &attempt.id.uid,
            attempt.data_key.clone(),
            &[],
        );
        for (path, file) in self.files {
            maps.push(&path, file).await?;
        }
        let maps = maps.finish().await?;
        Ok(Copied {
            packs,
            uploaded_bytes: uploaded + maps.uploaded,
            read_bytes,
            maps,
            ..copied
        })
    }
}
