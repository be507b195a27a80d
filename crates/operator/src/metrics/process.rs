//! What the kernel says of this process.

use kubedb_core::metrics::Exposition;

use super::families::{CPU, FILES, MEMORY, STARTED};

/// Ticks of a second in `/proc`: the same on every Linux that there is.
const TICKS: f64 = 100.0;

/// Adds what can be read.
pub(super) fn add(to: &mut Exposition) {
    let status = read("/proc/self/status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    to.maybe(&MEMORY, &[], resident.map(|kilobytes| kilobytes * 1_024.0));
    let files = std::fs::read_dir("/proc/self/fd");
    to.maybe(&FILES, &[], files.ok().map(|files| files.count() as f64));
    // Behind the name, which may hold anything, stand numbers.
    let stat = read("/proc/self/stat");
    let numbers: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|number| number.parse().unwrap_or(f64::NAN))
        .collect();
    let number = |place: usize| {
        numbers
            .get(place)
            .copied()
            .filter(|number| number.is_finite())
    };
    let computed = number(11).zip(number(12));
    to.maybe(
        &CPU,
        &[],
        computed.map(|(user, system)| (user + system) / TICKS),
    );
    let boot = read("/proc/stat");
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "));
    let boot = boot.and_then(|rest| rest.trim().parse::<f64>().ok());
    let began = boot
        .zip(number(19))
        .map(|(boot, ticks)| boot + ticks / TICKS);
    to.maybe(&STARTED, &[], began);
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
