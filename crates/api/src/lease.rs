//! The Lease of a database, by which its primary is known, and lives. Agents and the operator have to agree which one that is.

use k8s_openapi::{
    api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt as _;

use crate::labels;

/// Value of the label of its kind.
const OF_DATABASE: &str = "Postgres";

/// Selects those of databases, among all that others agree by.
#[must_use]
pub fn selector() -> String {
    format!("{}={OF_DATABASE}", labels::KIND)
}

/// Whether the selector selects it.
#[must_use]
pub fn is_selected(lease: &Lease) -> bool {
    let kind = lease.labels().get(labels::KIND);
    kind.is_some_and(|kind| kind == OF_DATABASE)
}

/// Name and UID of the database that it is of: the one that has its name, and no other.
#[must_use]
pub fn database_of(lease: &Lease) -> Option<(&str, &str)> {
    let is_its = |owner: &&OwnerReference| {
        owner.kind == "Postgres" && Some(&owner.name) == lease.metadata.name.as_ref()
    };
    let owner = lease.owner_references().iter().find(is_its)?;
    Some((&owner.name, &owner.uid))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_of_the_database_of_its_name() {
        let lease = |name: &str, kind: &str| -> Lease {
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kubedb.com/kind": kind}, "ownerReferences": [
                {"apiVersion": "kubedb.com/v1alpha1", "kind": kind, "name": "pg", "uid": "u"}]}}))
            .unwrap()
        };
        let its = lease("pg", "Postgres");
        assert!(is_selected(&its));
        assert_eq!(database_of(&its), Some(("pg", "u")));
        assert_eq!(database_of(&lease("other", "Postgres")), None);
        let of_others = lease("pg", "Etcd");
        assert!(!is_selected(&of_others));
        assert_eq!(database_of(&of_others), None);
    }
}
