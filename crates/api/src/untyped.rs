//! Values that are kept exactly as they were written.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// `spec.version`: a string or a bare number, never normalised, because manifests write both `"9.6"` and `9.6`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionText(pub Value);

impl VersionText {
    /// The version as text: `9.6` for both `"9.6"` and `9.6`; empty when it is neither text nor number.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.0 {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        }
    }
}

impl From<&str> for VersionText {
    fn from(text: &str) -> Self {
        Self(Value::String(text.to_owned()))
    }
}

/// A field of the original that is not built yet: kept, so that validation can refuse it by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Unbuilt(pub Value);

/// Schema of a field that holds a number, and that people write with quotes or without: of a transaction, of a timeline.
pub(crate) struct NumberText;

impl JsonSchema for NumberText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "NumberText".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

/// Reads such a field. Anything else is kept as the text it is, to be refused by whoever knows what is meant: an object that lies in an API server
/// must be readable.
pub(crate) fn number_or_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

macro_rules! schema_less {
    ($type:ident) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
            }
        }
    };
}
schema_less!(VersionText);
schema_less!(Unbuilt);
