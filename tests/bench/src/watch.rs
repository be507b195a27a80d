//! A command that is timed, and whose memory is watched.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::failed;

/// Nothing here takes as long.
const LIMIT: Duration = Duration::from_secs(1_200);
/// A process that lives shorter than this was not seen at its largest.
const LOOK: Duration = Duration::from_millis(20);

/// What a command cost.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    /// From start to end.
    pub(crate) seconds: f64,
    /// The most that it and its children held at once, without pages they share.
    pub(crate) megabytes: f64,
    /// What it said.
    pub(crate) output: String,
}

/// Runs a command to its end.
pub(crate) fn timed(command: &mut Command) -> Result<Cost, String> {
    watched(command, LIMIT)
}

/// The same, but no longer than `limit`.
pub(crate) fn watched(command: &mut Command, limit: Duration) -> Result<Cost, String> {
    let named = format!("{:?}", command.get_program());
    let begun = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed(&format!("start {named}")))?;
    let id = child.id();
    let waiter = thread::spawn(move || {
        let output = child.wait_with_output();
        (output, begun.elapsed())
    });
    let mut most = 0.0_f64;
    while !waiter.is_finished() {
        most = most.max(family(id).into_iter().map(own_memory).sum());
        if begun.elapsed() > limit {
            kubedb_stores::process::signal(id, 9);
        }
        thread::sleep(LOOK);
    }
    let (output, took) = waiter.join().map_err(|_| format!("{named} was lost"))?;
    let output = output.map_err(failed(&format!("wait for {named}")))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if !output.status.success() {
        return Err(format!("{named} ended with {}: {text}", output.status));
    }
    Ok(Cost {
        seconds: took.as_secs_f64(),
        megabytes: most,
        output: text,
    })
}

/// A process and its children's children.
fn family(id: u32) -> Vec<u32> {
    let mut all = vec![id];
    let mut next = 0;
    while let Some(id) = all.get(next).copied() {
        next += 1;
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
    }
    all
}

/// Megabytes that are a process's alone.
pub(crate) fn own_memory(id: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
        .map_or(0.0, |kilobytes| kilobytes / 1_024.0)
}
