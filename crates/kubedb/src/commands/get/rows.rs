//! The columns of `kubedb get`, kind by kind.

use jiff::Timestamp;
use kube::core::DynamicObject;
use kubedb_api::{labels, snapshot::SnapshotSpec, untyped::VersionText};
use serde_json::Value;

use crate::{
    client::kinds::{self, Kind},
    table::age,
};

/// What a table shows beside the kind's own columns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Columns {
    pub(super) wide: bool,
    pub(super) namespace: bool,
    pub(super) labels: bool,
    pub(super) kind: bool,
}

impl Columns {
    /// Those that a kind has: what lies in no namespace has no column for it.
    pub(super) fn of(self, kind: &Kind) -> Self {
        Self {
            namespace: self.namespace && kind.namespaced,
            ..self
        }
    }
}

/// The heading.
pub(super) fn header(kind: &Kind, columns: Columns) -> Vec<String> {
    let own: &[&str] = match (kind.kind, columns.wide) {
        ("Postgres", true) => &["NAME", "VERSION", "STATUS", "AGE"],
        ("Postgres" | "DormantDatabase", _) => &["NAME", "STATUS", "AGE"],
        ("Snapshot", true) => &["NAME", "DATABASE", "BUCKET", "STATUS", "AGE"],
        ("Snapshot", false) => &["NAME", "DATABASE", "STATUS", "AGE"],
        ("PostgresVersion", _) => &["NAME", "VERSION", "DB_IMAGE", "DEPRECATED", "AGE"],
        ("Event", _) => &["NAME", "TYPE", "REASON", "OBJECT", "MESSAGE", "AGE"],
        _ => &["NAME", "AGE"],
    };
    let first = columns.namespace.then_some("NAMESPACE");
    let last = columns.labels.then_some("LABELS");
    let all = first.iter().chain(own).chain(last.iter());
    all.map(|title| (*title).to_owned()).collect()
}

/// One object, cell for cell below `header`.
pub(super) fn row(
    kind: &Kind,
    object: &DynamicObject,
    columns: Columns,
    now: Timestamp,
) -> Vec<String> {
    let mut cells = Vec::new();
    if columns.namespace {
        cells.push(object.metadata.namespace.clone().unwrap_or_default());
    }
    let name = object.metadata.name.as_deref().unwrap_or_default();
    cells.push(if columns.kind {
        format!("{}/{name}", kind.short)
    } else {
        name.to_owned()
    });
    let mut own = own_cells(kind, object);
    if !columns.wide {
        // The wide-only cell stands first among the cells that go.
        match kind.kind {
            "Postgres" => drop(own.remove(0)),
            "Snapshot" => drop(own.remove(1)),
            _ => {}
        }
    }
    cells.extend(own);
    cells.push(age(last_seen(kind, object), now));
    if columns.labels {
        cells.push(label_list(object));
    }
    cells
}

/// All cells between name and age.
fn own_cells(kind: &Kind, object: &DynamicObject) -> Vec<String> {
    let data = &object.data;
    match kind.kind {
        "Postgres" => {
            let version = VersionText(data["spec"]["version"].clone()).text();
            vec![version, phase(object)]
        }
        "Snapshot" => vec![database(object), bucket(object), phase(object)],
        "DormantDatabase" => vec![phase(object)],
        "PostgresVersion" => {
            let spec = &data["spec"];
            let deprecated = spec["deprecated"].as_bool().unwrap_or_default();
            vec![
                text(&spec["version"]),
                text(&spec["db"]["image"]),
                deprecated.to_string(),
            ]
        }
        "Event" => {
            let about = &data["involvedObject"];
            let object = format!(
                "{}/{}",
                text(&about["kind"]).to_lowercase(),
                text(&about["name"])
            );
            let message = text(&data["message"]).trim().replace('\n', " ");
            vec![text(&data["type"]), text(&data["reason"]), object, message]
        }
        _ => Vec::new(),
    }
}

/// `status.phase`; `Unknown` before the operator has seen the object.
pub(crate) fn phase(object: &DynamicObject) -> String {
    let phase = text(&object.data["status"]["phase"]);
    if phase.is_empty() {
        "Unknown".to_owned()
    } else {
        phase
    }
}

/// `pg/<database>`; the bare name when the label names no kind of database.
fn database(object: &DynamicObject) -> String {
    let name = text(&object.data["spec"]["databaseName"]);
    let labels = object.metadata.labels.as_ref();
    match labels.and_then(|labels| labels.get(labels::KIND)) {
        Some(kind) if kind == kinds::POSTGRES.kind => format!("{}/{name}", kinds::POSTGRES.short),
        _ => name,
    }
}

