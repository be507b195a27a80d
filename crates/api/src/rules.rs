//! Rules that the definitions carry in the Common Expression Language, so that an API server holds to them also when nobody of ours runs.
//!
//! They say again what `validate` says: they are what is left when the webhook was passed by, such as by `kubectl scale`. A rule of a field that
//! may only be changed from absent to present has no need to look at absence: it is asked when both are there. `spec.version` and fields that are not
//! built have no type, so no rule can look at them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    ValidationRule,
};

/// One rule: plural, field below the object (parts joined by dots), expression, what is told.
type Rule = (&'static str, &'static str, &'static str, &'static str);

const NAME: &str =
    "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')";
const NAME_TEXT: &str = "metadata.name must begin with a lower-case letter, end with a letter or digit, hold only lower-case letters, digits and hyphens, and have 63 characters at most";
const FIXED: &str = "self == oldSelf";
// A rule for each store: all in one would cost an API server more than it allows.
const S3_ARCHIVE: &str = "(has(self.layout) && self.layout == 'wal-g') || !has(self.s3) || (has(self.s3.prefix) && self.s3.prefix.matches('(^|/)kubedb/[^/]+/[^/]+/archive/*$'))";
const GCS_ARCHIVE: &str = "(has(self.layout) && self.layout == 'wal-g') || !has(self.gcs) || (has(self.gcs.prefix) && self.gcs.prefix.matches('(^|/)kubedb/[^/]+/[^/]+/archive/*$'))";
const AZURE_ARCHIVE: &str = "(has(self.layout) && self.layout == 'wal-g') || !has(self.azure) || (has(self.azure.prefix) && self.azure.prefix.matches('(^|/)kubedb/[^/]+/[^/]+/archive/*$'))";
const SWIFT_ARCHIVE: &str = "(has(self.layout) && self.layout == 'wal-g') || !has(self.swift) || (has(self.swift.prefix) && self.swift.prefix.matches('(^|/)kubedb/[^/]+/[^/]+/archive/*$'))";
const ARCHIVE_TEXT: &str = "prefix names no archive: it must end in kubedb/NAMESPACE/DATABASE/archive, or layout must be wal-g";

