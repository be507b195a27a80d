//! Numbers as Prometheus reads them, in its text format 0.0.4. Written by hand: libraries append `_total` to counters, and the names that
//! dashboards of PostgreSQL ask for have no such end.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt::Write as _,
};

/// Content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bytes of a label's value; what is longer is cut. Names of PostgreSQL and of Kubernetes have 63 at most.
const VALUE_MAX: usize = 256;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until whoever counts begins anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// As the format has it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Numbers of one name: a line of a table, which the documentation and the checks of alert rules are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What the numbers are.
    pub kind: Kind,
    /// Names of the labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// What it means, in a sentence.
    pub help: &'static str,
}

/// A gauge, as a line of a table.
#[must_use]
pub const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        name,
        kind: Kind::Gauge,
        labels,
        help,
    }
}

/// A counter, as a line of a table.
#[must_use]
pub const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        name,
        kind: Kind::Counter,
        labels,
        help,
    }
}

/// How long things took: how many at most so long, all of them, and all of their seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    /// None yet. The bounds go up.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len()],
            sum: 0.0,
            count: 0,
        }
    }

    /// One more.
    pub fn observe(&mut self, value: f64) {
        for (bound, count) in self.bounds.iter().zip(&mut self.counts) {
            if value <= *bound {
                *count += 1;
            }
        }
        self.sum += value;
        self.count += 1;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[derive(Debug)]
struct Samples {
    kind: Kind,
    help: String,
    /// By what stands between the braces, so that the order of a scrape is that of the last.
    lines: BTreeMap<String, String>,
}

/// Samples on their way into a text.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<String, Samples>,
}

impl Exposition {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number. Of two with the same labels the first counts: Prometheus would refuse everything that is told with them.
    pub fn add(&mut self, family: &Family, labels: &[&str], value: f64) {
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        let labels: Vec<(&str, &str)> = family
            .labels
            .iter()
            .copied()
            .zip(labels.iter().copied())
            .collect();
        self.insert(family.name, family.kind, family.help, &labels, value);
    }

    /// Adds a number if it is known. What is not known is not told: a nought would be a number.
    pub fn maybe(&mut self, family: &Family, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.add(family, labels, value);
        }
    }

    /// Adds one number for each of these values of the last label: 1 for the one that is so, 0 for the others.
    pub fn state(&mut self, family: &Family, labels: &[&str], all: &[&str], is: Option<&str>) {
        for one in all {
            let mut labels = labels.to_vec();
            labels.push(one);
            self.add(family, &labels, f64::from(u8::from(is == Some(*one))));
        }
    }

    /// Adds a gauge whose name is found out at run time; one that is no name is left out.
    pub fn add_found(&mut self, name: &str, help: &str, value: f64) {
        if is_name(name) {
            self.insert(name, Kind::Gauge, help, &[], value);
        }
    }

    /// Adds a histogram.
    pub fn add_histogram(&mut self, family: &Family, labels: &[&str], histogram: &Histogram) {
        let labels: Vec<(&str, &str)> = family
            .labels
            .iter()
            .copied()
            .zip(labels.iter().copied())
            .collect();
        let braces = braces(&labels);
        let bounds = histogram.bounds.iter().map(|bound| number(*bound));
        let counts = histogram.counts.iter().copied().chain([histogram.count]);
        let mut text = String::new();
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
            let mut labels = labels.clone();
            labels.push(("le", &bound));
            let _ = writeln!(
                text,
                "{}_bucket{} {count}",
                family.name,
                self::braces(&labels)
            );
        }
        let _ = writeln!(
            text,
            "{}_sum{braces} {}",
            family.name,
            number(histogram.sum)
        );
        let _ = writeln!(text, "{}_count{braces} {}", family.name, histogram.count);
        self.put(family.name, family.kind, family.help, braces, text);
    }

    fn insert(&mut self, name: &str, kind: Kind, help: &str, labels: &[(&str, &str)], value: f64) {
        let braces = braces(labels);
        let line = format!("{name}{braces} {}\n", number(value));
        self.put(name, kind, help, braces, line);
    }

    fn put(&mut self, name: &str, kind: Kind, help: &str, braces: String, text: String) {
        let samples = match self.families.entry(name.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Samples {
                kind,
                help: help.to_owned(),
                lines: BTreeMap::new(),
            }),
        };
        samples.lines.entry(braces).or_insert(text);
    }

    /// Adds everything of another; what both have stays as it is here.
    pub fn extend(&mut self, other: Self) {
        for (name, samples) in other.families {
            for (braces, text) in samples.lines {
                self.put(&name, samples.kind, &samples.help, braces, text);
            }
        }
    }

    /// Names of the families there are.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&str> {
        self.families.keys().map(String::as_str).collect()
    }

    /// The text: each family once, by name, with what it means and what it is.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, samples) in &self.families {
            let help = samples.help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(text, "# HELP {name} {help}");
            let _ = writeln!(text, "# TYPE {name} {}", samples.kind.text());
            text.extend(samples.lines.values().map(String::as_str));
        }
        text
    }
}

/// Whether this can be the name of a family.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_' || *byte == b':';
    let mut bytes = text.as_bytes().iter();
    bytes.next().is_some_and(is_letter)
        && bytes.all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

