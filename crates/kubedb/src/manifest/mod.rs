//! Manifests: what users write and commands send.

mod documents;
pub(crate) mod source;
pub(crate) mod text;
pub(crate) mod yaml;

use serde_json::Value;

use self::source::Source;
use crate::{
    client::kinds::{self, Kind},
    error::CommandError,
};

/// Objects of one source; a source of more is a mistake.
const MOST_OBJECTS: usize = 1_000;

/// One object, ready to be sent.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// Name of its source.
    pub(crate) source: String,
    /// Its kind.
    pub(crate) kind: &'static Kind,
    /// Its name; empty when the server shall make one from `generateName`.
    pub(crate) name: String,
    /// The namespace it says itself.
    pub(crate) namespace: Option<String>,
    /// As written.
    pub(crate) object: Value,
}

/// Reads the documents of a source: YAML or JSON, several of them, Lists taken apart.
pub(crate) fn parse(source: &Source) -> Result<Vec<Manifest>, CommandError> {
    let mut manifests = Vec::new();
    for value in documents::documents(&source.text, &source.name)? {
        add(value, source, &mut manifests)?;
    }
    Ok(manifests)
}

fn add(
    mut value: Value,
    source: &Source,
    manifests: &mut Vec<Manifest>,
) -> Result<(), CommandError> {
    let wrong = |message: String| {
        CommandError::manifest(format!("failed to read {}: {message}", source.name))
    };
    if value["kind"] == "List" {
        if let Value::Array(items) = value["items"].take() {
            items
                .into_iter()
                .try_for_each(|item| add_object(item, source, manifests))?;
        }
    } else if value.is_object() {
        add_object(value, source, manifests)?;
    } else {
        return Err(wrong(
            "a document that is no object: a manifest has apiVersion, kind and metadata".to_owned(),
        ));
    }
    if manifests.len() > MOST_OBJECTS {
        return Err(wrong(format!("more than {MOST_OBJECTS} objects")));
    }
    Ok(())
}

fn add_object(
    object: Value,
    source: &Source,
    manifests: &mut Vec<Manifest>,
) -> Result<(), CommandError> {
    let wrong = |message: String| {
        CommandError::manifest(format!("failed to read {}: {message}", source.name))
    };
    if !object.is_object() {
        return Err(wrong("an item of a List that is no object".to_owned()));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    if kind.is_empty() || api_version.is_empty() {
        let missing = if kind.is_empty() {
            "kind"
        } else {
            "apiVersion"
        };
        return Err(wrong(format!(
            "{}object '{missing}' is missing",
            place(&object)
        )));
    }
    let known = kinds::by_manifest(&api_version, &kind)
        .map_err(|reason| wrong(format!("{}{reason}", place(&object))))?;
    let metadata = &object["metadata"];
    let name = text(&metadata["name"]);
    if let Value::Number(_) | Value::Bool(_) = &metadata["name"] {
        let bare = &metadata["name"];
        let message = format!("metadata.name must be text: write name: \"{bare}\"");
        return Err(wrong(message));
    }
    if name.is_empty() && text(&metadata["generateName"]).is_empty() {
        return Err(wrong(format!("{kind} without metadata.name")));
    }
    let namespace = metadata["namespace"]
        .as_str()
        .filter(|text| !text.is_empty());
    manifests.push(Manifest {
        source: source.name.clone(),
        kind: known,
        name,
        namespace: namespace.map(str::to_owned),
        object,
    });
    Ok(())
}

/// Which object of a text is meant, where it has a name.
fn place(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .map(|name| format!("object {name:?}: "))
        .unwrap_or_default()
}

impl Manifest {
    /// Where it goes: its own namespace, the flag's, or `default`. The two may not differ.
    pub(crate) fn target_namespace(
        &self,
        flag: Option<&str>,
    ) -> Result<Option<String>, CommandError> {
        if !self.kind.namespaced {
            return Ok(None);
        }
        match (&self.namespace, flag) {
            (Some(own), Some(flag)) if own != flag => Err(CommandError::manifest(format!(
                "the namespace from the provided object \"{own}\" does not match the namespace \"{flag}\". You must pass '--namespace={own}' to perform this operation."
            ))),
            (Some(own), _) => Ok(Some(own.clone())),
            (None, flag) => Ok(Some(
                flag.unwrap_or(crate::client::DEFAULT_NAMESPACE).to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Manifest>, CommandError> {
        parse(&Source {
            name: "f.yaml".to_owned(),
            text: text.to_owned(),
        })
    }

    fn message(text: &str) -> String {
        let error = read(text).unwrap_err();
        format!(
            "{error}{}",
            std::error::Error::source(&error)
                .map(|s| format!(": {s}"))
                .unwrap_or_default()
        )
    }

    #[test]
    fn documents_lists_and_json_are_taken_apart() {
        let text = r#"
# a comment
---
apiVersion: v1
kind: Namespace
metadata: {name: demo}
---
{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "demo"}},
  {"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "p"}, "spec": {"version": 9.6}}
]}
---
"#;
        let all = read(text).unwrap();
        let names: Vec<_> = all.iter().map(|m| (m.kind.kind, &*m.name)).collect();
        assert_eq!(
            names,
            [("Namespace", "demo"), ("Secret", "s"), ("Postgres", "p")]
        );
        assert_eq!(
            all[2].object["spec"]["version"].to_string(),
            "9.6",
            "the number stays as written"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        assert!(message("a: [1").contains("f.yaml"));
        assert!(
            message("a: b: c").contains("line 1"),
            "{}",
            message("a: b: c")
        );
        assert!(message("just text").contains("no object"));
        assert!(message("kind: Postgres").contains("'apiVersion' is missing"));
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}";
        assert!(message(text).contains("\"Pod\" of v1"));
        assert!(message("apiVersion: v1\nkind: Secret").contains("without metadata.name"));
        assert!(read("").unwrap().is_empty());
    }

    #[test]
    fn namespaces_may_not_differ() {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: demo}";
        let manifest = &read(text).unwrap()[0];
        assert_eq!(
            manifest.target_namespace(None).unwrap().as_deref(),
            Some("demo")
        );
        let error = manifest.target_namespace(Some("other")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the namespace from the provided object \"demo\" does not match the namespace \"other\". You must pass '--namespace=demo' to perform this operation."
        );
        let bare = &read("apiVersion: v1\nkind: Secret\nmetadata: {name: s}").unwrap()[0];
        assert_eq!(
            bare.target_namespace(None).unwrap().as_deref(),
            Some("default")
        );
        assert_eq!(
            bare.target_namespace(Some("x")).unwrap().as_deref(),
            Some("x")
        );
    }
}
