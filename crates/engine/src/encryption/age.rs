//! Files of [age](https://age-encryption.org/v1) for recipients of kind X25519: small ones, that is data keys. The tool `age` reads what is written here, and
//! what it wrote is read.
//!
//! The crate `age` brings 130 others along, translations and a second copy of every primitive among them; what is needed of the format is this file.

use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
    error::Unspecified,
    hkdf::{HKDF_SHA256, Salt},
    hmac, rand,
};
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use kubedb_core::age::{Identity, Recipient};

const INTRO: &str = "age-encryption.org/v1\n";
const STANZA: &str = "-> ";
const KIND: &str = "X25519";
const END: &str = "---";
const WRAP_INFO: &[u8] = b"age-encryption.org/v1/X25519";
/// Letters of a whole line of a stanza's body; a shorter one is its last.
const LINE: usize = 64;
/// Longest line that is read: the arguments of other kinds may be longer than ours.
const LINE_MAX: usize = 1 << 10;
const FILE_KEY: usize = 16;
const TAG: usize = 16;
/// One chunk of the format; nothing that we wrap is longer.
const CONTENT_MAX: usize = 64 << 10;

/// Why a file was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenAgeError {
    /// It is no such file.
    #[error("it is no file of age")]
    Format,
    /// It was encrypted for others.
    #[error("it is not encrypted for this identity")]
    Others,
    /// It was changed since it was written.
    #[error("it was changed since it was written")]
    Changed,
}

/// The public key of an identity.
pub fn recipient_of(identity: &Identity) -> Result<Recipient, Unspecified> {
    let key = PrivateKey::from_private_key(&X25519, &identity.0)?.compute_public_key()?;
    let key = key.as_ref().try_into().map_err(|_| Unspecified)?;
    Ok(Recipient(key))
}

/// A new identity.
pub fn new_identity() -> Result<Identity, Unspecified> {
    let mut key = [0; 32];
    rand::fill(&mut key)?;
    Ok(Identity(key))
}

/// A file that each of the recipients can open.
pub(super) fn wrap(content: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>, Unspecified> {
    if content.len() > CONTENT_MAX {
        return Err(Unspecified);
    }
    let mut file_key = [0; FILE_KEY];
    rand::fill(&mut file_key)?;
    let mut header = INTRO.to_owned();
    for recipient in recipients {
        let own = new_identity()?;
        let share = recipient_of(&own)?;
        let key = wrapping_key(&own, &recipient.0, &share, recipient)?;
        let mut body = file_key.to_vec();
        key.seal_in_place_append_tag(nonce(false), Aad::empty(), &mut body)?;
        let (share, body) = (BASE64.encode(share.0), BASE64.encode(body));
        header += &format!("{STANZA}{KIND} {share}\n{body}\n");
    }
    header += END;
    let mac = hmac::sign(&header_key(&file_key)?, header.as_bytes());
    let mut file = format!("{header} {}\n", BASE64.encode(mac)).into_bytes();
    let mut salt = [0; 16];
    rand::fill(&mut salt)?;
    file.extend(salt);
    let mut content = content.to_vec();
    payload_key(&file_key, &salt)?.seal_in_place_append_tag(
        nonce(true),
        Aad::empty(),
        &mut content,
    )?;
    file.extend(content);
    Ok(file)
}

/// What a file holds, if one of the identities opens it.
pub(super) fn unwrap(file: &[u8], identities: &[Identity]) -> Result<Vec<u8>, OpenAgeError> {
    let parsed = parse(file).ok_or(OpenAgeError::Format)?;
    let file_key = identities
        .iter()
        .find_map(|identity| {
            let mut stanzas = parsed.stanzas.iter();
            stanzas.find_map(|stanza| stanza.open(identity))
        })
        .ok_or(OpenAgeError::Others)?;
    let changed = |_: Unspecified| OpenAgeError::Changed;
    let key = header_key(&file_key).map_err(changed)?;
    hmac::verify(&key, parsed.signed, &parsed.mac).map_err(changed)?;
    let (salt, stored) = parsed
        .payload
        .split_at_checked(16)
        .ok_or(OpenAgeError::Changed)?;
    let key = payload_key(&file_key, salt).map_err(changed)?;
    let mut content = stored.to_vec();
    let length = key
        .open_in_place(nonce(true), Aad::empty(), &mut content)
        .map_err(changed)?
        .len();
    content.truncate(length);
    Ok(content)
}

struct Parsed<'a> {
    /// Stanzas of our kind; others are passed over, as the format wants it.
    stanzas: Vec<Stanza>,
    signed: &'a [u8],
    mac: Vec<u8>,
    payload: &'a [u8],
}

