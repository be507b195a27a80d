//! Commands whose server goes away and comes back.

#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Command, time::Duration};

use kubedb_e2e::{
    kubedb::{binary, run, scratch},
    process::{Running, signal},
    stores::free_port,
};

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NAME}\n";

fn server(data: &Path, port: u16) -> (Running, String) {
    let running = Running::start(
        Command::new(binary())
            .args(["server", "--listen", &format!("127.0.0.1:{port}")])
            .arg("--data-dir")
            .arg(data),
    )
    .unwrap();
    let kubeconfig = running
        .wait_for_line("kubeconfig: ", Duration::from_secs(60))
        .unwrap();
    (running, kubeconfig)
}

fn kubedb(kubeconfig: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env("KUBECONFIG", kubeconfig);
    command
}

/// A server that is updated in the night must not end the watch of whoever looks at it in the morning.
#[test]
fn a_watch_survives_a_restart_of_the_server() {
    let folder = scratch().unwrap();
    let (data, port) = (folder.path().join("data"), free_port().unwrap());
    let (mut first, kubeconfig) = server(&data, port);
    let create = |name: &str| {
        let mut create = kubedb(&kubeconfig, &["create", "-f", "-"]);
        let ran = run(&mut create, &MAP.replace("NAME", name)).unwrap();
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    };
    create("before");
    let mut watch = Running::start(&mut kubedb(&kubeconfig, &["get", "cm", "--watch"])).unwrap();
    watch
        .wait_for_line("before", Duration::from_secs(20))
        .unwrap();
    first.kill();
    let (mut second, _) = server(&data, port);
    create("after");
    watch
        .wait_for_line("after", Duration::from_secs(40))
        .unwrap();
    signal(watch.id(), libc::SIGINT);
    let ended = kubedb_e2e::wait::eventually("end", Duration::from_secs(20), || {
        watch.ended().ok_or_else(|| "it goes on".to_owned())
    });
    assert_eq!(ended.code(), Some(0));
    second.terminate(Duration::from_secs(60));
    // Nobody listens any more: the command says where it looked and what to run.
    let ran = run(&mut kubedb(&kubeconfig, &["get", "cm"]), "").unwrap();
    let message = format!(
        "error: failed to reach the server at https://127.0.0.1:{port}/\n  caused by: Connection refused (os error 111)\n\nhint: kubedb server starts one"
    );
    assert!(ran.stderr.starts_with(&message), "{}", ran.stderr);
    assert_eq!(ran.code, 1);
}