fn braces(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs = labels.iter().map(|(name, value)| {
        let mut end = value.len().min(VALUE_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = value[..end]
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    });
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

/// As Go reads it. Whole numbers have no fraction, and none is written with an exponent.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        format!("{value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Family = gauge("pg_size", &["datname"], "Bytes of a database.");
    const TOOK: Family = Family {
        name: "took_seconds",
        kind: Kind::Histogram,
        labels: &["controller"],
        help: "How long.",
    };

    #[test]
    fn whatever_a_name_holds_stays_one_label() {
        let mut exposition = Exposition::new();
        for name in ["b\"c", "a\\b", "new\nline", "åäö", "}", ""] {
            exposition.add(&SIZE, &[name], 1.0);
        }
        exposition.add_found("pg_settings_x", "with \\ and\nmore", 0.5);
        assert_eq!(
            exposition.text(),
            "# HELP pg_settings_x with \\\\ and\\nmore\n# TYPE pg_settings_x gauge\npg_settings_x 0.5\n\
             # HELP pg_size Bytes of a database.\n# TYPE pg_size gauge\n\
             pg_size{datname=\"\"} 1\npg_size{datname=\"a\\\\b\"} 1\npg_size{datname=\"b\\\"c\"} 1\n\
             pg_size{datname=\"new\\nline\"} 1\npg_size{datname=\"}\"} 1\npg_size{datname=\"åäö\"} 1\n"
        );
        assert_eq!(exposition.text().lines().count(), 11);
        // Cut between letters, not within one.
        let long = format!("x{}", "å".repeat(300));
        let mut exposition = Exposition::new();
        exposition.add(&SIZE, &[&long], 1.0);
        let wanted = format!("pg_size{{datname=\"x{}\"}} 1\n", "å".repeat(127));
        assert!(
            exposition.text().ends_with(&wanted),
            "{}",
            exposition.text()
        );
    }

    #[test]
    fn the_first_of_two_counts_and_a_family_is_told_once() {
        let mut exposition = Exposition::new();
        exposition.add(&SIZE, &["one"], 1.0);
        exposition.add_found("other", "Between.", 3.0);
        exposition.add(&SIZE, &["two"], 4.0);
        exposition.add(&SIZE, &["one"], 2.0);
        let mut more = Exposition::new();
        more.add(&SIZE, &["two"], 5.0);
        more.add(&SIZE, &["three"], 6.0);
        exposition.extend(more);
        let text = exposition.text();
        let values: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("pg_size"))
            .collect();
        let wanted = ["one\"} 1", "three\"} 6", "two\"} 4"];
        assert_eq!(
            values,
            wanted.map(|end| format!("pg_size{{datname=\"{end}"))
        );
        assert_eq!(text.matches("# TYPE pg_size ").count(), 1);
    }

    #[test]
    fn numbers_are_as_prometheus_reads_them() {
        let written = [
            0.0,
            -0.5,
            1e21,
            1e-7,
            1_795_000_200.25,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ]
        .map(number);
        let wanted = [
            "0",
            "-0.5",
            "1000000000000000000000",
            "0.0000001",
            "1795000200.25",
            "NaN",
            "+Inf",
            "-Inf",
        ];
        assert_eq!(written, wanted);
    }

    #[test]
    fn what_is_no_name_is_left_out() {
        for name in ["a", "_a:b9", "pg_settings_x"] {
            assert!(is_name(name), "{name}");
        }
        let mut exposition = Exposition::new();
        for name in ["", "9a", "pg_settings_auto.explain", "a b", "å"] {
            exposition.add_found(name, "", 1.0);
        }
        assert_eq!(exposition.text(), "");
    }

    #[test]
    fn a_histogram_counts_up() {
        let mut histogram = Histogram::new(&[0.01, 0.1, 1.0]);
        for value in [0.005, 0.01, 0.5, 7.0] {
            histogram.observe(value);
        }
        let mut exposition = Exposition::new();
        exposition.add_histogram(&TOOK, &["postgres"], &histogram);
        assert_eq!(
            exposition.text(),
            "# HELP took_seconds How long.\n# TYPE took_seconds histogram\n\
             took_seconds_bucket{controller=\"postgres\",le=\"0.01\"} 2\n\
             took_seconds_bucket{controller=\"postgres\",le=\"0.1\"} 2\n\
             took_seconds_bucket{controller=\"postgres\",le=\"1\"} 3\n\
             took_seconds_bucket{controller=\"postgres\",le=\"+Inf\"} 4\n\
             took_seconds_sum{controller=\"postgres\"} 7.515\n\
             took_seconds_count{controller=\"postgres\"} 4\n"
        );
    }

    #[test]
    fn of_a_state_one_is_so() {
        const PHASE: Family = gauge("phase", &["database", "phase"], "Where it stands.");
        let mut exposition = Exposition::new();
        exposition.state(&PHASE, &["pg"], &["Creating", "Running"], Some("Running"));
        let text = exposition.text();
        assert!(
            text.contains("phase{database=\"pg\",phase=\"Creating\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("phase{database=\"pg\",phase=\"Running\"} 1\n"),
            "{text}"
        );
    }
}
