//! A Postgres as it was sent.

use kubedb_core::{retention::parse_within, schedule::Schedule};
use serde_json::Value;

use super::{
    FieldError, archive, check_name, check_namespace, check_object_name, check_reference, effort,
    is_given, judged, monitor, pods, shape, storage, without_nulls,
};
use crate::quantity;
use crate::{
    postgres::{Postgres, TerminationPolicy, UNBUILT_FIELDS},
    untyped::VersionText,
    verification::{self, ScheduledVerification},
};

/// Volumes that scripts can lie on, and those that are not built.
const SCRIPT_VOLUMES: [&str; 3] = ["configMap", "secret", "hostPath"];
const UNBUILT_SCRIPT_VOLUMES: [&str; 3] = ["persistentVolumeClaim", "nfs", "gitRepo"];

/// Checks a Postgres as it was sent.
#[must_use]
pub fn validate_postgres(raw: &Value, known_versions: &[&str]) -> Vec<FieldError> {
    let spec = &raw["spec"];
    let mut errors = Vec::new();
    check_name(raw, &mut errors);
    errors.extend(version_error(spec, known_versions));
    if let Some(replicas) = spec["replicas"].as_i64()
        && replicas < 1
    {
        let message =
            format!("spec.replicas \"{replicas}\" invalid. Value must be greater than zero");
        errors.push(FieldError::new("spec.replicas", message));
    }
    check_modes(spec, &mut errors);
    if is_given(spec, "databaseSecret") {
        let path = "spec.databaseSecret.secretName".to_owned();
        check_object_name(&spec["databaseSecret"]["secretName"], &path, &mut errors);
        if spec["databaseSecret"]["secretName"]
            .as_str()
            .is_none_or(str::is_empty)
        {
            errors.push(
                FieldError::missing(path).hint("leave spec.databaseSecret out to have one made"),
            );
        }
    }
    if is_given(spec, "storage") {
        errors.extend(storage_error(&spec["storage"]));
    }
    if is_given(spec, "init") {
        check_init(spec, &mut errors);
    }
    archive::check_archiver(spec, &mut errors);
    if is_given(spec, "backupSchedule") {
        check_schedule(&spec["backupSchedule"], &mut errors);
        if spec["backupSchedule"]["method"] == "Logical" && is_given(spec, "archiver") {
            let path = "spec.backupSchedule.method";
            let message = format!(
                "{path} Logical does not go with spec.archiver: WAL is replayed behind physical Snapshots alone, and would be kept for ever"
            );
            let hint = "leave the schedule Physical, and make a Snapshot with spec.method Logical where one is wanted";
            errors.push(FieldError::new(path, message).hint(hint));
        }
    }
    pods::check(spec, &mut errors);
    monitor::check(spec, &mut errors);
    let unbuilt = UNBUILT_FIELDS.iter().filter(|field| is_given(spec, field));
    errors.extend(unbuilt.map(|field| FieldError::unbuilt(format!("spec.{field}"))));
    judged(shape::check("postgreses", raw), errors)
}

fn version_error(spec: &Value, known_versions: &[&str]) -> Option<FieldError> {
    let path = "spec.version";
    let value = &spec["version"];
    if matches!(value, Value::Object(_) | Value::Array(_) | Value::Bool(_)) {
        let error = FieldError::new(path, "spec.version must be text or a number");
        return Some(error.hint("write version: \"9.6\""));
    }
    let version = VersionText(value.clone()).text();
    let mut known = known_versions.to_vec();
    // As people count, not as letters are sorted: 9.6 comes before 10.
    known.sort_by_key(|version| {
        let parts = version.split('.');
        let numbers = parts.map(|part| part.parse().unwrap_or(u64::MAX));
        numbers.collect::<Vec<u64>>()
    });
    let known = format!("known versions: {}", known.join(", "));
    if version.is_empty() {
        let message = format!("object 'Version' is missing in '{}'", without_nulls(spec));
        return Some(FieldError::new(path, message).hint(known));
    }
    if known_versions.contains(&version.as_str()) {
        return None;
    }
    let error = FieldError::new(
        path,
        format!(
            "KubeDB doesn't support Postgres version: {}",
            version.escape_debug()
        ),
    );
    // Only a fraction can have lost a zero at its end.
    Some(if value.is_f64() {
        error.hint(format!(
            "YAML reads a bare {version}0 as {version}; if that was meant, write version: \"{version}0\". {known}"
        ))
    } else {
        error.hint(known)
    })
}

