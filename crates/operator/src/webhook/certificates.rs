//! When the webhook's authority and certificate are made anew, and in which order, so that no API server ever meets one that it does not trust.
//!
//! A new authority is published beside the old one first. Only after every API server has had time to learn of it a certificate of it is served, and
//! only after every replica has had time to serve that, the old authority goes. Each step is one write of the Secret; whoever dies between two is
//! followed by another replica that goes on.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How long things are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of an authority. Renewed when a third is left.
    pub authority: SignedDuration,
    /// Of a certificate. Renewed when a third is left.
    pub certificate: SignedDuration,
    /// From a step until everybody has learned of it.
    pub grace: SignedDuration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        const DAY: SignedDuration = SignedDuration::from_hours(24);
        Self {
            authority: DAY * 365,
            certificate: DAY * 90,
            // API servers watch the configurations, replicas look every quarter of a minute: five minutes bear a dozen looks that fail.
            grace: SignedDuration::from_mins(5),
        }
    }
}

/// One authority, without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Authority {
    /// PEM.
    pub(super) certificate: String,
    pub(super) made: Timestamp,
    pub(super) expires: Timestamp,
}

/// What is known of the certificate that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leaf {
    /// When the authority that signed it was made.
    pub(super) authority: Timestamp,
    pub(super) made: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) names: Vec<String>,
}

/// Where the rotation stands; kept in the Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The newest first; its key is the one that is kept.
    pub(super) authorities: Vec<Authority>,
    pub(super) leaf: Leaf,
    /// Since when every configuration has been seen to trust all authorities.
    pub(super) published: Option<Timestamp>,
}

