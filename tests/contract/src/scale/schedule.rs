//! How late Snapshots of a schedule are.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use kubedb_api::{Postgres, Snapshot, labels};
use tokio::task::JoinHandle;

use super::{
    Failure, Sizes,
    past::{INTERVAL, name_of, ticked},
    world::{namespace, patch_status},
};

/// Time to write all ticks before the first of them.
const LEAD: SignedDuration = SignedDuration::from_secs(15);
/// And for each of them, so that the API server has forgotten it by then: schedules of a real day are not set in one second.
const LEAD_OF_EACH: SignedDuration = SignedDuration::from_millis(60);
/// Writes at once.
const AT_ONCE: usize = 4;

/// A Snapshot that was made while it was watched for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    /// The tick that it was made for.
    pub(super) tick: Timestamp,
    /// It starts no earlier, on purpose.
    pub(super) not_before: Timestamp,
    /// When it was seen.
    pub(super) seen: Timestamp,
}

type All = Arc<Mutex<HashMap<String, Made>>>;

/// Looks out for new Snapshots, until it is dropped.
pub(super) struct Lookout {
    made: All,
    watching: JoinHandle<()>,
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Lookout {
    /// Of ticks from `first` on.
    pub(super) fn start(client: &Client, first: Timestamp) -> Self {
        let made = All::default();
        let api: Api<PartialObjectMeta<Snapshot>> = Api::all(client.clone());
        let events = watcher(api, watcher::Config::default());
        let (to, events) = (
            Arc::clone(&made),
            events.default_backoff().applied_objects(),
        );
        let watching = tokio::spawn(async move {
            let hear = events.try_for_each(|snapshot| {
                if let Some((name, found)) = made_for(&snapshot, first) {
                    let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                    to.entry(name).or_insert(found);
                }
                std::future::ready(Ok(()))
            });
            drop(hear.await);
        });
        Self { made, watching }
    }

    pub(super) fn made(&self) -> HashMap<String, Made> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.clone()
    }
}

fn made_for(snapshot: &PartialObjectMeta<Snapshot>, first: Timestamp) -> Option<(String, Made)> {
    let annotation = |name: &str| snapshot.annotations().get(name)?.parse::<Timestamp>().ok();
    let tick = annotation(labels::TICK).filter(|tick| *tick >= first)?;
    let made = Made {
        tick,
        not_before: annotation(labels::START_AFTER).unwrap_or(tick),
        seen: Timestamp::now(),
    };
    Some((snapshot.name_any(), made))
}

/// When the first tick is, if they are set now.
pub(super) fn first_tick(sizes: &Sizes) -> Result<Timestamp, Failure> {
    let count = i32::try_from(sizes.databases)?;
    Ok(Timestamp::now() + LEAD + LEAD_OF_EACH * count)
}

/// Has the schedule of each database tick at a time of its own.
pub(super) async fn spread(
    client: &Client,
    sizes: &Sizes,
    first: Timestamp,
) -> Result<(), Failure> {
    let spread = SignedDuration::try_from(sizes.spread)?;
    let count = i32::try_from(sizes.databases)?;
    stream::iter(0..sizes.databases)
        .map(|number| async move {
            let later = spread * i32::try_from(number)? / count;
            let api: Api<Postgres> = Api::namespaced(client.clone(), &namespace(number));
            let status = ticked(first + later - INTERVAL);
            patch_status(&api, &name_of(number), status).await?;
            Ok::<_, Failure>(())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await
        .map(drop)
}

/// Seconds from one to the other.
pub(super) fn late(from: Timestamp, to: Timestamp) -> f64 {
    let late = Duration::try_from(to.duration_since(from)).unwrap_or_default();
    late.as_secs_f64()
}
