//! The forms in which objects leave: as they are, as a table, or their metadata alone.

use std::sync::Arc;

use serde_json::{Value, json};

use super::read::{Page, list_kind, list_metadata};
use super::resource::Resource;
use super::{kinds, table};

/// What a request accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Plain,
    Table(table::Include),
    Metadata,
}

impl Format {
    /// The first form of the `Accept` header that we have. Protobuf answers are not among them; every client that
    /// asks for them takes JSON too.
    pub(crate) fn of(accept: &str, include: &str) -> Self {
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let form = parts
                .find_map(|parameter| parameter.strip_prefix("as="))
                .unwrap_or_default();
            match (kind, form) {
                ("application/json", "Table") => return Self::Table(table::Include::of(include)),
                ("application/json", "PartialObjectMetadata" | "PartialObjectMetadataList") => {
                    return Self::Metadata;
                }
                ("application/json" | "application/*" | "*/*" | "", "") => return Self::Plain,
                _ => {}
            }
        }
        Self::Plain
    }

    /// One object.
    pub(crate) fn object(self, resource: &Resource, object: &Arc<Value>) -> Value {
        match self {
            Self::Plain => presented(resource, object),
            Self::Metadata => metadata_only(object),
            Self::Table(include) => {
                let version = object["metadata"]["resourceVersion"].clone();
                let metadata = json!({"resourceVersion": version});
                table::table(
                    resource,
                    metadata,
                    std::slice::from_ref(object),
                    include,
                    true,
                )
            }
        }
    }

    /// A list.
    pub(crate) fn list(self, resource: &Resource, page: &Page) -> Value {
        let metadata = list_metadata(page);
        let items = |form: &dyn Fn(&Arc<Value>) -> Value| -> Vec<Value> {
            page.objects.iter().map(form).collect()
        };
        match self {
            Self::Plain => json!({
                "kind": list_kind(resource), "apiVersion": resource.api_version(), "metadata": metadata,
                "items": items(&|object| presented(resource, object)),
            }),
            Self::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "items": items(&|object| metadata_only(object)),
            }),
            Self::Table(include) => table::table(resource, metadata, &page.objects, include, true),
        }
    }

    /// The object of a watch event; a table has its columns in the first event only.
    pub(crate) fn event(self, resource: &Resource, object: &Arc<Value>, first: bool) -> Value {
        match self {
            Self::Table(include) => {
                let version = object["metadata"]["resourceVersion"].clone();
                let metadata = json!({"resourceVersion": version});
                table::table(
                    resource,
                    metadata,
                    std::slice::from_ref(object),
                    include,
                    first,
                )
            }
            other => other.object(resource, object),
        }
    }
}

/// From the stored form to the group and version that was asked for.
fn presented(resource: &Resource, object: &Arc<Value>) -> Value {
    if resource.is_new_event() {
        kinds::new_event(Value::clone(object))
    } else {
        Value::clone(object)
    }
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
    })
}
