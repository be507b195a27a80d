//! What is served: the kinds of our definitions and the few core kinds.

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::storage::Key;

/// A column of `kubectl get`.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `string`, `integer`, `boolean`, `date`.
    pub(crate) kind: String,
    /// Such as `.spec.version`.
    pub(crate) path: String,
    /// Above 0 only with `-o wide`.
    pub(crate) priority: i32,
}

/// One resource of one group and version.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    /// Empty for core.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) namespaced: bool,
    /// Has a status subresource.
    pub(crate) status: bool,
    /// One of our definitions: no strategic merge patch, no update without resourceVersion.
    pub(crate) custom: bool,
    /// Columns of a definition; the core kinds have theirs in `table`.
    pub(crate) columns: Vec<Column>,
    /// OpenAPI v3 schema of the object, without references.
    pub(crate) schema: Value,
}

impl Resource {
    /// `postgreses.kubedb.com`, `secrets`.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `kubedb.com/v1alpha1`, `v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Group in storage: Events of both groups are the same objects.
    pub(crate) fn stored_group(&self) -> &str {
        if self.is_new_event() { "" } else { &self.group }
    }

    /// Where an object of this resource lies.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> Key {
        Key::new(self.stored_group(), &self.plural, namespace, name)
    }

    /// `events.k8s.io` Events, which are converted on their way in and out.
    pub(crate) fn is_new_event(&self) -> bool {
        self.group == "events.k8s.io"
    }

    pub(crate) fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.plural == "namespaces"
    }

    /// Whether a PUT of an absent object creates it.
    pub(crate) fn creates_on_update(&self) -> bool {
        matches!(self.plural.as_str(), "leases" | "events")
    }

    /// Whether a PUT without resourceVersion overwrites.
    pub(crate) fn unconditional_update(&self) -> bool {
        !self.custom && self.plural != "leases"
    }
}

static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let mut resources = core();
    resources.extend(kubedb_api::crd::crds().into_iter().filter_map(custom));
    resources
});

/// All resources, in the order of discovery.
pub(crate) fn all() -> &'static [Resource] {
    &RESOURCES
}

/// The resource of a path; `None` when it is not served.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| {
        resource.group == group && resource.version == version && resource.plural == plural
    })
}

/// The resource that a stored object belongs to.
pub(crate) fn stored(key: &Key) -> Option<&'static Resource> {
    RESOURCES
        .iter()
        .find(|resource| resource.group == key.group && resource.plural == key.resource)
}

/// Groups and their only version, core first.
pub(crate) fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups: Vec<(&str, &str)> = Vec::new();
    for resource in all() {
        let group = (resource.group.as_str(), resource.version.as_str());
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

fn core() -> Vec<Resource> {
    [
        ("", "Namespace", "namespaces", "ns"),
        ("", "Secret", "secrets", ""),
        ("", "ConfigMap", "configmaps", "cm"),
        ("", "Event", "events", "ev"),
        ("events.k8s.io", "Event", "events", "ev"),
        ("coordination.k8s.io", "Lease", "leases", ""),
    ]
    .into_iter()
    .map(|(group, kind, plural, short)| Resource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: short.split_terminator(' ').map(str::to_owned).collect(),
        namespaced: plural != "namespaces",
        status: plural == "namespaces",
        custom: false,
        columns: Vec::new(),
        schema: super::schema::core(group, kind),
    })
    .collect()
}

fn custom(crd: CustomResourceDefinition) -> Option<Resource> {
    let spec = crd.spec;
    let version = spec.versions.into_iter().next()?;
    let columns = version
        .additional_printer_columns
        .unwrap_or_default()
        .into_iter()
        .map(|column| Column {
            name: column.name,
            kind: column.type_,
            path: column.json_path,
            priority: column.priority.unwrap_or(0),
        })
        .collect();
    let schema = version
        .schema
        .and_then(|schema| schema.open_api_v3_schema)
        .and_then(|schema| serde_json::to_value(schema).ok());
    Some(Resource {
        group: spec.group,
        version: version.name,
        kind: spec.names.kind,
        singular: spec.names.singular.unwrap_or_default(),
        plural: spec.names.plural,
        short_names: spec.names.short_names.unwrap_or_default(),
        namespaced: spec.scope == "Namespaced",
        status: version.subresources.is_some_and(|sub| sub.status.is_some()),
        custom: true,
        columns,
        schema: schema.unwrap_or_else(|| json!({"type": "object"})),
    })
}
