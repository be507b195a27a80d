//! The place in which a Snapshot is brought to life to be looked at: a folder beside the instance's data, with nothing in it that anybody needs.

use std::{fs, io, path::Path};

use crate::bootstrap::{BootstrapError, Place};

/// Settings of a server that nobody uses and that must reach nobody: what the source had set with ALTER SYSTEM is replaced by this. Libraries that
/// are loaded at the start, such as a scheduler of jobs, would act; so would the workers of subscriptions, and an archiver. What is lost in a crash
/// is lost anyway.
const QUIET: &str = "\
# Written by kubedb for a verification.
listen_addresses = ''
archive_mode = off
shared_preload_libraries = ''
session_preload_libraries = ''
local_preload_libraries = ''
autovacuum = off
fsync = off
full_page_writes = off
synchronous_commit = off
synchronous_standby_names = ''
";
/// The same, since 10.
const QUIET_SINCE_10: &str = "max_logical_replication_workers = 0\n";

/// The place of scratch of an instance. Its server has a socket beside the instance's own, by another number.
pub(super) fn place_of(place: &Place) -> Place {
    let port = place.socket_port;
    Place {
        paths: place.paths.scratch(),
        socket_port: if port == u16::MAX { port - 1 } else { port + 1 },
        is_alone: true,
        ..place.clone()
    }
}

/// Ends what an earlier verification left running, and removes what it left. Also after the agent was killed.
pub(crate) async fn clear(place: &Place) -> Result<(), BootstrapError> {
    let scratch = place_of(place);
    let folder = scratch.paths.directory().to_owned();
    if !folder.exists() {
        return Ok(());
    }
    scratch.clear().await?;
    let removed = tokio::task::spawn_blocking(move || remove(&folder)).await;
    removed
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| BootstrapError::File {
            action: "remove what a verification left",
            source,
        })
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replaces the settings that the restored cluster brought along.
pub(super) fn quieten(scratch: &Place, is_before_10: bool) -> io::Result<()> {
    let mut text = QUIET.to_owned();
    if !is_before_10 {
        text += QUIET_SINCE_10;
    }
    let file = scratch.paths.new_data().join("postgresql.auto.conf");
    crate::state::replace(&file, text.as_bytes())
}
