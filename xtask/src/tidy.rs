//! Checks that are conventions elsewhere: arrows between crates, file sizes, forbidden text.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{promises, say, tools::workspace};

/// Which workspace crates a crate may use. A crate not named here may use none.
const ARROWS: [(&str, &[&str]); 15] = [
    ("kubedb-core", &[]),
    ("kubedb-api", &["kubedb-core"]),
    ("kubedb-engine", &["kubedb-core"]),
    (
        "kubedb-agent",
        &[
            "kubedb-core",
            "kubedb-api",
            "kubedb-engine",
            "kubedb-listen",
        ],
    ),
    ("kubedb-listen", &[]),
    (
        "kubedb-operator",
        &["kubedb-core", "kubedb-api", "kubedb-listen"],
    ),
    (
        "kubedb-server",
        &["kubedb-core", "kubedb-api", "kubedb-operator"],
    ),
    (
        "kubedb",
        &[
            "kubedb-core",
            "kubedb-api",
            "kubedb-engine",
            "kubedb-agent",
            "kubedb-operator",
            "kubedb-server",
        ],
    ),
    ("xtask", &[]),
    ("kubedb-stores", &[]),
    (
        "kubedb-fuzz",
        &["kubedb-core", "kubedb-api", "kubedb-engine"],
    ),
    ("kubedb-e2e", &["kubedb-stores"]),
    (
        "kubedb-contract",
        &[
            "kubedb-core",
            "kubedb-api",
            "kubedb-server",
            "kubedb-e2e",
            "kubedb-cluster",
            "kubedb-stores",
        ],
    ),
    ("kubedb-cluster", &["kubedb-stores", "kubedb-e2e"]),
    (
        "kubedb-bench",
        &[
            "kubedb-core",
            "kubedb-agent",
            "kubedb-api",
            "kubedb-engine",
            "kubedb-stores",
        ],
    ),
];

/// What must not enter a crate, whatever the reason.
const FORBIDDEN: [(&str, &[&str]); 3] = [
    (
        "kubedb-core",
        &[
            "tokio",
            "kube",
            "k8s-openapi",
            "object_store",
            "rand",
            "uuid",
        ],
    ),
    ("kubedb-engine", &["kube", "k8s-openapi"]),
    ("kubedb-operator", &["object_store", "tokio-postgres"]),
];

const LINES_MAX: usize = 1_000;

/// Where samples lie that are no text. Anything else that is none came in by mistake: what was fetched, built or measured.
const SAMPLES: [&str; 4] = [
    "crates/engine/tests/golden/",
    "tests/contract/expected/",
    "tests/fixtures/",
    "tests/fuzz/seeds/",
];

/// Runs every check and reports all that is wrong at once.
pub(crate) fn run() -> Result<(), String> {
    let mut wrong = Vec::new();
    arrows(&mut wrong)?;
    let mut sources = Vec::new();
    for folder in ["crates", "xtask", "tests"] {
        collect(&workspace().join(folder), &mut sources)?;
    }
    sizes(&sources, &mut wrong)?;
    text_alone(&mut wrong)?;
    promises::check(&sources, &mut wrong)?;
    if wrong.is_empty() {
        say(&format!(
            "tidy: arrows and {} source files are in order",
            sources.len()
        ));
        Ok(())
    } else {
        Err(format!("tidy found:\n  {}", wrong.join("\n  ")))
    }
}

fn arrows(wrong: &mut Vec<String>) -> Result<(), String> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .current_dir(workspace())
        .output()
        .map_err(|e| format!("failed to run cargo metadata: {e}"))?;
    if !output.status.success() {
        return Err(format!(
            "failed to read metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("failed to parse metadata: {e}"))?;
    let allowed: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let forbidden: BTreeMap<_, _> = FORBIDDEN.into_iter().collect();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let target = dependency["name"].as_str().unwrap_or_default();
            let is_ours = dependency["path"].is_string();
            let is_normal = dependency["kind"].is_null();
            wrong.extend(arrow_fault(
                name,
                target,
                is_ours && is_normal,
                is_normal,
                &allowed,
                &forbidden,
            ));
        }
    }
    Ok(())
}

/// Says what is wrong with one dependency, if anything is.
fn arrow_fault(
    from: &str,
    to: &str,
    is_arrow: bool,
    is_normal: bool,
    allowed: &BTreeMap<&str, &[&str]>,
    forbidden: &BTreeMap<&str, &[&str]>,
) -> Option<String> {
    if is_arrow
        && !allowed
            .get(from)
            .is_some_and(|targets| targets.contains(&to))
    {
        return Some(format!(
            "{from} must not depend on {to}: arrows point down only (ARCHITECTURE.md)"
        ));
    }
    if is_normal && forbidden.get(from).is_some_and(|names| names.contains(&to)) {
        return Some(format!(
            "{from} must not use {to} (ARCHITECTURE.md, invariants)"
        ));
    }
    None
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries =
        fs::read_dir(folder).map_err(|e| format!("failed to read {}: {e}", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

fn sizes(sources: &[PathBuf], wrong: &mut Vec<String>) -> Result<(), String> {
    for path in sources {
        let text = fs::read_to_string(path)
            .map_err(|e| format!("failed to read {}: {e}", path.display()))?;
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!(
                "{} has {lines} lines, more than {LINES_MAX}",
                path.display()
            ));
        }
    }
    Ok(())
}

/// Looks through what is committed, or is about to be.
fn text_alone(wrong: &mut Vec<String>) -> Result<(), String> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(workspace())
        .output()
        .map_err(|e| format!("failed to run git: {e}"))?;
    // An unpacked archive of the sources is no repository.
    for name in String::from_utf8_lossy(&output.stdout).split_terminator('\0') {
        if SAMPLES.iter().any(|folder| name.starts_with(folder)) {
            continue;
        }
        // One that was deleted is still listed until that is committed.
        let content = fs::read(workspace().join(name)).unwrap_or_default();
        if content.contains(&0) {
            wrong.push(format!("{name} is no text, and in no folder of samples"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(from: &str, to: &str) -> Option<String> {
        arrow_fault(
            from,
            to,
            true,
            true,
            &ARROWS.into_iter().collect(),
            &FORBIDDEN.into_iter().collect(),
        )
    }

    #[test]
    fn arrows_point_down_only() {
        assert!(fault("kubedb-agent", "kubedb-engine").is_none());
        assert!(fault("kubedb-engine", "kubedb-api").is_some());
        assert!(fault("kubedb-operator", "kubedb-engine").is_some());
        assert!(fault("kubedb-core", "kubedb-api").is_some());
    }

    #[test]
    fn core_stays_free_of_io() {
        let allowed = ARROWS.into_iter().collect();
        let forbidden = FORBIDDEN.into_iter().collect();
        assert!(arrow_fault("kubedb-core", "tokio", false, true, &allowed, &forbidden).is_some());
        assert!(arrow_fault("kubedb-engine", "tokio", false, true, &allowed, &forbidden).is_none());
    }
}
