//! Values that are kept exactly as they were written.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
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
