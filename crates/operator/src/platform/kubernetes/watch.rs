//! Watches what is ours. One watch for each kind, of metadata alone but for pods.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::ObjectMeta,
    core::{DynamicObject, PartialObjectMeta},
    runtime::watcher::{self, Event},
};
use kubedb_api::labels;
use tokio_util::sync::CancellationToken;

use super::{
    KubernetesPlatform, monitors,
    render::{Kind, Place},
};
use crate::{
    namespaces::{Events, api_of},
    platform::DatabaseKey,
};

/// Begins, and goes on until `shutdown`.
pub(super) fn start(platform: &KubernetesPlatform, shutdown: &CancellationToken) {
    for kind in Kind::ALL {
        let (platform, stop) = (platform.clone(), shutdown.clone());
        tokio::spawn(async move { stop.run_until_cancelled(objects(platform, kind)).await });
    }
    let (monitored, stop) = (platform.clone(), shutdown.clone());
    tokio::spawn(async move { stop.run_until_cancelled(monitors::follow(monitored)).await });
    let (platform, stop) = (platform.clone(), shutdown.clone());
    tokio::spawn(async move { stop.run_until_cancelled(pods(platform)).await });
}

pub(super) fn ours() -> watcher::Config {
    watcher::Config::default().labels(&format!("{}=Postgres", labels::KIND))
}

impl KubernetesPlatform {
    /// Nobody listens before the controllers run, and they look at everything then.
    pub(super) fn tell(&self, changed: impl IntoIterator<Item = DatabaseKey>) {
        for key in changed {
            let _ = self.changes.send(key);
        }
    }
}

/// What a watch has told of a kind since its last list began.
pub(super) struct Told {
    kind: Kind,
    places: BTreeSet<Place>,
}

impl Told {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            places: BTreeSet::new(),
        }
    }

    pub(super) fn hear(
        &mut self,
        platform: &KubernetesPlatform,
        event: Event<PartialObjectMeta<DynamicObject>>,
    ) {
        let kind = self.kind;
        let place = |object: &PartialObjectMeta<DynamicObject>| {
            let namespace = object.metadata.namespace.clone().unwrap_or_default();
            Place::new(
                kind,
                namespace,
                object.metadata.name.clone().unwrap_or_default(),
            )
        };
        match event {
            Event::Init => self.places.clear(),
            Event::InitApply(object) => {
                let place = place(&object);
                platform.tell(platform.known.told(&place, &object.metadata));
                self.places.insert(place);
            }
            Event::InitDone => platform.tell(platform.known.relisted(kind, &self.places)),
            Event::Apply(object) => {
                platform.tell(platform.known.told(&place(&object), &object.metadata));
            }
            Event::Delete(object) => platform.tell(platform.known.gone(&place(&object))),
        }
    }
}

/// Metadata of all objects of a kind that are ours.
pub(super) fn metadata(
    platform: &KubernetesPlatform,
    kind: Kind,
) -> Events<PartialObjectMeta<DynamicObject>> {
    let (resource, client) = (kind.resource(), platform.client.clone());
    let known = platform.known.clone();
    // Of this type no more than metadata is asked for.
    let api = |namespace: Option<&str>| match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let known = move |namespace: &str| {
        let names = known.names(kind, namespace).into_iter();
        let object = |name| PartialObjectMeta {
            types: None,
            metadata: named(namespace, name),
            _phantom: std::marker::PhantomData,
        };
        names.map(object).collect()
    };
    platform.options.namespaces.watch(&ours(), api, known)
}

fn named(namespace: &str, name: String) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name),
        ..ObjectMeta::default()
    }
}

async fn objects(platform: KubernetesPlatform, kind: Kind) {
    let mut events = metadata(&platform, kind);
    let mut told = Told::new(kind);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => told.hear(&platform, event),
            Err(error) => tracing::warn!(%kind, %error, "a watch failed and begins anew"),
        }
    }
}

async fn pods(platform: KubernetesPlatform) {
    let (client, known) = (platform.client.clone(), platform.pods.clone());
    let mut events = platform.options.namespaces.watch(
        &ours(),
        |namespace| api_of::<Pod>(&client, namespace),
        move |namespace| known.within(namespace),
    );
    let mut told = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => told.clear(),
            Ok(Event::InitApply(pod)) => {
                platform.tell(platform.pods.told(&pod));
                let metadata = pod.metadata;
                told.extend(metadata.namespace.zip(metadata.name));
            }
            Ok(Event::InitDone) => platform.tell(platform.pods.relisted(&told)),
            Ok(Event::Apply(pod)) => platform.tell(platform.pods.told(&pod)),
            Ok(Event::Delete(pod)) => platform.tell(platform.pods.gone(&pod)),
            Err(error) => tracing::warn!(%error, "the watch of pods failed and begins anew"),
        }
    }
}
