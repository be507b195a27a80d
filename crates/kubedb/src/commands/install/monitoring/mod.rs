//! `deploy/monitoring/` and `docs/reference/metrics.md`: what a Prometheus is given, and what it is told. Only the test makes them.

use std::collections::BTreeMap;

use kubedb_agent::metrics::{families as agent, postgres};
use kubedb_core::metrics::{Family, Kind};
use kubedb_operator::metrics::families as operator;
use serde_json::{Value, json};

use super::yaml::documents;
use crate::cli::reference::assert_current;

/// The rules as a Prometheus reads them from a file.
const ALERTS: &str = include_str!("alerts.yaml");
const NAMESPACE: &str = "kubedb";

/// Paths below `deploy/` and what is in them, without the head that says who made them.
pub(super) fn tree() -> BTreeMap<String, String> {
    let rules: Value = serde_yaml_ng::from_str(ALERTS).unwrap();
    let named = |kind: &str, name: &str| json!({"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}});
    let mut monitor = named("PodMonitor", "kubedb-operator");
    monitor["spec"] = json!({
        "selector": {"matchLabels": super::objects::operator_labels()},
        // Its metrics say themselves of which database they speak.
        "podMetricsEndpoints": [{"port": "health", "path": "/metrics", "honorLabels": true}],
    });
    let mut alerts = named("PrometheusRule", "kubedb");
    alerts["spec"] = rules;
    BTreeMap::from([
        ("monitoring/alerts.yaml".to_owned(), ALERTS.to_owned()),
        (
            "monitoring/prometheus-operator.yaml".to_owned(),
            documents(&[monitor, alerts]),
        ),
    ])
}

const HEAD: &str = "\
# Metrics

Made from the program by `UPDATE=1 cargo test -p kubedb metrics`; do not edit. [The guide](../guides/monitoring.md) says how they are scraped.

What is not known is absent, never 0. Times are seconds since 1970; `_timestamp_seconds` minus `time()` in a query is an age.
";

/// Everything that is told, by who tells it.
fn sections() -> [(&'static str, &'static str, &'static [&'static Family]); 4] {
    [
        (
            "A database, told by its agents and by the operator",
            "Both under the same names and labels: `max by (namespace, database)` of a query takes either.",
            kubedb_api::metrics::FAMILIES,
        ),
        (
            "An instance, told by its agent",
            "Also while PostgreSQL does not answer. Those of the archive are told by the primary of a database with `spec.archiver`.",
            agent::OURS,
        ),
        (
            "PostgreSQL, told by the agent of its instance",
            "Under the names of postgres_exporter, so that its dashboards work. Labels have the names of databases, of which the 200 oldest are told.",
            postgres::POSTGRES,
        ),
        ("The operator, and `kubedb server`", "", operator::FAMILIES),
    ]
}

fn page() -> String {
    let mut text = HEAD.to_owned();
    for (title, about, families) in sections() {
        text += &format!("\n## {title}\n\n");
        if !about.is_empty() {
            text += &format!("{about}\n\n");
        }
        text += "| name | type | labels | meaning |\n|---|---|---|---|\n";
        for family in families {
            let labels = family.labels.join(", ");
            text += &format!(
                "| `{}` | {} | {labels} | {} |\n",
                family.name,
                family.kind.text(),
                family.help
            );
        }
        if families.iter().any(|family| family.name == "pg_up") {
            text += "| `pg_settings_NAME` | gauge |  | Each setting that is a number, or on (1) and off (0); `_seconds` or `_bytes` behind its name where it has a unit. -1 stays -1. |\n";
        }
    }
    text
}

#[test]
fn the_page_of_metrics_is_current() {
    assert_current("metrics.md", &page(), "metrics");
}

#[test]
fn every_metric_has_a_name_of_its_own_and_says_what_it_means() {
    let mut names = std::collections::BTreeSet::new();
    for (_, _, families) in sections() {
        for family in families {
            assert!(
                kubedb_core::metrics::is_name(family.name),
                "{}",
                family.name
            );
            assert!(names.insert(family.name), "{} is told twice", family.name);
            assert!(
                family.help.ends_with('.') && !family.help.contains('|'),
                "{}",
                family.name
            );
        }
    }
}

/// Names that a query asks for: words that begin as our names do, wherever they stand but within texts.
fn asked(expression: &str) -> Vec<String> {
    let without_texts: String = expression.split('"').step_by(2).collect();
    let words = without_texts.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_');
    let ours = words.filter(|word| {
        let prefixes = ["kubedb_", "pg_", "process_"];
        prefixes.iter().any(|prefix| word.starts_with(prefix))
    });
    ours.map(str::to_owned).collect()
}

#[test]
fn no_rule_asks_for_what_nobody_tells() {
    let families: Vec<&Family> = sections()
        .into_iter()
        .flat_map(|(_, _, families)| families.iter().copied())
        .collect();
    let is_told = |name: &str| {
        name.starts_with("pg_settings_")
            || families.iter().any(|family| {
                let rest = name.strip_prefix(family.name);
                let ends = ["_bucket", "_sum", "_count"];
                rest == Some("")
                    || family.kind == Kind::Histogram
                        && rest.is_some_and(|rest| ends.contains(&rest))
            })
    };
    let rules: Value = serde_yaml_ng::from_str(ALERTS).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let (mut names, mut count) = (std::collections::BTreeSet::new(), 0);
    for rule in rules {
        let (alert, expression) = (
            rule["alert"].as_str().unwrap(),
            rule["expr"].as_str().unwrap(),
        );
        assert!(names.insert(alert), "{alert} is there twice");
        for name in asked(expression) {
            assert!(is_told(&name), "{alert} asks for {name}");
            count += 1;
        }
        assert!(
            rule["annotations"]["summary"].is_string(),
            "{alert} says nothing"
        );
    }
    assert!(count > 20, "{count}");
    assert!(!is_told("kubedb_snapshot_last_success_timestamp"));
    assert_eq!(
        asked("pg_up{x=\"pg_no\"} > 1 - foo(kubedb_a_b[5m])"),
        ["pg_up", "kubedb_a_b"]
    );
}
