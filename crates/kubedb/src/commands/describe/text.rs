//! The building blocks of a description: aligned pairs, tables, times.

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::core::v1::ResourceRequirements,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Condition},
};
use kube::core::ObjectMeta;
use kubedb_api::storage::SnapshotStorage;

use crate::table::Table;

/// A description as it grows. Values of neighbouring pairs start in the same column.
#[derive(Debug)]
pub(super) struct Description {
    text: String,
    /// Pairs whose column is not known yet.
    pairs: Vec<(String, String)>,
    /// Zone in which times are said.
    zone: TimeZone,
}

impl Description {
    pub(super) fn new(zone: TimeZone) -> Self {
        Self {
            text: String::new(),
            pairs: Vec::new(),
            zone,
        }
    }

    /// `key: value`, the key with its indentation.
    pub(super) fn pair(&mut self, key: &str, value: impl Into<String>) {
        let key = if key.is_empty() {
            String::new()
        } else {
            format!("{key}:")
        };
        self.pairs.push((key, value.into()));
    }

    /// `key: value` where there is one.
    pub(super) fn maybe(&mut self, key: &str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.pair(key, value);
        }
    }

    /// A time, in full.
    pub(super) fn time(&mut self, key: &str, time: Option<Timestamp>) {
        let said = time.map(|time| self.say_time(time));
        self.maybe(key, said);
    }

    /// `Thu, 08 Feb 2018 15:55:11 +0600`.
    pub(super) fn say_time(&self, time: Timestamp) -> String {
        let zoned = time.to_zoned(self.zone.clone());
        zoned.strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
    }

    /// What a backup is held to, such as `cpu 500m, memory 128Mi, 50Mi a second`.
    pub(super) fn limits(
        &mut self,
        key: &str,
        resources: Option<&ResourceRequirements>,
        max_rate: Option<&Quantity>,
    ) {
        let limits = resources.and_then(|wanted| wanted.limits.as_ref());
        let limits = limits.into_iter().flatten();
        let said = limits
            .map(|(name, limit)| format!("{name} {}", limit.0))
            .chain(max_rate.map(|rate| format!("{} a second", rate.0)));
        let said: Vec<String> = said.collect();
        self.maybe(key, (!said.is_empty()).then(|| said.join(", ")));
    }

    /// One key, and a line for each value.
    pub(super) fn list(&mut self, key: &str, values: impl IntoIterator<Item = String>) {
        for (index, value) in values.into_iter().enumerate() {
            self.pair(if index == 0 { key } else { "" }, value);
        }
    }

    /// A line without a value; pairs below it align among themselves.
    pub(super) fn line(&mut self, line: &str) {
        self.flush();
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// An indented table under a heading, its titles underlined; one line when it is empty.
    pub(super) fn table(&mut self, heading: &str, titles: &[&str], rows: Vec<Vec<String>>) {
        self.line("");
        if rows.is_empty() {
            // As the original writes it: `No Snapshots.` and `No events.`
            let heading = if heading == "Events" {
                "events"
            } else {
                heading
            };
            return self.line(&format!("No {heading}."));
        }
        self.line(&format!("{heading}:"));
        let titles_row = titles.iter().map(|title| (*title).to_owned());
        let underlines = titles.iter().map(|title| "-".repeat(title.len()));
        let mut all = vec![titles_row.collect(), underlines.collect()];
        all.extend(rows);
        for row in &mut all {
            if let Some(first) = row.first_mut() {
                first.insert_str(0, "  ");
            }
        }
        for line in Table::default().render(&all).lines() {
            self.line(line.trim_end());
        }
    }

    fn flush(&mut self) {
        let pairs = std::mem::take(&mut self.pairs);
        let width = pairs.iter().map(|(key, _)| key.chars().count() + 1).max();
        let width = width.unwrap_or_default();
        for (key, value) in pairs {
            self.text
                .push_str(format!("{key:<width$}{value}").trim_end());
            self.text.push('\n');
        }
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> String {
        self.flush();
        self.text
    }

    /// Name, namespace, creation, labels and annotations.
    pub(super) fn metadata(&mut self, metadata: &ObjectMeta, creation: &str) {
        self.pair("Name", metadata.name.clone().unwrap_or_default());
        self.maybe("Namespace", metadata.namespace.clone());
        self.time(
            creation,
            metadata.creation_timestamp.as_ref().map(|time| time.0),
        );
        let since = metadata.deletion_timestamp.as_ref().map(|time| time.0);
        self.time("DeletionTimestamp", since);
    }

    /// Labels and annotations, sorted, a key alone when its value is empty.
    pub(super) fn labels(&mut self, metadata: &ObjectMeta) {
        self.list("Labels", map_lines(metadata.labels.as_ref()));
        self.list("Annotations", map_lines(metadata.annotations.as_ref()));
    }

    /// Where Snapshots go.
    pub(super) fn storage(&mut self, indent: &str, storage: &SnapshotStorage) {
        let key = |name: &str| format!("{indent}{name}");
        let (kind, mut pairs) = storage_pairs(storage);
        self.pair(&key("Type"), kind);
        pairs.push(("Secret", storage.storage_secret_name.clone()));
        let keys = storage.encryption.as_ref();
        pairs.push(("Encryption", keys.map(|keys| keys.secret_name.clone())));
        for (name, value) in pairs {
            self.maybe(&key(name), value.filter(|value| !value.is_empty()));
        }
    }

    /// Conditions, as a table.
    pub(super) fn conditions(&mut self, conditions: &[Condition]) {
        if conditions.is_empty() {
            return;
        }
        let row = |condition: &Condition| {
            vec![
                condition.type_.clone(),
                condition.status.clone(),
                self.say_time(condition.last_transition_time.0),
                condition.reason.clone(),
                condition.message.replace('\n', " "),
            ]
        };
        let rows = conditions.iter().map(row).collect();
        self.table(
            "Conditions",
            &["Type", "Status", "Since", "Reason", "Message"],
            rows,
        );
    }
}

fn map_lines(map: Option<&BTreeMap<String, String>>) -> Vec<String> {
    let pairs = map.into_iter().flatten();
    pairs
        .map(|(key, value)| {
            if value.is_empty() {
                key.clone()
            } else {
                format!("{key}={value}")
            }
        })
        .collect()
}

type Pairs = Vec<(&'static str, Option<String>)>;

fn storage_pairs(storage: &SnapshotStorage) -> (&'static str, Pairs) {
    if let Some(s3) = &storage.s3 {
        let bucket = Some(s3.bucket.clone());
        (
            "S3",
            vec![
                ("Endpoint", s3.endpoint.clone()),
                ("Bucket", bucket),
                ("Prefix", s3.prefix.clone()),
            ],
        )
    } else if let Some(gcs) = &storage.gcs {
        let bucket = Some(gcs.bucket.clone());
        (
            "GCS",
            vec![
                ("Endpoint", gcs.endpoint.clone()),
                ("Bucket", bucket),
                ("Prefix", gcs.prefix.clone()),
            ],
        )
    } else if let Some(azure) = &storage.azure {
        let container = Some(azure.container.clone());
        let endpoint = azure.endpoint.clone();
        (
            "Azure",
            vec![
                ("Endpoint", endpoint),
                ("Container", container),
                ("Prefix", azure.prefix.clone()),
            ],
        )
    } else if let Some(local) = &storage.local {
        (
            "Local",
            vec![
                ("Path", local.mount_path.clone()),
                ("SubPath", local.sub_path.clone()),
            ],
        )
    } else if let Some(swift) = &storage.swift {
        let container = Some(swift.container.clone());
        (
            "Swift",
            vec![("Container", container), ("Prefix", swift.prefix.clone())],
        )
    } else {
        ("Unknown", Vec::new())
    }
}

/// `512 bytes`, `38.2 MiB`.
pub(in crate::commands) fn size(bytes: impl TryInto<i64>) -> String {
    let bytes = bytes.try_into().unwrap_or(i64::MAX);
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes.unsigned_abs() < 1024 {
        return format!("{bytes} bytes");
    }
    // Exact to the digit that is shown: a size in PiB has 53 bits and more only above 8 PiB.
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte for byte the head of the guide's description.
    #[test]
    fn pairs_align_block_by_block() {
        let zone = TimeZone::fixed(jiff::tz::offset(6));
        let mut description = Description::new(zone);
        description.pair("Name", "script-postgres");
        description.pair("Namespace", "demo");
        description.time(
            "StartTimestamp",
            Some("2018-02-08T09:55:11Z".parse().unwrap()),
        );
        description.pair("Status", "Running");
        description.line("Volume:");
        description.pair("  StorageClass", "standard");
        description.pair("  Capacity", "50Mi");
        description.pair("Secrets", "script-postgres-auth");
        let expected = "\
Name:           script-postgres
Namespace:      demo
StartTimestamp: Thu, 08 Feb 2018 15:55:11 +0600
Status:         Running
Volume:
  StorageClass: standard
  Capacity:     50Mi
Secrets:        script-postgres-auth
";
        assert_eq!(description.finish(), expected);
    }

    #[test]
    fn sizes_are_said_in_iec_units() {
        assert_eq!(size(16), "16 bytes");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(40_000_000), "38.1 MiB");
        assert_eq!(size(i64::MAX), "8192.0 PiB");
    }
}
