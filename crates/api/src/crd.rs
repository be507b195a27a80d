//! CustomResourceDefinitions of all kinds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceSubresourceScale,
};
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{DormantDatabase, Postgres, PostgresVersion, Snapshot, rules};

/// Annotation of the definitions that are ours, with their revision. Others own kinds of the same names in the same group.
pub const REVISION_ANNOTATION: &str = "kubedb.com/definition-revision";
/// Counted up with each change of the definitions that an older operator could not live with.
pub const REVISION: u32 = 1;

/// All definitions, as far as the embedded API serves them.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        Postgres::crd(),
        Snapshot::crd(),
        DormantDatabase::crd(),
        PostgresVersion::crd(),
    ];
    all.iter_mut().for_each(rules::settle);
    all
}

/// The same for a Kubernetes cluster, which can hold to rules by itself and scale.
#[must_use]
pub fn for_kubernetes() -> Vec<CustomResourceDefinition> {
    let mut all = crds();
    for crd in &mut all {
        rules::add(crd);
        let annotations = crd.metadata.annotations.get_or_insert_default();
        annotations.insert(REVISION_ANNOTATION.to_owned(), REVISION.to_string());
        if crd.spec.names.kind == "Postgres" {
            make_scalable(crd);
        }
    }
    all
}

fn make_scalable(crd: &mut CustomResourceDefinition) {
    for version in &mut crd.spec.versions {
        let subresources = version.subresources.get_or_insert_default();
        subresources.scale = Some(CustomResourceSubresourceScale {
            spec_replicas_path: ".spec.replicas".to_owned(),
            status_replicas_path: ".status.readyReplicas".to_owned(),
            label_selector_path: None,
        });
    }
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
