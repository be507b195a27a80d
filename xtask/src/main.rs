//! What a developer and CI run: `cargo xtask test`, `bench`, `fuzz`, `lint`, `tidy`, `tools`, `apiserver`,
//! `stores`, `cluster`, `image`.

mod again;
mod apiserver;
mod bench;
mod cluster;
mod fuzz;
mod image;
mod lint;
mod promises;
mod stores;
mod suite;
mod tidy;
mod tiers;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask COMMAND

Commands:
  test [--tier unit|contract|local|smoke|cluster|image|interop]
                             install what the tests need and run the tiers (default: all but the cluster, of which smoke is a part, image and interop)
  bench local                measure what users wait for on one machine; prints a table, writes target/bench/local.json
    --binary PATH            measure this program instead of building the release, to compare
  bench backup [--gigabytes N] [--runs N] [--encrypt]
                             our engine and pgBackRest at the same work, in turn; prints ratios, writes target/bench/backup.json
  bench scale [--databases N] [--snapshots N] [--binary PATH]
                             what 1000 databases and 20000 Snapshots cost one operator; prints a table, writes target/bench/scale.json
  fuzz [--time 60s] [--target NAME]
                             try readers of foreign bytes with anything, guided by coverage; time is for each target
  tidy                       check the arrows between crates, file sizes and forbidden text
  lint                       check format, lints, licences and sources of dependencies, and what tidy checks
  tools                      install what the tests need, and print where
  bench api                  how the embedded API and kube-apiserver list, tell and remember
  apiserver install|up|down|run -- COMMAND
                             a real kube-apiserver on loopback: for a while, or around one command
  cluster up [--nodes N]|down|status|install
                             a real Kubernetes in namespaces of this machine's kernel, 3 nodes by default; needs root
  image                      our image, with the release as one static program: target/kubedb-image.tar
  stores up|down|status      real object-store servers on loopback, with the Secret and the storage: of each
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(reason) = fuzz::compile_instead(&arguments) {
        say(&reason);
        return ExitCode::FAILURE;
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test"] => tiers::run(&tiers::Tier::USUAL),
        ["test", "--tier", name] => tiers::Tier::parse(name).and_then(|tier| tiers::run(&[tier])),
        ["bench", "local"] => bench::local(None),
        ["bench", "local", "--binary", path] => bench::local(Some(path.as_ref())),
        ["bench", "backup", arguments @ ..] => bench::backup(arguments),
        ["bench", "scale", arguments @ ..] => bench::scale(arguments),
        ["bench", "api"] => apiserver::bench(),
        ["fuzz", arguments @ ..] => fuzz::run(arguments),
        ["stores", arguments @ ..] => stores::run_command(arguments),
        ["apiserver", arguments @ ..] => apiserver::run(arguments),
        ["cluster", arguments @ ..] => cluster::run_command(arguments),
        ["image"] => image::release().map(drop),
        ["tidy"] => tidy::run(),
        ["lint"] => lint::run(),
        ["tools"] => tools::install().map(|tools| say(&format!("{}", tools.bin.display()))),
        _ => {
            say(HELP);
            return if words.is_empty() || words == ["--help"] {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            say(&format!("error: {reason}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line of progress.
#[expect(
    clippy::print_stderr,
    reason = "the one place where this program prints"
)]
fn say(line: &str) {
    eprintln!("{line}");
}
