//! A Lease is what many want at once.

use kubedb_contract::talk::{Call, Talk};
use serde_json::{Value, json};

pub(crate) async fn races(talk: &mut Talk) {
    let path = format!(
        "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
        talk.namespace
    );
    let one = format!("{path}/l");
    let lease = |holder: &str| {
        json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15,
            "leaseTransitions": 0, "acquireTime": "2030-01-01T00:00:00.000000Z", "renewTime": "2030-01-01T00:00:00.000000Z"}})
    };
    // Ten want to create it.
    let calls: Vec<Call> = (0..10)
        .map(|index| Call::post(&path, &lease(&format!("h{index}"))))
        .collect();
    let answers = futures::future::join_all(calls.iter().map(|call| talk.ask(call))).await;
    let won: Vec<&Value> = answers
        .iter()
        .filter(|one| one.code == 201)
        .map(|one| &one.body)
        .collect();
    let lost = answers
        .iter()
        .filter(|one| one.code == 409 && one.body["reason"] == "AlreadyExists")
        .count();
    assert_eq!((won.len(), lost), (1, 9));
    // Ten want to take it over from the same version.
    let seen = won[0].clone();
    let calls: Vec<Call> = (0..10)
        .map(|index| {
            let mut body = seen.clone();
            body["spec"]["holderIdentity"] = format!("n{index}").into();
            body["spec"]["leaseTransitions"] = 1.into();
            Call::put(&one, &body)
        })
        .collect();
    let answers = futures::future::join_all(calls.iter().map(|call| talk.ask(call))).await;
    let winner: Vec<&Value> = answers
        .iter()
        .filter(|one| one.code == 200)
        .map(|one| &one.body["spec"]["holderIdentity"])
        .collect();
    let lost = answers
        .iter()
        .filter(|one| one.code == 409 && one.body["reason"] == "Conflict")
        .count();
    assert_eq!((winner.len(), lost), (1, 9));
    let now = talk.ask(&Call::get(&one)).await;
    assert_eq!(now.body["spec"]["holderIdentity"], *winner[0]);
    // Patches of one field without a version all succeed, one after the other.
    let calls: Vec<Call> = (0..10)
        .map(|index| {
            Call::patch(
                &one,
                "merge",
                &json!({"metadata": {"annotations": {format!("a{index}"): "x"}}}),
            )
        })
        .collect();
    let answers = futures::future::join_all(calls.iter().map(|call| talk.ask(call))).await;
    assert!(answers.iter().all(|one| one.code == 200));
    let now = talk.ask(&Call::get(&one)).await;
    assert_eq!(
        now.body["metadata"]["annotations"]
            .as_object()
            .unwrap()
            .len(),
        10
    );

    talk.step("replace without a version", Call::put(&one, &lease("x")))
        .await;
    talk.step(
        "replace one that is absent",
        Call::put(
            &format!("{path}/made"),
            &json!({"metadata": {"name": "made"}}),
        ),
    )
    .await;
    let gone = json!({"name": "gone", "uid": "00000000-0000-0000-0000-000000000003", "resourceVersion": "7"});
    let gone = json!({ "metadata": gone });
    talk.step(
        "replace one that went",
        Call::put(&format!("{path}/gone"), &gone),
    )
    .await;
    let versioned = json!({"metadata": {"name": "versioned", "resourceVersion": "7"}});
    talk.step(
        "replace one that is absent, by a version",
        Call::put(&format!("{path}/versioned"), &versioned),
    )
    .await;
    let mut times = lease("t");
    times["metadata"]["name"] = "t".into();
    times["spec"]["renewTime"] = "2030-01-01T00:00:00Z".into();
    talk.step_of(
        "a time without a fraction",
        Call::post(&path, &times),
        |body| json!({"code": body["code"], "reason": body["reason"]}),
    )
    .await;
    for (title, field, value) in [
        ("a duration of nothing", "leaseDurationSeconds", json!(0)),
        ("a negative duration", "leaseDurationSeconds", json!(-3)),
        ("negative transitions", "leaseTransitions", json!(-1)),
        ("an empty holder", "holderIdentity", json!("")),
    ] {
        let mut body = lease("x");
        body["metadata"]["name"] = "bad".into();
        body["spec"][field] = value;
        talk.step(title, Call::post(&path, &body)).await;
    }
    let bad = json!({"metadata": {"name": "bad"}, "spec": {"renewTime": "yesterday"}});
    talk.step_of(
        "a time that is none",
        Call::post(&path, &bad),
        |body| json!({"code": body["code"], "reason": body["reason"]}),
    )
    .await;
}
