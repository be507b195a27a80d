//! Recipients and identities of [age](https://age-encryption.org): who may read what is encrypted, and how they show it.
//!
//! Both are texts in Bech32 that the tool `age-keygen` prints. Here they are read and written; nothing is computed with them.

use std::{fmt, str::FromStr};

const RECIPIENT: &str = "age";
const IDENTITY: &str = "age-secret-key-";
/// Longest text that is looked at; both have some 70 letters.
const LETTERS: usize = 200;
/// Identities in one text: each rotation may leave the former beside the new one.
const IDENTITIES: usize = 64;

/// Recipients of one key: each is a stanza of 100 bytes.
pub const RECIPIENTS_MAX: usize = 64;

/// Whom something is encrypted for: a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient(pub [u8; 32]);

/// What reads it: the secret key. It is never shown, in whichever way it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity(pub [u8; 32]);

/// Why a text is no recipient or identity. What the text says is left out: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadKeyError {
    /// A secret where everybody can read it.
    #[error(
        "is an identity, which is secret: give its recipient, as age-keygen -y prints it; whoever has seen this text can read what it opens"
    )]
    IsSecret,
    /// A public key where a secret one is needed.
    #[error(
        "is a recipient, which reads nothing: give the identity, which begins with AGE-SECRET-KEY-1"
    )]
    IsPublic,
    /// Of another kind that age knows.
    #[error(
        "is of a kind that is not supported: recipients of age-keygen are, which begin with age1; ssh keys, plugins and passphrases are not"
    )]
    OtherKind,
    /// No recipient at all.
    #[error("is no recipient of age: one begins with age1, as age-keygen prints it")]
    NoRecipient,
    /// No identity at all.
    #[error("is no identity of age: one begins with AGE-SECRET-KEY-1, as age-keygen prints it")]
    NoIdentity,
    /// Its own checksum does not fit.
    #[error("was not copied whole: its checksum does not fit")]
    Checksum,
}

/// Why a text holds no identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadIdentitiesError {
    /// A line is none.
    #[error("line {line} {reason}")]
    Line {
        /// Counts from 1.
        line: usize,
        /// What is wrong with it.
        reason: ReadKeyError,
    },
    /// There is no line that could be one.
    #[error("holds no identity: a line is needed that begins with AGE-SECRET-KEY-1")]
    Empty,
    /// More than anybody has.
    #[error("holds more than {IDENTITIES} identities")]
    TooMany,
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(RECIPIENT, &self.0))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl FromStr for Recipient {
    type Err = ReadKeyError;

    fn from_str(text: &str) -> Result<Self, ReadKeyError> {
        let lower = text.to_ascii_lowercase();
        if lower.starts_with(IDENTITY) {
            return Err(ReadKeyError::IsSecret);
        }
        if lower.starts_with("ssh-") {
            return Err(ReadKeyError::OtherKind);
        }
        if !lower.starts_with("age1") {
            return Err(ReadKeyError::NoRecipient);
        }
        match decode(text) {
            Ok((prefix, key)) if prefix == RECIPIENT => {
                let key = key.try_into().map_err(|_| ReadKeyError::OtherKind)?;
                Ok(Self(key))
            }
            // A plugin's, such as age1yubikey1…
            Ok(_) => Err(ReadKeyError::OtherKind),
            Err(error) => Err(error),
        }
    }
}

impl FromStr for Identity {
    type Err = ReadKeyError;

    fn from_str(text: &str) -> Result<Self, ReadKeyError> {
        let lower = text.to_ascii_lowercase();
        if lower.starts_with("age1") {
            return Err(ReadKeyError::IsPublic);
        }
        if lower.starts_with("age-plugin-") {
            return Err(ReadKeyError::OtherKind);
        }
        if !lower.starts_with(IDENTITY) {
            return Err(ReadKeyError::NoIdentity);
        }
        match decode(text) {
            Ok((prefix, key)) if prefix == IDENTITY => {
                let key = key.try_into().map_err(|_| ReadKeyError::OtherKind)?;
                Ok(Self(key))
            }
            Ok(_) => Err(ReadKeyError::OtherKind),
            Err(error) => Err(error),
        }
    }
}