struct Stanza {
    share: [u8; 32],
    body: Vec<u8>,
}

impl Stanza {
    fn open(&self, identity: &Identity) -> Option<[u8; FILE_KEY]> {
        let recipient = recipient_of(identity).ok()?;
        let share = Recipient(self.share);
        let key = wrapping_key(identity, &self.share, &share, &recipient).ok()?;
        let mut body = self.body.clone();
        let opened = key.open_in_place(nonce(false), Aad::empty(), &mut body);
        (*opened.ok()?).try_into().ok()
    }
}

fn parse(file: &[u8]) -> Option<Parsed<'_>> {
    let mut at = INTRO.len();
    if !file.starts_with(INTRO.as_bytes()) {
        return None;
    }
    let line = |from: usize| -> Option<(&str, usize)> {
        let rest = file.get(from..)?;
        let length = rest.iter().take(LINE_MAX).position(|byte| *byte == b'\n')?;
        Some((
            std::str::from_utf8(&rest[..length]).ok()?,
            from + length + 1,
        ))
    };
    let mut stanzas = Vec::new();
    loop {
        let (head, next) = line(at)?;
        if let Some(mac) = head.strip_prefix(END) {
            let mac = BASE64.decode(mac.strip_prefix(' ')?).ok()?;
            let signed = &file[..at + END.len()];
            return Some(Parsed {
                stanzas,
                signed,
                mac,
                payload: &file[next..],
            });
        }
        let head = head.strip_prefix(STANZA)?;
        let (mut body, mut next) = (String::new(), next);
        loop {
            let (part, after) = line(next)?;
            next = after;
            body += part;
            if part.len() < LINE {
                break;
            }
        }
        at = next;
        if let Some(share) = head
            .strip_prefix(KIND)
            .and_then(|rest| rest.strip_prefix(' '))
        {
            let share = BASE64.decode(share).ok()?.try_into().ok()?;
            let body = BASE64.decode(body).ok()?;
            let is_sound = body.len() == FILE_KEY + TAG;
            stanzas.extend(is_sound.then_some(Stanza { share, body }));
        }
    }
}

fn wrapping_key(
    own: &Identity,
    other: &[u8; 32],
    share: &Recipient,
    recipient: &Recipient,
) -> Result<LessSafeKey, Unspecified> {
    let own = PrivateKey::from_private_key(&X25519, &own.0)?;
    let other = UnparsedPublicKey::new(&X25519, other);
    agree(&own, other, Unspecified, |shared| {
        let salt = [share.0, recipient.0].concat();
        derive(&salt, shared, WRAP_INFO)
    })
}

fn derive(salt: &[u8], secret: &[u8], info: &[u8]) -> Result<LessSafeKey, Unspecified> {
    let pseudo = Salt::new(HKDF_SHA256, salt).extract(secret);
    let key = UnboundKey::from(pseudo.expand(&[info], &CHACHA20_POLY1305)?);
    Ok(LessSafeKey::new(key))
}

fn payload_key(file_key: &[u8], salt: &[u8]) -> Result<LessSafeKey, Unspecified> {
    derive(salt, file_key, b"payload")
}

