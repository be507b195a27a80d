//! A test of the whole product that fails beside others is tried once more, alone. One that passes then does not hold up a change that did not touch it, and is
//! told at the end of the run: it is a defect of the test or of the product, and somebody has to look.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use crate::say;

/// More than these are no accident of timing.
const ACCIDENTS: usize = 2;
/// What is left in the pipe of a program that has ended. A server that outlives it holds the pipe open.
const REST: Duration = Duration::from_secs(2);

static PASSED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs a program of tests, shows what it says, and gives the names of the tests that failed.
pub(crate) fn watched(command: &mut Command) -> (io::Result<ExitStatus>, Vec<String>) {
    match command.stdout(Stdio::piped()).spawn() {
        Ok(mut child) => {
            let failed = shown(&mut child);
            let status = child.wait();
            (
                status,
                failed.map(|failed| rest(&failed)).unwrap_or_default(),
            )
        }
        Err(error) => (Err(error), Vec::new()),
    }
}

/// Shows the lines of a program as they come.
fn shown(child: &mut Child) -> Option<mpsc::Receiver<Option<String>>> {
    let lines = BufReader::new(child.stdout.take()?);
    let (send, failed) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let _ = writeln!(io::stdout().lock(), "{line}");
            if let Some(name) = failed_test(&line) {
                let _ = send.send(Some(name.to_owned()));
            }
        }
        let _ = send.send(None);
    });
    Some(failed)
}

fn rest(failed: &mpsc::Receiver<Option<String>>) -> Vec<String> {
    let mut names = Vec::new();
    while let Ok(Some(name)) = failed.recv_timeout(REST) {
        names.push(name);
    }
    names
}

/// The test that a line says has failed.
fn failed_test(line: &str) -> Option<&str> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    (!name.contains(' ')).then_some(name)
}

/// Whether the tests that failed pass alone.
pub(crate) fn pass_alone(named: &str, failed: &[String], program: impl Fn() -> Command) -> bool {
    if failed.is_empty() || failed.len() > ACCIDENTS {
        return false;
    }
    failed.iter().all(|test| {
        say(&format!("-- {named}: once more, alone: {test}"));
        let status = program().args([test, "--exact"]).status();
        let passes = status.is_ok_and(|status| status.success());
        if passes {
            let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
            passed.push(format!("{test} of {named}"));
        }
        passes
    })
}

/// Tells what passed at its second try only.
pub(crate) fn tell() {
    for test in PASSED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        say(&format!(
            "FLAKY: {test} failed beside others and passed alone; look at its first failure above"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_failed_is_named_by_its_line() {
        assert_eq!(failed_test("test a::b ... FAILED"), Some("a::b"));
        for line in [
            "test a ... ok",
            "test result: FAILED. 1 passed",
            "test a has been running for over 60 seconds",
            "a test ... FAILED",
        ] {
            assert_eq!(failed_test(line), None, "{line}");
        }
    }

    #[test]
    fn what_fails_again_or_fails_often_stays_failed() {
        let names = |count: usize| vec!["t".to_owned(); count];
        assert!(!pass_alone("s", &names(0), || Command::new("true")));
        assert!(!pass_alone("s", &names(1), || Command::new("false")));
        assert!(!pass_alone("s", &names(3), || Command::new("true")));
        assert!(pass_alone("s", &names(2), || Command::new("true")));
    }
}
