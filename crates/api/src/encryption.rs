//! For whom what lies in a store is encrypted (`encryption`, beside the store).

use kubedb_core::age::{ReadKeyError, Recipient};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Key of the Secret that holds identities of age, one a line.
pub const IDENTITY_KEY: &str = "AGE_IDENTITY";

/// How what goes to a store is encrypted. Everything that goes there is, or nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// Recipients of age (`age1…`) that can read it; those of the Secret's identities when absent. One must be the Secret's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// Secret, in the same namespace, that holds identities of age under `AGE_IDENTITY`, one a line.
    #[serde(default)]
    pub secret_name: String,
}

impl Encryption {
    /// The recipients; an error says which one is none, by its number, and why.
    pub fn read_recipients(&self) -> Result<Vec<Recipient>, (usize, ReadKeyError)> {
        let read = self.recipients.iter().enumerate();
        read.map(|(number, text)| text.parse().map_err(|error| (number, error)))
            .collect()
    }
}
