//! Takes out of an answer what differs between two runs: times, uids, resource versions, tokens.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Remembers what it has seen, so that the same uid has the same name in a whole talk.
#[derive(Debug, Default)]
pub struct Normaliser {
    uids: BTreeMap<String, usize>,
    revisions: BTreeMap<String, usize>,
    aliases: Vec<(String, String)>,
}

impl Normaliser {
    /// From now on `alias` stands for `text` wherever it appears.
    pub fn alias(&mut self, text: &str, alias: &str) {
        self.aliases.push((text.to_owned(), alias.to_owned()));
        // The longest first, or a part of it would be replaced in it.
        self.aliases
            .sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    /// A JSON answer.
    pub fn value(&mut self, value: &Value) -> Value {
        match value {
            Value::Object(map) => self.object(map),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::String(text) => self.text(text).into(),
            other => other.clone(),
        }
    }

    fn object(&mut self, map: &Map<String, Value>) -> Value {
        let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default();
        let is_collection = kind.ends_with("List") || kind == "Table";
        let mut sorted: Vec<(&String, &Value)> = map.iter().collect();
        // Whether a map keeps its order depends on what else is built.
        sorted.sort_by_key(|(field, _)| *field);
        let mut out = Map::new();
        for (field, value) in sorted {
            let value = match (field.as_str(), value) {
                // Nobody reads who set which field, and ours does not tell.
                ("managedFields", _) => continue,
                // kube-apiserver validates some things in several places, and tells all of them.
                ("causes", Value::Array(causes)) => {
                    let mut once: Vec<Value> = Vec::new();
                    for cause in causes.iter().map(|cause| self.value(cause)) {
                        if !once.contains(&cause) {
                            once.push(cause);
                        }
                    }
                    once.into()
                }
                ("resourceVersion", Value::String(text)) if !text.is_empty() => {
                    self.revision(text).into()
                }
                ("continue", Value::String(text)) if !text.is_empty() => "<continue>".into(),
                ("metadata", Value::Object(metadata)) if is_collection => {
                    let mut metadata = metadata.clone();
                    // Other cases write meanwhile.
                    if metadata.contains_key("resourceVersion") {
                        metadata.insert("resourceVersion".to_owned(), Value::Null);
                    }
                    let mut metadata = self.value(&Value::Object(metadata));
                    if metadata.get("resourceVersion").is_some() {
                        metadata["resourceVersion"] = "<now>".into();
                    }
                    metadata
                }
                (_, value) => self.value(value),
            };
            out.insert(field.clone(), value);
        }
        Value::Object(out)
    }

    fn revision(&mut self, text: &str) -> String {
        let next = self.revisions.len() + 1;
        let number = *self.revisions.entry(text.to_owned()).or_insert(next);
        format!("<version {number}>")
    }

    /// Any text.
    pub fn text(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.aliases {
            text = text.replace(from, to);
        }
        let text = self.replace_uids(&text);
        replace_times(&without_objects(&text))
    }

    /// What a command printed: beside the above ages, and resource versions where they are named so.
    pub fn printed(&mut self, text: &str) -> String {
        let lines: Vec<String> = self
            .text(text)
            .lines()
            .map(|line| self.line(line))
            .collect();
        lines.join("\n")
    }

    fn line(&mut self, line: &str) -> String {
        let named = ["resourceVersion", "Resource Version"];
        if !named.iter().any(|name| line.contains(name)) {
            return replace_ages(line);
        }
        let mut out = String::new();
        let mut digits = String::new();
        for character in line.chars().chain(['\n']) {
            if character.is_ascii_digit() {
                digits.push(character);
                continue;
            }
            if !digits.is_empty() {
                out.push_str(&self.revision(&digits));
                digits.clear();
            }
            out.push(character);
        }
        out.trim_end_matches('\n').to_owned()
    }

    fn replace_uids(&mut self, text: &str) -> String {
        replace(text, uid_length, |found| {
            let next = self.uids.len() + 1;
            let number = *self.uids.entry(found.to_owned()).or_insert(next);
            format!("<uid {number}>")
        })
    }
}

/// What kubectl said, without the line of its log about a watch that its own time limit has cut: whether it comes to that, or the limit is met between
/// two watches, is chance.
#[must_use]
pub fn without_cut_watches(errors: &str) -> String {
    let is_kept = |line: &&str| {
        !(fits(line, "E0000 ")
            && line.contains("\"Failed to watch\" err=\"context deadline exceeded\""))
    };
    let kept: Vec<&str> = errors.lines().filter(is_kept).collect();
    kept.join("\n")
}

/// A whole object in a message, which holds everything that differs between two engines; and the name that etcd has for it.
fn without_objects(text: &str) -> String {
    let mut text = text.to_owned();
    for (begin, end) in [
        ("Invalid value: \"{", "}\": "),
        ("StorageError: invalid object", "AdditionalErrorMsg: "),
    ] {
        if let Some(start) = text.find(begin)
            && let Some(length) = text[start..].find(end)
        {
            let kept = if begin.starts_with('I') {
                "Invalid value: …: "
            } else {
                ""
            };
            text.replace_range(start..start + length + end.len(), kept);
        }
    }
    text
}

fn replace_times(text: &str) -> String {
    replace(text, time_length, |found| {
        if found.contains('.') {
            "<microtime>".to_owned()
        } else {
            "<time>".to_owned()
        }
    })
}

/// `12s` or `2m5s` as a word of its own. How wide its column is depends on the longest of them: what follows one, or the head
/// of their column, always stands as if they were short.
fn replace_ages(line: &str) -> String {
    let is_age = |word: &str| {
        word.ends_with('s')
            && word.starts_with(|first: char| first.is_ascii_digit())
            && word
                .chars()
                .all(|one| one.is_ascii_digit() || matches!(one, 'm' | 's'))
    };
    let mut out = String::new();
    let mut words = line.split(' ').peekable();
    while let Some(word) = words.next() {
        let is_head = word == "AGE";
        out.push_str(if is_age(word) { "<age>" } else { word });
        if !is_age(word) && !is_head {
            out.push_str(if words.peek().is_some() { " " } else { "" });
            continue;
        }
        let mut is_padded = false;
        while words.next_if(|next| next.is_empty()).is_some() {
            is_padded = true;
        }
        let is_last = words.peek().is_none();
        out.push_str(match (is_last, is_padded) {
            (true, _) => "",
            (false, true) => "   ",
            (false, false) => " ",
        });
    }
    out
}

/// Replaces each part of a text at whose begin `length` finds something.
fn replace(
    text: &str,
    length: impl Fn(&str) -> Option<usize>,
    mut name: impl FnMut(&str) -> String,
) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(length) = length(rest) {
            out.push_str(&name(&rest[..length]));
            rest = &rest[length..];
        } else {
            out.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    out
}

fn fits(text: &str, pattern: &str) -> bool {
    text.len() >= pattern.len()
        && text
            .bytes()
            .zip(pattern.bytes())
            .all(|(byte, wanted)| match wanted {
                b'x' => byte.is_ascii_hexdigit(),
                b'0' => byte.is_ascii_digit(),
                wanted => byte == wanted,
            })
}

fn uid_length(text: &str) -> Option<usize> {
    let pattern = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    fits(text, pattern).then_some(pattern.len())
}

/// `2030-01-01T00:00:00Z`, with or without a fraction. Years from 2030 on are those that the cases themselves write.
fn time_length(text: &str) -> Option<usize> {
    let pattern = "0000-00-00T00:00:00";
    if !fits(text, pattern) || &text[..4] >= "2030" {
        return None;
    }
    let fraction: usize = text[pattern.len()..]
        .chars()
        .take_while(|character| *character == '.' || character.is_ascii_digit())
        .map(char::len_utf8)
        .sum();
    let end = pattern.len() + fraction;
    text[end..].starts_with('Z').then_some(end + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn the_width_of_ages_says_nothing() {
        let printed = |text: &str| Normaliser::default().printed(text);
        for (head, row) in [("AGE    L", "9s     x"), ("AGE     L", "12m5s   x")] {
            let text = printed(&format!("NAME   {head}\nc      {row}"));
            assert_eq!(text, "NAME   AGE   L\nc      <age>   x");
        }
        assert_eq!(printed("waited 30s for it  s"), "waited <age> for it  s");
    }

    #[test]
    fn a_watch_that_a_limit_cuts_is_not_told() {
        let cut = r#"E1128 10:12:14.490735    4155 reflector.go:205] "Failed to watch" err="context deadline exceeded" type="x""#;
        let said = "error: timed out waiting for the condition on configmaps/h";
        assert_eq!(without_cut_watches(&format!("{cut}\n{said}\n")), said);
        let other = cut.replace("deadline exceeded", "canceled");
        assert_eq!(
            without_cut_watches(&format!("{other}\n{said}")),
            format!("{other}\n{said}")
        );
    }

    #[test]
    fn names_what_differs_and_keeps_the_rest() {
        let mut normaliser = Normaliser::default();
        normaliser.alias("gen-x7k2p", "<generated>");
        let uid = "0c1d2e3f-0000-1111-2222-333344445555";
        let object = json!({"kind": "Secret", "metadata": {"name": "gen-x7k2p", "uid": uid, "resourceVersion": "17",
            "creationTimestamp": "2026-02-03T04:05:06Z", "managedFields": []}, "data": {"at": "2030-01-01T00:00:00Z"}});
        let seen = normaliser.value(&object);
        assert_eq!(
            seen,
            json!({"kind": "Secret", "metadata": {"name": "<generated>", "uid": "<uid 1>",
            "resourceVersion": "<version 1>", "creationTimestamp": "<time>"}, "data": {"at": "2030-01-01T00:00:00Z"}})
        );
        assert_eq!(
            normaliser.text(&format!("was {uid}, is 2026-02-03T04:05:06.000001Z")),
            "was <uid 1>, is <microtime>"
        );
        let list = json!({"kind": "SecretList", "metadata": {"resourceVersion": "99", "continue": "abc"},
            "items": [{"metadata": {"resourceVersion": "18"}}]});
        let seen = normaliser.value(&list);
        assert_eq!(seen["metadata"]["resourceVersion"], "<now>");
        assert_eq!(seen["metadata"]["continue"], "<continue>");
        assert_eq!(
            seen["items"][0]["metadata"]["resourceVersion"],
            "<version 2>"
        );
    }
}