fn check_modes(spec: &Value, errors: &mut Vec<FieldError>) {
    let modes = [
        ("standbyMode", ["hot", "warm"].as_slice()),
        ("streamingMode", ["asynchronous"].as_slice()),
    ];
    for (field, known) in modes {
        let Some(mode) = spec[field].as_str() else {
            continue;
        };
        // `hot` and `Hot`, but not `hOT`.
        let is_known = known
            .iter()
            .any(|known| mode.get(1..) == known.get(1..) && mode.to_lowercase() == **known);
        if !is_known {
            let path = format!("spec.{field}");
            let message = format!("{path} \"{mode}\" invalid");
            let hint = format!("known values: {}", known.join(", "));
            errors.push(FieldError::new(path, message).hint(hint));
        }
    }
}

fn storage_error(storage: &Value) -> Option<FieldError> {
    let request = &storage["resources"]["requests"]["storage"];
    let message = match request {
        Value::Null => "missing ResourceStorage request",
        quantity if quantity::is_positive(quantity) => return None,
        _ => "invalid ResourceStorage request",
    };
    let error = FieldError::new("spec.storage.resources.requests.storage", message);
    Some(error.hint("write an amount such as 1Gi"))
}

fn check_init(spec: &Value, errors: &mut Vec<FieldError>) {
    let init = &spec["init"];
    let sources = ["scriptSource", "snapshotSource", "postgresWAL"];
    let given: Vec<_> = sources
        .into_iter()
        .filter(|source| is_given(init, source))
        .collect();
    if given.len() > 1 {
        let message = format!("spec.init has several sources: {}", given.join(", "));
        errors.push(FieldError::new("spec.init", message).hint("keep one"));
        return;
    }
    match given.first() {
        Some(&"postgresWAL") => archive::check_wal(spec, errors),
        Some(&"snapshotSource") => {
            let path = "spec.init.snapshotSource.name".to_owned();
            check_reference(&init["snapshotSource"]["name"], path, errors);
            let path = "spec.init.snapshotSource.namespace";
            check_namespace(&init["snapshotSource"]["namespace"], path, errors);
            archive::check_snapshot_target(spec, errors);
            check_databases(&init["snapshotSource"], errors);
        }
        Some(_) => check_scripts(&init["scriptSource"], errors),
        None => {}
    }
}

/// Checks which databases of a logical Snapshot come back.
fn check_databases(source: &Value, errors: &mut Vec<FieldError>) {
    let Some(databases) = source["databases"].as_array() else {
        return;
    };
    let path = "spec.init.snapshotSource.databases";
    if databases.is_empty() {
        let error = FieldError::new(path, format!("{path} names none"));
        errors.push(error.hint("leave it out to restore all of them"));
    }
    for (number, name) in databases.iter().enumerate() {
        if name.as_str().is_some_and(str::is_empty) {
            errors.push(FieldError::missing(format!("{path}[{number}]")));
        }
    }
    if is_given(source, "target") {
        let error = FieldError::new(path, format!("{path} and target exclude one another"));
        errors.push(
            error.hint("WAL is replayed behind a physical Snapshot, which comes back as a whole"),
        );
    }
}

fn check_scripts(source: &Value, errors: &mut Vec<FieldError>) {
    let path = "spec.init.scriptSource";
    let unbuilt = UNBUILT_SCRIPT_VOLUMES
        .iter()
        .filter(|volume| is_given(source, volume));
    let unbuilt: Vec<_> = unbuilt
        .map(|volume| FieldError::unbuilt(format!("{path}.{volume}")))
        .collect();
    if !unbuilt.is_empty() {
        errors.extend(unbuilt);
        return;
    }
    let given: Vec<_> = SCRIPT_VOLUMES
        .into_iter()
        .filter(|volume| is_given(source, volume))
        .collect();
    if given.len() != 1 {
        let message = format!("{path} needs one of {}", SCRIPT_VOLUMES.join(", "));
        errors.push(FieldError::new(path, message));
    }
    let (field, name) = match given.as_slice() {
        ["secret"] => ("secret.secretName", &source["secret"]["secretName"]),
        ["configMap"] => ("configMap.name", &source["configMap"]["name"]),
        ["hostPath"] => {
            storage::check_folder(
                &source["hostPath"]["path"],
                format!("{path}.hostPath.path"),
                errors,
            );
            return;
        }
        _ => return,
    };
    let path = format!("{path}.{field}");
    if name.as_str().is_none_or(str::is_empty) {
        errors.push(FieldError::missing(path));
    } else {
        check_object_name(name, &path, errors);
    }
}

