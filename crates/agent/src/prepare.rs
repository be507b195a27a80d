//! What a running server needs beyond its start: roles, passwords and slots on a primary, a way to follow on a standby. Looked at again
//! and again, since Secrets change and slots are dropped by hand.

use std::{fmt, time::Duration};

use kubedb_api::Postgres;
use kubedb_engine::{logical::pause_note, postgres::control::ControlFile};
use tokio::time::Instant;

use crate::{
    agent::Agent,
    observe::Facts,
    postgres::{configuration::write_passfile, process::complaint_since, tablespaces},
    serve::ActError,
    sql::standby_slot,
    state::{self, StoredRole},
};

/// How often a server that was made ready is looked at again.
const AGAIN: Duration = Duration::from_secs(10);

/// What was made ready in a running primary or standby.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Prepared {
    replicas: u32,
    passwords: Option<Passwords>,
    again: Instant,
}

/// Passwords as they were set last.
#[derive(Clone, PartialEq, Eq)]
struct Passwords {
    superuser: String,
    replication: String,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// Makes a running server what the database needs.
    pub(crate) async fn prepare(&mut self, facts: &Facts) -> Result<(), ActError> {
        let is_as_wanted = |prepared: &Prepared| {
            prepared.replicas == facts.replicas && Instant::now() < prepared.again
        };
        if self.prepared.as_ref().is_some_and(is_as_wanted) {
            return Ok(());
        }
        let is_primary = self
            .state
            .as_ref()
            .is_some_and(|state| state.role == StoredRole::Primary);
        if is_primary && self.archives_otherwise().await? {
            tracing::warn!("PostgreSQL was started without its archive; starts anew");
            return self.stop().await;
        }
        let ready = match &facts.database {
            None => return Ok(()),
            Some(database) if is_primary => self.prepare_primary(facts, database).await,
            Some(_) => self.prepare_standby(facts).await,
        };
        match (ready, &mut self.prepared) {
            (Ok(passwords), _) => {
                self.prepared = passwords.map(|passwords| Prepared {
                    replicas: facts.replicas,
                    passwords,
                    again: Instant::now() + AGAIN,
                });
                Ok(())
            }
            // It was ready and stays so; the API or a Secret may be away for a while.
            (Err(error), Some(prepared)) if prepared.replicas == facts.replicas => {
                tracing::warn!(%error, "what changed since is looked at later");
                prepared.again = Instant::now() + AGAIN;
                Ok(())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Whether WAL is to be archived, and the server that runs drops it.
    async fn archives_otherwise(&self) -> Result<bool, ActError> {
        match &self.sql {
            Some(sql) if self.archives() => {
                let command = sql.archive_command().await?;
                Ok(command != self.commands.push())
            }
            _ => Ok(false),
        }
    }

    /// Gives the passwords that are set; nothing while the server does not answer.
    async fn prepare_primary(
        &self,
        facts: &Facts,
        database: &Postgres,
    ) -> Result<Option<Option<Passwords>>, ActError> {
        let Some(sql) = &self.sql else {
            return Ok(None);
        };
        // Before a slot is made for another instance: its copy begins with one.
        tablespaces::allow(&self.place.paths.data(), facts.is_alone())
            .map_err(ActError::Configure)?;
        let secret = database
            .spec
            .database_secret
            .as_ref()
            .and_then(|secret| secret.secret_name.clone());
        let secret = secret.unwrap_or_else(|| format!("{}-auth", self.config.database));
        let passwords = Passwords {
            superuser: self.api.secret_text(&secret, "POSTGRES_PASSWORD").await?,
            replication: self
                .api
                .secret_text(&self.replication_secret(), "REPLICATION_PASSWORD")
                .await?,
        };
        let known = self
            .prepared
            .as_ref()
            .and_then(|prepared| prepared.passwords.as_ref());
        if known != Some(&passwords) {
            sql.ensure_roles(
                self.place.dialect,
                &passwords.superuser,
                &passwords.replication,
            )
            .await?;
        }
        let slots: Vec<String> = (0..facts.replicas)
            .filter(|ordinal| *ordinal != self.config.ordinal)
            .map(standby_slot)
            .collect();
        sql.ensure_slots(&slots).await?;
        if !self.backs_up {
            sql.drop_backup_slots().await?;
        }
        Ok(Some(Some(passwords)))
    }

    /// A standby is ready once it has followed its primary; a primary that goes away later does not undo that.
    async fn prepare_standby(
        &mut self,
        facts: &Facts,
    ) -> Result<Option<Option<Passwords>>, ActError> {
        if let (Some(sql), false) = (&self.sql, self.backs_up) {
            let note = pause_note(&self.place.paths.data());
            sql.resume_replay(self.place.dialect, &note).await?;
        }
        let is_streaming = self.view.as_ref().is_some_and(|view| view.streaming);
        let was_ready = self.prepared.is_some();
        if !is_streaming && self.is_left_behind(facts) {
            self.forget_copy("the primary has removed WAL that this standby needs")
                .await?;
            return Ok(None);
        }
        if self.lags_in_settings().await? {
            self.stop().await?;
            return Ok(None);
        }
        if was_ready || is_streaming {
            let password = self
                .api
                .secret_text(&self.replication_secret(), "REPLICATION_PASSWORD")
                .await?;
            write_passfile(&self.place.paths, &password).map_err(ActError::Configure)?;
            if let (Some(sql), false) = (&self.sql, self.backs_up) {
                sql.drop_backup_slots().await?;
            }
        }
        Ok((was_ready || is_streaming).then_some(None))
    }

    /// Notes what keeps this standby from following, and says whether the primary no longer has the WAL that it needs.
    fn is_left_behind(&mut self, facts: &Facts) -> bool {
        let since = self.started.unwrap_or(self.begun);
        let words = complaint_since(&self.place.paths, since);
        let is_primary_ready = facts.primary.as_ref().is_some_and(|primary| primary.ready);
        let is_left = is_primary_ready && lacks_wal(&words);
        self.trouble = (!words.is_empty()).then(|| format!("does not follow the primary: {words}"));
        is_left
    }

    /// Whether the primary has raised a setting that its standbys must have as high. Up to 13 a standby ends then; later ones stop to
    /// replay, and wait for somebody to start them anew.
    async fn lags_in_settings(&self) -> Result<bool, ActError> {
        let control = ControlFile::read(&self.place.paths.data());
        let (Some(sql), Ok(control)) = (&self.sql, control) else {
            return Ok(false);
        };
        let lower = sql.settings_below(&control.needs()).await?;
        if let Some(names) = &lower {
            tracing::info!(names, "the primary has more now; starts anew");
        }
        Ok(lower.is_some())
    }

    /// Gives up a copy that cannot follow any more: the next decision makes a new one.
    pub(crate) async fn forget_copy(&mut self, why: &str) -> Result<(), ActError> {
        tracing::warn!("{why}; it is copied anew");
        self.stop().await?;
        self.trouble = None;
        let paths = &self.place.paths;
        // The state goes first: a folder without one is set aside, a state without its folder could not be started.
        state::forget(&paths.state())?;
        self.state = None;
        if let Err(error) = std::fs::rename(paths.data(), paths.new_data()) {
            tracing::warn!(%error, "the old copy is set aside");
        }
        Ok(())
    }
}

/// Whether a standby's last words say that its primary has removed WAL which it needs.
fn lacks_wal(words: &str) -> bool {
    words.contains("requested WAL segment") && words.contains("has already been removed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_removed_wal_makes_a_copy_useless() {
        let removed = "2026-11-25 [7] FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed";
        assert!(lacks_wal(removed));
        let away = "FATAL:  could not connect to the primary server: connection refused";
        assert!(!lacks_wal(away));
    }
}
