//! Archives of images, of one layer each, in the form that every engine of containers reads.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    error::StartError,
    tools::{mortal, run},
};

/// What an image says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// `name:tag`.
    pub name: &'a str,
    /// `uid:gid`; nothing is root.
    pub user: &'a str,
    /// What is started.
    pub entrypoint: &'a [&'a str],
    /// Variables.
    pub environment: &'a [&'a str],
    /// What is started where there is no entrypoint, or its arguments.
    pub command: &'a [&'a str],
}

/// What is in it.
#[derive(Clone, Debug)]
pub enum Contents {
    /// One file that may be executed, under this name in `/`.
    File(PathBuf, &'static str),
    /// One program, under this name in `/`, without what only a debugger reads, and with the libraries that it needs.
    Program(PathBuf, &'static str),
    /// A tar of everything.
    Tar(PathBuf),
}

/// The file beside an archive that says what it was made of.
fn source(archive: &Path) -> PathBuf {
    archive.with_extension("source")
}

/// Whether an archive is there that was made of this.
pub(super) fn is_made(archive: &Path, recipe: &str) -> bool {
    archive.exists() && fs::read_to_string(source(archive)).is_ok_and(|known| known == recipe)
}

impl Image<'_> {
    /// Writes the archive, unless it is there already and was made of the same `recipe`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(
        &self,
        contents: &Contents,
        archive: &Path,
        recipe: &str,
    ) -> Result<(), StartError> {
        let recipe = format!("{recipe}\n{self:?}");
        if is_made(archive, &recipe) {
            return Ok(());
        }
        let making = archive.with_extension("making");
        let _ = fs::remove_dir_all(&making);
        let prepare = || StartError::prepare(&making);
        fs::create_dir_all(&making).map_err(prepare())?;
        let layer = making.join("layer.tar");
        match contents {
            Contents::File(program, name) => {
                let copy = making.join(name);
                fs::copy(program, &copy).map_err(prepare())?;
                run(tar(&making, &layer).args(["--mode=0755", name]))?;
            }
            Contents::Program(program, name) => {
                run(mortal("strip")
                    .arg("-o")
                    .arg(making.join(name))
                    .arg(program))?;
                let mut paths = vec![(*name).to_owned()];
                for library in libraries(program)? {
                    let below = library.trim_start_matches('/').to_owned();
                    let copy = making.join(&below);
                    fs::create_dir_all(copy.parent().unwrap_or(&making))
                        .and_then(|()| fs::copy(&library, &copy).map(drop))
                        .map_err(prepare())?;
                    paths.push(below);
                }
                run(tar(&making, &layer).arg("--mode=0755").args(paths))?;
            }
            Contents::Tar(tar) => fs::rename(tar, &layer).map_err(prepare())?,
        }
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {
                "User": self.user, "Entrypoint": self.entrypoint, "Env": self.environment, "Cmd": self.command,
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)?]},
        });
        let manifest =
            json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        pack(&making, &config, &manifest, archive, &["layer.tar"])?;
        fs::write(source(archive), &recipe).map_err(StartError::prepare(archive))
    }
}

/// Writes an archive of the image in another, under another name, with one more layer that has one file: `top`, its path and its text.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn on_top(
    base: &Path,
    name: &str,
    top: (&str, &str),
    archive: &Path,
) -> Result<(), StartError> {
    let making = archive.with_extension("making");
    let _ = fs::remove_dir_all(&making);
    let prepare = || StartError::prepare(&making);
    let read = |name: &str| -> Result<Value, StartError> {
        let text = fs::read_to_string(making.join(name)).map_err(prepare())?;
        serde_json::from_str(&text)
            .map_err(|error| StartError::Unfit(format!("{name} of {}: {error}", base.display())))
    };
    fs::create_dir_all(&making).map_err(prepare())?;
    run(mortal("tar")
        .args(["--extract", "--directory"])
        .arg(&making)
        .arg("--file")
        .arg(base))?;
    let (path, text) = top;
    fs::write(making.join(path), text).map_err(prepare())?;
    let layer = making.join("top.tar");
    run(tar(&making, &layer).args(["--mode=0644", path]))?;
    let (mut config, mut manifest) = (read("config.json")?, read("manifest.json")?);
    for (list, more) in [
        (&mut config["rootfs"]["diff_ids"], digest(&layer)?),
        (&mut manifest[0]["Layers"], "top.tar".to_owned()),
    ] {
        let list = list.as_array_mut();
        let list =
            list.ok_or_else(|| StartError::Unfit(format!("{} is no image", base.display())))?;
        list.push(more.into());
    }
    manifest[0]["RepoTags"] = json!([name]);
    pack(
        &making,
        &config,
        &manifest,
        archive,
        &["layer.tar", "top.tar"],
    )
}

/// Writes what an archive says of itself, and packs it with its layers.
fn pack(
    making: &Path,
    config: &Value,
    manifest: &Value,
    archive: &Path,
    layers: &[&str],
) -> Result<(), StartError> {
    for (name, value) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(making.join(name), value.to_string()).map_err(StartError::prepare(making))?;
    }
    let whole = making.join("archive.tar");
    run(tar(making, &whole)
        .args(["manifest.json", "config.json"])
        .args(layers))?;
    fs::rename(&whole, archive)
        .and_then(|()| fs::remove_dir_all(making))
        .map_err(StartError::prepare(archive))
}

/// What an image calls a layer.
fn digest(layer: &Path) -> Result<String, StartError> {
    let digest = run(Command::new("sha256sum").arg(layer))?;
    let digest = digest.split_whitespace().next().unwrap_or_default();
    Ok(format!("sha256:{digest}"))
}

/// The libraries that a program is started with; none of a static one.
fn libraries(program: &Path) -> Result<Vec<String>, StartError> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(|source| StartError::Start {
        program: "ldd".to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.lines().flat_map(str::split_whitespace);
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned)
        .collect())
}

/// The same files make the same tar.
fn tar(folder: &Path, target: &Path) -> Command {
    let mut command = mortal("tar");
    command
        .args(["--create", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mtime=@0", "--directory"])
        .arg(folder)
        .arg("--file")
        .arg(target);
    command
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
