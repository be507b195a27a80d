//! What users write.

use kubedb_api::validate::{
    validate_postgres, validate_postgres_update, validate_snapshot, validate_snapshot_update,
};
use serde_json::{Value, json};

use super::{said, texts};

// The program's own readers and writers of YAML; it is no library, and they need nothing of it.
#[path = "../../../../crates/kubedb/src/manifest/text.rs"]
mod text;
#[allow(unused_imports, reason = "its tests stay where they are")]
#[path = "../../../../crates/kubedb/src/manifest/yaml.rs"]
mod yaml_text;

/// Errors told of one manifest, at most.
const ERRORS: usize = 50;

/// A manifest as text: what was read and written again is the same.
pub(super) fn yaml(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return "no text".to_owned();
    };
    let read = text::read(text).map_err(|mistake| {
        assert!(mistake.document >= 1);
        mistake.reason
    });
    for value in read.iter().flatten() {
        let written = yaml_text::to_yaml(value);
        assert_eq!(
            text::read(&written).as_deref(),
            Ok(std::slice::from_ref(value)),
            "{written}"
        );
    }
    said(read)
}

pub(super) fn yaml_seeds() -> Vec<Vec<u8>> {
    texts(&[
        include_str!("../../../../examples/scheduled-pg.yaml"),
        include_str!("../../../../examples/local-pg.yaml"),
        "base: &base {b: 1}\na:\n  <<: *base\n  c: |\n    x\n",
        "{\"a\":\t{\"b\": [1, 2.5, -0, true, null, \"\\u00e9\"]}}",
        "---\na: 1\n...\n---\nb: 'yes'\n",
    ])
}

/// Objects as a server is sent them: every one is judged, in time, with some errors at most.
pub(super) fn objects(bytes: &[u8]) -> String {
    let Ok(object) = serde_json::from_slice::<Value>(bytes) else {
        return "no JSON".to_owned();
    };
    let versions = ["9.6", "15"];
    let judged = [
        validate_postgres(&object, &versions),
        validate_snapshot(&object),
        validate_postgres_update(&object, &object),
        validate_snapshot_update(&object, &object),
    ];
    assert!(
        judged[2].is_empty() && judged[3].is_empty(),
        "what is the same is no change"
    );
    let mut fields = Vec::new();
    for errors in &judged {
        assert!(errors.len() <= ERRORS);
        fields.extend(errors.iter().map(|error| error.message.as_str()));
    }
    fields.join("; ")
}

pub(super) fn object_seeds() -> Vec<Vec<u8>> {
    let postgres = text::read(include_str!("../../../../examples/scheduled-pg.yaml"));
    let mut seeds: Vec<Vec<u8>> = postgres
        .iter()
        .flatten()
        .map(|value| value.to_string().into_bytes())
        .collect();
    let snapshot = json!({ "metadata": { "name": "s", "labels": { "kubedb.com/kind": "Postgres" } },
        "spec": { "databaseName": "pg", "local": { "mountPath": "/r", "emptyDir": {} }, "allowedNamespaces": ["a"] } });
    seeds.push(snapshot.to_string().into_bytes());
    seeds
}