const RULES: &[Rule] = &[
    ("postgreses", "", NAME, NAME_TEXT),
    (
        "postgreses",
        "spec.replicas",
        "self >= 1",
        "Value must be greater than zero",
    ),
    (
        "postgreses",
        "spec.standbyMode",
        "self in ['hot', 'Hot', 'warm', 'Warm']",
        "known values: hot, warm",
    ),
    (
        "postgreses",
        "spec.streamingMode",
        "self in ['asynchronous', 'Asynchronous']",
        "known values: asynchronous",
    ),
    (
        "postgreses",
        "spec.monitor",
        "has(self.agent) && self.agent in ['prometheus.io/builtin', 'prometheus.io/coreos-operator', 'coreos-prometheus-operator']",
        "agent must be prometheus.io/builtin or prometheus.io/coreos-operator",
    ),
    (
        "postgreses",
        "spec.monitor.prometheus.port",
        "self >= 1024 && self <= 65535 && self != 5432",
        "Prometheus.Port value must be between 1024 and 65535, inclusive, and not PostgreSQL's own",
    ),
    (
        "postgreses",
        "spec.storage",
        "has(self.resources) && has(self.resources.requests) && 'storage' in self.resources.requests",
        "missing ResourceStorage request",
    ),
    (
        "postgreses",
        "spec.init",
        "[has(self.scriptSource), has(self.snapshotSource), has(self.postgresWAL)].filter(given, given).size() <= 1",
        "spec.init has several sources: keep one",
    ),
    (
        "postgreses",
        "spec.init.snapshotSource.target",
        "[has(self.time), has(self.lsn), has(self.xid), has(self.name), has(self.immediate) && self.immediate].filter(given, given).size() <= 1",
        "time, lsn, xid, name and immediate exclude each other: keep one",
    ),
    (
        "postgreses",
        "spec.init.postgresWAL.pitr",
        "[has(self.targetTime), has(self.targetLSN), has(self.targetXID), has(self.targetName), has(self.targetImmediate) && self.targetImmediate].filter(given, given).size() <= 1",
        "targetTime, targetLSN, targetXID, targetName and targetImmediate exclude each other: keep one",
    ),
    (
        "postgreses",
        "spec.init.postgresWAL",
        S3_ARCHIVE,
        ARCHIVE_TEXT,
    ),
    (
        "postgreses",
        "spec.init.postgresWAL",
        GCS_ARCHIVE,
        ARCHIVE_TEXT,
    ),
    (
        "postgreses",
        "spec.init.postgresWAL",
        AZURE_ARCHIVE,
        ARCHIVE_TEXT,
    ),
    (
        "postgreses",
        "spec.init.postgresWAL",
        SWIFT_ARCHIVE,
        ARCHIVE_TEXT,
    ),
    (
        "postgreses",
        "spec.archiver",
        "has(self.storage)",
        "no storage provider is configured",
    ),
    (
        "postgreses",
        "spec.archiver.storage.storageSecretName",
        FIXED,
        FIXED_TEXT,
    ),
    (
        "postgreses",
        "spec.archiver.storage.encryption",
        FIXED,
        FIXED_TEXT,
    ),
    (
        "postgreses",
        "spec.backupSchedule",
        "has(self.cronExpression) && self.cronExpression.size() > 0",
        "invalid cron expression",
    ),
    (
        "postgreses",
        "spec.backupSchedule.retention.keepLast",
        "self >= 1",
        "Value must be at least 1",
    ),
    (
        "postgreses",
        "spec.backupSchedule.retention.keepHourly",
        "self >= 1",
        "Value must be at least 1",
    ),
    (
        "postgreses",
        "spec.backupSchedule.retention.keepDaily",
        "self >= 1",
        "Value must be at least 1",
    ),
    (
        "postgreses",
        "spec.backupSchedule.retention.keepWeekly",
        "self >= 1",
        "Value must be at least 1",
    ),
    (
        "postgreses",
        "spec.backupSchedule.retention.keepMonthly",
        "self >= 1",
        "Value must be at least 1",
    ),
    (
        "postgreses",
        "spec.backupSchedule.retention.keepYearly",
        "self >= 1",
        "Value must be at least 1",
    ),
    (
        "postgreses",
        "spec.backupSchedule.retention.failedHistoryLimit",
        "self >= 0",
        "Value must be at least 0",
    ),
    (
        "postgreses",
        "spec.standbyMode",
        "self.lowerAscii() == oldSelf.lowerAscii()",
        FIXED_TEXT,
    ),
    (
        "postgreses",
        "spec.streamingMode",
        "self.lowerAscii() == oldSelf.lowerAscii()",
        FIXED_TEXT,
    ),
    (
        "postgreses",
        "spec.databaseSecret.secretName",
        FIXED,
        FIXED_TEXT,
    ),
    (
        "postgreses",
        "spec.storage.storageClassName",
        FIXED,
        FIXED_TEXT,
    ),
    (
        "postgreses",
        "spec.init.snapshotSource.name",
        FIXED,
        FIXED_TEXT,
    ),
    ("snapshots", "", NAME, NAME_TEXT),
    (
        "snapshots",
        "spec",
        "has(self.databaseName) && self.databaseName.size() > 0",
        "object 'DatabaseName' is missing",
    ),
    ("snapshots", "spec.databaseName", FIXED, FIXED_TEXT),
    ("snapshots", "spec.storageSecretName", FIXED, FIXED_TEXT),
    ("snapshots", "spec.encryption", FIXED, FIXED_TEXT),
];
const FIXED_TEXT: &str = "it stays as it was created";

/// Where the stores stand inline, and the field that names the bucket in each.
const STORAGES: [(&str, &str); 4] = [
    ("postgreses", "spec.backupSchedule"),
    ("postgreses", "spec.archiver.storage"),
    ("postgreses", "spec.init.postgresWAL"),
    ("snapshots", "spec"),
];
const BUCKETS: [(&str, &str); 5] = [
    ("s3", "bucket"),
    ("gcs", "bucket"),
    ("azure", "container"),
    ("local", "mountPath"),
    ("swift", "container"),
];

