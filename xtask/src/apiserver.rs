//! `cargo xtask apiserver`: a kube-apiserver with etcd on this machine, to try things against.

use crate::{say, tools};

/// Measures lists, watches and memory of both engines, in a release build.
pub(crate) fn bench() -> Result<(), String> {
    tools::kubernetes_and_kubectls()?;
    let mut command = tools::cargo();
    command.args([
        "run",
        "-q",
        "--release",
        "-p",
        "kubedb-contract",
        "--bin",
        "bench_api",
    ]);
    tools::run(&mut command)
}

/// Runs one of its commands; what they do is in `tests/contract/src/bin/apiserver.rs`.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    tools::kubernetes_and_kubectls()?;
    if arguments == ["install"] {
        say("kube-apiserver and etcd are installed");
        return Ok(());
    }
    let mut command = tools::cargo();
    command
        .args([
            "run",
            "-q",
            "-p",
            "kubedb-contract",
            "--bin",
            "apiserver",
            "--",
        ])
        .args(arguments);
    tools::run(&mut command)
}
