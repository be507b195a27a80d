//! The programs that cargo makes of the tests. They are built in one go, because each selection of crates would compile what
//! they share anew, and run crate by crate.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use serde_json::Value;

use crate::{again, say, tools};

/// One program of tests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    /// Folder of its crate, from the root of the workspace: `crates/core`.
    pub(crate) folder: PathBuf,
    /// What cargo calls it.
    name: String,
    program: PathBuf,
    /// What the names of its tests must hold to be run; all are when there is nothing.
    only: &'static [&'static str],
}

/// Builds the tests of the crates that `selection` names, in cargo's words.
pub(crate) fn build(selection: &[&str]) -> Result<Vec<Suite>, String> {
    let mut command = tools::cargo();
    command
        .args([
            "test",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .args(selection)
        .stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|e| format!("failed to start {command:?}: {e}"))?;
    let lines = child.stdout.take().map(BufReader::new);
    let mut suites: Vec<Suite> = lines
        .into_iter()
        .flat_map(BufReader::lines)
        .map_while(Result::ok)
        .filter_map(|line| suite(&serde_json::from_str(&line).ok()?))
        .collect();
    // In the same order each time, whatever was compiled first.
    suites.sort_by(|a, b| (&a.folder, &a.name).cmp(&(&b.folder, &b.name)));
    let status = child
        .wait()
        .map_err(|e| format!("failed to wait for cargo: {e}"))?;
    if status.success() {
        Ok(suites)
    } else {
        Err("the tests do not build".to_owned())
    }
}

/// What cargo says of one thing it made, if that is a program of tests.
fn suite(made: &Value) -> Option<Suite> {
    let is_test = made["profile"]["test"].as_bool()?;
    let program = made["executable"].as_str().filter(|_| is_test)?;
    let folder = Path::new(made["manifest_path"].as_str()?).parent()?;
    Some(Suite {
        folder: folder
            .strip_prefix(tools::workspace())
            .unwrap_or(folder)
            .to_owned(),
        name: made["target"]["name"].as_str()?.to_owned(),
        program: program.into(),
        only: &[],
    })
}

impl Suite {
    /// Whether it is one of these, named as `kills`.
    pub(crate) fn is_one_of(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// Those of its tests whose names hold one of these.
    pub(crate) fn part(&self, only: &'static [&'static str]) -> Self {
        Self {
            folder: self.folder.clone(),
            name: self.name.clone(),
            program: self.program.clone(),
            only,
        }
    }

    fn named(&self) -> String {
        format!("{} of {}", self.name, self.folder.display())
    }

    /// The command that cargo would run.
    fn command(&self, program: &Path, environment: &[(&str, OsString)]) -> Command {
        let folder = tools::workspace().join(&self.folder);
        let mut command = Command::new(program);
        command
            .args(self.only)
            .current_dir(&folder)
            .env("CARGO", tools::cargo().get_program())
            .env("CARGO_MANIFEST_DIR", &folder)
            .envs(environment.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs it and shows what it says; says what failed.
    pub(crate) fn run(&self, environment: &[(&str, OsString)]) -> Option<String> {
        let (named, begun) = (self.named(), Instant::now());
        say(&format!("-- {named}"));
        let program = || self.command(&self.program, environment);
        let (status, failed) = again::watched(&mut program());
        say(&format!("-- {named} took {} s", begun.elapsed().as_secs()));
        let failure = failure(&named, status)?;
        let is_whole =
            self.folder.starts_with("tests/e2e") || self.folder.starts_with("tests/cluster");
        (!is_whole || !again::pass_alone(&named, &failed, program)).then_some(failure)
    }

    /// Runs it beside others, which come first: what it says is shown when it ends.
    pub(crate) fn run_beside(&self, environment: &[(&str, OsString)]) -> Option<String> {
        let (named, begun) = (self.named(), Instant::now());
        let mut command = self.command(Path::new("nice"), environment);
        command.arg(&self.program);
        // A file, not a pipe: whoever of a suite outlives it would hold a pipe open, and us up.
        let kept = self.program.with_extension("told");
        let status = fs::File::create(&kept).and_then(|file| {
            command.stdout(file.try_clone()?).stderr(file);
            command.status()
        });
        let seconds = begun.elapsed().as_secs();
        let text = fs::read(&kept).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let text = text.trim_end();
        say(&format!("-- {named}\n{text}\n-- {named} took {seconds} s"));
        failure(&named, status)
    }
}

fn failure(named: &str, status: io::Result<ExitStatus>) -> Option<String> {
    match status {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("{named}: {status}")),
        Err(error) => Some(format!("{named}: failed to start: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_of_tests_are_told_from_other_things_that_cargo_makes() {
        let manifest = tools::workspace().join("crates/core/Cargo.toml");
        let made = |test: bool, executable: Value| {
            json!({
                "reason": "compiler-artifact", "manifest_path": manifest, "target": {"name": "schedule"},
                "profile": {"test": test}, "executable": executable,
            })
        };
        let found = suite(&made(true, json!("/target/schedule-1"))).expect("a program of tests");
        assert_eq!(found.folder, Path::new("crates/core"));
        assert_eq!(found.name, "schedule");
        assert_eq!(suite(&made(false, json!("/target/kubedb"))), None);
        assert_eq!(suite(&made(true, Value::Null)), None);
        assert_eq!(suite(&json!({"reason": "build-finished"})), None);
    }
}
