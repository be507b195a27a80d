//! What is said of who scrapes the metrics.

use serde_json::Value;

use super::{FieldError, check_namespace, is_given, without_nulls};
use crate::{
    agent_config::POSTGRES_PORT,
    monitor::{BUILTIN, COREOS, COREOS_FORMER},
};

/// Ports that need no privilege.
const PORTS: std::ops::RangeInclusive<i64> = 1024..=65_535;

/// Checks `monitor`.
pub(super) fn check(spec: &Value, errors: &mut Vec<FieldError>) {
    let monitor = &spec["monitor"];
    if !is_given(spec, "monitor") {
        return;
    }
    let path = "spec.monitor";
    let known = format!("known values: {BUILTIN}, {COREOS}");
    let sent = without_nulls(monitor);
    let agent = format!("{path}.agent");
    match monitor["agent"].as_str() {
        None | Some("") => {
            let message = format!("object 'Agent' is missing in '{sent}'");
            errors.push(FieldError::new(agent, message).hint(known));
        }
        Some(BUILTIN | COREOS | COREOS_FORMER) => {}
        Some(_) => {
            let message = format!("invalid 'Agent' in '{sent}'");
            errors.push(FieldError::new(agent, message).hint(known));
        }
    }
    let prometheus = &monitor["prometheus"];
    let path = format!("{path}.prometheus");
    if let Some(port) = prometheus["port"].as_i64() {
        let field = format!("{path}.port");
        if !PORTS.contains(&port) {
            let (first, last) = (PORTS.start(), PORTS.end());
            let message = format!(
                "invalid 'Monitor.Prometheus' in '{sent}'. Prometheus.Port value must be between {first} and {last}, inclusive"
            );
            errors.push(FieldError::new(field, message));
        } else if port == i64::from(POSTGRES_PORT) {
            let message = format!("{field} \"{port}\" invalid: PostgreSQL listens there");
            errors.push(FieldError::new(field, message));
        }
    }
    let field = format!("{path}.namespace");
    check_namespace(&prometheus["namespace"], &field, errors);
    if let Some(interval) = prometheus["interval"].as_str()
        && !is_duration(interval)
    {
        let field = format!("{path}.interval");
        let message = format!("{field} {interval:?} invalid");
        errors.push(FieldError::new(field, message).hint("write a time such as 10s or 1m30s"));
    }
    let labels = prometheus["labels"].as_object().into_iter().flatten();
    for (name, value) in labels {
        let field = format!("{path}.labels");
        if name.contains("kubedb.com/") {
            let message = format!("{field} {name:?} invalid: kubedb sets it itself");
            errors.push(FieldError::new(field, message));
        } else if !is_key(name) || value.as_str().is_some_and(|value| !is_value(value)) {
            let message = format!("{field} \"{name}\" is no label that an object can have");
            errors.push(FieldError::new(field, message));
        }
    }
}

/// Letters and digits, and between them these signs.
fn is_value(text: &str) -> bool {
    let is_outer = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes
            .iter()
            .all(|byte| is_outer(byte) || b"-_.".contains(byte))
        && [bytes.first(), bytes.last()]
            .into_iter()
            .flatten()
            .all(is_outer)
}

/// The same, perhaps behind a domain.
fn is_key(text: &str) -> bool {
    let (domain, name) = text.rsplit_once('/').unwrap_or(("", text));
    let is_domain = domain.is_empty() != text.contains('/') && super::is_plain_or_empty(domain);
    is_domain && !name.is_empty() && is_value(name)
}

/// A time as Prometheus writes it: numbers with units, the large before the small, each once.
fn is_duration(text: &str) -> bool {
    const UNITS: [&str; 7] = ["y", "w", "d", "h", "m", "s", "ms"];
    let (mut rest, mut units) = (text, UNITS.as_slice());
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 9 {
            return false;
        }
        rest = &rest[digits..];
        let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let Some(place) = units.iter().position(|unit| *unit == &rest[..length]) else {
            return false;
        };
        units = &units[place + 1..];
        rest = &rest[length..];
    }
    text.bytes().any(|byte| (b'1'..=b'9').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_what_prometheus_takes_for_one() {
        for good in ["10s", "1m30s", "500ms", "1h", "1y2w3d4h5m6s7ms", "1m5ms"] {
            assert!(is_duration(good), "{good}");
        }
        for bad in [
            "",
            "10",
            "s",
            "0s",
            "1s1m",
            "1s1s",
            "-1s",
            "1.5s",
            "10 s",
            "1x",
            "9999999999s",
            "1å",
        ] {
            assert!(!is_duration(bad), "{bad}");
        }
    }

    #[test]
    fn a_label_is_what_an_object_can_have() {
        for good in ["app", "a.b/c-d_e", "release"] {
            assert!(is_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a b", "-a", "a/b/c", "å"] {
            assert!(!is_key(bad), "{bad}");
        }
        assert!(is_value("") && is_value("Prom.1") && !is_value("-") && !is_value(&"x".repeat(64)));
    }
}