fn header_key(file_key: &[u8]) -> Result<hmac::Key, Unspecified> {
    let pseudo = Salt::new(HKDF_SHA256, &[]).extract(file_key);
    let mut key = [0; 32];
    pseudo.expand(&[b"header"], HKDF_SHA256)?.fill(&mut key)?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

/// Each key here seals once. The last byte says of a payload that its first chunk is its last.
fn nonce(is_last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[11] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    const IDENTITY: &str =
        "AGE-SECRET-KEY-1PREAJHF5CG4T7Q4NH4TPLZZ35ZQY38KYN6RJH65MJET6HNPX0SDS8CAVWL";
    const RECIPIENT: &str = "age107yg66ay6r3yl2q78ll49m85yjtqmncgqyc79zvluq2jlytzfq3spdptje";
    /// As age 1.1.1 wrote it for that recipient.
    const FILE: &str = "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSBTVElBcFVGcHpkQ0JsdzlRcVMvYXZsR3M4N1BHRWJDRnJZTzhMcEFFTlFRCm91ZUMrOG01aWRqOC9GVGZEZ08rbnpmWW5CbTdSVUhlQWgrWndJR1V1WDAKLS0tIDZCRVFDNy9IaEdscDJld2MxajE4UVJxUjhCL0poOURrU3JTRkQzVGpYYjgKgODPdOEiYx2pIEniZAN/0ma5B9XzihJ5knKMCpppMb73sSiozL0dmnpWXpPtSeV0Zg2jhlABb0tRPZyG3zfI96I=";

    #[test]
    fn what_the_tool_wrote_is_read() {
        let identity: Identity = IDENTITY.parse().unwrap();
        assert_eq!(recipient_of(&identity).unwrap().to_string(), RECIPIENT);
        let file = BASE64_STANDARD.decode(FILE).unwrap();
        let opened = unwrap(&file, &[new_identity().unwrap(), identity]).unwrap();
        assert_eq!(opened, b"a data key of 32 bytes, for tests");
    }

    #[test]
    fn each_recipient_opens_it_and_nobody_else() {
        let identities: Vec<_> = (0..3).map(|_| new_identity().unwrap()).collect();
        let recipients = identities[..2].iter().map(recipient_of);
        let recipients: Vec<_> = recipients.map(Result::unwrap).collect();
        let file = wrap(b"key", &recipients).unwrap();
        for identity in &identities[..2] {
            assert_eq!(
                unwrap(&file, std::slice::from_ref(identity)).unwrap(),
                b"key"
            );
        }
        assert_eq!(unwrap(&file, &identities[2..]), Err(OpenAgeError::Others));
        assert_eq!(unwrap(&file, &[]), Err(OpenAgeError::Others));
    }

    #[test]
    fn no_bit_of_it_can_change() {
        let identity = new_identity().unwrap();
        let file = wrap(b"key", &[recipient_of(&identity).unwrap()]).unwrap();
        for at in 0..file.len() {
            let mut other = file.clone();
            other[at] ^= 1;
            assert!(
                unwrap(&other, std::slice::from_ref(&identity)).is_err(),
                "byte {at}"
            );
            assert!(
                unwrap(&file[..at], std::slice::from_ref(&identity)).is_err(),
                "{at}"
            );
        }
    }

    #[test]
    fn stanzas_of_other_kinds_are_passed_over() {
        let identity: Identity = IDENTITY.parse().unwrap();
        let file = BASE64_STANDARD.decode(FILE).unwrap();
        let more = [
            INTRO.as_bytes(),
            b"-> scrypt salt 18\n",
            &[b'A'; 64],
            b"\n\n",
        ]
        .concat();
        let other = [&more, &file[INTRO.len()..]].concat();
        // Found, and then seen to have been added.
        assert_eq!(unwrap(&other, &[identity]), Err(OpenAgeError::Changed));
        assert_eq!(unwrap(b"age", &[]), Err(OpenAgeError::Format));
    }
}