/// Writes the rules into a definition.
pub(crate) fn add(crd: &mut CustomResourceDefinition) {
    let plural = crd.spec.names.plural.clone();
    for schema in schemas(crd) {
        for (_, path, expression, message) in RULES.iter().filter(|rule| rule.0 == plural) {
            place(
                schema,
                path,
                (*expression).to_owned(),
                (*message).to_owned(),
            );
        }
        for (_, path) in STORAGES.iter().filter(|storage| storage.0 == plural) {
            storage(schema, path);
        }
    }
}

/// Bounds the numbers of a definition, and takes out defaults: those are admission's, and an empty text where nothing was written would be told as
/// if somebody had written it.
pub(crate) fn settle(crd: &mut CustomResourceDefinition) {
    schemas(crd).for_each(settle_schema);
}

fn schemas(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    crd.spec.versions.iter_mut().filter_map(|version| {
        let schema = version.schema.as_mut()?;
        schema.open_api_v3_schema.as_mut()
    })
}

fn storage(schema: &mut JSONSchemaProps, path: &str) {
    let given: Vec<String> = BUCKETS
        .iter()
        .map(|(store, _)| format!("has(self.{store})"))
        .collect();
    let one = format!("[{}].exists_one(given, given)", given.join(", "));
    place(
        schema,
        path,
        one,
        "one storage provider is needed: keep one of s3, gcs, azure, local, swift".to_owned(),
    );
    let secret = "!(has(self.azure) || has(self.swift)) || (has(self.storageSecretName) && self.storageSecretName.size() > 0)";
    place(
        schema,
        path,
        secret.to_owned(),
        "object 'SecretName' is missing".to_owned(),
    );
    place(
        schema,
        &format!("{path}.encryption"),
        "has(self.secretName) && self.secretName.size() > 0".to_owned(),
        format!("{path}.encryption.secretName is missing"),
    );
    for (store, bucket) in BUCKETS {
        let path = format!("{path}.{store}");
        let named = format!("has(self.{bucket}) && self.{bucket}.size() > 0");
        place(schema, &path, named, format!("{path}.{bucket} is missing"));
    }
}

/// Adds a rule to the field at a path. A path that leads nowhere adds nothing; the test of the definitions counts them.
fn place(schema: &mut JSONSchemaProps, path: &str, rule: String, message: String) {
    let mut schema = schema;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let Some(next) = schema
            .properties
            .as_mut()
            .and_then(|known| known.get_mut(part))
        else {
            return;
        };
        schema = next;
    }
    schema
        .x_kubernetes_validations
        .get_or_insert_default()
        .push(ValidationRule {
            rule,
            message: Some(message),
            ..ValidationRule::default()
        });
}

fn settle_schema(schema: &mut JSONSchemaProps) {
    schema.default = None;
    if schema.type_.as_deref() == Some("integer") && schema.format.as_deref() == Some("int32") {
        // Without them a number is stored that no typed client can read.
        schema.minimum.get_or_insert(f64::from(i32::MIN));
        schema.maximum.get_or_insert(f64::from(i32::MAX));
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|known| known.values_mut())
        .for_each(settle_schema);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        settle_schema(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(others)) = &mut schema.additional_properties {
        settle_schema(others);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::crd;

    fn count(schema: &Value) -> usize {
        let own = schema["x-kubernetes-validations"].as_array();
        let below = schema["properties"].as_object();
        own.map_or(0, Vec::len)
            + below
                .into_iter()
                .flatten()
                .map(|(_, s)| count(s))
                .sum::<usize>()
    }

    #[test]
    fn every_rule_finds_its_field() {
        for crd in crd::for_kubernetes().iter().take(2) {
            let plural = &crd.spec.names.plural;
            let rules = RULES.iter().filter(|rule| rule.0 == plural).count();
            let value = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            let schema = &value["openAPIV3Schema"];
            let storages = STORAGES.iter().filter(|storage| storage.0 == plural);
            let wanted = rules + storages.count() * (3 + BUCKETS.len());
            assert_eq!(count(schema), wanted, "{plural}");
            assert!(!schema.to_string().contains("\"default\":"), "{plural}");
        }
    }
}
