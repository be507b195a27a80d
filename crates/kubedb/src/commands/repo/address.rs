//! Where a bucket is, and with which keys it is opened.

use std::{env, fs, path::PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use kubedb_api::encryption::IDENTITY_KEY;
use kubedb_core::age::read_identities;
use kubedb_engine::{
    encryption::{Identity, Keys},
    store::{Credentials, Location, Store},
};
use serde_json::Value;

use crate::error::CommandError;

/// How the keys of a storage Secret begin, in the environment too.
const KEYS: [&str; 7] = [
    "GOOGLE_",
    "AWS_",
    "AZURE_",
    "OS_",
    "ST_",
    "CA_CERT_DATA",
    "SWIFT_",
];
/// Where Google's own programs look for the file of the key.
const GOOGLE_FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const GOOGLE_KEY: &str = "GOOGLE_SERVICE_ACCOUNT_JSON_KEY";
/// No key file and no Secret is larger.
const FILE_MAX: u64 = 1 << 20;

const FORMS: &str = "gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, azure://CONTAINER/PREFIX, swift://CONTAINER/PREFIX, or /FOLDER";

/// Which bucket.
#[derive(Args, Clone, Debug)]
pub(super) struct PlaceArgs {
    /// gs://, s3://, azure://, swift:// with bucket and prefix, or a folder
    #[arg(value_name = "BUCKET")]
    bucket: String,
    /// Address of a store that is not its cloud's own
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Manifest of the storage Secret (YAML or JSON); the environment when absent
    #[arg(long, value_name = "FILE")]
    secret: Option<PathBuf>,
    /// Identities of age that open what is encrypted, as age-keygen writes them; AGE_IDENTITY of the environment when absent
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
}

impl PlaceArgs {
    /// Opens it. Nothing is asked of it yet, and nothing is made.
    pub(super) fn open(&self) -> Result<Store, CommandError> {
        let location = location(&self.bucket, self.endpoint.clone())?;
        let credentials = match &self.secret {
            Some(file) => of_secret(file)?,
            None => of_environment()?,
        };
        let store = open_existing(&location, &credentials)?;
        let identities = self.identities()?;
        if identities.is_empty() {
            return Ok(store);
        }
        Ok(store.with_keys(Keys::reading(identities)?))
    }

    /// What opens what is encrypted. What is wrong is said without quoting it.
    pub(super) fn identities(&self) -> Result<Vec<Identity>, CommandError> {
        let mut identities = Vec::new();
        for file in &self.identity {
            let wrong = |why: &dyn std::fmt::Display| {
                CommandError::manifest(format!("failed to read {}: it {why}", file.display()))
            };
            let bytes = read(file)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| wrong(&"is no text"))?;
            identities.extend(read_identities(text).map_err(|error| wrong(&error))?);
        }
        if identities.is_empty()
            && let Some(text) = env::var(IDENTITY_KEY).ok().filter(|text| !text.is_empty())
        {
            let read = read_identities(&text);
            identities = read.map_err(|error| {
                CommandError::usage(format!("{IDENTITY_KEY} of the environment {error}"))
            })?;
        }
        Ok(identities)
    }

    /// What to type to name the same again.
    pub(super) fn words(&self) -> String {
        let endpoint = self.endpoint.as_ref();
        let endpoint = endpoint.map(|url| format!(" --endpoint {url}"));
        let secret = self.secret.as_ref();
        let secret = secret.map(|file| format!(" --secret {}", file.display()));
        let identities = self.identity.iter();
        let identities = identities.map(|file| format!(" --identity {}", file.display()));
        format!(
            "{}{}{}{}",
            self.bucket,
            endpoint.unwrap_or_default(),
            secret.unwrap_or_default(),
            identities.collect::<String>()
        )
    }
}

/// Opens a store that is only looked at: a folder that is not there is not made. It would be the reader's own, and shut out the database.
pub(in crate::commands) fn open_existing(
    location: &Location,
    credentials: &Credentials,
) -> Result<Store, CommandError> {
    if let Location::Local { folder } = location
        && !folder.is_dir()
    {
        return Err(CommandError::NoFolder {
            folder: folder.display().to_string(),
            exists: folder.exists(),
        });
    }
    Ok(Store::open(location, credentials)?)
}

