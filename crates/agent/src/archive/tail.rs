//! Stores the segment in work as it grows, so that the archive is never long behind the primary. What PostgreSQL has flushed stays as it is, and its archiver
//! keeps every segment until it is stored whole: so the bytes are read from its own folder, and no slot is needed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use kubedb_core::{
    archive::Segment,
    lsn::{Lsn, TimelineId},
    tail::Piece,
};
use kubedb_engine::{archive::ArchiveError, postgres::dialect::PgDialect, store::StoreError};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};

use super::Archiver;
use crate::{
    backup::line,
    sql::{Session, SqlError},
};

/// With more whole segments than these on their way, the segment in work would come too late to help, and only hold them up.
const BACKLOG: usize = 2;
/// Between two looks at a backlog, whose folder may be large.
const LOOK_AT_BACKLOG: Duration = Duration::from_secs(5);
/// A server that is away is asked again so soon: it costs nothing, and what it writes when it is back shall not wait.
const RECONNECT: Duration = Duration::from_secs(1);
/// Pauses between tries grow up to this, while the store is away.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// How to follow a primary.
#[derive(Clone, Debug)]
pub(crate) struct Following {
    /// Its server.
    pub(crate) server: tokio_postgres::Config,
    pub(crate) dialect: PgDialect,
    /// How long the archive may be behind.
    pub(crate) lag: Duration,
}

/// Follows a primary until it is dropped.
#[derive(Debug)]
pub(crate) struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follower {
    pub(crate) fn start(archiver: Arc<Archiver>, following: Following) -> Self {
        Self(tokio::spawn(async move {
            loop {
                let Err(error) = watch(&archiver, &following).await;
                tracing::debug!(%error, "the segment in work is followed anew");
                sleep(RECONNECT).await;
            }
        }))
    }
}

impl Following {
    /// Pause between two looks: it and the way into the store are the lag together.
    fn every(&self) -> Duration {
        self.lag * 3 / 5
    }
}

/// Why the segment in work was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TailError {
    #[error("{0}")]
    Open(String),
    #[error(transparent)]
    Store(#[from] ArchiveError),
}

/// What is stored of the segment in work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begun {
    segment: Segment,
    generation: u32,
    to: u64,
}

/// What to do about a position that was flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is stored already, or not worth it.
    Rest,
    /// This segment is new here.
    Begin(Segment),
    /// More has come.
    Store(Piece),
}

fn next(
    begun: Option<&Begun>,
    timeline: TimelineId,
    flushed: Lsn,
    segment_bytes: u64,
    backlog: usize,
) -> Step {
    let segment = Segment {
        timeline,
        number: flushed.segment(segment_bytes),
    };
    let to = flushed.offset(segment_bytes);
    match begun {
        _ if to == 0 || backlog > BACKLOG => Step::Rest,
        Some(begun) if begun.segment == segment && to <= begun.to => Step::Rest,
        Some(begun) if begun.segment == segment => Step::Store(Piece {
            generation: begun.generation,
            from: begun.to,
            to,
        }),
        _ => Step::Begin(segment),
    }
}

/// Follows by one session. A crash of the server ends the session, so whatever follows is another generation.
async fn watch(archiver: &Arc<Archiver>, following: &Following) -> Result<Infallible, SqlError> {
    let session = Session::connect(&following.server).await?;
    let mut begun: Option<Begun> = None;
    let mut timeline = None;
    let mut is_clean = false;
    let mut pause = following.every();
    let mut looks = interval(following.every());
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(flushed) = session.flushed_lsn(following.dialect).await? else {
            continue;
        };
        let timeline = match timeline {
            Some(known) => known,
            None => {
                let Some(known) = session.timeline(following.dialect).await? else {
                    continue;
                };
                *timeline.insert(known)
            }
        };
        let waiting = archiver.waiting_before(flushed);
        let step = next(
            begun.as_ref(),
            timeline,
            flushed,
            archiver.segment_bytes(),
            waiting,
        );
        let done = match step {
            Step::Rest => Ok(()),
            Step::Begin(segment) => archiver.begin_tail(segment, flushed, &mut begun).await,
            Step::Store(piece) => archiver.store_piece(piece, &mut begun).await,
        };
        match done {
            Ok(()) => pause = following.every(),
            Err(error) => {
                archiver.tell_behind(&error);
                sleep(pause).await;
                pause = (2 * pause).min(PAUSE_MAX);
                continue;
            }
        }
        if waiting > BACKLOG {
            sleep(LOOK_AT_BACKLOG).await;
        }
        if waiting == 0 {
            if let Some(begun) = &begun {
                let start = begun.segment.start(archiver.segment_bytes());
                archiver.covers(Lsn(start.0 + begun.to));
            }
            if !std::mem::replace(&mut is_clean, true) {
                archiver.clear_tails(timeline, flushed).await;
            }
        }
    }
}

