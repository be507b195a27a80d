//! What can go wrong with a store, in the classes that callers act on.

use std::{error::Error as StdError, io};

/// Why a store could not do what was asked. The messages name the bucket and the object.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The location or a credential makes no sense; nothing was sent.
    #[error("failed to set up store {label}: {reason}")]
    Configure {
        /// The store, such as `gs:kubedb`.
        label: String,
        /// What is wrong, without any secret value.
        reason: String,
    },
    /// No answer, or an answer that says "later". Trying again may help.
    #[error("failed to reach store {label} for {object}: {reason}")]
    Unreachable {
        /// The store.
        label: String,
        /// Key of the object, or what was listed.
        object: String,
        /// What was heard last.
        reason: String,
        /// The store's own error.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The bucket is not there.
    #[error(
        "failed to use store {label}: bucket {bucket:?} does not exist in {label}; make it, or correct its name"
    )]
    MissingBucket {
        /// The store.
        label: String,
        /// Name of the bucket or container.
        bucket: String,
    },
    /// The store knows us and refuses, or does not know us.
    #[error(
        "failed to access {object} in store {label}: permission denied: {reason}; check the keys in the storage Secret and what they may do"
    )]
    Denied {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
        /// What the store said.
        reason: String,
    },
    /// The file system does not let us.
    #[error(
        "failed to access {object} in store {label}: {reason} for {user}; give the folder to that user (chown -R), or name one that it may write to"
    )]
    Forbidden {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
        /// Who we are.
        user: String,
        /// What the system said.
        reason: String,
    },
    /// The object is proven absent.
    #[error("failed to find object {object} in store {label}")]
    NotFound {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
    },
    /// An object of this name exists and holds something else. Objects are never overwritten.
    #[error("failed to create object {object} in store {label}: it exists with other content")]
    Conflict {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
    },
    /// The store shows a certificate that we do not trust. Nothing was sent.
    #[error(
        "failed to trust store {label}: {reason}. If this is your store, put the certificate of the authority that signed it into CA_CERT_DATA of the storage Secret"
    )]
    Untrusted {
        /// The store.
        label: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// No room is left.
    #[error(
        "failed to write object {object} to store {label}: no space is left; make room there, or delete Snapshots"
    )]
    Full {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
    },
    /// An object, or a listing, is larger than anything we write.
    #[error("failed to read {object} from store {label}: larger than the limit of {limit}")]
    TooLarge {
        /// The store.
        label: String,
        /// Key of the object or prefix.
        object: String,
        /// Bytes of an object, or objects of a listing.
        limit: u64,
    },
    /// The request itself was refused; trying again will not help.
    #[error("failed to use object {object} in store {label}: {reason}")]
    Refused {
        /// The store.
        label: String,
        /// Key of the object.
        object: String,
        /// What the store said.
        reason: String,
        /// The store's own error.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether the object is proven absent.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// What an adapter of ours knows beyond `object_store::Error`; it travels as the source of `Generic`.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdapterFailure {
    #[error("the bucket does not exist")]
    MissingBucket,
    #[error("{reason}")]
    Unreachable { reason: String },
    #[error("{reason}")]
    Refused { reason: String },
}

/// Names of a store that its errors carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) label: &'a str,
    pub(super) bucket: &'a str,
    pub(super) object: &'a str,
    pub(super) is_write: bool,
}

/// Gives an error of `object_store` its class.
pub(super) fn classify(named: Named<'_>, error: object_store::Error) -> StoreError {
    use object_store::Error;
    let label = named.label.to_owned();
    let object = named.object.to_owned();
    match error {
        // Creating an object needs nothing but its bucket.
        Error::NotFound { .. } if named.is_write => StoreError::MissingBucket {
            label,
            bucket: named.bucket.to_owned(),
        },
        Error::NotFound { .. } => StoreError::NotFound { label, object },
        Error::AlreadyExists { .. } | Error::Precondition { .. } => {
            StoreError::Conflict { label, object }
        }
        Error::PermissionDenied { source, .. } | Error::Unauthenticated { source, .. } => {
            let text = chain(source.as_ref());
            StoreError::Denied {
                label,
                object,
                reason: Answer::read(&text).map_or_else(|| text.clone(), |answer| answer.words()),
            }
        }
        Error::Generic { source, .. } => classify_generic(named, source),
        other => StoreError::Refused {
            label,
            object,
            reason: other.to_string(),
            source: Box::new(other),
        },
    }
}

