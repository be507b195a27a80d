//! What kube-apiserver answered, kept in files, and where ours answers otherwise on purpose.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{engine::Whose, kubectl::Kubectl, talk::Step};

/// Somewhere ours answers otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    case: String,
    step: String,
    /// The versions of kubectl that show it, where not all do.
    #[serde(default)]
    kubectl: Vec<String>,
    /// For the reader.
    reason: String,
    /// Replacements that make the expected text what ours says.
    #[serde(default)]
    change: Vec<Replacement>,
    /// Or everything that ours says.
    instead: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replacement {
    theirs: String,
    ours: String,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What every kubectl prints is kept once; what another version prints otherwise, beside it in a folder of its own.
fn file(case: &str, kubectl: Kubectl) -> PathBuf {
    let name = format!("{}.txt", case.replace("::", "-"));
    let expected = folder().join("expected");
    if kubectl == Kubectl::BASE {
        expected.join(name)
    } else {
        let version = format!("kubectl-{}", kubectl.version);
        expected.join(version).join(name)
    }
}

/// Keeps what kube-apiserver answered.
///
/// # Errors
/// When the file cannot be written.
pub fn keep(case: &str, kubectl: Kubectl, steps: &[Step]) -> Result<(), String> {
    let path = file(case, kubectl);
    let text = if kubectl == Kubectl::BASE {
        render(steps)
    } else {
        render(&otherwise(&read(&file(case, Kubectl::BASE))?, steps))
    };
    let failed = |error: std::io::Error| format!("failed to keep {}: {error}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    if text.is_empty() && kubectl != Kubectl::BASE {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
    }
    fs::write(&path, text).map_err(failed)
}

/// The steps that are not as in `base`.
fn otherwise(base: &[Step], steps: &[Step]) -> Vec<Step> {
    let differs = |step: &&Step| !base.contains(step);
    steps.iter().filter(differs).cloned().collect()
}

fn render(steps: &[Step]) -> String {
    steps
        .iter()
        .map(|step| format!("=== {}\n{}\n\n", step.title, step.text))
        .collect()
}

/// Keeps what ours answered beside, for whoever writes a difference down: in the folder that `KUBEDB_CONTRACT_FOUND`
/// names.
fn show(case: &str, kubectl: Kubectl, steps: &[Step]) {
    if let Some(folder) = std::env::var_os("KUBEDB_CONTRACT_FOUND") {
        let name = format!("{}-{}.txt", case.replace("::", "-"), kubectl.version);
        let path = PathBuf::from(folder).join(name);
        fs::write(path, render(steps)).expect("the folder can be written");
    }
}

/// What is expected when this kubectl asks.
fn expected(case: &str, kubectl: Kubectl) -> Result<Vec<Step>, String> {
    let base = read(&file(case, Kubectl::BASE))?;
    let path = file(case, kubectl);
    if kubectl == Kubectl::BASE || !path.exists() {
        return Ok(base);
    }
    overlay(base, read(&path)?).map_err(|why| format!("{}: {why}", path.display()))
}

fn overlay(mut base: Vec<Step>, others: Vec<Step>) -> Result<Vec<Step>, String> {
    for other in others {
        let step = base
            .iter_mut()
            .find(|step| step.title == other.title)
            .ok_or_else(|| format!("{:?} is no step", other.title))?;
        if *step == other {
            return Err(format!("{:?} is the same for every kubectl", other.title));
        }
        *step = other;
    }
    Ok(base)
}

fn read(path: &Path) -> Result<Vec<Step>, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("failed to read {}: {error}", path.display()))?;
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("=== ") {
            steps.push(Step {
                title: title.to_owned(),
                text: String::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            step.text.push_str(line);
            step.text.push('\n');
        }
    }
    for step in &mut steps {
        step.text = step.text.trim_end().to_owned();
    }
    Ok(steps)
}

fn differences() -> Result<Vec<Difference>, String> {
    let path = folder().join("differences.yaml");
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("failed to read {}: {error}", path.display()))?;
    serde_yaml_ng::from_str(&text)
        .map_err(|error| format!("failed to read {}: {error}", path.display()))
}

