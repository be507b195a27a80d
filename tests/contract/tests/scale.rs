//! What the operator does with some databases and their Snapshots: the bench of a thousand, in small. Only what is counted is judged here.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use kubedb_cluster::tools::tools;
use kubedb_contract::scale::{Sizes, Subject, measure};

#[test]
fn an_operator_at_rest_writes_nothing_and_every_schedule_ticks() {
    let missing = ["kube-apiserver", "kwok"].map(|name| (name, tools().join(name)));
    if let Some((name, _)) = missing.iter().find(|(_, path)| !path.exists()) {
        assert!(
            std::env::var_os("KUBEDB_CONTRACT_BOTH").is_none(),
            "there is no {name}: run cargo xtask apiserver install"
        );
        say(&format!(
            "NOTHING IS TRIED ON A REAL kube-apiserver: there is no {name}"
        ));
        return;
    }
    let subject = Subject {
        binary: kubedb_e2e::kubedb::binary(),
        profile: "debug".to_owned(),
    };
    let sizes = Sizes {
        databases: 20,
        snapshots: 200,
        // Two looks at each database fall into it.
        steady: Duration::from_secs(60),
        spread: Duration::from_secs(10),
    };
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let records = runtime
        .block_on(measure(&subject, &sizes, folder.path(), say))
        .unwrap();
    let value = |name: &str| {
        records
            .iter()
            .find(|record| record.name == name)
            .unwrap()
            .value
    };
    assert!(
        value("writes at rest, besides Leases") <= 1.0,
        "{records:?}"
    );
    // Some two dozen: what is told, decided, begun, ended and counted. A second attempt would be as many again.
    let writes = value("writes of a scheduled Snapshot");
    assert!((8.0..=30.0).contains(&writes), "{writes}");
}

#[expect(clippy::print_stderr, reason = "what was not tried has to be said")]
fn say(line: &str) {
    eprintln!("{line}");
}