fn classify_generic(named: Named<'_>, source: Box<dyn StdError + Send + Sync>) -> StoreError {
    let label = named.label.to_owned();
    let object = named.object.to_owned();
    let whole = chain(source.as_ref());
    if let Some(reason) = untrusted(&whole) {
        return StoreError::Untrusted { label, reason };
    }
    let answer = Answer::read(&whole);
    let reason = answer.as_ref().map_or_else(|| whole.clone(), Answer::words);
    if answer.as_ref().is_some_and(Answer::is_missing_bucket) {
        return StoreError::MissingBucket {
            label,
            bucket: named.bucket.to_owned(),
        };
    }
    match source.downcast_ref::<AdapterFailure>() {
        Some(AdapterFailure::MissingBucket) => {
            return StoreError::MissingBucket {
                label,
                bucket: named.bucket.to_owned(),
            };
        }
        Some(AdapterFailure::Refused { .. }) => {
            return StoreError::Refused {
                label,
                object,
                reason,
                source,
            };
        }
        Some(AdapterFailure::Unreachable { .. }) | None => {}
    }
    match io_kind(source.as_ref()) {
        Some(io::ErrorKind::PermissionDenied) => StoreError::Forbidden {
            label,
            object,
            user: user(),
            reason: "Permission denied".to_owned(),
        },
        Some(io::ErrorKind::ReadOnlyFilesystem) => StoreError::Refused {
            label,
            object,
            reason: "its folder is on a file system that is mounted read-only".to_owned(),
            source,
        },
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            StoreError::Full { label, object }
        }
        _ if answer.as_ref().is_some_and(Answer::is_denial) => StoreError::Denied {
            label,
            object,
            reason,
        },
        _ if answer.is_some_and(|answer| answer.is_final()) => StoreError::Refused {
            label,
            object,
            reason,
            source,
        },
        _ => StoreError::Unreachable {
            label,
            object,
            reason,
            source,
        },
    }
}

/// Who this process is to the file system, such as `user postgres (105)`.
pub(super) fn user() -> String {
    let uid = nix::unistd::geteuid();
    let known = nix::unistd::User::from_uid(uid).ok().flatten();
    known.map_or_else(
        || format!("user {uid}"),
        |known| format!("user {} ({uid})", known.name),
    )
}

/// What is wrong with a certificate, if an error is about one.
pub(super) fn untrusted(whole: &str) -> Option<String> {
    let (_, rest) = whole.split_once("invalid peer certificate: ")?;
    Some(match rest.split([':', ' ', '(']).next() {
        Some("UnknownIssuer") => {
            "its certificate is signed by an authority that is not known here".to_owned()
        }
        Some("Expired" | "certificate expired") => "its certificate has expired".to_owned(),
        Some("NotValidForName") => "its certificate is for another name".to_owned(),
        _ => format!(
            "its certificate is refused: {}",
            rest.chars().take(200).collect::<String>()
        ),
    })
}

/// The region that a store wants requests to be signed for, if an error is about that.
pub(super) fn region_in(whole: &str) -> Option<String> {
    if !whole.contains("AuthorizationHeaderMalformed") {
        return None;
    }
    let element = || {
        let (_, rest) = whole.split_once("<Region>")?;
        rest.split_once("</Region>").map(|(region, _)| region)
    };
    let words = || {
        let (_, rest) = whole.split_once("expecting ")?;
        let rest = rest
            .trim_start_matches(['\'', '"', '&'])
            .trim_start_matches("#39;");
        rest.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '-'))
            .next()
    };
    let region = element().or_else(words)?;
    (!region.is_empty()).then(|| region.to_owned())
}

/// How S3 and Azure say that a body is not what its checksum or its length promised.
const SPOILT: [&str; 5] = [
    "BadDigest",
    "IncompleteBody",
    "RequestTimeout",
    "XAmzContentSHA256Mismatch",
    "Md5Mismatch",
];