impl Identity {
    /// As `age-keygen` writes it. For whoever makes one; the secret stands in it.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        encode(IDENTITY, &self.0).to_ascii_uppercase()
    }
}

/// Reads a file of identities, as `age-keygen` writes it: one a line, lines with `#` are remarks.
pub fn read_identities(text: &str) -> Result<Vec<Identity>, ReadIdentitiesError> {
    let mut identities = Vec::new();
    for (line, said) in (1..).zip(text.lines()) {
        let said = said.trim();
        if said.is_empty() || said.starts_with('#') {
            continue;
        }
        if identities.len() == IDENTITIES {
            return Err(ReadIdentitiesError::TooMany);
        }
        let read = said.parse();
        identities.push(read.map_err(|reason| ReadIdentitiesError::Line { line, reason })?);
    }
    if identities.is_empty() {
        return Err(ReadIdentitiesError::Empty);
    }
    Ok(identities)
}

const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const CHECK_LETTERS: usize = 6;

/// Bech32 of BIP 173, without its limit of length: what stands before the last `1`, and the bytes behind it.
fn decode(text: &str) -> Result<(String, Vec<u8>), ReadKeyError> {
    let lower = text.to_ascii_lowercase();
    let is_mixed = lower != text && text.to_ascii_uppercase() != text;
    if is_mixed || text.len() > LETTERS {
        return Err(ReadKeyError::Checksum);
    }
    let (prefix, data) = lower.rsplit_once('1').ok_or(ReadKeyError::Checksum)?;
    let value = |letter: u8| {
        let place = ALPHABET.iter().position(|known| *known == letter);
        place.and_then(|place| u8::try_from(place).ok())
    };
    let values: Option<Vec<u8>> = data.bytes().map(value).collect();
    let values = values.ok_or(ReadKeyError::Checksum)?;
    if checksum(prefix, &values) != 1 {
        return Err(ReadKeyError::Checksum);
    }
    let values = &values[..values.len().saturating_sub(CHECK_LETTERS)];
    let bytes = regroup(values).ok_or(ReadKeyError::Checksum)?;
    Ok((prefix.to_owned(), bytes))
}

/// Groups of five bits as bytes; what is left over must be zeros, less than five.
fn regroup(values: &[u8]) -> Option<Vec<u8>> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for value in values {
        bits = (bits << 5 | u32::from(*value)) & 0xFFF;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xFF) as u8);
        }
    }
    let is_padding = count < 5 && bits & ((1 << count) - 1) == 0;
    is_padding.then_some(bytes)
}

fn encode(prefix: &str, bytes: &[u8]) -> String {
    let (mut bits, mut count, mut values) = (0_u32, 0, Vec::new());
    for byte in bytes {
        bits = (bits << 8 | u32::from(*byte)) & 0xFFF;
        count += 8;
        while count >= 5 {
            count -= 5;
            values.push((bits >> count & 31) as u8);
        }
    }
    if count > 0 {
        values.push((bits << (5 - count) & 31) as u8);
    }
    let unchecked = [values.as_slice(), &[0; CHECK_LETTERS]].concat();
    let check = checksum(prefix, &unchecked) ^ 1;
    let check = (0..CHECK_LETTERS)
        .rev()
        .map(|at| (check >> (5 * at) & 31) as u8);
    let letters = values.into_iter().chain(check);
    let letters = letters.map(|value| char::from(ALPHABET[usize::from(value)]));
    format!("{prefix}1{}", letters.collect::<String>())
}

