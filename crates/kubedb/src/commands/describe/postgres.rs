//! `kubedb describe pg`.

use jiff::Timestamp;
use kube::{api::ListParams, core::DynamicObject};
use kubedb_api::{
    Postgres, PostgresSpec, PostgresStatus, Snapshot, labels, postgres::Endpoints,
    protocol::InstanceRole,
};

use super::{
    Show,
    backups::{archiver, backup_schedule, init_source},
    parse,
    text::Description,
    used_secret,
};
use crate::{
    client::{Session, kinds},
    commands::selection,
    error::CommandError,
};

pub(super) async fn describe(
    session: &Session,
    postgres: Postgres,
    show: Show,
    text: &mut Description,
) -> Result<(), CommandError> {
    let name = postgres.metadata.name.clone().unwrap_or_default();
    let namespace = postgres.metadata.namespace.clone().unwrap_or_default();
    let status = postgres.status.clone().unwrap_or_default();
    head(&postgres, &status, text);
    workload(&status, show.workload, text);
    let secret_name = postgres
        .spec
        .database_secret
        .as_ref()
        .and_then(|secret| secret.secret_name.clone());
    used_secret(
        session,
        &postgres.metadata,
        secret_name.as_deref(),
        show,
        text,
    )
    .await?;
    topology(&status, text);
    monitoring(&postgres, &status, text);
    text.conditions(&status.conditions);
    snapshots_of(session, &namespace, &name, text).await
}

/// The Snapshots of a database, whether it is there or not.
pub(super) async fn snapshots_of(
    session: &Session,
    namespace: &str,
    name: &str,
    text: &mut Description,
) -> Result<(), CommandError> {
    let selector = format!("{}=Postgres,{}={name}", labels::KIND, labels::NAME);
    let parameters = ListParams::default().labels(&selector);
    let (found, _) =
        selection::list(session, &kinds::SNAPSHOT, Some(namespace), &parameters).await?;
    let found = found
        .into_iter()
        .map(|object: DynamicObject| parse(session, object));
    snapshots(found.collect::<Result<_, _>>()?, text);
    Ok(())
}

/// Everything that does not need another object.
fn head(postgres: &Postgres, status: &PostgresStatus, text: &mut Description) {
    let spec = &postgres.spec;
    text.metadata(&postgres.metadata, "StartTimestamp");
    text.labels(&postgres.metadata);
    text.pair("Version", version(spec, status));
    if let Some(replicas) = spec.replicas {
        let ready = status.ready_replicas.unwrap_or_default();
        text.pair("Replicas", format!("{replicas}  total, {ready} ready"));
    }
    let phase = status.phase.map(|phase| format!("{phase:?}"));
    text.pair("Status", phase.unwrap_or_else(|| "Unknown".to_owned()));
    text.maybe("Reason", status.reason.clone());
    text.maybe("Deletion", deletion(spec));
    if let Some(schedule) = &spec.backup_schedule {
        backup_schedule(schedule, status, text);
    }
    if let Some(storage) = spec
        .archiver
        .as_ref()
        .and_then(|known| known.storage.as_ref())
    {
        archiver(storage, status, text);
    }
    if let Some(init) = &spec.init {
        init_source(init, text);
    }
    volume(spec, text);
}

/// As wished, and as it runs.
fn version(spec: &PostgresSpec, status: &PostgresStatus) -> String {
    let wished = spec.version.text();
    match status.postgres_version.as_deref() {
        Some(running) if running != wished => format!("{wished} (PostgreSQL {running})"),
        _ => wished,
    }
}

fn deletion(spec: &PostgresSpec) -> Option<String> {
    if spec.do_not_pause == Some(true) {
        return Some("refused while spec.doNotPause is true".to_owned());
    }
    spec.termination_policy.map(|policy| format!("{policy:?}"))
}

fn volume(spec: &PostgresSpec, text: &mut Description) {
    let Some(storage) = &spec.storage else {
        return text.line("No volumes.");
    };
    text.line("Volume:");
    text.maybe("  StorageClass", storage.storage_class_name.clone());
    let requests = storage
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    let capacity = requests.and_then(|requests| requests.get("storage"));
    text.maybe("  Capacity", capacity.map(|quantity| quantity.0.clone()));
    let modes = storage.access_modes.iter().flatten();
    let modes: Vec<&str> = modes.map(|mode| short_mode(mode)).collect();
    text.pair("  Access Modes", modes.join(","));
}