impl Archiver {
    /// Begins a generation of a segment with all that is flushed of it.
    async fn begin_tail(
        &self,
        segment: Segment,
        flushed: Lsn,
        begun: &mut Option<Begun>,
    ) -> Result<(), TailError> {
        let archive = self.archive().await.map_err(TailError::Open)?;
        let generation = archive.tail_generation(segment).await?;
        *begun = Some(Begun {
            segment,
            generation,
            to: 0,
        });
        let to = flushed.offset(self.segment_bytes());
        let piece = Piece {
            generation,
            from: 0,
            to,
        };
        self.store_piece(piece, begun).await
    }

    async fn store_piece(&self, piece: Piece, begun: &mut Option<Begun>) -> Result<(), TailError> {
        let Some(known) = begun else { return Ok(()) };
        let archive = self.archive().await.map_err(TailError::Open)?;
        self.note_tail(known.segment);
        match archive
            .push_tail(self.wal_folder(), known.segment, piece)
            .await
        {
            Ok(_) => {
                known.to = piece.to;
                Ok(())
            }
            Err(error) => {
                // Somebody else's bytes are there, or the segment is gone: it is begun anew.
                let is_other = matches!(
                    error,
                    ArchiveError::Store(StoreError::Conflict { .. })
                        | ArchiveError::Read { .. }
                        | ArchiveError::Wrong { .. }
                );
                if is_other {
                    *begun = None;
                }
                Err(error.into())
            }
        }
    }

    /// Deletes what a crash has left of segments that are whole by now.
    async fn clear_tails(&self, timeline: TimelineId, flushed: Lsn) {
        let number = flushed.segment(self.segment_bytes());
        let Ok(archive) = self.archive().await else {
            return;
        };
        let cleared = archive
            .delete_tails_before(Segment { timeline, number })
            .await;
        note_left(cleared);
    }

    /// Deletes the pieces of a segment that is stored whole.
    pub(super) fn drop_tail(self: &Arc<Self>, segment: Segment) {
        let this = self.clone();
        tokio::spawn(async move {
            if let Ok(archive) = this.archive().await {
                note_left(archive.delete_tail(segment).await);
            }
        });
    }
}

/// Pieces that stay harm nobody, and the next agent deletes them.
fn note_left(deleted: Result<(), ArchiveError>) {
    if let Err(error) = deleted {
        tracing::debug!(
            error = line(&error),
            "pieces of whole segments stay for now"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 16 << 20;

    fn step(begun: Option<(u64, u64)>, flushed: u64, backlog: usize) -> Step {
        let begun = begun.map(|(number, to)| Begun {
            segment: segment(number),
            generation: 4,
            to,
        });
        next(begun.as_ref(), TimelineId(2), Lsn(flushed), BYTES, backlog)
    }

    fn segment(number: u64) -> Segment {
        Segment {
            timeline: TimelineId(2),
            number,
        }
    }

    #[test]
    fn what_has_come_since_is_stored_and_nothing_twice() {
        assert_eq!(step(None, 5 * BYTES + 100, 0), Step::Begin(segment(5)));
        assert_eq!(step(Some((5, 100)), 5 * BYTES + 100, 0), Step::Rest);
        let piece = Piece {
            generation: 4,
            from: 100,
            to: 300,
        };
        assert_eq!(step(Some((5, 100)), 5 * BYTES + 300, 0), Step::Store(piece));
        // The segment is full, and there is nothing of the next one yet.
        assert_eq!(step(Some((5, 100)), 6 * BYTES, 0), Step::Rest);
        assert_eq!(
            step(Some((5, 100)), 6 * BYTES + 40, 1),
            Step::Begin(segment(6))
        );
    }

    #[test]
    fn whole_segments_that_wait_go_first() {
        assert_eq!(step(None, 5 * BYTES + 100, BACKLOG + 1), Step::Rest);
        assert_eq!(
            step(Some((5, 50)), 5 * BYTES + 100, BACKLOG + 1),
            Step::Rest
        );
    }
}