fn checksum(prefix: &str, values: &[u8]) -> u32 {
    const GENERATOR: [u32; 5] = [
        0x3b6a_57b2,
        0x2650_8e6d,
        0x1ea1_19fa,
        0x3d42_33dd,
        0x2a14_62b3,
    ];
    let high = prefix.bytes().map(|byte| byte >> 5);
    let low = prefix.bytes().map(|byte| byte & 31);
    let all = high.chain([0]).chain(low).chain(values.iter().copied());
    all.fold(1, |check, value| {
        let top = check >> 25;
        let next = (check & 0x01FF_FFFF) << 5 ^ u32::from(value);
        let terms = GENERATOR.iter().enumerate();
        terms.fold(next, |next, (bit, term)| match top >> bit & 1 {
            0 => next,
            _ => next ^ term,
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As age-keygen 1.1.1 printed them, for tests alone.
    const PUBLIC: &str = "age107yg66ay6r3yl2q78ll49m85yjtqmncgqyc79zvluq2jlytzfq3spdptje";
    const SECRET: &str =
        "AGE-SECRET-KEY-1PREAJHF5CG4T7Q4NH4TPLZZ35ZQY38KYN6RJH65MJET6HNPX0SDS8CAVWL";

    #[test]
    fn what_age_keygen_prints_is_read_and_written_alike() {
        assert_eq!(PUBLIC.parse::<Recipient>().unwrap().to_string(), PUBLIC);
        let identity: Identity = SECRET.parse().unwrap();
        assert_eq!(identity.to_secret_text(), SECRET);
        assert_eq!(SECRET.to_lowercase().parse(), Ok(identity.clone()));
        assert_eq!(format!("{identity:?}"), "Identity");
        let file =
            format!("# created: 2026-11-26T23:58:48Z\n# public key: {PUBLIC}\n\n {SECRET} \r\n");
        assert_eq!(read_identities(&file), Ok(vec![identity]));
    }

    #[test]
    fn what_is_none_is_told_and_never_shown() {
        let recipient = |text: &str| text.parse::<Recipient>().unwrap_err();
        assert_eq!(recipient(SECRET), ReadKeyError::IsSecret);
        assert_eq!(recipient(""), ReadKeyError::NoRecipient);
        assert_eq!(recipient("ssh-ed25519 AAAA"), ReadKeyError::OtherKind);
        let plugin = encode("age1yubikey", &[1; 33]);
        assert_eq!(recipient(&plugin), ReadKeyError::OtherKind);
        assert_eq!(recipient(&encode("age", &[1; 31])), ReadKeyError::OtherKind);
        assert_eq!(recipient(&PUBLIC[..40]), ReadKeyError::Checksum);
        assert_eq!(
            recipient(&PUBLIC.replace("y6r3", "y6R3")),
            ReadKeyError::Checksum
        );
        let identity = |text: &str| text.parse::<Identity>().unwrap_err();
        assert_eq!(identity(PUBLIC), ReadKeyError::IsPublic);
        assert_eq!(identity("secret"), ReadKeyError::NoIdentity);
        assert_eq!(identity("AGE-PLUGIN-YUBIKEY-1Q"), ReadKeyError::OtherKind);
        let cut = &SECRET[..SECRET.len() - 1];
        let wrong = read_identities(&format!("{SECRET}\n{cut}\n")).unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "line 2 was not copied whole: its checksum does not fit"
        );
        assert_eq!(
            read_identities("# nothing\n"),
            Err(ReadIdentitiesError::Empty)
        );
        let many = format!("{SECRET}\n").repeat(IDENTITIES + 1);
        assert_eq!(read_identities(&many), Err(ReadIdentitiesError::TooMany));
    }

    proptest! {
        #[test]
        fn each_key_comes_back(key: [u8; 32]) {
            let recipient = Recipient(key);
            prop_assert_eq!(recipient.to_string().parse(), Ok(recipient));
            let identity = Identity(key);
            prop_assert_eq!(identity.to_secret_text().parse(), Ok(identity));
        }

        #[test]
        fn one_wrong_letter_is_noticed(at in 4_usize..62, letter in "[02-9ac-hj-np-z]") {
            let mut text = PUBLIC.to_owned();
            text.replace_range(at..=at, &letter);
            prop_assert_eq!(text.parse::<Recipient>().is_ok(), text == PUBLIC);
        }
    }
}