/// `gs:<bucket>` and the like.
pub(crate) fn bucket(object: &DynamicObject) -> String {
    let spec: Result<SnapshotSpec, _> = serde_json::from_value(object.data["spec"].clone());
    spec.map_or_else(|_| "Unknown".to_owned(), |spec| spec.storage.bucket_label())
}

/// Creation; for an Event the last time it happened.
fn last_seen(kind: &Kind, object: &DynamicObject) -> Option<Timestamp> {
    let created = object
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0);
    if kind.kind != kinds::EVENT.kind {
        return created;
    }
    let last = object.data["lastTimestamp"].as_str();
    last.and_then(|time| time.parse().ok()).or(created)
}

fn label_list(object: &DynamicObject) -> String {
    match &object.metadata.labels {
        Some(labels) if !labels.is_empty() => {
            let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            pairs.join(",")
        }
        _ => "<none>".to_owned(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;
    use serde_json::json;

    fn table(kind: &'static Kind, columns: Columns, objects: &[Value]) -> String {
        let now = "2018-02-08T10:54:13Z".parse().unwrap();
        let mut rows = vec![header(kind, columns)];
        for object in objects {
            let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
            rows.push(row(kind, &object, columns, now));
        }
        assert!(rows.iter().all(|row| row.len() == rows[0].len()));
        Table::default().render(&rows)
    }

    fn snapshot() -> Value {
        json!({
            "metadata": {
                "name": "scheduled-pg-20180208-105341", "namespace": "demo",
                "creationTimestamp": "2018-02-08T10:53:41Z",
                "labels": { "kubedb.com/kind": "Postgres", "kubedb.com/name": "scheduled-pg" }
            },
            "spec": {
                "databaseName": "scheduled-pg", "storageSecretName": "gcs-secret",
                "gcs": { "bucket": "kubedb" }
            },
            "status": { "phase": "Succeeded" }
        })
    }

    fn postgres(version: &Value) -> Value {
        json!({
            "metadata": { "name": "quick-postgres", "creationTimestamp": "2018-02-08T10:37:13Z" },
            "spec": { "version": version },
        })
    }

    #[test]
    fn snapshots_print_as_in_the_guide() {
        let expected = "\
NAME                           DATABASE          STATUS      AGE
scheduled-pg-20180208-105341   pg/scheduled-pg   Succeeded   32s
";
        assert_eq!(
            table(&kinds::SNAPSHOT, Columns::default(), &[snapshot()]),
            expected
        );
        let columns = Columns {
            wide: true,
            namespace: true,
            labels: true,
            kind: true,
        };
        let expected = "\
NAMESPACE   NAME                                DATABASE          BUCKET      STATUS      AGE       LABELS
demo        snap/scheduled-pg-20180208-105341   pg/scheduled-pg   gs:kubedb   Succeeded   32s       kubedb.com/kind=Postgres,kubedb.com/name=scheduled-pg
";
        assert_eq!(table(&kinds::SNAPSHOT, columns, &[snapshot()]), expected);
    }

    #[test]
    fn databases_print_their_version_as_it_was_written() {
        let wide = Columns {
            wide: true,
            ..Columns::default()
        };
        let expected = "\
NAME             VERSION   STATUS    AGE
quick-postgres   9.6       Unknown   17m
quick-postgres   9.6       Unknown   17m
";
        let both = [postgres(&json!(9.6)), postgres(&json!("9.6"))];
        assert_eq!(table(&kinds::POSTGRES, wide, &both), expected);
        let expected = "\
NAME             STATUS    AGE
quick-postgres   Unknown   17m
";
        assert_eq!(
            table(&kinds::POSTGRES, Columns::default(), &both[..1]),
            expected
        );
    }

    /// A strange object is a strange row, never the end of the listing.
    #[test]
    fn objects_without_anything_have_rows_too() {
        let wide = Columns {
            wide: true,
            namespace: true,
            labels: true,
            kind: true,
        };
        for kind in kinds::ALL {
            let text = table(
                kind,
                wide,
                &[json!({ "metadata": {}, "spec": 7, "status": [] })],
            );
            assert!(text.contains("<unknown>"), "{text}");
        }
        let mut odd = snapshot();
        odd["spec"] = json!({ "databaseName": "x", "gcs": "what" });
        odd["metadata"]["labels"] = json!({ "kubedb.com/kind": "MySQL" });
        let text = table(
            &kinds::SNAPSHOT,
            Columns {
                wide: true,
                ..Columns::default()
            },
            &[odd],
        );
        assert!(text.contains("   x          Unknown   Succeeded"), "{text}");
    }
}
