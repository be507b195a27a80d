//! What there is before anything is measured: databases, and Snapshots as the operator leaves them when they have succeeded.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use kube::{Api, Client, api::PostParams};
use kubedb_api::{Postgres, Snapshot, labels};
use kubedb_core::names::scheduled_snapshot;
use serde_json::{Value, json};

use super::{
    Failure, Sizes,
    world::{BUCKETS, SECRET, namespace, parsed, patch_status},
};

/// Writes at once.
const AT_ONCE: usize = 48;
/// Lineage of every database.
pub(super) const LINEAGE: &str = "0b1d3c5e-7f90-4a2b-8c4d-6e8f0a1b3c5d";
/// Of the schedule of all databases.
pub(super) const INTERVAL: SignedDuration = SignedDuration::from_hours(6);

pub(super) fn name_of(database: usize) -> String {
    format!("pg-{database:05}")
}

fn storage(database: usize) -> Value {
    json!({ "storageSecretName": SECRET, "s3": { "bucket": format!("backups-{}", database % BUCKETS), "endpoint": "https://s3.example.org" } })
}

/// Makes every database, with a schedule whose next tick is hours away, before any operator sees it.
pub(super) async fn make_databases(client: &Client, sizes: &Sizes) -> Result<(), Failure> {
    stream::iter(0..sizes.databases)
        .map(|number| make_database(client, number))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await
        .map(drop)
}

async fn make_database(client: &Client, number: usize) -> Result<(), Failure> {
    let mut schedule = storage(number);
    schedule["cronExpression"] = json!("@every 6h");
    // It is weighed at each look, and lets none go.
    schedule["retention"] = json!({ "keepLast": 10_000 });
    let database: Postgres = parsed(json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": { "name": name_of(number) },
        "spec": {
            "version": "15", "replicas": 1, "standbyMode": "warm", "streamingMode": "asynchronous",
            "storage": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
            "backupSchedule": schedule,
        },
    }))?;
    let api: Api<Postgres> = Api::namespaced(client.clone(), &namespace(number));
    api.create(&PostParams::default(), &database).await?;
    let now = Timestamp::now();
    let status = ticked(now - INTERVAL / 2);
    patch_status(&api, &name_of(number), status).await?;
    Ok(())
}

/// A status in which the schedule ticked then, and knows when it ticks next.
pub(super) fn ticked(last: Timestamp) -> Value {
    json!({ "lastScheduleTime": last, "nextScheduleTime": last + INTERVAL, "scheduleExpression": "@every 6h" })
}

/// Makes all Snapshots, the same number of each database.
pub(super) async fn make_snapshots(client: &Client, sizes: &Sizes) -> Result<(), Failure> {
    let now = Timestamp::now();
    stream::iter(0..sizes.snapshots)
        .map(|number| make_snapshot(client, number, sizes.databases, now))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await
        .map(drop)
}

async fn make_snapshot(
    client: &Client,
    number: usize,
    databases: usize,
    now: Timestamp,
) -> Result<(), Failure> {
    let (database, ago) = (number % databases, number / databases + 1);
    let tick = now - INTERVAL * i32::try_from(ago)?;
    let name = scheduled_snapshot(&name_of(database), tick);
    let mut spec = storage(database);
    spec["databaseName"] = json!(name_of(database));
    let snapshot: Snapshot = parsed(json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot",
        "metadata": {
            "name": name, "finalizers": [labels::FINALIZER],
            "labels": { labels::KIND: "Postgres", labels::NAME: name_of(database) },
            "annotations": { labels::TICK: tick },
        },
        "spec": spec,
    }))?;
    let api: Api<Snapshot> = Api::namespaced(client.clone(), &namespace(database));
    api.create(&PostParams::default(), &snapshot).await?;
    let status = json!({
        "phase": "Succeeded", "startTime": tick, "completionTime": tick + SignedDuration::from_secs(40),
        "attempt": 1, "instance": format!("{}-0", name_of(database)), "observedGeneration": 1,
        "progress": { "doneBytes": 41_943_040, "totalBytes": 41_943_040, "uploadedBytes": 1_048_576 },
        "result": result_of(&name),
    });
    patch_status(&api, &name, status).await?;
    Ok(())
}

/// What was made, in the size of what is real.
pub(super) fn result_of(snapshot: &str) -> Value {
    json!({
        "manifest": format!("kubedb/scale/pg/snapshots/{snapshot}/6f1e4f6e-8f0e-4f7c-9d1c-0d8f3c1a2b3c/1/manifest.json"),
        "lineage": LINEAGE, "systemIdentifier": "7412345678901234567", "postgresVersion": "15.13", "timeline": 1,
        "startLsn": "0/3000028", "stopLsn": "0/3000138", "databaseBytes": 41_943_040, "readBytes": 41_943_040,
        "uploadedBytes": 1_048_576, "storedBytes": 5_242_880,
    })
}
