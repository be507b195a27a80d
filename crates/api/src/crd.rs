//! CustomResourceDefinitions of all kinds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{DormantDatabase, Postgres, PostgresVersion, Snapshot};

/// All definitions.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        Postgres::crd(),
        Snapshot::crd(),
        DormantDatabase::crd(),
        PostgresVersion::crd(),
    ]
}

/// OpenAPI schema of a resource by its plural; `None` for one that is not ours.
#[must_use]
pub fn openapi_schema(resource: &str) -> Option<Value> {
    let crd = crds()
        .into_iter()
        .find(|crd| crd.spec.names.plural == resource)?;
    let schema = crd
        .spec
        .versions
        .into_iter()
        .next()?
        .schema?
        .open_api_v3_schema?;
    serde_json::to_value(schema).ok()
}
