//! The forms in which objects leave: as they are, as a table, or their metadata alone.

use std::sync::Arc;

use serde_json::{Value, json};

use super::read::{Page, list_kind, list_metadata};
use super::resource::Resource;
use super::status::ApiError;
use super::{events, table};

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
    pub(crate) fn of(accept: &str, include: &str) -> Result<Self, ApiError> {
        if accept.trim().is_empty() {
            return Ok(Self::Plain);
        }
        let mut has_media = false;
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let form = parts
                .find_map(|parameter| parameter.strip_prefix("as="))
                .unwrap_or_default();
            has_media |= matches!(kind, "application/json" | "application/yaml");
            match (kind, form) {
                ("application/json" | "application/yaml", "Table") => {
                    return table::Include::of(include).map(Self::Table);
                }
                (
                    "application/json" | "application/yaml",
                    "PartialObjectMetadata" | "PartialObjectMetadataList",
                ) => return Ok(Self::Metadata),
                ("application/json" | "application/yaml" | "application/*" | "*/*", "") => {
                    return Ok(Self::Plain);
                }
                _ => {}
            }
        }
        Err(if has_media {
            ApiError::not_acceptable()
        } else {
            ApiError::no_representation()
        })
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
        let mut metadata = list_metadata(page);
        if resource.custom && self == Self::Plain && metadata["continue"].is_null() {
            metadata["continue"] = "".into();
        }
        let items = |form: &dyn Fn(&Arc<Value>) -> Value| -> Vec<Value> {
            page.objects.iter().map(form).collect()
        };
        match self {
            Self::Plain => json!({
                "kind": list_kind(resource), "apiVersion": resource.api_version(), "metadata": metadata,
                "items": items(&|object| listed(resource, object)),
            }),
            Self::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "items": items(&|object| metadata_only(object)),
            }),
            Self::Table(include) => table::table(resource, metadata, &page.objects, include, true),
        }
    }

    /// The text of a list. Its objects are written one by one: ten thousand of them would take their memory twice.
    pub(crate) fn list_text(self, resource: &Resource, page: &Page) -> String {
        if self != Self::Plain {
            return self.list(resource, page).to_string();
        }
        let empty = Page {
            objects: Vec::new(),
            next: page.next.clone(),
            ..*page
        };
        let mut text = self.list(resource, &empty).to_string();
        // The list's own fields, with its end taken off: `items` comes first or last, whichever way maps are kept.
        let place = text
            .find("\"items\":[")
            .map_or(text.len(), |at| at + "\"items\":[".len());
        let end = text.split_off(place);
        for (index, object) in page.objects.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            let item = match resource.custom {
                true => serde_json::to_string(object.as_ref()),
                false => serde_json::to_string(&listed(resource, object)),
            };
            text.push_str(&item.unwrap_or_default());
        }
        text.push_str(&end);
        text
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
    let object = Value::clone(object);
    match resource.plural.as_str() {
        "events" if resource.is_new_event() => events::presented_new(object),
        "events" => events::presented_old(object),
        "leases" => presented_lease(object),
        _ => object,
    }
}

/// Go writes a Lease's spec also when there is none.
fn presented_lease(mut lease: Value) -> Value {
    if let Some(map) = lease.as_object_mut() {
        map.entry("spec").or_insert_with(|| json!({}));
    }
    lease
}

/// In a list of a core kind, only the list says of what kind its items are.
fn listed(resource: &Resource, object: &Arc<Value>) -> Value {
    let mut object = presented(resource, object);
    if !resource.custom
        && let Some(map) = object.as_object_mut()
    {
        map.remove("kind");
        map.remove("apiVersion");
    }
    object
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
    })
}
