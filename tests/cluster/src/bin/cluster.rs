//! A Kubernetes on this machine: `cargo xtask cluster up|down|status`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use kubedb_cluster::{
    Cluster, Layout, error::words as words_of, images, layout::NODES_MAX, provisioner,
};

const USAGE: &str = "usage: cluster up [--nodes N] | down | status | image PROGRAM NAME ARCHIVE
options: --number N  another cluster beside that of developers, which is 0";

/// Nodes where no number is given: a primary, its standby, and one that may fail.
const NODES: u8 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["up", options @ ..] => number(options, "--nodes", NODES).and_then(|nodes| {
            let number = number(options, "--number", 0)?;
            up(number, nodes)
        }),
        ["down", options @ ..] => number(options, "--number", 0)
            .and_then(|number| Cluster::down(number).map_err(|error| words_of(&error))),
        ["status", options @ ..] => number(options, "--number", 0).and_then(status),
        ["image", program, name, archive] => {
            images::kubedb(Path::new(program), name, Path::new(archive))
                .map_err(|error| words_of(&error))
        }
        // Not for people: it is one of the control plane's programs.
        ["provisioner", kubeconfig, folder] => provision(Path::new(kubeconfig), Path::new(folder)),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            say(&format!("error: {reason}"));
            ExitCode::FAILURE
        }
    }
}

/// The value of an option. Options that nobody knows are refused.
fn number(options: &[&str], wanted: &str, otherwise: u8) -> Result<u8, String> {
    let mut found = otherwise;
    for pair in options.chunks(2) {
        match pair {
            [name @ ("--nodes" | "--number"), value] => {
                let value = value
                    .parse()
                    .map_err(|_| format!("{name} {value:?} is no number"))?;
                found = if *name == wanted { value } else { found };
            }
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(found)
}

fn up(number: u8, nodes: u8) -> Result<(), String> {
    let layout = Layout::new(number, nodes).ok_or_else(|| {
        format!("there is no cluster {number} with {nodes} nodes: at most {NODES_MAX}")
    })?;
    let program = this_program()?;
    let begun = Instant::now();
    let tell = |what: &str| say(&format!("{:6.1} s  {what}", begun.elapsed().as_secs_f64()));
    let cluster = Cluster::up(layout, &program, tell).map_err(|error| words_of(&error))?;
    tell(&format!("{} nodes are ready", cluster.nodes().len()));
    print(&format!(
        "export KUBECONFIG={}",
        cluster.kubeconfig().display()
    ));
    Ok(())
}

fn this_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("failed to find itself: {error}"))
}

fn status(number: u8) -> Result<(), String> {
    let cluster = Cluster::known(number).ok_or("it is not up")?;
    print(&cluster.status());
    Ok(())
}

fn provision(kubeconfig: &Path, folder: &Path) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("failed to start the runtime: {error}"))?;
    runtime
        .block_on(provisioner::run(kubeconfig, folder, say))
        .map_err(|error| words_of(&error))
}

#[expect(clippy::print_stdout, reason = "it is a command")]
fn print(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "it is a command")]
fn say(line: &str) {
    eprintln!("{line}");
}
