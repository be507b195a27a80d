//! The proof that counts: a PostgreSQL of its own on a restored copy, which replays to the end and is read through.

use std::collections::BTreeMap;

use kubedb_api::protocol::VerifyTask;
use kubedb_engine::{
    backup::BackupProgress,
    repository::manifest::{self, Manifest},
    restore::{RestoreError, RestoreRequest, RestoredCluster, fetch, free_bytes, verify_folder},
    store::Store,
};
use tokio::sync::watch;

use super::{End, Proof, Tell, cancelled, content, page_words, scratch};
use crate::{
    backup::{Job, Refusal},
    bootstrap::{BootstrapError, Place},
    postgres::{configuration::Configuration, process::StopMode},
    recover::{Aim, recover},
};

/// Room beyond the files themselves: for replay, for what reading sorts, and so that the instance's own data never runs into the end.
const SPARE_BYTES: u64 = 64 << 20;

/// Words of a server that ended for want of something, or was told to, which says nothing of the Snapshot.
const WANTS: [&str; 14] = [
    "No space left",
    "Disk quota",
    "out of memory",
    "Cannot allocate memory",
    "could not map anonymous shared memory",
    "could not create shared memory",
    "could not fork",
    "Too many open files",
    "shutting down",
    "administrator command",
    "crash of another server process",
    // Said to whoever asks too early, which is us.
    "starting up",
    "not yet accepting connections",
    "in recovery mode",
];

impl Job {
    /// Restores, starts, reads, and removes all of it again, however it ends.
    pub(super) async fn boot(
        &self,
        store: &Store,
        task: &VerifyTask,
        tell: &Tell<'_>,
    ) -> Result<Proof, End> {
        scratch::clear(&self.place).await.map_err(refused)?;
        let place = scratch::place_of(&self.place);
        let proven = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(cancelled().into()),
            proven = self.boot_in(&place, store, task, tell) => proven,
        };
        // What cannot be removed now is removed by the next agent, or the next verification.
        if let Err(error) = scratch::clear(&self.place).await {
            tracing::warn!(%error, "what a verification made stays for now");
        }
        proven
    }

    async fn boot_in(
        &self,
        place: &Place,
        store: &Store,
        task: &VerifyTask,
        tell: &Tell<'_>,
    ) -> Result<Proof, End> {
        let manifest = manifest::read(store, &task.manifest).await;
        let manifest = manifest.map_err(RestoreError::from)?;
        self.check_room(&manifest)?;
        let (restored, fetched) = self.restore(place, store, task, tell).await?;
        let pages = self.check_pages(place, &manifest, &restored).await?;
        let is_before_10 = manifest.cluster.major.starts_with("9.");
        scratch::quieten(place, is_before_10).map_err(|source| {
            refused(BootstrapError::File {
                action: "write the configuration",
                source,
            })
        })?;
        let settings: BTreeMap<String, u64> = restored
            .settings
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.parse().ok()?)))
            .collect();
        let configuration = Configuration {
            is_standby: true,
            at_least: settings,
            ..place.private_configuration()
        };
        let aim = Aim {
            planned: restored.stop_lsn,
            archive: None,
        };
        recover(place, &configuration, &aim).await.map_err(judged)?;
        let (mut postmaster, session) = place
            .start_private(&place.private_configuration())
            .await
            .map_err(judged)?;
        drop(session);
        let read = content::read(place, &task.request).await;
        // Nothing of it is needed any more; what does not end is ended with the folder.
        if let Err(error) = postmaster.stop(StopMode::Immediate).await {
            tracing::warn!(%error, "the server of a verification");
        }
        let read = read?;
        Ok(Proof {
            words: format!(
                "restored {} bytes; {pages}; replayed to {}; {}",
                restored.database_bytes,
                restored.stop_lsn,
                read.words()
            ),
            bytes: fetched,
        })
    }

    fn check_room(&self, manifest: &Manifest) -> Result<(), End> {
        let bytes = manifest.sizes.database_bytes;
        let needed = bytes.saturating_add(bytes / 10).saturating_add(SPARE_BYTES);
        let folder = self.place.paths.directory();
        match free_bytes(folder) {
            Some(free) if free < needed => Err(Refusal {
                reason: format!(
                    "not enough room beside the data of its instance: {needed} bytes are needed, {free} are free"
                ),
                // Another instance may have it.
                is_retryable: true,
            }
            .into()),
            _ => Ok(()),
        }
    }

    async fn restore(
        &self,
        place: &Place,
        store: &Store,
        task: &VerifyTask,
        tell: &Tell<'_>,
    ) -> Result<(RestoredCluster, u64), End> {
        let (sender, seen) = watch::channel(BackupProgress::default());
        let last = seen.clone();
        let request = RestoreRequest {
            store: store.clone(),
            manifest: task.manifest.clone(),
            data_folder: place.paths.new_data(),
            dialect: place.dialect,
            postgres_version: self.postgres_version.clone(),
            threads: 2,
        };
        let restored = tell
            .follow(seen, fetch(request, sender, self.cancel.clone()))
            .await?;
        let fetched = last.borrow().uploaded_bytes;
        Ok((restored, fetched))
    }

    /// Before anything is started, so that the pages are those of the Snapshot.
    async fn check_pages(
        &self,
        place: &Place,
        manifest: &Manifest,
        restored: &RestoredCluster,
    ) -> Result<String, End> {
        if !manifest.cluster.data_checksums {
            return Ok("the database has no page checksums to verify".to_owned());
        }
        let (data, cancel) = (place.paths.new_data(), self.cancel.clone());
        let span = (restored.start_lsn, restored.stop_lsn);
        let verify = move || verify_folder(&data, span, &cancel);
        let pages = tokio::task::spawn_blocking(verify)
            .await
            .map_err(|_| RestoreError::Worker)??;
        page_words(&pages)
    }
}

