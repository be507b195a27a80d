//! Every reader, for some seconds, from the same numbers in every run; and everything that was ever found.

#![allow(clippy::unwrap_used)]

use std::{env, fs, time::Duration};

use kubedb_fuzz::{
    TARGETS, Target,
    drive::{Found, drive, run},
    regressions, seeds,
};

/// Seconds for each target, unless `KUBEDB_FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 2;

/// Length of inputs that show whether time grows faster than they do.
const LONG: usize = 256 << 10;

/// Memory of this process, with everything that was tried, at most.
const MEMORY_KIB: u64 = 600 << 10;

/// Says what was found, and leaves it where it can be kept from.
fn tell(target: &Target, found: &Found) -> String {
    let name = format!(
        "kubedb-fuzz-{}-{}",
        target.name,
        blake3::hash(&found.input).to_hex()
    );
    let path = env::temp_dir().join(name);
    fs::write(&path, &found.input).unwrap();
    format!(
        "{}: {}\n{:?}\nit lies in {}; to keep it, copy it into {}",
        target.name,
        found.why,
        String::from_utf8_lossy(&found.input[..found.input.len().min(500)]),
        path.display(),
        regressions(target).display()
    )
}

#[test]
fn what_was_found_once_stays_found() {
    for target in TARGETS {
        for input in seeds(target) {
            run(target, &input).unwrap_or_else(|found| panic!("{}", tell(target, &found)));
        }
    }
}

#[test]
fn nothing_breaks_a_promise() {
    let seconds = env::var("KUBEDB_FUZZ_SECONDS").ok();
    let seconds = seconds.map_or(SECONDS, |seconds| seconds.parse().unwrap());
    for target in TARGETS {
        let tried = drive(target, seeds(target), 1, Duration::from_secs(seconds));
        let tried = tried.unwrap_or_else(|found| panic!("{}", tell(target, &found)));
        assert!(tried > 100, "{}: {tried} inputs only", target.name);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak < MEMORY_KIB, "{peak} KiB");
}

/// A piece of every seed, and what readers like to go over again and again, until they are long.
#[test]
fn long_inputs_take_no_longer_than_they_are() {
    let pieces = [
        "[", "{", "{\"a\":", "[[],", "a: ", "- ", "\"", "'", "# ", "&a ", "*a,", "1,", "*/1,",
        "1-2,", " ", "\n", "0", "1h", "(file ", "../", "packs/", "---\n", "? ", "| ", "\\",
        "\u{0}", "é",
    ];
    for target in TARGETS {
        for piece in pieces {
            let input = piece.repeat(LONG / piece.len()).into_bytes();
            run(target, &input).unwrap_or_else(|found| {
                panic!("{}: {piece:?} again and again: {}", target.name, found.why)
            });
        }
        for seed in seeds(target).into_iter().filter(|seed| !seed.is_empty()) {
            let input = seed.repeat(LONG / seed.len() + 1);
            run(target, &input).unwrap_or_else(|found| {
                panic!("{}: a seed again and again: {}", target.name, found.why)
            });
        }
    }
}