fn short_mode(mode: &str) -> &str {
    match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        other => other,
    }
}

/// Where clients connect.
fn workload(status: &PostgresStatus, full: bool, text: &mut Description) {
    let Endpoints { primary, standbys } = status.endpoints.clone().unwrap_or_default();
    if !full {
        let all: Vec<String> = primary.into_iter().chain(standbys).collect();
        return text.maybe("Endpoints", (!all.is_empty()).then(|| all.join(", ")));
    }
    text.line("");
    if primary.is_none() && standbys.is_empty() {
        return text.line("No Endpoints.");
    }
    text.line("Endpoints:");
    text.maybe("  Primary", primary);
    text.list("  Standbys", standbys);
}

/// Who scrapes the metrics, as the original tells it, and where each instance answers.
fn monitoring(postgres: &Postgres, status: &PostgresStatus, text: &mut Description) {
    let Some(monitor) = &postgres.spec.monitor else {
        return;
    };
    text.line("");
    text.line("Monitoring System:");
    text.pair("  Agent", monitor.agent.clone().unwrap_or_default());
    if let Some(said) = &monitor.prometheus {
        text.line("  Prometheus:");
        text.maybe("    Port", said.port.map(|port| port.to_string()));
        text.maybe("    Namespace", said.namespace.clone());
        let labels = said.labels.iter().flatten();
        let labels = labels.map(|(label, value)| format!("{label}={value}"));
        text.list("    Labels", labels);
        text.maybe("    Interval", said.interval.clone());
    }
    let reports = status.instances.iter();
    let reports = reports.filter_map(|(name, report)| Some((name, report.metrics.as_ref()?)));
    let mut reports = reports.peekable();
    if reports.peek().is_some() {
        text.line("  Metrics:");
    }
    for (name, metrics) in reports {
        let place = metrics.endpoint.as_ref();
        let place = place.map(|endpoint| format!("http://{endpoint}/metrics"));
        let said = place.or_else(|| metrics.reason.clone());
        text.maybe(&format!("    {name}"), said);
    }
}

fn topology(status: &PostgresStatus, text: &mut Description) {
    let unknown = || "<unknown>".to_owned();
    let rows = status.instances.iter().map(|(name, instance)| {
        let role = match instance.role {
            Some(InstanceRole::Primary) => "primary",
            // The original's word.
            Some(InstanceRole::Standby) => "replica",
            None => "unknown",
        };
        let lsn = instance.lsn.clone().unwrap_or_else(unknown);
        let position = match (instance.role, instance.streaming) {
            (Some(InstanceRole::Standby), Some(false)) => format!("{lsn} (not streaming)"),
            _ => lsn,
        };
        vec![
            role.to_owned(),
            name.clone(),
            instance
                .start_time
                .map_or_else(unknown, |time| text.say_time(time)),
            format!("{:?}", instance.phase),
            instance.ready.to_string(),
            position,
            instance.reason.clone().unwrap_or_default(),
        ]
    });
    let rows = rows.collect();
    let titles = [
        "Type",
        "Instance",
        "StartTime",
        "Phase",
        "Ready",
        "LSN",
        "Reason",
    ];
    text.table("Topology", &titles, rows);
}