/// An answer of S3 or Azure, which `object_store` gives as a text: the status, and a page of XML.
#[derive(Debug, PartialEq, Eq)]
struct Answer<'a> {
    status: u16,
    code: &'a str,
    message: &'a str,
}

impl<'a> Answer<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (_, rest) = text.split_once("status code: ")?;
        let status = rest.get(..3)?.parse().ok()?;
        let element = |name: &str| {
            let (_, rest) = rest.split_once(&format!("<{name}>"))?;
            let (inner, _) = rest.split_once(&format!("</{name}>"))?;
            inner.lines().next()
        };
        Some(Self {
            status,
            code: element("Code").unwrap_or_default(),
            message: element("Message").unwrap_or_default(),
        })
    }

    fn is_missing_bucket(&self) -> bool {
        matches!(self.code, "NoSuchBucket" | "ContainerNotFound")
    }

    fn is_denial(&self) -> bool {
        matches!(self.status, 401 | 403)
    }

    /// Whether the same request would be answered the same way. A body that was spoilt on its way would not.
    fn is_final(&self) -> bool {
        (400..500).contains(&self.status)
            && !matches!(self.status, 408 | 429)
            && !SPOILT.contains(&self.code)
    }

    fn words(&self) -> String {
        match (self.code, self.message) {
            ("", _) => format!("the store answers {}", self.status),
            (code, "") => format!("the store answers {}, {code}", self.status),
            (code, message) => format!("the store answers {}, {code}: {message}", self.status),
        }
    }
}

/// Kind of the innermost operating-system error, when there is one.
fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    let mut kind = None;
    while let Some(error) = next {
        kind = error
            .downcast_ref::<io::Error>()
            .map_or(kind, |io| Some(io.kind()));
        next = error.source();
    }
    kind
}

/// An error and what it came from, each said once.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_says_which_region_it_wants() {
        let amazon = "400 Bad Request: <Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'</Message><Region>eu-central-1</Region></Error>";
        assert_eq!(region_in(amazon).as_deref(), Some("eu-central-1"));
        let words = amazon.replace("<Region>eu-central-1</Region>", "");
        assert_eq!(region_in(&words).as_deref(), Some("eu-central-1"));
        let quoted = words.replace('\'', "&#39;");
        assert_eq!(region_in(&quoted).as_deref(), Some("eu-central-1"));
        assert_eq!(
            region_in("403 <Code>AccessDenied</Code><Region>x</Region>"),
            None
        );
        assert_eq!(region_in("AuthorizationHeaderMalformed expecting ''"), None);
    }

    #[test]
    fn a_certificate_that_is_not_trusted_is_said_in_words() {
        let reason = untrusted("error sending request: invalid peer certificate: UnknownIssuer");
        assert!(
            reason
                .unwrap()
                .contains("signed by an authority that is not known here")
        );
        let reason = untrusted("invalid peer certificate: certificate not valid for name \"x\"");
        assert!(
            reason
                .unwrap()
                .ends_with("certificate not valid for name \"x\"")
        );
        assert_eq!(untrusted("connection refused"), None);
    }

    #[test]
    fn an_answer_is_read_out_of_a_text() {
        let text = "Error performing GET http://s in 1ms - Server returned non-2xx status code: 404 Not Found: <?xml version=\"1.0\"?>\n<Error><Code>ContainerNotFound</Code><Message>Not there.\nRequestId:1</Message></Error>";
        let answer = Answer::read(text).unwrap();
        assert!(answer.is_missing_bucket() && answer.is_final());
        assert_eq!(
            answer.words(),
            "the store answers 404, ContainerNotFound: Not there."
        );
        let busy = Answer::read("non-2xx status code: 429 Too Many Requests").unwrap();
        assert!(!busy.is_final());
        let spoilt = "non-2xx status code: 400 Bad Request: <Error><Code>BadDigest</Code></Error>";
        assert!(!Answer::read(spoilt).unwrap().is_final());
        assert_eq!(busy.words(), "the store answers 429");
        assert_eq!(Answer::read("error sending request"), None);
        assert_eq!(Answer::read("status code: é"), None);
    }
}
