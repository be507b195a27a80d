//! From text to objects: YAML or JSON, refused where two readers could understand two things.

use kubedb_api::nesting::{MOST_OPEN, too_deep};
use serde::Deserialize as _;
use serde_json::Value;

/// Documents of one text; each may be a List, so this is far above what anybody writes.
const MOST_DOCUMENTS: usize = 1_000;

/// Why a text cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Which document of the text, counted from 1.
    pub(crate) document: usize,
    /// What is wrong, with line and column.
    pub(crate) reason: String,
}

/// Reads every document that is not empty.
pub(crate) fn read(text: &str) -> Result<Vec<Value>, Mistake> {
    // Some editors begin files with this mark; it belongs to the encoding, not to the first key.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(line) = too_deep(text.as_bytes()) {
        return Err(Mistake {
            document: 1,
            reason: format!("line {line} is nested more than {MOST_OPEN} deep"),
        });
    }
    let mut documents = Vec::new();
    for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let document_number = index + 1;
        let failed = |reason: String| Mistake {
            document: document_number,
            reason,
        };
        if document_number > MOST_DOCUMENTS {
            return Err(failed(format!("more than {MOST_DOCUMENTS} documents")));
        }
        let value = to_json(document).map_err(|error| failed(explain(&error, text)))?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// By way of YAML's own values: they refuse a key that is given twice, where JSON's keep the last one silently, and they know `<<`.
fn to_json(document: serde_yaml_ng::Deserializer<'_>) -> Result<Value, serde_yaml_ng::Error> {
    let mut value = serde_yaml_ng::Value::deserialize(document)?;
    value.apply_merge()?;
    serde_json::to_value(value).map_err(serde::de::Error::custom)
}

/// The parser's words, and the usual cause where they do not say it.
fn explain(error: &serde_yaml_ng::Error, text: &str) -> String {
    let line = error
        .location()
        .and_then(|place| text.lines().nth(place.line().saturating_sub(1)));
    let is_tab = line.is_some_and(|line| {
        let indentation = line.len() - line.trim_start().len();
        line[..indentation].contains('\t')
    });
    let words = error.to_string();
    let cause = if is_tab {
        "YAML is indented by spaces, and here is a tab"
    } else if text.contains('\0') {
        "it holds a byte that is zero; save it as UTF-8"
    } else if text.lines().any(|line| line.starts_with("<<<<<<< ")) {
        "it holds a conflict of git that was not resolved"
    } else if text.contains("{{") && words.contains("key must be a string") {
        "it looks like a template, which must be rendered first"
    } else if words.contains("repetition limit") {
        "its aliases stand for more than anybody writes"
    } else {
        return words;
    };
    format!("{words}: {cause}")
}
