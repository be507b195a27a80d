//! The object that holds a data key: wrapped by age for some recipients, with the word of those who made it.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use jiff::Timestamp;
use kubedb_core::age::{Identity, Recipient};
use serde::{Deserialize, Serialize};

use super::{
    KeyError, RECIPIENTS_MAX,
    age::{self, OpenAgeError, recipient_of},
    sealed::{DataKey, KeyId},
};

const FORMAT: &str = "kubedb-key";
const VERSION: u64 = 1;
/// Longest object: 64 recipients take 20 KB.
pub(super) const WRAPPED_BYTES: u64 = 64 << 10;

/// A data key for some recipients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wrapped {
    format: String,
    version: u64,
    /// Which key.
    pub(super) key_id: String,
    /// Whose it is.
    lineage: String,
    /// When the key was made, however often it was wrapped since.
    pub(super) created: Timestamp,
    /// Whom it is wrapped for. The age file does not tell.
    recipients: Vec<String>,
    /// The file of age, in Base64.
    wrapped: String,
    /// By recipient: that somebody who has its identity made this. Everybody can encrypt for a recipient; without this anybody who can write into a
    /// bucket could put a key there that he knows, and would be sent data under it.
    witnesses: BTreeMap<String, String>,
}

impl Wrapped {
    /// Wraps a key, and vouches for it by those identities whose recipients are among these.
    pub(super) fn new(
        key: &DataKey,
        lineage: &str,
        created: Timestamp,
        recipients: &[Recipient],
        identities: &[Identity],
    ) -> Result<Self, KeyError> {
        let file = age::wrap(key.bytes(), recipients)?;
        let mut wrapped = Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            key_id: key.id().to_string(),
            lineage: lineage.to_owned(),
            created,
            recipients: recipients.iter().map(Recipient::to_string).collect(),
            wrapped: BASE64.encode(file),
            witnesses: BTreeMap::new(),
        };
        for identity in identities {
            let own = recipient_of(identity)?;
            if recipients.contains(&own) {
                let word = wrapped.word(identity);
                let word = word.to_hex().to_string();
                wrapped.witnesses.insert(own.to_string(), word);
            }
        }
        Ok(wrapped)
    }

    /// Reads an object's bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("it is no key of kubedb: {error}"))?;
        if read.format != FORMAT {
            return Err("it is no key of kubedb".to_owned());
        }
        if read.version != VERSION {
            let version = read.version;
            return Err(format!(
                "its format has version {version}, which this version of kubedb does not know; update kubedb"
            ));
        }
        if read.recipients.len() > RECIPIENTS_MAX {
            return Err("it has more recipients than any key".to_owned());
        }
        Ok(read)
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Whom it says that it is wrapped for.
    pub(super) fn recipients(&self) -> Vec<Recipient> {
        let read = self.recipients.iter().map(|text| text.parse().ok());
        read.flatten().collect()
    }

    /// The key, if one of the identities opens it and it is the one that it should be; none where it is for others.
    pub(super) fn open(
        &self,
        id: KeyId,
        identities: &[Identity],
    ) -> Result<Option<DataKey>, String> {
        let file = BASE64
            .decode(&self.wrapped)
            .map_err(|error| error.to_string())?;
        let content = match age::unwrap(&file, identities) {
            Ok(content) => content,
            Err(OpenAgeError::Others) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let key = DataKey::of(&content).filter(|key| key.id() == id);
        key.map(Some)
            .ok_or_else(|| "it holds another key than its name says".to_owned())
    }

    /// Whether somebody made it who has one of these identities.
    pub(super) fn is_witnessed(&self, identities: &[Identity]) -> bool {
        identities.iter().any(|identity| {
            let own = recipient_of(identity).ok().map(|own| own.to_string());
            let word = own.and_then(|own| self.witnesses.get(&own));
            let word = word.and_then(|word| blake3::Hash::from_hex(word).ok());
            // Hashes are compared in constant time.
            word.is_some_and(|word| word == self.word(identity))
        })
    }

    fn word(&self, identity: &Identity) -> blake3::Hash {
        let key = blake3::derive_key("kubedb 2026-11 witness of a data key", &identity.0);
        let said = [
            self.key_id.as_str(),
            &self.lineage,
            &self.created.to_string(),
            &self.recipients.join(","),
            &self.wrapped,
        ];
        blake3::keyed_hash(&key, said.join("\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encryption::new_identity;

    #[test]
    fn a_key_is_opened_by_its_recipients_and_vouched_for_by_who_made_it() {
        let [ours, escrow, stranger] = [(); 3].map(|()| new_identity().unwrap());
        let of = |identity: &Identity| recipient_of(identity).unwrap();
        let recipients = [of(&ours), of(&escrow)];
        let key = DataKey::random().unwrap();
        let lineage = "b5ad6a0e-6f1c-4b0c-9a7c-2c4f7c7f0a11";
        let made = [ours.clone()];
        let wrapped =
            Wrapped::new(&key, lineage, Timestamp::UNIX_EPOCH, &recipients, &made).unwrap();
        let read = Wrapped::decode(&wrapped.encode().unwrap()).unwrap();
        assert_eq!(read, wrapped);
        assert_eq!(read.recipients(), recipients);
        let open =
            |identity: &Identity| read.open(key.id(), std::slice::from_ref(identity)).unwrap();
        assert_eq!(open(&ours), Some(key.clone()));
        assert_eq!(open(&escrow), Some(key.clone()));
        assert_eq!(open(&stranger), None);
        let is_witnessed =
            |read: &Wrapped, identity| read.is_witnessed(std::slice::from_ref(identity));
        assert!(is_witnessed(&read, &ours));
        assert!(!is_witnessed(&read, &escrow) && !is_witnessed(&read, &stranger));
        // Under the name of another key.
        let other = DataKey::random().unwrap();
        assert!(
            read.open(other.id(), &made)
                .unwrap_err()
                .contains("another key")
        );
    }

    #[test]
    fn a_key_that_a_stranger_put_there_is_vouched_for_by_nobody() {
        let [ours, stranger] = [(); 2].map(|()| new_identity().unwrap());
        let recipient = recipient_of(&ours).unwrap();
        let key = DataKey::random().unwrap();
        let wrap = |created, by: &Identity| {
            Wrapped::new(&key, "l", created, &[recipient], std::slice::from_ref(by)).unwrap()
        };
        let planted = wrap(Timestamp::UNIX_EPOCH, &stranger);
        assert!(
            planted
                .open(key.id(), std::slice::from_ref(&ours))
                .unwrap()
                .is_some()
        );
        assert!(!planted.is_witnessed(std::slice::from_ref(&ours)));
        // Nor does the word for something else count.
        let mut changed = wrap(Timestamp::UNIX_EPOCH, &ours);
        changed.created = Timestamp::MAX;
        assert!(!changed.is_witnessed(std::slice::from_ref(&ours)));
    }
}
