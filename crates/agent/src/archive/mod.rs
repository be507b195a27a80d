//! WAL on its way to an archive and back. PostgreSQL runs a small command for each file, which asks the agent over a socket; the agent keeps connections, works
//! ahead, and knows what lies in the store.

mod archiver;
pub mod client;
mod coverage;
mod listener;
mod room;
mod silence;
mod source;
mod tail;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

pub use archiver::Destination;
pub(crate) use archiver::{Archiver, Figures, Opener};
pub(crate) use coverage::Look;
pub(crate) use listener::listen;
pub(crate) use source::WalSource;
use tail::Follower;
pub(crate) use tail::Following;

use crate::paths::Paths;

/// Who answers PostgreSQL's commands at present.
#[derive(Clone, Debug, Default)]
pub(crate) struct WalDesk {
    archiver: Arc<Mutex<Option<Archiving>>>,
    source: Arc<Mutex<Option<Arc<WalSource>>>>,
}

/// Who archives: whole segments when PostgreSQL asks, and the one in work as it grows.
#[derive(Debug)]
struct Archiving {
    archiver: Arc<Archiver>,
    _follower: Option<Follower>,
}

impl WalDesk {
    pub(crate) fn archiver(&self) -> Option<Arc<Archiver>> {
        let archiving = self.archiver.lock().unwrap_or_else(PoisonError::into_inner);
        Some(archiving.as_ref()?.archiver.clone())
    }

    /// `following` says how the segment in work is stored; without it only whole ones are.
    pub(crate) fn set_archiver(&self, archiver: Arc<Archiver>, following: Option<Following>) {
        let archiving = Archiving {
            _follower: following.map(|following| Follower::start(archiver.clone(), following)),
            archiver,
        };
        *self.archiver.lock().unwrap_or_else(PoisonError::into_inner) = Some(archiving);
    }

    pub(crate) fn stop_archiver(&self) {
        *self.archiver.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn source(&self) -> Option<Arc<WalSource>> {
        self.source
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_source(&self, source: Option<Arc<WalSource>>) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }
}

/// Answers `archive_command` at a socket for a store that is open already, as an agent does for its database: what a benchmark compares with other archivers.
pub fn answer_pushes(
    socket: &Path,
    store: kubedb_engine::store::Store,
    to: Destination,
) -> io::Result<tokio::task::JoinHandle<()>> {
    let opener: Opener = Arc::new(move || {
        let store = store.clone();
        Box::pin(async move { Ok(store) })
    });
    let desk = WalDesk::default();
    desk.set_archiver(Arc::new(Archiver::new(to, opener)), None);
    listen(socket, desk)
}

/// The commands that PostgreSQL runs, as its shell reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalCommands {
    program: PathBuf,
    socket: PathBuf,
}

impl WalCommands {
    /// By a link to this program beside the configuration: it leads to whichever program the running agent is, also after an upgrade.
    pub fn install(paths: &Paths) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        // So it reads where the file was replaced; then a new one lies at its place.
        let own = own
            .to_str()
            .and_then(|path| path.strip_suffix(" (deleted)"))
            .map_or_else(|| own.clone(), PathBuf::from);
        let program = paths.conf().join("kubedb");
        std::fs::create_dir_all(paths.conf())?;
        if std::fs::read_link(&program).ok().as_ref() != Some(&own) {
            let new = paths.conf().join("kubedb.new");
            let _ = std::fs::remove_file(&new);
            std::os::unix::fs::symlink(own, &new)?;
            std::fs::rename(new, &program)?;
        }
        Ok(Self {
            program,
            socket: paths.wal_socket(),
        })
    }

    /// Value of `archive_command`.
    #[must_use]
    pub fn push(&self) -> String {
        format!("{} \"%f\"", self.command("wal-push"))
    }

    /// Value of `restore_command`.
    #[must_use]
    pub fn fetch(&self) -> String {
        format!("{} \"%f\" \"%p\"", self.command("wal-fetch"))
    }

    fn command(&self, verb: &str) -> String {
        format!(
            "exec {} agent {verb} {}",
            quoted(&self.program),
            quoted(&self.socket)
        )
    }
}

/// A path as a shell reads it in the place of a word, within a value where `%` means something.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    format!("'{}'", text.replace('\'', "'\\''").replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_path_as_it_is() {
        assert_eq!(quoted(Path::new("/a b/100%/it's")), "'/a b/100%%/it'\\''s'");
    }
}
