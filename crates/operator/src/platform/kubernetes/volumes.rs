//! Volumes of a database that is wiped out.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, ResourceExt as _, api::ListParams};
use kubedb_api::labels;

use crate::guarded::of_uid;

use super::{KubernetesPlatform, act};
use crate::platform::{DatabaseKey, PlatformError};

/// Claim of the data, as a StatefulSet names it: with the name of its pod behind.
const CLAIM: &str = "data-";

impl KubernetesPlatform {
    /// Deletes a database's claims; what becomes of the volumes is their StorageClass's to say. Returns whether none is left.
    pub(super) async fn delete_claims(&self, key: &DatabaseKey) -> Result<bool, PlatformError> {
        let (namespace, name) = (&key.namespace, &key.name);
        let doing = |verb: &str| format!("{verb} volumes of {namespace}/{name}");
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let labels = format!("{}=Postgres,{}={name}", labels::KIND, labels::NAME);
        let found = claims
            .list_metadata(&ListParams::default().labels(&labels))
            .await
            .map_err(|error| act(doing("list the"), error))?;
        let mut is_clear = true;
        for claim in found.items {
            let claim_name = claim.name_any();
            if !is_of(&claim_name, name) {
                continue;
            }
            is_clear = false;
            if claim.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let parameters = of_uid(claim.uid());
            match claims.delete(&claim_name, &parameters).await {
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                other => {
                    other.map_err(|error| act(doing("delete the"), error))?;
                    tracing::info!(namespace, claim = claim_name, "deleted a volume claim");
                }
            }
        }
        Ok(is_clear)
    }
}

/// Whether a claim is one of the database's StatefulSet, and not one that a user labelled so.
fn is_of(claim: &str, database: &str) -> bool {
    claim
        .strip_prefix(CLAIM)
        .and_then(|rest| rest.strip_prefix(database)?.strip_prefix('-'))
        .is_some_and(|ordinal| ordinal.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_others_are_not_its_own() {
        assert!(is_of("data-pg-0", "pg") && is_of("data-pg-12", "pg"));
        for other in [
            "data-pg",
            "data-pg-a-0",
            "pg-0",
            "data-pg-0-x",
            "backup-pg-0",
        ] {
            assert!(!is_of(other, "pg"), "{other}");
        }
    }
}
