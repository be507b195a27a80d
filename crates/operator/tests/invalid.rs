//! What admission would have refused, and was not asked about: the operator says the same.

#![allow(clippy::unwrap_used)]

mod world;

use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use kubedb_api::{PostgresVersion, catalogue, reasons::VALID};
use serde_json::{Value, json};
use world::{World, eventually, postgres};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_database_says_what_is_wrong_until_it_is_right() {
    let mut world = World::new().await;
    let versions: Api<PostgresVersion> = Api::all(world.client.clone());
    let mut mine = catalogue::built_in().remove(0);
    mine.metadata.name = Some("mine".to_owned());
    versions
        .create(&PostParams::default(), &mine)
        .await
        .unwrap();
    let mut wanted = postgres("pg", Value::Null);
    wanted.spec.version = "mine".into();
    let api = world.postgreses();
    api.create(&PostParams::default(), &wanted).await.unwrap();
    // Nothing is left that knows this version: as if it had never been admitted.
    versions
        .delete("mine", &DeleteParams::default())
        .await
        .unwrap();
    world.operate(None).await;
    let conditions = async || {
        let status = api.get("pg").await.unwrap().status.unwrap_or_default();
        let valid = status
            .conditions
            .iter()
            .find(|known| known.type_ == VALID)
            .cloned();
        (valid, status)
    };
    let said = eventually("a condition", async || {
        let (valid, status) = conditions().await;
        valid.ok_or(status)
    })
    .await;
    assert_eq!((&*said.status, &*said.reason), ("False", "Invalid"));
    let words = "spec.version: KubeDB doesn't support Postgres version: mine (known versions: 9.6, 9.6.7, 10,";
    assert!(said.message.starts_with(words), "{}", said.message);
    let (_, status) = conditions().await;
    assert_eq!(
        (status.reason.as_ref(), status.phase),
        (Some(&said.message), None)
    );
    let told = world.events().await;
    let event = format!("pg Invalid: {}", said.message);
    assert_eq!(told.get(&event), Some(&1), "{told:?}");

    // Right again: what runs is told, and the condition goes. A label wakes the operator, which looks twice a minute otherwise.
    versions
        .create(&PostParams::default(), &mine)
        .await
        .unwrap();
    let patch = kube::api::Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    api.patch("pg", &kube::api::PatchParams::default(), &patch)
        .await
        .unwrap();
    world.agent("pg");
    eventually("no condition", async || {
        let (valid, status) = conditions().await;
        match (valid, status.phase) {
            (None, Some(_)) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
