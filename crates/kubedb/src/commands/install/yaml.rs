//! Objects as text.

use serde_json::Value;

/// Several documents of YAML.
pub(super) fn documents(objects: &[Value]) -> String {
    let texts = objects.iter().map(yaml);
    texts.collect::<Vec<_>>().join("---\n")
}

/// One document.
pub(super) fn yaml(object: &Value) -> String {
    serde_yaml_ng::to_string(object).unwrap_or_default()
}