fn check_schedule(schedule: &Value, errors: &mut Vec<FieldError>) {
    let path = "spec.backupSchedule";
    let expression = schedule["cronExpression"].as_str().unwrap_or_default();
    if let Err(reason) = Schedule::parse(expression, schedule["timeZone"].as_str()) {
        let hint = format!("kubedb schedule next '{expression}' says when an expression fires");
        let message = format!("invalid cron expression: {reason}");
        errors.push(FieldError::new(format!("{path}.cronExpression"), message).hint(hint));
    }
    storage::check(schedule, path, errors);
    errors.extend(check_retention(
        &schedule["retention"],
        &format!("{path}.retention"),
    ));
    check_verify(&schedule["verify"], &format!("{path}.verify"), errors);
    let level = schedule["verify"]["level"].as_str();
    if schedule["method"] == "Logical"
        && let Some(level @ ("Pages" | "Boot")) = level
    {
        let path = format!("{path}.verify.level");
        let message = format!("{path} {level} is not built for method Logical");
        errors.push(FieldError::new(path, message).hint("write Objects"));
    }
    effort::check(schedule, path, errors);
    let deadline = &schedule["startingDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|seconds| seconds < 1) {
        let path = format!("{path}.startingDeadlineSeconds");
        let message = format!("{path} \"{deadline}\" invalid. Value must be greater than zero");
        errors.push(FieldError::new(path, message));
    }
}

/// Checks what shall be verified; the schema knows the levels.
fn check_verify(raw: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if raw.is_null() {
        return;
    }
    let wanted = serde_json::from_value::<ScheduledVerification>(raw.clone());
    let Ok(wanted) = wanted else {
        let path = format!("{path}.level");
        if raw["level"].is_null() {
            errors.push(FieldError::missing(path));
        }
        return;
    };
    let (query, database) = (wanted.query.as_deref(), wanted.database.as_deref());
    if let Err(reason) = verification::check(wanted.level, query, database) {
        let message = format!("{path} invalid: {reason}");
        errors.push(FieldError::new(path, message));
    }
}

/// Rules of `retention` that count, and the least that each may count to.
const RETENTION_COUNTS: [(&str, i64); 7] = [
    ("keepLast", 1),
    ("keepHourly", 1),
    ("keepDaily", 1),
    ("keepWeekly", 1),
    ("keepMonthly", 1),
    ("keepYearly", 1),
    ("failedHistoryLimit", 0),
];

/// Checks the rules of a retention, told as those of `path`.
#[must_use]
pub fn check_retention(retention: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, least) in RETENTION_COUNTS {
        if let Some(count) = retention[field].as_i64()
            && count < least
        {
            let path = format!("{path}.{field}");
            let message = format!("{path} \"{count}\" invalid. Value must be at least {least}");
            let error = FieldError::new(path, message);
            errors.push(error.hint("leave a rule out that is to keep nothing"));
        }
    }
    if let Some(text) = retention["keepWithin"].as_str()
        && let Err(reason) = parse_within(text)
    {
        let path = format!("{path}.keepWithin");
        let message = format!("{path} {reason}");
        errors.push(FieldError::new(path, message));
    }
    errors
}

/// Refuses the deletion of a locked database.
#[must_use]
pub fn validate_delete(postgres: &Postgres) -> Option<FieldError> {
    let name = postgres.metadata.name.as_deref().unwrap_or_default();
    let told = |field: &str, way_out: &str| {
        let message =
            format!("postgres \"{name}\" can't be paused. To continue delete, {way_out} and retry");
        FieldError::new(field, message)
    };
    if postgres.spec.do_not_pause == Some(true) {
        Some(told("spec.doNotPause", "unset spec.doNotPause"))
    } else if postgres.spec.termination_policy == Some(TerminationPolicy::DoNotTerminate) {
        Some(told(
            "spec.terminationPolicy",
            "set spec.terminationPolicy to Pause",
        ))
    } else {
        None
    }
}
