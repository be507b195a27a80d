//! Step 4: makes it so. Every part may be done twice.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use kubedb_api::{
    Postgres, Snapshot, SnapshotSpec, labels,
    reasons::{component, event, text},
};
use kubedb_core::names::scheduled_snapshot;
use serde_json::json;

use super::{
    dereference::{auth_secret, replication_secret},
    plan::Plan,
};
use crate::{
    context::{Context, ReconcileError, request},
    events::{Note, publish},
    platform::PlatformError,
};

/// Applies a plan. A `Some` says why the database cannot run, for good.
pub(super) async fn apply(
    context: &Context,
    postgres: &Postgres,
    plan: &Plan,
    now: Timestamp,
) -> Result<Option<String>, ReconcileError> {
    if plan.make_auth_secret {
        make_secret(
            context,
            postgres,
            auth_secret(postgres),
            "POSTGRES_PASSWORD",
        )
        .await?;
    }
    if plan.make_replication_secret {
        make_secret(
            context,
            postgres,
            replication_secret(postgres),
            "REPLICATION_PASSWORD",
        )
        .await?;
    }
    if postgres.spec.database_secret.is_none() {
        let patch =
            json!({ "spec": { "databaseSecret": { "secretName": auth_secret(postgres) } } });
        patch_main(context, postgres, &patch, "write the Secret's name back").await?;
    }
    match context.platform.apply(&plan.desired).await {
        Err(error @ PlatformError::ResolveVersion { .. }) => return Ok(Some(error.to_string())),
        other => other?,
    }
    if plan.mark_initialized {
        let patch = json!({ "metadata": { "annotations": { labels::INITIALIZED: "" } } });
        patch_main(
            context,
            postgres,
            &patch,
            "mark the database as initialized",
        )
        .await?;
    }
    if plan.schedule.skipped {
        let note = Note::normal(
            component::CRON_CONTROLLER,
            event::IGNORED_SNAPSHOT,
            text::BACKUP_SKIPPED,
        );
        publish(&context.client, postgres, &note, now).await;
    }
    if let Some(tick) = plan.schedule.make {
        make_snapshot(context, postgres, tick, now).await?;
    }
    Ok(None)
}

async fn patch_main(
    context: &Context,
    postgres: &Postgres,
    patch: &serde_json::Value,
    action: &'static str,
) -> Result<(), ReconcileError> {
    let api: Api<Postgres> = Api::namespaced(
        context.client.clone(),
        &postgres.namespace().unwrap_or_default(),
    );
    api.patch(
        &postgres.name_any(),
        &PatchParams::default(),
        &Patch::Merge(patch),
    )
    .await
    .map(drop)
    .map_err(request(action))
}

/// A password of 16 characters, 96 random bits. The Secret outlives the database, as its data does.
async fn make_secret(
    context: &Context,
    postgres: &Postgres,
    name: String,
    key: &str,
) -> Result<(), ReconcileError> {
    let password = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 12]>());
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(database_labels(postgres)),
            ..ObjectMeta::default()
        },
        string_data: Some(BTreeMap::from([(key.to_owned(), password)])),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(
        context.client.clone(),
        &postgres.namespace().unwrap_or_default(),
    );
    match api.create(&PostParams::default(), &secret).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        other => other.map(drop).map_err(request("create a Secret")),
    }
}

fn database_labels(postgres: &Postgres) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::KIND.to_owned(), "Postgres".to_owned()),
        (labels::NAME.to_owned(), postgres.name_any()),
    ])
}

/// The tick is in the name, so making it twice makes one.
async fn make_snapshot(
    context: &Context,
    postgres: &Postgres,
    tick: Timestamp,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let Some(schedule) = &postgres.spec.backup_schedule else {
        return Ok(());
    };
    let mut snapshot = Snapshot::new(
        &scheduled_snapshot(&postgres.name_any(), tick),
        SnapshotSpec {
            database_name: postgres.name_any(),
            storage: schedule.storage.clone(),
            resources: schedule.resources.clone(),
            ..SnapshotSpec::default()
        },
    );
    snapshot.metadata.labels = Some(database_labels(postgres));
    let api: Api<Snapshot> = Api::namespaced(
        context.client.clone(),
        &postgres.namespace().unwrap_or_default(),
    );
    match api.create(&PostParams::default(), &snapshot).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => {
            let message = format!("Failed to create Snapshot. Reason: {error}");
            let note = Note::warning(component::CRON_CONTROLLER, event::FAILED, message);
            publish(&context.client, postgres, &note, now).await;
            Err(request("create a Snapshot")(error))
        }
    }
}
