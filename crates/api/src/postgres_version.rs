//! `PostgresVersion`: a PostgreSQL version that databases may name.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a version is made of.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "catalog.kubedb.com",
    version = "v1alpha1",
    kind = "PostgresVersion",
    plural = "postgresversions",
    singular = "postgresversion",
    shortname = "pgversion",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".spec.version"}"#,
    printcolumn = r#"{"name":"DB_IMAGE","type":"string","jsonPath":".spec.db.image"}"#,
    printcolumn = r#"{"name":"Deprecated","type":"boolean","jsonPath":".spec.deprecated"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PostgresVersionSpec {
    /// Full version, such as `9.6.24`.
    pub version: String,
    /// Container image.
    #[serde(default)]
    pub db: DatabaseImage,
    /// Whether it should no longer be chosen.
    #[serde(default)]
    pub deprecated: bool,
    /// Folder that holds `postgres` and `initdb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bin_directory: Option<String>,
    /// User that PostgreSQL runs as in the image; 999 when absent, as in Debian's. Alpine's is 70.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<i64>,
    /// Group that the data volume is given to; the user's number when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_group: Option<i64>,
}

/// Names a container image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseImage {
    /// The image.
    #[serde(default)]
    pub image: String,
}
