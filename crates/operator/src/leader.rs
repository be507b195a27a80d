//! One of several operators leads: the holder of a Lease, which lets it go when it stops and loses it when it falls silent.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio_util::sync::CancellationToken;

/// Name of the Lease.
pub const LEASE: &str = crate::rights::LEADER_LEASE;
/// Silence after which another may lead.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops, well before another begins.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Pause between two renewals, and two looks at somebody else's Lease.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the API may take to answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// The Lease as it was last seen, and since when it says so by our own clock: other machines' clocks do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    version: String,
    since: Instant,
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is ours, or nobody's: write it.
    Write,
    /// Somebody else's who is not known to be silent.
    Wait,
}

/// Decides. `silence` is for how long the Lease has been saying the same.
fn decide(spec: Option<&LeaseSpec>, identity: &str, silence: Duration) -> Step {
    let Some(spec) = spec else { return Step::Write };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let duration = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let duration = duration.map_or(DURATION, Duration::from_secs);
    if holder.is_empty() || holder == identity || silence > duration {
        Step::Write
    } else {
        Step::Wait
    }
}

/// A candidate for leading.
pub struct Candidate {
    leases: Api<Lease>,
    identity: String,
    seen: Option<Seen>,
}

impl Candidate {
    /// In a namespace, under a name of its own.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            identity,
            seen: None,
        }
    }

    /// Waits until it leads. `false` if the process shall stop before.
    pub async fn acquire(&mut self, shutdown: &CancellationToken) -> bool {
        let mut is_told = false;
        loop {
            match self.try_once().await {
                Ok(true) => {
                    tracing::info!(identity = self.identity, "leads");
                    return true;
                }
                Ok(false) if !is_told => {
                    tracing::info!(identity = self.identity, "another operator leads; waits");
                    is_told = true;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the Lease cannot be had"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// Goes on leading, until it cannot any more.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < GIVE_UP {
            tokio::time::sleep(PAUSE).await;
            match self.try_once().await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => break,
                Err(error) => tracing::warn!(%error, "the Lease was not renewed"),
            }
        }
        tracing::error!(identity = self.identity, "does not lead any more");
    }

    /// Lets it go, so that another leads at once.
    pub async fn release(&self) {
        let let_go = async {
            let lease = self.leases.get(LEASE).await?;
            let holder = lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.as_deref());
            if holder != Some(self.identity.as_str()) {
                return Ok(());
            }
            let mut free = lease;
            let spec = free.spec.get_or_insert_default();
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.leases
                .replace(LEASE, &PostParams::default(), &free)
                .await
                .map(drop)
        };
        match tokio::time::timeout(REQUEST_LIMIT, let_go).await {
            Ok(Ok::<(), kube::Error>(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the Lease was not let go; another waits for its end")
            }
            Err(_) => tracing::warn!("the Lease was not let go in time; another waits for its end"),
        }
    }

    async fn try_once(&mut self) -> kube::Result<bool> {
        let late = |_| kube::Error::Service("the API did not answer in time".into());
        tokio::time::timeout(REQUEST_LIMIT, self.look())
            .await
            .map_err(late)?
    }

    /// Looks at the Lease and writes it where that is right. A write that meets another is lost.
    async fn look(&mut self) -> kube::Result<bool> {
        let lease = self.leases.get_opt(LEASE).await?;
        let silence = self.silence(lease.as_ref());
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        if decide(spec, &self.identity, silence) == Step::Wait {
            return Ok(false);
        }
        let spec = self.spec(spec, Timestamp::now());
        let written = match lease {
            Some(mut lease) => {
                lease.spec = Some(spec);
                self.leases
                    .replace(LEASE, &PostParams::default(), &lease)
                    .await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(LEASE.to_owned()),
                    ..ObjectMeta::default()
                };
                let lease = Lease {
                    metadata,
                    spec: Some(spec),
                };
                self.leases.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn silence(&mut self, lease: Option<&Lease>) -> Duration {
        let version = lease.and_then(|lease| lease.metadata.resource_version.clone());
        let version = version.unwrap_or_default();
        match &self.seen {
            Some(seen) if seen.version == version => seen.since.elapsed(),
            _ => {
                self.seen = Some(Seen {
                    version,
                    since: Instant::now(),
                });
                Duration::ZERO
            }
        }
    }

    fn spec(&self, old: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let is_own = old.is_some_and(|old| old.holder_identity.as_ref() == Some(&self.identity));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: match old {
                Some(old) if is_own => old.acquire_time.clone(),
                _ => Some(MicroTime(now)),
            },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions + i32::from(!is_own && old.is_some())),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_from_nobody_who_still_speaks() {
        let held = |holder: &str| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        let (short, long) = (Duration::from_secs(15), Duration::from_secs(16));
        assert_eq!(decide(None, "a", Duration::ZERO), Step::Write);
        assert_eq!(decide(Some(&held("")), "a", Duration::ZERO), Step::Write);
        assert_eq!(decide(Some(&held("a")), "a", Duration::ZERO), Step::Write);
        assert_eq!(decide(Some(&held("b")), "a", short), Step::Wait);
        assert_eq!(decide(Some(&held("b")), "a", long), Step::Write);
    }

    #[test]
    fn who_cannot_renew_stops_before_another_begins() {
        // The last try may begin just before the end, and take as long as it may.
        assert!(GIVE_UP + PAUSE + REQUEST_LIMIT <= DURATION + PAUSE);
    }
}
