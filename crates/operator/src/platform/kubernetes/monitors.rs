//! ServiceMonitors: a kind that a cluster may not have, or that this operator may not touch. Neither keeps a database from running, so what is wrong with one is told beside.

use std::{collections::BTreeSet, time::Duration};

use futures::StreamExt as _;
use kube::runtime::watcher;
use kubedb_api::reasons::text;
use tokio::sync::watch;

use super::{
    KubernetesPlatform,
    render::{Kind, Object},
    watch::{Told, metadata},
};
use crate::platform::{DatabaseKey, DesiredDatabase, PlatformError};

/// Between two looks whether the cluster has got the kind.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The same where the API did not say.
const RETRY: Duration = Duration::from_secs(5);

/// Whether there are ServiceMonitors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Support {
    /// Nobody knows yet.
    #[default]
    Unknown,
    /// There are none, or none for us, and why.
    Absent(String),
    /// All of ours are known.
    Present,
}

/// Watches ServiceMonitors while the cluster has them.
pub(super) async fn follow(platform: KubernetesPlatform) {
    loop {
        match is_there(&platform).await {
            Ok(true) => {
                let why = objects(&platform).await;
                // What cannot be seen any more is not there to be deleted.
                platform
                    .known
                    .relisted(Kind::ServiceMonitor, &BTreeSet::new());
                platform.support(Support::Absent(why));
            }
            Ok(false) => {
                let why = text::NO_PROMETHEUS_OPERATOR.to_owned();
                platform.support(Support::Absent(why));
            }
            Err(error) => {
                tracing::warn!(%error, "nobody knows whether there are ServiceMonitors");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn is_there(platform: &KubernetesPlatform) -> kube::Result<bool> {
    let resource = Kind::ServiceMonitor.resource();
    let found = platform
        .client
        .list_api_group_resources(&resource.api_version)
        .await;
    match found {
        Ok(list) => Ok(list
            .resources
            .iter()
            .any(|known| known.name == resource.plural)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Goes on until they cannot be watched any more, and says why.
async fn objects(platform: &KubernetesPlatform) -> String {
    // They may lie in other namespaces than the databases; who may not look there looks at home.
    let mut events = metadata(platform, Kind::ServiceMonitor);
    let mut told = Told::new(Kind::ServiceMonitor);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let is_whole = matches!(event, watcher::Event::InitDone);
                told.hear(platform, event);
                if is_whole {
                    platform.support(Support::Present);
                }
            }
            Err(error) => match refusal(&error) {
                Some(why) => return why,
                None => tracing::warn!(%error, "a watch failed and begins anew"),
            },
        }
    }
    text::NO_PROMETHEUS_OPERATOR.to_owned()
}

/// What waiting does not help against.
fn refusal(error: &watcher::Error) -> Option<String> {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return None;
    };
    match status.code {
        404 => Some(text::NO_PROMETHEUS_OPERATOR.to_owned()),
        403 => Some(status.message.clone()),
        _ => None,
    }
}

impl KubernetesPlatform {
    /// Notes whether there are ServiceMonitors, and has databases looked at again where that is news.
    fn support(&self, support: Support) {
        let is_news = self.support.send_if_modified(|known| {
            let is_news = *known != support;
            *known = support;
            is_news
        });
        if is_news {
            let all = self.all_expected();
            self.tell(all);
        }
    }

    /// Waits until it is known.
    pub(super) async fn monitors_known(&self) {
        let mut support: watch::Receiver<Support> = self.support.subscribe();
        // The sender lives as long as this.
        let _ = support
            .wait_for(|support| *support != Support::Unknown)
            .await;
    }

    /// Makes a database's ServiceMonitor. What keeps it from being made is remembered, and no failure of the database.
    pub(super) async fn apply_monitor(
        &self,
        desired: &DesiredDatabase,
        object: Option<&Object>,
    ) -> Result<(), PlatformError> {
        let support = self.support.borrow().clone();
        let refusal = match (object, support) {
            (None, _) | (Some(_), Support::Unknown) => None,
            (Some(_), Support::Absent(why)) => Some(why),
            (Some(object), Support::Present) => match self.apply_one(desired, object).await {
                Ok(()) => None,
                Err(PlatformError::Refuse { action, reason }) => {
                    Some(format!("failed to {action}: {reason}"))
                }
                // The namespace is not there; it may come.
                Err(PlatformError::Act { action, source }) => match absence(&*source) {
                    Some(reason) => Some(format!("failed to {action}: {reason}")),
                    None => return Err(PlatformError::Act { action, source }),
                },
                Err(error) => return Err(error),
            },
        };
        self.note_monitor(&desired.key, refusal);
        Ok(())
    }

    /// Remembers why a database is not scraped, and has it looked at again where that is news.
    fn note_monitor(&self, key: &DatabaseKey, refusal: Option<String>) {
        if self.change_monitor(key, refusal) {
            self.tell([key.clone()]);
        }
    }
}

/// What is not there, in the server's words.
fn absence(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    match error.downcast_ref::<kube::Error>()? {
        kube::Error::Api(status) if status.code == 404 => Some(status.message.clone()),
        _ => None,
    }
}
