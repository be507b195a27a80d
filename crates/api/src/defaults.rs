//! What is filled in when the user left it out.

use crate::postgres::{Postgres, StandbyMode, StreamingMode};
use crate::{Snapshot, labels};

/// Fills in replicas, modes and access modes.
pub fn default_postgres(postgres: &mut Postgres) {
    let spec = &mut postgres.spec;
    spec.replicas.get_or_insert(1);
    spec.standby_mode.get_or_insert(StandbyMode::Warm);
    spec.streaming_mode
        .get_or_insert(StreamingMode::Asynchronous);
    if let Some(storage) = &mut spec.storage
        && storage.access_modes.as_ref().is_none_or(Vec::is_empty)
    {
        storage.access_modes = Some(vec!["ReadWriteOnce".to_owned()]);
    }
}

/// Sets the labels that name the Snapshot's database.
pub fn default_snapshot(snapshot: &mut Snapshot) {
    let name = snapshot.spec.database_name.clone();
    let map = snapshot.metadata.labels.get_or_insert_default();
    map.entry(labels::KIND.to_owned())
        .or_insert_with(|| "Postgres".to_owned());
    map.entry(labels::NAME.to_owned()).or_insert(name);
}