fn snapshots(mut snapshots: Vec<Snapshot>, text: &mut Description) {
    snapshots.sort_by_key(|snapshot| {
        snapshot
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0)
    });
    let say = |time: Option<Timestamp>| time.map(|time| text.say_time(time)).unwrap_or_default();
    let rows = snapshots.into_iter().map(|snapshot| {
        let status = snapshot.status.unwrap_or_default();
        let phase = status.phase.map(|phase| format!("{phase:?}"));
        vec![
            snapshot.metadata.name.unwrap_or_default(),
            snapshot.spec.storage.bucket_label(),
            say(status.start_time),
            say(status.completion_time),
            phase.unwrap_or_else(|| "Unknown".to_owned()),
        ]
    });
    let rows = rows.collect();
    let titles = ["Name", "Bucket", "StartTime", "CompletionTime", "Phase"];
    text.table("Snapshots", &titles, rows);
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::{Value, json};

    use super::*;

    fn database() -> Value {
        json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
            "metadata": {
                "name": "scheduled-pg", "namespace": "demo",
                "creationTimestamp": "2018-02-08T10:50:00Z",
                "labels": { "team": "a", "empty": "" }
            },
            "spec": {
                "version": 9.6, "replicas": 2, "doNotPause": true,
                "storage": {
                    "storageClassName": "standard", "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": "50Mi" } }
                },
                "init": { "snapshotSource": { "namespace": "demo", "name": "instant-snapshot" } },
                "backupSchedule": {
                    "cronExpression": "@every 6h", "storageSecretName": "gcs-secret",
                    "gcs": { "bucket": "kubedb" }
                }
            },
            "status": {
                "phase": "Running", "postgresVersion": "9.6.24", "readyReplicas": 2,
                "endpoints": { "primary": "127.0.0.1:5433", "standbys": ["127.0.0.1:5434", "127.0.0.1:5435"] },
                "lastScheduleTime": "2018-02-08T10:53:41Z", "nextScheduleTime": "2018-02-08T16:53:41Z",
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "PrimaryReady", "message": "accepts connections",
                    "lastTransitionTime": "2018-02-08T10:51:00Z"
                }],
                "instances": {
                    "scheduled-pg-0": {
                        "role": "primary", "phase": "Running", "ready": true, "session": "s",
                        "startTime": "2018-02-08T10:50:30Z", "lsn": "0/3000060"
                    },
                    "scheduled-pg-1": {
                        "role": "standby", "phase": "Running", "ready": false, "session": "s",
                        "lsn": "0/3000000", "streaming": false, "reason": "waiting for the primary"
                    }
                }
            }
        })
    }

    fn render(database: Value, full: bool) -> String {
        let postgres: Postgres = serde_json::from_value(database).unwrap();
        let status = postgres.status.clone().unwrap_or_default();
        let mut text = Description::new(TimeZone::UTC);
        head(&postgres, &status, &mut text);
        workload(&status, full, &mut text);
        topology(&status, &mut text);
        monitoring(&postgres, &status, &mut text);
        text.conditions(&status.conditions);
        snapshots(Vec::new(), &mut text);
        text.finish()
    }

    #[test]
    fn a_running_database_is_told_whole() {
        insta::assert_snapshot!(render(database(), true), @r#"
        Name:           scheduled-pg
        Namespace:      demo
        StartTimestamp: Thu, 08 Feb 2018 10:50:00 +0000
        Labels:         empty
                        team=a
        Version:        9.6 (PostgreSQL 9.6.24)
        Replicas:       2  total, 2 ready
        Status:         Running
        Deletion:       refused while spec.doNotPause is true
        Schedule:
          Expression: @every 6h
          In words:   every 6 hours after the run before
          Last:       Thu, 08 Feb 2018 10:53:41 +0000
          Next:       Thu, 08 Feb 2018 16:53:41 +0000
          Type:       GCS
          Bucket:     kubedb
          Secret:     gcs-secret
        Init:
          snapshotSource:
            namespace: demo
            name:      instant-snapshot
        Volume:
          StorageClass: standard
          Capacity:     50Mi
          Access Modes: RWO

        Endpoints:
          Primary:  127.0.0.1:5433
          Standbys: 127.0.0.1:5434
                    127.0.0.1:5435

        Topology:
          Type      Instance         StartTime                         Phase     Ready     LSN                         Reason
          ----      --------         ---------                         -----     -----     ---                         ------
          primary   scheduled-pg-0   Thu, 08 Feb 2018 10:50:30 +0000   Running   true      0/3000060
          replica   scheduled-pg-1   <unknown>                         Running   false     0/3000000 (not streaming)   waiting for the primary

        Conditions:
          Type    Status    Since                             Reason         Message
          ----    ------    -----                             ------         -------
          Ready   True      Thu, 08 Feb 2018 10:51:00 +0000   PrimaryReady   accepts connections

        No Snapshots.
        "#);
    }

    #[test]
    fn a_new_database_is_told_too() {
        let mut new = database();
        new["status"] = Value::Null;
        new["spec"] = json!({ "version": "9.6" });
        insta::assert_snapshot!(render(new, false), @r#"
        Name:           scheduled-pg
        Namespace:      demo
        StartTimestamp: Thu, 08 Feb 2018 10:50:00 +0000
        Labels:         empty
                        team=a
        Version:        9.6
        Status:         Unknown
        No volumes.

        No Topology.

        No Snapshots.
        "#);
    }

    #[test]
    fn who_scrapes_is_told_with_where() {
        let mut monitored = database();
        monitored["spec"]["monitor"] = json!({ "agent": "prometheus.io/coreos-operator", "prometheus": {
            "port": 9187, "namespace": "monitoring", "labels": { "app": "kubedb", "team": "a" }, "interval": "10s" } });
        monitored["status"]["instances"]["scheduled-pg-0"]["metrics"] =
            json!({ "endpoint": "127.0.0.1:9187" });
        let told = render(monitored.clone(), true);
        let from = told.find("Monitoring System:").unwrap();
        let to = told.find("Conditions:").unwrap();
        insta::assert_snapshot!(&told[from..to], @r"
        Monitoring System:
          Agent: prometheus.io/coreos-operator
          Prometheus:
            Port:      9187
            Namespace: monitoring
            Labels:    app=kubedb
                       team=a
            Interval:  10s
          Metrics:
            scheduled-pg-0: http://127.0.0.1:9187/metrics
        ");
        monitored["spec"]["monitor"] = json!({ "agent": "prometheus.io/builtin" });
        monitored["status"]["instances"]["scheduled-pg-0"]["metrics"] =
            json!({ "reason": "failed to listen on port 9187: Address already in use" });
        let told = render(monitored, true);
        let from = told.find("Monitoring System:").unwrap();
        let to = told.find("Conditions:").unwrap();
        insta::assert_snapshot!(&told[from..to], @r"
        Monitoring System:
          Agent: prometheus.io/builtin
          Metrics:
            scheduled-pg-0: failed to listen on port 9187: Address already in use
        ");
    }

    #[test]
    fn an_archive_is_told_with_what_can_come_back() {
        let mut archived = database();
        archived["spec"]["archiver"] = json!({ "storage": { "storageSecretName": "s3-secret",
            "s3": { "endpoint": "http://127.0.0.1:9000", "bucket": "kubedb", "prefix": "wal" } } });
        archived["spec"]["init"] = json!({ "postgresWAL": { "gcs": { "bucket": "old", "prefix": "kubedb/demo/pg/archive" },
            "backupName": "LATEST", "pitr": { "targetTime": "2018-02-08 11:00:00+06", "targetTimeline": 2 } } });
        archived["status"]["primary"] = json!("scheduled-pg-0");
        archived["status"]["earliestRestorableTime"] = json!("2018-02-08T10:54:00Z");
        archived["status"]["latestRestorableTime"] = json!("2018-02-08T11:20:00Z");
        archived["status"]["instances"]["scheduled-pg-0"]["archive"] = json!({
            "lastSegment": "000000010000000000000003", "lastArchivedTime": "2018-02-08T11:19:30Z", "waitingSegments": 2,
            "failingSince": "2018-02-08T11:20:01Z", "reason": "bucket \"kubedb\" does not exist"
        });
        let told = render(archived.clone(), true);
        let from = told.find("Archiver:").unwrap();
        let to = told.find("Volume:").unwrap();
        insta::assert_snapshot!(&told[from..to], @r#"
        Archiver:
          Type:            S3
          Endpoint:        http://127.0.0.1:9000
          Bucket:          kubedb
          Prefix:          wal
          Secret:          s3-secret
          Last segment:    000000010000000000000003
          Stored:          Thu, 08 Feb 2018 11:19:30 +0000
          Waiting:         2 segments
          Failing since:   Thu, 08 Feb 2018 11:20:01 +0000
          Reason:          bucket "kubedb" does not exist
          Restorable from: Thu, 08 Feb 2018 10:54:00 +0000
          Restorable to:   Thu, 08 Feb 2018 11:20:00 +0000
        Init:
          postgresWAL:
            Type:     GCS
            Bucket:   old
            Prefix:   kubedb/demo/pg/archive
            Snapshot: LATEST
            Up to:    time 2018-02-08T05:00:00Z on timeline 2
        "#);
        // A new one has nothing to tell yet.
        archived["status"] = json!({});
        archived["spec"]["init"] =
            json!({ "snapshotSource": { "name": "one", "target": { "immediate": true } } });
        let told = render(archived, true);
        let from = told.find("Archiver:").unwrap();
        let to = told.find("Volume:").unwrap();
        insta::assert_snapshot!(&told[from..to], @r#"
        Archiver:
          Type:       S3
          Endpoint:   http://127.0.0.1:9000
          Bucket:     kubedb
          Prefix:     wal
          Secret:     s3-secret
          Restorable: nothing yet: there is no Snapshot to begin from
        Init:
          snapshotSource:
            name:  one
            up to: the end of the Snapshot
        "#);
    }
}