impl State {
    /// All authorities, for `caBundle`.
    pub(super) fn bundle(&self) -> String {
        self.authorities
            .iter()
            .map(|authority| authority.certificate.as_str())
            .collect()
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make an authority and a certificate: there is nothing that could be used.
    Begin,
    /// Make a new authority and publish it beside the old one.
    Authority,
    /// Note since when all authorities are published.
    Published,
    /// Note that they are not, after all.
    Unpublished,
    /// Make a certificate of the newest authority.
    Certificate,
    /// Let the older authorities go.
    Forget,
    /// Nothing.
    Rest,
}

/// Decides; `is_trusted` says whether every configuration has the bundle now.
pub(super) fn decide(
    state: Option<&State>,
    names: &[String],
    is_trusted: bool,
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Step {
    let Some((state, newest)) = state.and_then(|state| Some((state, state.authorities.first()?)))
    else {
        return Step::Begin;
    };
    if newest.expires <= now {
        return Step::Begin;
    }
    let leaf = &state.leaf;
    let is_over = leaf.expires <= now || leaf.names != names;
    match state.published {
        None if is_trusted => return Step::Published,
        Some(_) if !is_trusted => return Step::Unpublished,
        _ => {}
    }
    let waited = |since: Timestamp| now.duration_since(since) >= lifetimes.grace;
    let is_known = state.published.is_some_and(waited);
    if leaf.authority != newest.made {
        // What cannot be trusted any more loses nothing.
        return if is_known || is_over {
            Step::Certificate
        } else {
            Step::Rest
        };
    }
    if is_over || is_aging(leaf.made, leaf.expires, now) {
        return Step::Certificate;
    }
    if state.authorities.len() > 1 {
        return if waited(leaf.made) {
            Step::Forget
        } else {
            Step::Rest
        };
    }
    if is_aging(newest.made, newest.expires, now) {
        return Step::Authority;
    }
    Step::Rest
}

/// Whether less than a third of a life is left.
fn is_aging(made: Timestamp, expires: Timestamp, now: Timestamp) -> bool {
    expires.duration_since(now) < expires.duration_since(made) / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes = Lifetimes {
        authority: SignedDuration::from_hours(24 * 365),
        certificate: SignedDuration::from_hours(24 * 90),
        grace: SignedDuration::from_mins(5),
    };

    fn names() -> Vec<String> {
        vec!["kubedb-webhook.kubedb.svc".to_owned()]
    }

    /// Plays a rotation as the keeper does, without making certificates.
    fn take(state: &mut Option<State>, step: Step, now: Timestamp) {
        let authority = || Authority {
            certificate: format!("{now}\n"),
            made: now,
            expires: now + LIFETIMES.authority,
        };
        let leaf = |authority: Timestamp| Leaf {
            authority,
            made: now,
            expires: now + LIFETIMES.certificate,
            names: names(),
        };
        match (step, state.as_mut()) {
            (Step::Begin, _) => {
                *state = Some(State {
                    authorities: vec![authority()],
                    leaf: leaf(now),
                    published: None,
                });
            }
            (Step::Authority, Some(state)) => {
                state.authorities.insert(0, authority());
                state.published = None;
            }
            (Step::Published, Some(state)) => state.published = Some(now),
            (Step::Unpublished, Some(state)) => state.published = None,
            (Step::Certificate, Some(state)) => state.leaf = leaf(state.authorities[0].made),
            (Step::Forget, Some(state)) => state.authorities.truncate(1),
            _ => {}
        }
    }

    /// Ten years of looks, at which API servers are up to a minute behind: what is served is always trusted and never expired.
    #[test]
    fn what_is_served_is_always_trusted() {
        let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let end = now + SignedDuration::from_hours(24 * 365 * 10);
        let mut state = None;
        // What API servers trust, and what they are about to.
        let (mut trusted, mut coming) = (String::new(), String::new());
        let (mut authorities, mut leaves) = (0, 0);
        while now < end {
            let bundle = state.as_ref().map(State::bundle).unwrap_or_default();
            let is_trusted = bundle == coming;
            trusted.clone_from(&coming);
            coming.clone_from(&bundle);
            let step = decide(state.as_ref(), &names(), is_trusted, &LIFETIMES, now);
            authorities += u32::from(matches!(step, Step::Begin | Step::Authority));
            leaves += u32::from(step == Step::Certificate);
            take(&mut state, step, now);
            let state = state.as_ref().unwrap();
            let begun = state.authorities.len() == 1 && leaves == 0 && authorities == 1;
            let signer = format!("{}\n", state.leaf.authority);
            assert!(
                begun || trusted.contains(&signer),
                "{now}: {step:?} serves what nobody trusts"
            );
            assert!(state.leaf.expires > now && state.authorities.len() <= 2);
            // Quick steps while something goes on, long ones in between.
            now += if step == Step::Rest && state.authorities.len() == 1 && is_trusted {
                SignedDuration::from_hours(12)
            } else {
                SignedDuration::from_mins(1)
            };
        }
        assert!((14..=16).contains(&authorities), "{authorities}");
        assert!(leaves > 50, "{leaves}");
    }

    #[test]
    fn a_spoilt_or_expired_secret_is_made_anew() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(decide(None, &names(), true, &LIFETIMES, now), Step::Begin);
        let mut state = None;
        take(&mut state, Step::Begin, now);
        let later = now + LIFETIMES.authority;
        assert_eq!(
            decide(state.as_ref(), &names(), true, &LIFETIMES, later),
            Step::Begin
        );
    }

    #[test]
    fn another_name_has_a_certificate_at_once() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut state = None;
        take(&mut state, Step::Begin, now);
        take(&mut state, Step::Published, now);
        let others = ["kubedb-webhook.elsewhere.svc".to_owned()];
        assert_eq!(
            decide(state.as_ref(), &others, true, &LIFETIMES, now),
            Step::Certificate
        );
        assert_eq!(
            decide(state.as_ref(), &names(), true, &LIFETIMES, now),
            Step::Rest
        );
    }

    /// Somebody took the bundle out of a configuration: no certificate is changed until it is back for long enough.
    #[test]
    fn an_authority_that_is_not_published_signs_nothing() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut state = None;
        take(&mut state, Step::Begin, now);
        take(&mut state, Step::Published, now);
        let soon = now + SignedDuration::from_mins(1);
        take(&mut state, Step::Authority, soon);
        let late = soon + SignedDuration::from_hours(1);
        let step = |state: &Option<State>, is_trusted, at| {
            decide(state.as_ref(), &names(), is_trusted, &LIFETIMES, at)
        };
        assert_eq!(step(&state, false, late), Step::Rest);
        assert_eq!(step(&state, true, late), Step::Published);
        take(&mut state, Step::Published, late);
        assert_eq!(step(&state, true, late), Step::Rest);
        assert_eq!(step(&state, false, late), Step::Unpublished);
        assert_eq!(
            step(&state, true, late + LIFETIMES.grace),
            Step::Certificate
        );
    }
}
