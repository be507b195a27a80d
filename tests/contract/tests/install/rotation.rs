//! Authorities and certificates change while requests go on, and no request notices.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use jiff::SignedDuration;
use kubedb_operator::webhook;
use serde_json::{Value, json};

use crate::world::{POSTGRESES, World, call, options, postgres, wait};

const SECRET: &str = "/api/v1/namespaces/kubedb/secrets/kubedb-webhook";

/// Authorities that shall have come and gone meanwhile, the first one not counted.
const AUTHORITIES: usize = 2;
/// Longest time for that.
const PATIENCE: Duration = Duration::from_secs(120);

/// An authority is renewed after 12 seconds, a certificate after 4; everybody has a second to learn of it.
fn quick() -> webhook::Options {
    webhook::Options {
        lifetimes: webhook::Lifetimes {
            authority: SignedDuration::from_secs(18),
            certificate: SignedDuration::from_secs(6),
            grace: SignedDuration::from_secs(1),
        },
        ..options()
    }
}

fn state(world: &World) -> Value {
    let (_, secret) = world.get(SECRET);
    let encoded = secret["data"]["state.json"].as_str().unwrap_or_default();
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[test]
fn certificates_are_renewed_while_requests_go_on() {
    let Some(world) = World::start() else { return };
    world.install_with_kubectl();
    // Two replicas: they share what they make, and the API server asks them in turn.
    let one = world.serve_webhook(quick());
    let other = world.start_webhook(quick());
    world.wait_until_it_answers();

    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let failures = Arc::new(Mutex::new(Vec::new()));
    let callers: Vec<_> = (0..3)
        .map(|number| {
            let (client, stop, asked, failures) = (
                world.client.clone(),
                stop.clone(),
                asked.clone(),
                failures.clone(),
            );
            world.runtime.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    // Once the validating webhook, once the mutating one, both in each.
                    let good = postgres(&format!("pg-{number}"), &json!({"version": "9.6"}));
                    let (code, answer) =
                        call(&client, "POST", &format!("{POSTGRESES}?dryRun=All"), &good).await;
                    if code != StatusCode::CREATED || answer["spec"]["replicas"] != 1 {
                        failures.lock().unwrap().push(answer.to_string());
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    let (mut authorities, mut certificates) = (BTreeSet::new(), BTreeSet::new());
    let until = Instant::now() + PATIENCE;
    let mut turn = false;
    while authorities.len() <= AUTHORITIES && Instant::now() < until {
        let state = state(&world);
        authorities.insert(state["leaf"]["authority"].to_string());
        let before = certificates.len();
        certificates.insert(state["leaf"]["made"].to_string());
        if certificates.len() > before {
            // Connections are kept, so that without this the first certificate would do for ever.
            turn = !turn;
            world.lead_to(if turn { other.address } else { one.address });
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        world.runtime.block_on(caller).unwrap();
    }
    let failures = failures.lock().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {}: {}",
        failures.len(),
        asked.load(Ordering::Relaxed),
        failures[0]
    );
    assert!(authorities.len() > AUTHORITIES, "{authorities:?}");
    assert!(certificates.len() > AUTHORITIES * 2, "{certificates:?}");
    assert!(asked.load(Ordering::Relaxed) > 100);
    one.end(&world);
    other.end(&world);
}

/// A Secret that somebody deletes or spoils is made anew, and the configurations follow.
#[test]
fn what_somebody_takes_away_is_put_back() {
    let Some((world, hook)) = World::start_with_webhook() else {
        return;
    };
    let answers = || {
        let good = postgres("trial", &json!({"version": "9.6"}));
        // By a connection of its own: the old one would be good for long.
        world.lead_to(hook.address);
        world
            .call("POST", &format!("{POSTGRESES}?dryRun=All"), &good)
            .0
            == StatusCode::CREATED
    };
    let first = state(&world);
    world
        .kubectl(&["-n", "kubedb", "delete", "secret", "kubedb-webhook"])
        .ok();
    wait("another authority", || {
        !state(&world).is_null() && state(&world)["authorities"] != first["authorities"]
    });
    wait("the webhook to be trusted again", answers);
    let second = state(&world);
    world
        .kubectl(&[
            "-n",
            "kubedb",
            "patch",
            "secret",
            "kubedb-webhook",
            "--type=merge",
            "-p",
            r#"{"data": {"tls.key": null}}"#,
        ])
        .ok();
    wait("another authority", || {
        !state(&world).is_null() && state(&world)["authorities"] != second["authorities"]
    });
    wait("the webhook to be trusted again", answers);
    let patch = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
    world
        .kubectl(&[
            "patch",
            "validatingwebhookconfiguration",
            "validators.kubedb.com",
            "--type=json",
            "-p",
            patch,
        ])
        .ok();
    wait("the webhook to be trusted again", answers);
    hook.end(&world);
}