/// Reads an address. The form that `kubedb get snap` prints, such as `gs:kubedb/prefix`, is one too.
fn location(text: &str, endpoint: Option<String>) -> Result<Location, CommandError> {
    let wrong = |why: &str| CommandError::usage(format!("{text:?} is no bucket: {why}"));
    if text.starts_with('/') {
        return folder(text, endpoint);
    }
    let (scheme, rest) = text
        .split_once(':')
        .ok_or_else(|| wrong(&format!("write {FORMS}")))?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    if matches!(scheme, "local" | "file") {
        return folder(rest, endpoint);
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() || bucket.contains(['?', '#', '@']) {
        return Err(wrong(&format!("write {FORMS}")));
    }
    let bucket = bucket.to_owned();
    let prefix = Some(prefix.trim_matches('/').to_owned()).filter(|prefix| !prefix.is_empty());
    match scheme {
        "gs" | "gcs" => Ok(Location::Gcs {
            endpoint,
            bucket,
            prefix,
        }),
        "s3" => Ok(Location::S3 {
            endpoint,
            bucket,
            prefix,
        }),
        "azure" | "az" => Ok(Location::Azure {
            endpoint,
            container: bucket,
            prefix,
        }),
        "swift" if endpoint.is_some() => Err(wrong(
            "of Swift the keys say where to log in (OS_AUTH_URL or ST_AUTH), not --endpoint",
        )),
        "swift" => Ok(Location::Swift {
            container: bucket,
            prefix,
        }),
        _ => Err(wrong(&format!("write {FORMS}"))),
    }
}

fn folder(path: &str, endpoint: Option<String>) -> Result<Location, CommandError> {
    let folder = PathBuf::from(path);
    if !folder.is_absolute() {
        return Err(CommandError::usage(format!(
            "{path:?} is no bucket: a folder begins with /"
        )));
    }
    if endpoint.is_some() {
        return Err(CommandError::usage("a folder has no --endpoint"));
    }
    Ok(Location::Local { folder })
}

/// Keys that are in the environment under their own names.
fn of_environment() -> Result<Credentials, CommandError> {
    let mut credentials: Credentials = env::vars()
        .filter(|(name, value)| {
            !value.is_empty() && KEYS.iter().any(|begin| name.starts_with(begin))
        })
        .map(|(name, value)| (name, value.into_bytes()))
        .collect();
    if !credentials.contains_key(GOOGLE_KEY)
        && let Some(file) = env::var_os(GOOGLE_FILE).filter(|file| !file.is_empty())
    {
        credentials.insert(GOOGLE_KEY.to_owned(), read(&file.into())?);
    }
    Ok(credentials)
}

fn read(file: &PathBuf) -> Result<Vec<u8>, CommandError> {
    let fail = |source| CommandError::Local {
        doing: format!("read {}", file.display()),
        source,
    };
    if fs::metadata(file).map_err(fail)?.len() > FILE_MAX {
        let message = format!("{} is no file of keys: it is too large", file.display());
        return Err(CommandError::manifest(message));
    }
    fs::read(file).map_err(fail)
}

/// All objects of a text, also those within a List. None where it cannot be read; why is not said, since that would quote it.
fn objects(text: &str) -> Option<Vec<Value>> {
    let documents = crate::manifest::text::read(text).ok()?;
    let all = documents
        .into_iter()
        .flat_map(|mut document| match document["items"].take() {
            Value::Array(items) if document["kind"] == "List" => items,
            items => {
                if let (false, Some(object)) = (items.is_null(), document.as_object_mut()) {
                    object.insert("items".to_owned(), items);
                }
                vec![document]
            }
        });
    Some(all.collect())
}

/// Keys of a manifest like the one that the storage Secret was made of, alone or among other objects. What is wrong is said without quoting it.
fn of_secret(file: &PathBuf) -> Result<Credentials, CommandError> {
    let wrong =
        |why: &str| CommandError::manifest(format!("failed to read {}: {why}", file.display()));
    let bytes = read(file)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is no text"))?;
    let objects = objects(&text).ok_or_else(|| wrong("it is no YAML of objects"))?;
    let mut secrets = objects.iter().filter(|object| object["kind"] == "Secret");
    let object = secrets.next().ok_or_else(|| wrong("it holds no Secret"))?;
    if secrets.next().is_some() {
        let secrets = objects.iter().filter(|object| object["kind"] == "Secret");
        let names: Vec<&str> = secrets
            .map(|secret| {
                secret["metadata"]["name"]
                    .as_str()
                    .unwrap_or("one without a name")
            })
            .collect();
        return Err(wrong(&format!(
            "it holds {} Secrets ({}): give a file with the one that is meant",
            names.len(),
            names.join(", ")
        )));
    }
    let mut credentials = Credentials::new();
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let value = BASE64_STANDARD.decode(value.trim());
        let value = value.map_err(|_| wrong(&format!("data.{key} is no base64")))?;
        credentials.insert(key.clone(), value);
    }
    for (key, value) in object["stringData"].as_object().into_iter().flatten() {
        let value = value.as_str();
        let value = value.ok_or_else(|| wrong(&format!("stringData.{key} is no text")))?;
        credentials.insert(key.clone(), value.as_bytes().to_vec());
    }
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_only_looked_at_is_not_made() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("archive");
        let location = Location::Local {
            folder: folder.clone(),
        };
        let opened = open_existing(&location, &Credentials::new());
        assert!(matches!(opened, Err(CommandError::NoFolder { .. })));
        assert!(!folder.exists());
        std::fs::create_dir(&folder).unwrap();
        assert!(open_existing(&location, &Credentials::new()).is_ok());
    }

    #[test]
    fn addresses_are_read_in_both_forms() {
        let gcs = |prefix: Option<&str>| Location::Gcs {
            endpoint: None,
            bucket: "kubedb".to_owned(),
            prefix: prefix.map(str::to_owned),
        };
        for (text, wanted) in [
            ("gs://kubedb", gcs(None)),
            ("gs:kubedb", gcs(None)),
            ("gs://kubedb/a/b/", gcs(Some("a/b"))),
            (
                "/backups",
                Location::Local {
                    folder: "/backups".into(),
                },
            ),
            (
                "local:/backups",
                Location::Local {
                    folder: "/backups".into(),
                },
            ),
            (
                "file:///backups",
                Location::Local {
                    folder: "/backups".into(),
                },
            ),
            (
                "swift://c/p",
                Location::Swift {
                    container: "c".to_owned(),
                    prefix: Some("p".to_owned()),
                },
            ),
        ] {
            assert_eq!(location(text, None).unwrap(), wanted, "{text}");
        }
        for text in [
            "",
            "kubedb",
            "gs://",
            "http://x/y",
            "gs://a?b",
            "local:x",
            "s3:///x",
        ] {
            assert!(location(text, None).is_err(), "{text}");
        }
        let endpoint = || Some("http://localhost".to_owned());
        assert!(location("/backups", endpoint()).is_err());
        assert!(location("swift://c", endpoint()).is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_is_said_to_be_that() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for (place, words) in [
            (folder.path().join("absent"), "does not exist"),
            (file, "is no folder"),
        ] {
            let place = PlaceArgs {
                bucket: place.to_str().unwrap().to_owned(),
                endpoint: None,
                secret: None,
                identity: Vec::new(),
            };
            let told = place.open().unwrap_err();
            assert!(told.to_string().contains(words), "{told}");
            assert!(told.hint().is_some());
        }
    }

    #[test]
    fn secrets_are_read_and_never_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret.yaml");
        let read = |text: &str| {
            fs::write(&file, text).unwrap();
            of_secret(&file)
        };
        let keys = read("kind: Secret\ndata: {A: c2VjcmV0}\nstringData: {B: word}").unwrap();
        assert_eq!(keys["A"], b"secret");
        assert_eq!(keys["B"], b"word");
        let among = "kind: Namespace\nmetadata: {name: demo}\n---\n# nothing\n---\nkind: Secret\nstringData: {B: word}\n---\n";
        assert_eq!(read(among).unwrap()["B"], b"word");
        let list =
            "kind: List\nitems:\n- kind: Namespace\n- kind: Secret\n  stringData: {B: word}\n";
        assert_eq!(read(list).unwrap()["B"], b"word");
        let two = "kind: Secret\nmetadata: {name: a}\n---\nkind: Secret\nmetadata: {name: b}\n";
        let told = read(two).unwrap_err().to_string();
        assert!(told.contains("holds 2 Secrets (a, b)"), "{told}");
        for wrong in [
            "kind: Namespace\n---\nkind: Secret\ndata: {A: 'hunter2!'}",
            "kind: Namespace\n---\nkind: Secret\ndata: {A: [hunter2\n---\n",
            "kind: Secret\ndata: {A: 'hunter2!'}",
            "kind: Secret\nstringData: {A: [hunter2]}",
            "kind: ConfigMap\ndata: {A: hunter2}",
            "kind: Secret\ndata: {A: hunter2",
        ] {
            let told = read(wrong).unwrap_err();
            let cause = std::error::Error::source(&told).map(ToString::to_string);
            assert!(!format!("{told} {cause:?}").contains("hunter2"), "{told}");
        }
    }
}
