//! `kubedb describe drmn`.

use kubedb_api::{DormantDatabase, dormant_database::DormantPhase};

use super::{Show, postgres, text::Description, used_secret};
use crate::{client::Session, error::CommandError};

pub(super) async fn describe(
    session: &Session,
    dormant: DormantDatabase,
    show: Show,
    text: &mut Description,
) -> Result<(), CommandError> {
    head(&dormant, text);
    let spec = dormant.spec.origin.spec.postgres.as_ref();
    let secret = spec.and_then(|spec| spec.database_secret.as_ref()?.secret_name.as_deref());
    used_secret(session, &dormant.metadata, secret, show, text).await?;
    if dormant.phase() == Some(DormantPhase::WipedOut) {
        return Ok(());
    }
    let name = dormant.metadata.name.as_deref().unwrap_or_default();
    let namespace = dormant.metadata.namespace.as_deref().unwrap_or_default();
    postgres::snapshots_of(session, namespace, name, text).await
}

/// Everything that does not need another object.
fn head(dormant: &DormantDatabase, text: &mut Description) {
    let status = dormant.status.clone().unwrap_or_default();
    text.metadata(&dormant.metadata, "CreationTimestamp");
    text.time("PausedTimestamp", status.pausing_time);
    text.time("WipeOutTimestamp", status.wipe_out_time);
    text.labels(&dormant.metadata);
    let phase = status.phase.map(|phase| format!("{phase:?}"));
    text.pair("Status", phase.unwrap_or_else(|| "Unknown".to_owned()));
    text.maybe("Reason", status.reason);
    let deletion = if dormant.spec.wipe_out == Some(true) {
        "wipes out data, Secret and Snapshots"
    } else {
        "removes this record alone"
    };
    text.pair("Deletion", deletion);
    let origin = &dormant.spec.origin;
    text.line("Origin:");
    text.maybe("  Name", origin.metadata.name.clone());
    text.maybe("  Namespace", origin.metadata.namespace.clone());
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        let pairs = map.iter().map(|(key, value)| match value.as_str() {
            "" => key.clone(),
            value => format!("{key}={value}"),
        });
        pairs.collect::<Vec<_>>()
    };
    for (heading, map) in [
        ("  Labels", &origin.metadata.labels),
        ("  Annotations", &origin.metadata.annotations),
    ] {
        if let Some(map) = map.as_ref().filter(|map| !map.is_empty()) {
            text.list(heading, pairs(map));
        }
    }
    if let Some(spec) = &origin.spec.postgres {
        text.pair("  Version", spec.version.text());
        text.maybe(
            "  Replicas",
            spec.replicas.map(|replicas| replicas.to_string()),
        );
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_paused_database_is_told_with_what_it_was() {
        let dormant: DormantDatabase = serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "DormantDatabase",
            "metadata": {
                "name": "quick-postgres", "namespace": "demo", "creationTimestamp": "2018-02-08T10:50:00Z",
                "labels": { "kubedb.com/kind": "Postgres" },
            },
            "spec": { "origin": {
                "metadata": { "name": "quick-postgres", "namespace": "demo", "labels": { "team": "a" },
                    "annotations": { "kubedb.com/initialized": "" } },
                "spec": { "postgres": { "version": 9.6, "replicas": 3 } },
            } },
            "status": { "phase": "Paused", "pausingTime": "2018-02-08T10:51:00Z" },
        }))
        .unwrap();
        let mut text = Description::new(TimeZone::UTC);
        head(&dormant, &mut text);
        insta::assert_snapshot!(text.finish(), @r"
        Name:              quick-postgres
        Namespace:         demo
        CreationTimestamp: Thu, 08 Feb 2018 10:50:00 +0000
        PausedTimestamp:   Thu, 08 Feb 2018 10:51:00 +0000
        Labels:            kubedb.com/kind=Postgres
        Status:            Paused
        Deletion:          removes this record alone
        Origin:
          Name:        quick-postgres
          Namespace:   demo
          Labels:      team=a
          Annotations: kubedb.com/initialized
          Version:     9.6
          Replicas:    3
        ");
    }
}
