//! Where manifests come from: files, folders, standard input, the web.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt as _;
use url::Url;

use crate::error::{CommandError, RootCause};

/// A manifest above this is a mistake: the server takes 3 MiB at most.
const MOST_BYTES: u64 = 4 << 20;
/// For a whole download.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(30);
const MOST_REDIRECTS: usize = 5;
/// Files of one folder; below it lies the tree of a mistyped path.
const MOST_FILES: usize = 10_000;
/// Folders within folders.
const MOST_DEPTH: usize = 32;

/// One text and what it is called in messages.
#[derive(Debug)]
pub(crate) struct Source {
    /// As typed, or the path of a file in a folder; `STDIN` for `-`.
    pub(crate) name: String,
    /// The text.
    pub(crate) text: String,
}

/// Reads all that `-f` names.
pub(crate) async fn read_all(
    names: &[String],
    recursive: bool,
) -> Result<Vec<Source>, CommandError> {
    let mut sources = Vec::new();
    for name in names {
        if name == "-" {
            let text = read_limited(io::stdin().lock(), "STDIN")?;
            sources.push(Source {
                name: "STDIN".to_owned(),
                text,
            });
        } else if name.starts_with("http://") || name.starts_with("https://") {
            let text = download(name).await?;
            sources.push(Source {
                name: name.clone(),
                text,
            });
        } else {
            for path in files(Path::new(name), recursive)? {
                let name = path.display().to_string();
                let file = fs::File::open(&path).map_err(|source| read_failed(&name, source))?;
                let text = read_limited(file, &name)?;
                sources.push(Source { name, text });
            }
        }
    }
    Ok(sources)
}

fn read_failed(name: &str, source: io::Error) -> CommandError {
    CommandError::Local {
        doing: format!("read {name}"),
        source,
    }
}

fn too_large(name: &str) -> CommandError {
    CommandError::manifest(format!(
        "failed to read {name}: larger than {MOST_BYTES} bytes"
    ))
}

fn read_limited(reader: impl io::Read, name: &str) -> Result<String, CommandError> {
    let mut bytes = Vec::new();
    let read = reader.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| read_failed(name, source))?;
    to_text(bytes, name)
}

fn to_text(bytes: Vec<u8>, name: &str) -> Result<String, CommandError> {
    if bytes.len() as u64 > MOST_BYTES {
        return Err(too_large(name));
    }
    String::from_utf8(bytes).map_err(|error| {
        let byte = error.utf8_error().valid_up_to() + 1;
        CommandError::manifest(format!(
            "failed to read {name}: it is no text in UTF-8, from byte {byte} on"
        ))
    })
}

/// The file itself, or the manifests of a folder in the order of their names.
fn files(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, CommandError> {
    if !path.exists() {
        let message = format!("the path \"{}\" does not exist", path.display());
        return Err(CommandError::manifest(message));
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    collect(path, recursive, 0, &mut found)?;
    if found.is_empty() {
        let below = if recursive {
            ""
        } else {
            "; --recursive reads folders within it too"
        };
        return Err(CommandError::manifest(format!(
            "no manifests in {}: files that end in .json, .yaml or .yml are read{below}",
            path.display()
        )));
    }
    Ok(found)
}

fn collect(
    folder: &Path,
    recursive: bool,
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> Result<(), CommandError> {
    let name = folder.display().to_string();
    let entries = fs::read_dir(folder).map_err(|source| read_failed(&name, source))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|source| read_failed(&name, source))?.path());
    }
    paths.sort();
    for path in paths {
        // Links to folders could lead in a circle.
        if path.is_dir() && !path.is_symlink() {
            if recursive && depth < MOST_DEPTH {
                collect(&path, recursive, depth + 1, found)?;
            }
        } else if path.is_file()
            && path.extension().is_some_and(|extension| {
                ["json", "yaml", "yml"]
                    .iter()
                    .any(|known| extension == *known)
            })
        {
            if found.len() == MOST_FILES {
                let message = format!("failed to read {name}: more than {MOST_FILES} manifests");
                return Err(CommandError::manifest(message));
            }
            found.push(path);
        }
    }
    Ok(())
}

async fn download(name: &str) -> Result<String, CommandError> {
    let failed = |error: &(dyn std::error::Error + 'static)| CommandError::Manifest {
        message: format!("failed to read {name}"),
        source: Some(Box::new(RootCause::of(error))),
    };
    let url = Url::parse(name).map_err(|error| failed(&error))?;
    let client = reqwest::Client::builder()
        .timeout(DOWNLOAD_TIMEOUT)
        .redirect(reqwest::redirect::Policy::limited(MOST_REDIRECTS))
        .user_agent(concat!("kubedb/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| failed(&error))?;
    let answer = client
        .get(url)
        .send()
        .await
        .map_err(|error| failed(&error))?;
    if !answer.status().is_success() {
        let status = answer.status();
        let message = format!(
            "unable to read URL \"{name}\", server reported {status}, status code={}",
            status.as_u16()
        );
        return Err(CommandError::manifest(message));
    }
    let mut bytes = Vec::new();
    let mut stream = answer.bytes_stream();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(|error| failed(&error))?);
        if bytes.len() as u64 > MOST_BYTES {
            return Err(too_large(name));
        }
    }
    to_text(bytes, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_give_their_manifests_in_order() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        for name in ["c.yaml", "a.json", "notes.txt", "b/d.yml"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let names = |recursive| -> Vec<String> {
            let paths = files(folder.path(), recursive).unwrap();
            let relative = paths
                .iter()
                .map(|path| path.strip_prefix(folder.path()).unwrap());
            relative.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(names(false), ["a.json", "c.yaml"]);
        assert_eq!(names(true), ["a.json", "b/d.yml", "c.yaml"]);
        let error = files(&folder.path().join("gone"), false).unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
    }

    #[test]
    fn what_is_too_large_or_no_text_is_refused() {
        let error = read_limited(io::repeat(b'a'), "big").unwrap_err();
        assert!(
            error.to_string().contains("larger than 4194304 bytes"),
            "{error}"
        );
        assert!(read_limited(&[0xff, 0xfe][..], "odd").is_err());
    }
}
