//! Metrics as a Prometheus reads them.

use std::{collections::BTreeMap, time::Duration};

use kubedb_stores::net::get;

use crate::{wait::eventually, world::World};

/// What is told: the beginning of each line, and its number.
pub type Told = BTreeMap<String, f64>;

/// Asks, and gives the text with what it tells.
///
/// # Errors
/// In words, when there is no answer, or another than wanted.
///
/// # Panics
/// When the answer is none that a Prometheus takes: that is a failed test.
pub fn scrape_at(port: u16, path: &str) -> Result<(String, Told), String> {
    let reply = get(port, path).ok_or("no answer")?;
    let (head, text) = reply.split_once("\r\n\r\n").ok_or("no end of the head")?;
    if !head.contains(" 200 ") {
        return Err(head.to_owned());
    }
    let kind = "text/plain; version=0.0.4";
    assert!(head.to_lowercase().contains(kind), "{head}");
    let mut told = Told::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').ok_or(line)?;
        let value = value.parse().map_err(|error| format!("{line}: {error}"))?;
        let twice = told.insert(name.to_owned(), value);
        assert_eq!(twice, None, "{line}");
    }
    Ok((text.to_owned(), told))
}

/// The only number that is told under a name, and with this in its labels.
#[must_use]
pub fn one(told: &Told, name: &str, labels: &str) -> Option<f64> {
    let is_it = |key: &&String| key.split('{').next() == Some(name) && key.contains(labels);
    told.keys().find(is_it).map(|key| told[key])
}

/// Questions to PostgreSQL that were not answered.
#[must_use]
pub fn unanswered(told: &Told) -> Vec<&String> {
    let questions = told
        .iter()
        .filter(|(name, _)| name.starts_with("kubedb_scrape_collector_success"));
    let failed = questions.filter(|(_, value)| **value != 1.0);
    failed.map(|(name, _)| name).collect()
}

/// Port at which an instance says that it answers.
#[must_use]
pub fn port_of(world: &World, database: &str, ordinal: u32) -> u16 {
    let instance = format!("{database}-{ordinal}");
    eventually("where it answers", Duration::from_secs(120), || {
        let object = world.server.object("pg", database, "demo")?;
        let metrics = &object["status"]["instances"][&instance]["metrics"];
        let endpoint = metrics["endpoint"].as_str();
        let port = endpoint.and_then(|endpoint| endpoint.strip_prefix("127.0.0.1:")?.parse().ok());
        port.ok_or_else(|| object["status"].to_string())
    })
}
