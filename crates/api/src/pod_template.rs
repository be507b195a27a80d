//! What a user says of a database's pods: the original's fields beside each other, and the later `podTemplate` that holds them all.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{PostgresSpec, untyped::Unbuilt};

/// The later spelling of what is said of pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<PodMetadata>,
    /// What the pods are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<PodTemplateSpec>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<Unbuilt>,
}

/// Labels and annotations of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodMetadata {
    /// Labels, beside those by which the pods are found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What pods are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplateSpec {
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Which nodes, and beside whom. Without `podAntiAffinity` instances rather keep apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints that are borne.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Who places the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_name: Option<String>,
    /// How much they matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Secrets by which images are pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
    /// Of the container of PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Variables of the container of PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvVar>>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_containers: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Unbuilt>,
}

/// Fields of `spec.podTemplate.spec` that are known and not built.
pub const UNBUILT_POD_FIELDS: [&str; 8] = [
    "args",
    "initContainers",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "securityContext",
    "serviceAccountName",
    "priority",
];

/// Fields of `spec` that say something of pods, each of which `spec.podTemplate.spec` has, too.
pub const POD_FIELDS: [&str; 6] = [
    "nodeSelector",
    "affinity",
    "tolerations",
    "schedulerName",
    "imagePullSecrets",
    "resources",
];

impl PostgresSpec {
    /// What is said of pods, whichever way it was written.
    #[must_use]
    pub fn pods(&self) -> PodTemplateSpec {
        let template = self.pod_template.as_ref();
        let mut pods = template
            .and_then(|template| template.spec.clone())
            .unwrap_or_default();
        macro_rules! either {
            ($($field:ident),*) => {
                $( if pods.$field.is_none() { pods.$field.clone_from(&self.$field); } )*
            };
        }
        either!(
            node_selector,
            affinity,
            tolerations,
            scheduler_name,
            image_pull_secrets,
            resources
        );
        pods
    }

    /// Names of the Secrets by which images are pulled.
    #[must_use]
    pub fn pull_secrets(&self) -> Vec<String> {
        let secrets = self.pods().image_pull_secrets.unwrap_or_default();
        secrets.into_iter().map(|secret| secret.name).collect()
    }
}
