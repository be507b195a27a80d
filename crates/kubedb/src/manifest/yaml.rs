//! Objects as YAML that every reader takes for the same thing. Those of YAML 1.1, kubectl among them, read an unquoted
//! `yes`, `on` or `2018-02-08` as something else than text, so whatever could be misread is quoted.

use serde_json::Value;

/// Words that some version of YAML reads as a boolean or as nothing.
const WORDS: [&str; 9] = ["yes", "no", "on", "off", "y", "n", "true", "false", "null"];

/// Writes a value in block style, as kubectl does: two spaces, lists as deep as their key.
pub(crate) fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match flat(value) {
        Some(flat) => text = flat + "\n",
        None => block(value, 0, &mut text),
    }
    text
}

/// What fits behind a key or a dash.
fn flat(value: &Value) -> Option<String> {
    match value {
        Value::Object(map) if map.is_empty() => Some("{}".to_owned()),
        Value::Array(items) if items.is_empty() => Some("[]".to_owned()),
        Value::Object(_) | Value::Array(_) => None,
        Value::String(text) => Some(scalar(text)),
        other => Some(other.to_string()),
    }
}

fn block(value: &Value, indent: usize, out: &mut String) {
    let spaces = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                out.push_str(&format!("{spaces}{}:", scalar(key)));
                let deeper = if value.is_array() { indent } else { indent + 2 };
                if let Some(lines) = value.as_str().and_then(|text| literal(text, indent + 2)) {
                    out.push_str(&format!(" {lines}"));
                } else if let Some(flat) = flat(value) {
                    out.push_str(&format!(" {flat}\n"));
                } else {
                    out.push('\n');
                    block(value, deeper, out);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                match flat(item) {
                    Some(flat) => inner = flat + "\n",
                    None => block(item, indent + 2, &mut inner),
                }
                out.push_str(&format!("{spaces}- {}", inner.trim_start_matches(' ')));
            }
        }
        _ => {}
    }
}

/// Text of several lines as lines; nothing where that would not give back the same text.
fn literal(text: &str, indent: usize) -> Option<String> {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let is_plain = text.contains('\n')
        && !body.starts_with([' ', '\n'])
        && !body.ends_with('\n')
        && !body
            .chars()
            .any(|letter| letter != '\n' && is_special(letter));
    let sign = if body.len() < text.len() { "|" } else { "|-" };
    let spaces = " ".repeat(indent);
    let line = |line: &str| match line {
        "" => "\n".to_owned(),
        line => format!("{spaces}{line}\n"),
    };
    is_plain.then(|| format!("{sign}\n{}", body.split('\n').map(line).collect::<String>()))
}

/// Text as it is where no reader can take it for anything else, else in quotes, which mean the same in YAML and in JSON.
fn scalar(text: &str) -> String {
    let begins_well =
        text.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '/');
    let is_harmless =
        |letter: char| letter.is_ascii_alphanumeric() || " _./-@+=,:()".contains(letter);
    let is_plain = begins_well
        && text.chars().all(is_harmless)
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_plain {
        return text.to_owned();
    }
    let quoted = Value::from(text).to_string();
    quoted
        .chars()
        .map(|letter| {
            // Above 16 bits nothing is special.
            if is_special(letter) {
                format!("\\u{:04x}", u32::from(letter))
            } else {
                letter.to_string()
            }
        })
        .collect()
}

/// What YAML does not allow as it is, or breaks lines at.
fn is_special(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::text;
    use super::*;

    #[test]
    fn what_could_be_misread_is_quoted() {
        let value = json!({
            "a": "yes", "b": "2018-02-08", "c": "1e3", "d": "On", "e": "9.6", "f": 9.6, "g": null, "y": true,
            "h": "pg/x", "i": "a: b", "j": "@every 6h", "k": [], "l": { "m": {} }
        });
        let expected = "a: \"yes\"\nb: \"2018-02-08\"\nc: \"1e3\"\nd: \"On\"\ne: \"9.6\"\nf: 9.6\ng: null\nh: pg/x\ni: \"a: b\"\nj: \"@every 6h\"\nk: []\nl:\n  m: {}\n\"y\": true\n";
        assert_eq!(to_yaml(&value), expected);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let texts = [
            "",
            " ",
            "a",
            "a\n",
            "a\nb",
            "a\n\nb\n",
            "a\n\n",
            "\na",
            " a\nb",
            "a\r\nb",
            "a\tb",
            "\u{feff}x",
            "#",
            "- x",
            "a #b",
            "a:",
            "é",
            "\u{85}",
            "\u{2028}",
            "😀",
            "\"q\"",
            "'q'",
            "a\n# b\n  c\n",
            "\u{7f}",
            "{",
            "*a",
            "&a",
            "!a",
            "%",
            "~",
            "null",
            "a \nb",
            "---\nx",
            "\\",
        ];
        for text in texts {
            let value = json!({
                "map": { text: text, "list": [text, [text, [text]], { "a": text, "b": [{ "c": text }] }] }
            });
            let written = to_yaml(&value);
            assert_eq!(text::read(&written), Ok(vec![value]), "{written}");
        }
    }

    #[test]
    fn lists_are_as_deep_as_their_key() {
        let value = json!({ "items": [{ "a": 1, "b": { "c": [2] } }], "text": "x\ny\n" });
        let expected = "items:\n- a: 1\n  b:\n    c:\n    - 2\ntext: |\n  x\n  y\n";
        assert_eq!(to_yaml(&value), expected);
    }
}
