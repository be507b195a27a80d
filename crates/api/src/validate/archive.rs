//! Archives of WAL: where they go, and what a database is recovered to.

use kubedb_core::{names, recovery::ReadTargetError};
use serde_json::Value;

use super::{FieldError, check_namespace, check_reference, is_given, storage};
use crate::{
    archiver::{Archiver, Pitr, PostgresWal, RecoveryTarget},
    untyped::VersionText,
};

/// Parts of a target: as `core` names them, as `init.snapshotSource.target` does, and as the original does below `pitr`.
const PARTS: [(&str, &str); 7] = [
    ("time", "targetTime"),
    ("lsn", "targetLSN"),
    ("xid", "targetXID"),
    ("name", "targetName"),
    ("immediate", "targetImmediate"),
    ("timeline", "targetTimeline"),
    ("inclusive", "targetInclusive"),
];

/// Checks `spec.archiver`.
pub(super) fn check_archiver(spec: &Value, errors: &mut Vec<FieldError>) {
    if is_given(spec, "archiver") {
        storage::check(
            &spec["archiver"]["storage"],
            "spec.archiver.storage",
            errors,
        );
        check_lag(&spec["archiver"]["maxLagSeconds"], errors);
    }
}

/// Checks how long the archive may be behind.
fn check_lag(lag: &Value, errors: &mut Vec<FieldError>) {
    let longest = Archiver::LONGEST_LAG;
    if let Some(seconds) = lag.as_i64()
        && !(1..=i64::from(longest)).contains(&seconds)
    {
        let field = "spec.archiver.maxLagSeconds";
        let message = format!("{field} {seconds} is not within 1 and {longest}");
        errors.push(FieldError::new(field, message).hint(
            "write 1 to lose a second of changes at most, or 60 to store whole segments only",
        ));
    }
}

/// Checks `spec.init.postgresWAL`.
pub(super) fn check_wal(spec: &Value, errors: &mut Vec<FieldError>) {
    let (wal, path) = (&spec["init"]["postgresWAL"], "spec.init.postgresWAL");
    let before = errors.len();
    storage::check(wal, path, errors);
    let is_walg = wal["layout"] == "wal-g";
    if errors.len() == before
        && !is_walg
        && let Ok(typed) = serde_json::from_value::<PostgresWal>(wal.clone())
    {
        errors.extend(place_error(&typed, path));
    }
    if is_walg && is_given(wal, "encryption") {
        let field = format!("{path}.encryption");
        let message = format!("{field} is not built for an archive of layout wal-g");
        let hint = "what wal-g itself has encrypted is not read; restore it with wal-g, and take a Snapshot";
        errors.push(FieldError::new(field, message).hint(hint));
    }
    if let Some(name) = wal["backupName"].as_str()
        && !matches!(name, "" | "LATEST")
        && !is_walg_backup(name)
    {
        let field = format!("{path}.backupName");
        let mut wrong = Vec::new();
        check_reference(&wal["backupName"], field, &mut wrong);
        let hint = "name a Snapshot, or write LATEST";
        errors.extend(wrong.into_iter().map(|error| error.hint(hint)));
    }
    if let Ok(pitr) = serde_json::from_value::<Pitr>(wal["pitr"].clone()) {
        let target = RecoveryTarget::from(&pitr);
        check_target(spec, &target, &format!("{path}.pitr"), true, errors);
    }
}

/// Whether a name is one that wal-g gives its backups: an archive of its layout may be named as ours are.
fn is_walg_backup(name: &str) -> bool {
    let rest = name.strip_prefix("base_").unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (24..=64).contains(&rest.len()) && rest.bytes().all(is_plain)
}

/// Checks `spec.init.snapshotSource.target`.
pub(super) fn check_snapshot_target(spec: &Value, errors: &mut Vec<FieldError>) {
    let target = &spec["init"]["snapshotSource"]["target"];
    if let Ok(target) = serde_json::from_value::<RecoveryTarget>(target.clone()) {
        let path = "spec.init.snapshotSource.target";
        check_target(spec, &target, path, false, errors);
    }
}

/// What is wrong with the path of an archive, and what it should look like.
fn place_error(wal: &PostgresWal, path: &str) -> Option<FieldError> {
    const EXAMPLE: &str = "give the prefix of the database's archiver.storage, and below it kubedb, its namespace, its name and archive, such as kubedb/demo/wal-postgres/archive";
    let (message, field, hint) = match wal.place() {
        Err(error) => {
            let field = format!("{path}.{}", error.field);
            match &error.path {
                None => (format!("{field} is missing"), field, EXAMPLE.to_owned()),
                Some(text) => (
                    format!("{field} {error}"),
                    field,
                    nearly(text).unwrap_or_else(|| EXAMPLE.to_owned()),
                ),
            }
        }
        Ok(place) => {
            let field = format!("{path}.{}", PostgresWal::path_field(&wal.storage));
            let wrong = names_error(&place.namespace, &place.database)?;
            let message = format!("{field} names no archive: {wrong}");
            (message, field, EXAMPLE.to_owned())
        }
    };
    Some(FieldError::new(field, message).hint(hint))
}

/// Why a path names no database.
fn names_error(namespace: &str, database: &str) -> Option<String> {
    let mut wrong = Vec::new();
    check_namespace(&namespace.into(), "namespace", &mut wrong);
    let wrong = wrong.into_iter().map(|error| error.message).next();
    wrong.or_else(|| Some(names::check(database).err()?.to_string()))
}

/// A path to which nothing but its last part is missing.
fn nearly(path: &str) -> Option<String> {
    let path = path.trim_end_matches('/');
    let mut parts = path.rsplit('/');
    let (database, namespace, root) = (parts.next()?, parts.next()?, parts.next()?);
    let is_whole = root == "kubedb" && names_error(namespace, database).is_none();
    let is_whole = is_whole && database != "archive";
    is_whole.then(|| format!("did you mean {path}/archive?"))
}

fn check_target(
    spec: &Value,
    target: &RecoveryTarget,
    path: &str,
    is_original: bool,
    errors: &mut Vec<FieldError>,
) {
    let spelled = |part: &str| {
        let known = PARTS.iter().find(|(own, _)| *own == part);
        let name = known.map_or(part, |(own, theirs)| if is_original { theirs } else { own });
        format!("{path}.{name}")
    };
    let read = match target.fields().read() {
        Ok(read) => read,
        Err(error) => return errors.push(target_error(&error, path, spelled)),
    };
    let version = VersionText(spec["version"].clone()).text();
    if let Some(why) = read.unknown_to(&version) {
        let field = spelled("lsn");
        let message = format!("{field} {why}");
        let hint = "give a time, a transaction or a restore point";
        errors.push(FieldError::new(field, message).hint(hint));
    }
    if !read.inclusive && !read.can_exclude() {
        let field = spelled("inclusive");
        let message = format!(
            "{field} is false, and says nothing beside {read}: only a time, an LSN or a transaction can be left out"
        );
        errors.push(FieldError::new(field, message).hint("remove it"));
    }
}

/// What `core` says of a target, with the field as the manifest spells it.
fn target_error(
    error: &ReadTargetError,
    path: &str,
    spelled: impl Fn(&str) -> String,
) -> FieldError {
    if let ReadTargetError::Several(parts) = error {
        let parts: Vec<String> = parts.iter().map(|part| spelled(part)).collect();
        let message = format!("{} exclude each other", parts.join(" and "));
        return FieldError::new(path, message).hint("keep one");
    }
    let text = error.to_string();
    let (part, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let field = spelled(part);
    let message = format!("{field} {rest}");
    FieldError::new(field, message)
}