/// Compares a talk with what is expected of it; says everything that differs.
///
/// # Errors
/// When something differs, or a difference is listed that is none.
pub fn compare(whose: Whose, case: &str, kubectl: Kubectl, steps: &[Step]) -> Result<(), String> {
    show(case, kubectl, steps);
    let mut expected = expected(case, kubectl)?;
    if whose == Whose::Ours {
        let shown = |one: &&Difference| {
            let versions = &one.kubectl;
            versions.is_empty() || versions.iter().any(|version| version == kubectl.version)
        };
        for difference in differences()?
            .iter()
            .filter(|one| one.case == case)
            .filter(shown)
        {
            apply(difference, &mut expected)?;
        }
    }
    let titles =
        |steps: &[Step]| -> Vec<String> { steps.iter().map(|step| step.title.clone()).collect() };
    if titles(&expected) != titles(steps) {
        return Err(format!(
            "the steps are {:?}, expected {:?}",
            titles(steps),
            titles(&expected)
        ));
    }
    let wrong: Vec<String> = expected
        .iter()
        .zip(steps)
        .filter(|(wanted, found)| wanted.text != found.text)
        .map(|(wanted, found)| format!("--- {}\n{}", wanted.title, diff(&wanted.text, &found.text)))
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

fn apply(difference: &Difference, expected: &mut [Step]) -> Result<(), String> {
    let Difference {
        step: title,
        reason,
        ..
    } = difference;
    if reason.trim().is_empty() {
        return Err(format!("the difference at {title:?} has no reason"));
    }
    let step = expected
        .iter_mut()
        .find(|step| step.title == *title)
        .ok_or_else(|| format!("a difference is listed for {title:?}, which is no step"))?;
    if let Some(instead) = &difference.instead {
        if step.text == instead.trim_end() {
            return Err(format!(
                "a difference is listed for {title:?}, where there is none"
            ));
        }
        step.text = instead.trim_end().to_owned();
    }
    for Replacement { theirs, ours } in &difference.change {
        let theirs = theirs.trim_end_matches('\n');
        if !step.text.contains(theirs) || theirs == ours.trim_end_matches('\n') {
            return Err(format!(
                "a difference is listed for {title:?}, but kube-apiserver does not say {theirs:?} there"
            ));
        }
        step.text = step.text.replacen(theirs, ours.trim_end_matches('\n'), 1);
    }
    step.text = step.text.trim_end().to_owned();
    Ok(())
}

/// Lines of both, marked; by the longest common subsequence, since answers are short.
fn diff(wanted: &str, found: &str) -> String {
    let (wanted, found): (Vec<&str>, Vec<&str>) =
        (wanted.lines().collect(), found.lines().collect());
    let mut common = vec![vec![0_usize; found.len() + 1]; wanted.len() + 1];
    for (i, one) in wanted.iter().enumerate().rev() {
        for (j, other) in found.iter().enumerate().rev() {
            common[i][j] = if one == other {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < wanted.len() || j < found.len() {
        if i < wanted.len() && j < found.len() && wanted[i] == found[j] {
            lines.push(format!("  {}", wanted[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == found.len() || (i < wanted.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("- {}", wanted[i]));
            i += 1;
        } else {
            lines.push(format!("+ {}", found[j]));
            j += 1;
        }
    }
    around_changes(&lines)
}

/// Unchanged lines that are far from any change say nothing.
fn around_changes(lines: &[String]) -> String {
    const NEAR: usize = 2;
    let changed = |index: usize| {
        lines[index.saturating_sub(NEAR)..lines.len().min(index + NEAR + 1)]
            .iter()
            .any(|line| !line.starts_with("  "))
    };
    let mut out = Vec::new();
    let mut skipped = false;
    for (index, line) in lines.iter().enumerate() {
        if changed(index) {
            out.push(line.as_str());
            skipped = false;
        } else if !skipped {
            out.push("  …");
            skipped = true;
        }
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn difference(theirs: &str, ours: &str) -> Difference {
        Difference {
            case: "c".to_owned(),
            step: "s".to_owned(),
            kubectl: Vec::new(),
            reason: "because".to_owned(),
            change: vec![Replacement {
                theirs: theirs.to_owned(),
                ours: ours.to_owned(),
            }],
            instead: None,
        }
    }

    #[test]
    fn differences_are_exact_and_never_stale() {
        let steps = || {
            vec![Step {
                title: "s".to_owned(),
                text: "a: 1\nb: 2".to_owned(),
            }]
        };
        let mut changed = steps();
        apply(&difference("b: 2", "b: 3"), &mut changed).unwrap();
        assert_eq!(changed[0].text, "a: 1\nb: 3");
        assert!(apply(&difference("c", "d"), &mut steps()).is_err());
        assert!(apply(&difference("b: 2", "b: 2"), &mut steps()).is_err());
    }

    #[test]
    fn another_kubectl_is_told_apart_by_its_steps() {
        let step = |title: &str, text: &str| Step {
            title: title.to_owned(),
            text: text.to_owned(),
        };
        let base = vec![step("a", "1"), step("b", "2")];
        let steps = vec![step("a", "1"), step("b", "3")];
        let others = otherwise(&base, &steps);
        assert_eq!(others, [step("b", "3")]);
        assert_eq!(overlay(base.clone(), others).unwrap(), steps);
        assert!(overlay(base.clone(), vec![step("a", "1")]).is_err());
        assert!(overlay(base, vec![step("c", "1")]).is_err());
    }

    #[test]
    fn tells_what_differs() {
        assert_eq!(diff("a\nb\nc", "a\nx\nc"), "  a\n- b\n+ x\n  c");
    }
}
