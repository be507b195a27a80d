//! Running a target without libFuzzer. What leads on is the answers: an input that is answered as none before is worth changing further.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::{Target, random::Random};

/// Inputs kept to go on from.
const KEPT: usize = 2_000;

/// Longest time of a processor that one input may take; all of them take some milliseconds at most, also in debug builds.
pub const INPUT_LIMIT: Duration = Duration::from_secs(2);

/// A broken promise.
#[derive(Debug)]
pub struct Found {
    /// What it was broken by.
    pub input: Vec<u8>,
    /// In which words, as far as there are any.
    pub why: String,
}

/// Runs one input; what it breaks comes back.
pub fn run(target: &Target, input: &[u8]) -> Result<String, Found> {
    let begun = worked();
    let found = |why: String| Found {
        input: input.to_vec(),
        why,
    };
    let answer = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        found(text.unwrap_or_else(|| "a panic".to_owned()))
    })?;
    let took = worked().saturating_sub(begun);
    if took > INPUT_LIMIT {
        return Err(found(format!("it took {took:?}")));
    }
    Ok(answer)
}

/// Time that this thread has worked until now; how long it waited for a processor says nothing of what it did.
fn worked() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split_whitespace().next();
    Duration::from_nanos(nanoseconds.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Tries neighbours of the seeds until the time is over or something is found. Gives how many were tried.
pub fn drive(
    target: &Target,
    seeds: Vec<Vec<u8>>,
    random: u64,
    time: Duration,
) -> Result<u64, Found> {
    let end = Instant::now() + time;
    let (mut random, mut kept, mut answers) = (Random(random), seeds, HashSet::new());
    for seed in &kept {
        answers.insert(class(&run(target, seed)?));
    }
    let mut tried = kept.len() as u64;
    while Instant::now() < end {
        let input = random.neighbour(&kept);
        let is_new = answers.insert(class(&run(target, &input)?));
        if is_new && kept.len() < KEPT {
            kept.push(input);
        }
        tried += 1;
    }
    Ok(tried)
}

/// An answer without what differs between inputs of one kind: numbers, and what stands in quotes.
fn class(answer: &str) -> String {
    let outside = answer.split('"').step_by(2);
    outside
        .flat_map(str::chars)
        .filter(|letter| !letter.is_ascii_digit())
        .take(200)
        .collect()
}
