//! Verifying a Snapshot: as closely as was asked for, each level with what those before prove.

mod boot;
mod content;
mod scratch;

use kubedb_api::{
    protocol::{TaskStatus, VerificationResult, VerifyTask},
    verification::VerificationLevel,
};
use kubedb_engine::{
    backup::BackupProgress,
    repository::check::{Finding, check_one},
    restore::{Pages, RestoreError, verify_pages},
    store::Store,
};
use tokio::sync::{Notify, watch};

pub(crate) use self::scratch::clear;
use crate::backup::{Job, Refusal, bytes, progress};

/// Findings that are told by name.
const TOLD_MAX: usize = 3;

/// Why a verification ended before everything was proven.
pub(crate) enum End {
    /// The Snapshot's data is damaged.
    Bad(String),
    /// The user's query failed.
    Query(String),
    /// Nothing is proven.
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<RestoreError> for End {
    fn from(error: RestoreError) -> Self {
        if error.is_damage() {
            Self::Bad(crate::backup::line(&error))
        } else {
            Refusal::of(&error, error.is_retryable()).into()
        }
    }
}

/// What was proven.
pub(crate) struct Proof {
    words: String,
    bytes: u64,
}

/// Where a job tells how far it is.
pub(crate) struct Tell<'a> {
    pub(crate) status: &'a watch::Sender<TaskStatus>,
    pub(crate) changed: &'a Notify,
}

impl Tell<'_> {
    fn tell(&self, seen: BackupProgress) {
        self.status
            .send_modify(|status| status.progress = Some(progress(seen)));
        // The reporter sends once a second at most.
        self.changed.notify_one();
    }

    /// Tells of what a job says until it is over.
    async fn follow<T>(
        &self,
        mut seen: watch::Receiver<BackupProgress>,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => if seen.has_changed().unwrap_or(false) {
                    let now = *seen.borrow_and_update();
                    self.tell(now);
                },
            }
        }
    }
}

impl Job {
    /// Verifies, and says what was found. An error means that nothing was.
    pub(crate) async fn verify(
        &self,
        status: &watch::Sender<TaskStatus>,
        changed: &Notify,
    ) -> Result<VerificationResult, Refusal> {
        let Some(task) = &self.task.verify else {
            return Err(Refusal {
                reason: "the task does not say what to verify".to_owned(),
                is_retryable: false,
            });
        };
        let tell = Tell { status, changed };
        let store = self.store().await?;
        let proven = match task.request.level {
            VerificationLevel::Objects => self.objects(&store, task, &tell).await,
            VerificationLevel::Pages => self.pages(&store, task, &tell).await,
            VerificationLevel::Boot => self.boot(&store, task, &tell).await,
        };
        match proven {
            Ok(proof) => Ok(VerificationResult {
                sound: true,
                damaged: false,
                found: proof.words,
                bytes: bytes(proof.bytes),
            }),
            Err(End::Bad(found)) => Ok(VerificationResult {
                damaged: true,
                found,
                ..VerificationResult::default()
            }),
            Err(End::Query(found)) => Ok(VerificationResult {
                found,
                ..VerificationResult::default()
            }),
            Err(End::Refused(refusal)) => Err(refusal),
        }
    }

    async fn objects(
        &self,
        store: &Store,
        task: &VerifyTask,
        tell: &Tell<'_>,
    ) -> Result<Proof, End> {
        let (sender, seen) = watch::channel(BackupProgress::default());
        let check = check_one(store, &task.manifest, |done_bytes, total_bytes| {
            sender.send_replace(BackupProgress {
                done_bytes,
                total_bytes,
                uploaded_bytes: 0,
            });
        });
        let checked = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(cancelled().into()),
            checked = tell.follow(seen, check) => checked,
        };
        let report = checked.map_err(|error| Refusal::of(&error, error.is_retryable()))?;
        if !report.findings.is_empty() {
            return Err(End::Bad(told(&report.findings)));
        }
        Ok(Proof {
            words: format!(
                "{} objects are there and are what was written",
                report.objects
            ),
            bytes: report.read_bytes,
        })
    }

    async fn pages(&self, store: &Store, task: &VerifyTask, tell: &Tell<'_>) -> Result<Proof, End> {
        let (sender, seen) = watch::channel(BackupProgress::default());
        let verify = verify_pages(store, &task.manifest, 2, sender, self.cancel.clone());
        let pages = tell.follow(seen, verify).await?;
        Ok(Proof {
            words: page_words(&pages)?,
            bytes: pages.fetched,
        })
    }
}

/// What is proven of pages, or the damage.
fn page_words(pages: &Pages) -> Result<String, End> {
    if !pages.findings.is_empty() {
        return Err(End::Bad(told(&pages.findings)));
    }
    if pages.has_checksums {
        Ok(format!(
            "{} pages fit their checksums, and all content its hashes",
            pages.pages
        ))
    } else {
        Ok("all content fits its hashes; the database has no page checksums to verify".to_owned())
    }
}

fn told(findings: &[Finding]) -> String {
    let named: Vec<String> = findings
        .iter()
        .take(TOLD_MAX)
        .map(|finding| format!("{}: {}", finding.object, finding.what))
        .collect();
    let named = named.join("; ");
    match findings.len().checked_sub(TOLD_MAX) {
        Some(more) if more > 0 => format!("{named}; and {more} more"),
        _ => named,
    }
}

pub(crate) fn cancelled() -> Refusal {
    Refusal {
        reason: "the verification was cancelled".to_owned(),
        is_retryable: true,
    }
}
