//! Runs the cases against both engines, and tells.

use std::{process::ExitCode, sync::Arc, time::Instant};

use futures::{StreamExt as _, future::BoxFuture, stream};
use kubedb_cluster::StartError;

use crate::{
    engine::{Engine, EngineError, Whose},
    expected,
    kubectl::Kubectl,
    talk::Talk,
};

/// Cases at once: each waits for answers most of the time.
const AT_ONCE: usize = 6;
/// The cases that run kubectl begin with this; each version of kubectl has to pass them.
const TRANSCRIPTS: &str = "kubectl::";

/// The cases that make an engine forget its history begin with this: they run when the others are done.
const FORGETFUL: &str = "forgotten::";

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    /// `module::function`.
    pub name: &'static str,
    /// Talks, and gives the talk back.
    pub run: fn(Talk) -> BoxFuture<'static, Talk>,
}

/// What the command line asks for.
struct Wanted {
    engines: Vec<Whose>,
    /// Only cases whose name holds one of these.
    filters: Vec<String>,
    /// Whether kube-apiserver's answers are kept as expectations.
    keep: bool,
}

fn wanted() -> Wanted {
    let mut wanted = Wanted {
        engines: vec![Whose::Ours, Whose::Theirs],
        filters: Vec::new(),
        keep: std::env::var_os("KUBEDB_CONTRACT_KEEP").is_some(),
    };
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--engine=ours" => wanted.engines = vec![Whose::Ours],
            "--engine=theirs" => wanted.engines = vec![Whose::Theirs],
            // What cargo and habits pass to a harness.
            flag if flag.starts_with('-') => {}
            filter => wanted.filters.push(filter.to_owned()),
        }
    }
    wanted
}

/// Runs everything; the expectations of a run with `KUBEDB_CONTRACT_KEEP=1` are those of kube-apiserver.
#[must_use]
pub fn main(cases: &[Case]) -> ExitCode {
    let wanted = wanted();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        // A case that runs kubectl holds a thread meanwhile, and our server needs some too.
        .worker_threads(AT_ONCE + 2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("error: failed to start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let cases: Vec<Case> = cases
        .iter()
        .filter(|case| {
            wanted.filters.is_empty()
                || wanted
                    .filters
                    .iter()
                    .any(|filter| case.name.contains(filter.as_str()))
        })
        .copied()
        .collect();
    // The processes of an engine live as long as the thread that starts them: this one.
    let failed = runtime.block_on(async {
        let mut failed = Vec::new();
        // Theirs first: when expectations are kept, ours is compared with the new ones.
        for whose in wanted.engines.iter().rev() {
            let keep = wanted.keep && *whose == Whose::Theirs;
            failed.extend(run(*whose, &cases, Kubectl::BASE, keep).await);
            failed.extend(other_kubectls(*whose, &cases, keep).await);
        }
        failed
    });
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    // Once more, where the end of a long log is all that is kept of it.
    say("\nfailures:\n");
    for Failure { what, why } in &failed {
        say(&format!("test {what} ... FAILED\n{why}\n"));
    }
    say(&format!("{} failed", failed.len()));
    ExitCode::FAILURE
}

/// A case that did not pass, or an engine without which none can.
struct Failure {
    what: String,
    why: String,
}

/// `cargo xtask test` installs what both engines need, and so insists on both.
fn must_run_both() -> bool {
    std::env::var_os("KUBEDB_CONTRACT_BOTH").is_some()
}

/// The transcripts again with every other kubectl, each on an engine of its own: the names of namespaces are in what is
/// printed, and so are the same.
async fn other_kubectls(whose: Whose, cases: &[Case], keep: bool) -> Vec<Failure> {
    let transcripts: Vec<Case> = cases
        .iter()
        .filter(|case| case.name.starts_with(TRANSCRIPTS))
        .copied()
        .collect();
    if transcripts.is_empty() {
        return Vec::new();
    }
    let mut failed = Vec::new();
    for kubectl in Kubectl::OTHERS {
        let version = kubectl.version;
        if kubectl.exists() {
            failed.extend(run(whose, &transcripts, kubectl, keep).await);
        } else {
            let why = format!(
                "NOTHING IS TRIED WITH kubectl {version}: it is not installed, run cargo xtask apiserver install"
            );
            say(&why);
            if must_run_both() {
                let what = format!("kubectl {version}");
                failed.push(Failure { what, why });
            }
        }
    }
    failed
}

/// Returns what failed.
async fn run(whose: Whose, cases: &[Case], kubectl: Kubectl, keep: bool) -> Vec<Failure> {
    let name = match whose {
        Whose::Ours => "kubedb server",
        Whose::Theirs => "kube-apiserver",
    };
    let name = format!("{name}, kubectl {}", kubectl.version);
    let begin = Instant::now();
    let engine = match Engine::start(whose).await {
        Ok(engine) => Arc::new(engine),
        Err(EngineError::Start(error @ StartError::Missing { .. })) if !must_run_both() => {
            say(&format!(
                "NOTHING IS COMPARED WITH A REAL kube-apiserver: {error}"
            ));
            return Vec::new();
        }
        Err(error) => {
            let why = format!("error: {name} does not run: {error}");
            say(&why);
            return vec![Failure { what: name, why }];
        }
    };
    say(&format!(
        "{name} runs after {:.1} s; {} cases",
        begin.elapsed().as_secs_f64(),
        cases.len()
    ));
    let (last, first): (Vec<Case>, Vec<Case>) = cases
        .iter()
        .copied()
        .partition(|case| case.name.starts_with(FORGETFUL));
    let mut failed = Vec::new();
    for (cases, at_once) in [(first, AT_ONCE), (last, 1)] {
        let these: Vec<Failure> = stream::iter(cases)
            .map(|case| one(engine.clone(), case, kubectl, keep, &name))
            .buffer_unordered(at_once)
            .filter_map(futures::future::ready)
            .collect()
            .await;
        failed.extend(these);
    }
    say(&format!(
        "{name}: {} passed, {} failed, {:.1} s in all",
        cases.len() - failed.len(),
        failed.len(),
        begin.elapsed().as_secs_f64()
    ));
    if let Some(engine) = Arc::into_inner(engine) {
        engine.end().await;
    }
    failed
}

async fn one(
    engine: Arc<Engine>,
    case: Case,
    kubectl: Kubectl,
    keep: bool,
    name: &str,
) -> Option<Failure> {
    let begin = Instant::now();
    let whose = engine.whose;
    let talk = async move { (case.run)(Talk::begin(engine, case.name, kubectl).await).await };
    let outcome = match tokio::spawn(talk).await {
        Err(error) => Err(format!("it panicked: {}", message(error))),
        Ok(talk) if keep => expected::keep(case.name, kubectl, &talk.steps),
        Ok(talk) => expected::compare(whose, case.name, kubectl, &talk.steps),
    };
    let took = begin.elapsed().as_secs_f64();
    match outcome {
        Ok(()) => {
            say(&format!("ok      {name}: {} ({took:.1} s)", case.name));
            None
        }
        Err(why) => {
            let what = format!("{name}: {}", case.name);
            say(&format!("FAILED  {what}\n{why}"));
            Some(Failure { what, why })
        }
    }
}

/// What a panic said: it is told once more at the end of the log.
fn message(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "it was cancelled".to_owned();
    };
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast_ref::<&str>()
            .map_or_else(|| "no text".to_owned(), ToString::to_string),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a test harness prints, and its name is the only place"
)]
fn say(line: &str) {
    eprintln!("{line}");
}