fn refused(error: BootstrapError) -> End {
    Refusal::of(&error, true).into()
}

/// A server that gives up on what was restored speaks of the Snapshot, unless it says that it wants for something. One that ended without a
/// word was killed.
fn judged(error: BootstrapError) -> End {
    match &error {
        BootstrapError::Replay { .. } => End::Bad(crate::backup::line(&error)),
        BootstrapError::Start { last_words } if gives_up(last_words) => {
            End::Bad(format!("PostgreSQL does not start on it: {last_words}"))
        }
        _ => refused(error),
    }
}

fn gives_up(last_words: &str) -> bool {
    // Behind the process's number stands who is connected: what ends a session says nothing of the data.
    let complains = ["] FATAL:", "] PANIC:"]
        .iter()
        .any(|word| last_words.contains(word));
    complains && !WANTS.iter().any(|want| last_words.contains(want))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_gives_up_on_the_data_shows_damage() {
        let ended = |last_words: &str| {
            judged(BootstrapError::Start {
                last_words: last_words.to_owned(),
            })
        };
        for words in [
            "2026-11-26 21:18:02.439 UTC [7] PANIC:  could not locate a valid checkpoint record",
            "2026-11-26 21:18:02.439 UTC [7] FATAL:  could not access status of transaction 7",
        ] {
            assert!(matches!(ended(words), End::Bad(_)), "{words}");
        }
        // Killed, out of room, asked to stop.
        for words in [
            "",
            "2026-11-26 21:18:02.439 UTC [7] LOG:  redo starts at 0/2000028",
            "2026-11-26 21:18:02.439 UTC [7] FATAL:  could not write to file: No space left on device",
            "2026-11-26 21:18:02.439 UTC [7] FATAL:  the database system is shutting down",
            "2026-11-26 21:18:02.439 UTC [7] FATAL:  the database system is starting up",
            "2026-11-26 21:18:02.439 UTC [7] FATAL:  terminating connection due to administrator command",
            "2026-11-26 21:18:02.439 UTC [7] postgres@postgres FATAL:  terminating connection due to unexpected postmaster exit",
        ] {
            let is_again = matches!(ended(words), End::Refused(refusal) if refusal.is_retryable);
            assert!(is_again, "{words}");
        }
        let short = BootstrapError::Replay {
            planned: "0/3".to_owned(),
            reached: "0/2".to_owned(),
        };
        assert!(matches!(judged(short), End::Bad(_)));
    }
}
