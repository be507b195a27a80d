//! Texts as users know them: by name.

use serde_json::Value;

use super::text::{Mistake, read};
use crate::error::CommandError;

/// Reads every document of a text that is not empty; `name` is what messages call it.
pub(crate) fn documents(text: &str, name: &str) -> Result<Vec<Value>, CommandError> {
    read(text).map_err(|Mistake { document, reason }| {
        let place = if document > 1 {
            format!("{name}, document {document}")
        } else {
            name.to_owned()
        };
        CommandError::manifest(format!("failed to read {place}: {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_named(text: &str) -> Result<Vec<Value>, String> {
        documents(text, "f.yaml").map_err(|error| error.to_string())
    }

    #[test]
    fn every_way_of_writing_one_object_is_read() {
        let expected = Ok(vec![json!({ "a": { "b": 1, "c": "x" } })]);
        for text in [
            "a:\n  b: 1\n  c: x\n",
            "\u{feff}a:\n  b: 1\n  c: x\n",
            "a:\r\n  b: 1\r\n  c: x\r\n",
            "---\n# nothing\n---\na: {b: 1, c: x}\n...\n",
            "{\"a\":\t{\"b\": 1,\n\t\"c\": \"x\"}}",
            "base: &base {b: 1}\na:\n  <<: *base\n  c: x\n",
        ] {
            let mut documents = read_named(text);
            if let Ok([Value::Object(map)]) = documents.as_deref_mut() {
                map.remove("base");
            }
            assert_eq!(documents, expected, "{text:?}");
        }
        assert_eq!(read_named(""), Ok(Vec::new()));
        assert_eq!(read_named("# nothing\n---\n"), Ok(Vec::new()));
    }

    /// The last one would win, and the first one would have been typed for nothing.
    #[test]
    fn a_key_given_twice_is_refused() {
        for text in [
            "spec: 1\nkind: x\nspec: 2\n",
            "{\"spec\": 1, \"spec\": 2}",
            "a:\n  spec: 1\n  spec: 2\n",
        ] {
            let message = read_named(text).unwrap_err();
            assert!(message.contains("\"spec\""), "{message}");
            assert!(message.contains("duplicate"), "{message}");
        }
    }

    #[test]
    fn mistakes_are_said_with_their_place() {
        let message = read_named("a: 1\n---\nb: 2\n---\nc: [\n").unwrap_err();
        assert!(
            message.starts_with("failed to read f.yaml, document 3: "),
            "{message}"
        );
        assert!(message.contains("line 6"), "{message}");
        let message = read_named("a:\n\tb: 1\n").unwrap_err();
        assert!(message.contains("line 2"), "{message}");
        assert!(message.ends_with("here is a tab"), "{message}");
    }

    /// Nine lines that mean a thousand million values.
    #[test]
    fn aliases_cannot_grow_without_limit() {
        let mut text = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (next, last) in ('b'..='i').zip('a'..) {
            let items = vec![format!("*{last}"); 10].join(",");
            text += &format!("{next}: &{next} [{items}]\n");
        }
        let message = read_named(&text).unwrap_err();
        assert!(message.contains("limit"), "{message}");
    }
}
