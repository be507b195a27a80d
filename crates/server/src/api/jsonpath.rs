//! The part of JSONPath that printer columns use: fields, `\.` inside them, `[0]` and `[?(@.type=="Ready")]`.

use serde_json::Value;

/// The first value that a path such as `.status.conditions[?(@.type=="Ready")].status` finds.
pub(crate) fn find<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = object;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (step, after) = inner.split_once(']')?;
            value = element(value, step.trim())?;
            rest = after;
        } else {
            let (name, after) = field(rest.strip_prefix('.').unwrap_or(rest));
            if !name.is_empty() {
                value = value.get(&name)?;
            }
            rest = after;
        }
    }
    Some(value)
}

/// A field's name up to the next dot or bracket, and what follows.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, &text[at..]),
            other => name.push(other),
        }
    }
    (name, "")
}

fn element<'a>(value: &'a Value, step: &str) -> Option<&'a Value> {
    if let Ok(index) = step.parse::<usize>() {
        return value.get(index);
    }
    if let Some(name) = quoted(step) {
        return value.get(name);
    }
    let condition = step.strip_prefix("?(@.")?.strip_suffix(')')?;
    let (name, wanted) = condition.split_once("==")?;
    let wanted = quoted(wanted.trim())?;
    value
        .as_array()?
        .iter()
        .find(|item| item[name.trim()] == *wanted)
}

fn quoted(text: &str) -> Option<&str> {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_what_printer_columns_ask_for() {
        let object = json!({"spec": {"a": [1, 2]}, "metadata": {"labels": {"kubedb.com/name": "pg"}},
            "status": {"conditions": [{"type": "Archiving", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        for (path, wanted) in [
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!("True"),
            ),
            (
                ".status.conditions[?(@.type=='Archiving')].status",
                json!("False"),
            ),
            (".spec.a[1]", json!(2)),
            (r".metadata.labels.kubedb\.com/name", json!("pg")),
            (".metadata.labels['kubedb.com/name']", json!("pg")),
        ] {
            assert_eq!(find(&object, path), Some(&wanted), "{path}");
        }
        for absent in [
            ".status.x",
            ".spec.a[7]",
            ".spec[",
            ".status.conditions[?(@.type==\"X\")].status",
            ".spec.a[x",
        ] {
            assert_eq!(find(&object, absent), None, "{absent}");
        }
    }
}
