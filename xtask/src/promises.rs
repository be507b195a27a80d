//! The list of promises against the tests that hold them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use crate::tools::workspace;

const DOCUMENT: &str = "docs/reference/promises.md";

/// Letters of the classes, and how many there are.
const CLASSES: [(char, u32); 2] = [('t', 36), ('i', 10)];

/// Compares them.
pub(crate) fn check(sources: &[PathBuf], wrong: &mut Vec<String>) -> Result<(), String> {
    let read = |path: &PathBuf| {
        fs::read_to_string(path).map_err(|e| format!("failed to read {}: {e}", path.display()))
    };
    let document = read(&workspace().join(DOCUMENT))?;
    let mut tests = BTreeSet::new();
    for path in sources {
        tests.extend(functions(&read(path)?));
    }
    wrong.extend(compare(&document, &tests));
    Ok(())
}

/// Names of functions.
fn functions(source: &str) -> Vec<String> {
    let starts = source.lines().filter_map(|line| {
        let line = line.trim_start().trim_start_matches("async ");
        let (name, _) = line.strip_prefix("fn ")?.split_once('(')?;
        Some(name.to_owned())
    });
    starts.collect()
}

/// Classes that a test's name begins with: `t01_t02_nothing_is_lost` has two.
fn classes(name: &str) -> Vec<String> {
    let parts = name.split('_').map_while(|part| {
        let (letter, number) = (part.chars().next()?, part.get(1..)?);
        let is_class = number.len() == 2 && CLASSES.iter().any(|(class, _)| *class == letter);
        let number: u32 = number.parse().ok().filter(|_| is_class)?;
        Some(format!("{}{number}", letter.to_ascii_uppercase()))
    });
    parts.collect()
}

/// What is wrong with the document, or with the names.
fn compare(document: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rows: BTreeMap<&str, &str> = BTreeMap::new();
    for line in document.lines() {
        let mut cells = line.split('|').map(str::trim);
        if let (Some(""), Some(class), Some(_), Some(held)) =
            (cells.next(), cells.next(), cells.next(), cells.next())
            && rows.insert(class, held).is_some()
        {
            wrong.push(format!("{DOCUMENT} has {class} twice"));
        }
    }
    for class in CLASSES.iter().flat_map(|(letter, count)| {
        (1..=*count).map(move |number| format!("{}{number}", letter.to_ascii_uppercase()))
    }) {
        let held = rows.get(class.as_str()).copied().unwrap_or_default();
        let carries = |name: &str| classes(name).contains(&class);
        let named: Vec<&str> = names(held).collect();
        if !named.iter().any(|name| carries(name)) && !held.contains("not yet") {
            wrong.push(format!(
                "{DOCUMENT} names no test for {class} and no reason"
            ));
        }
        for name in tests.iter().filter(|name| carries(name)) {
            let is_like = held.contains("and its like")
                && named.iter().any(|known| classes(known) == classes(name));
            if !named.contains(&name.as_str()) && !is_like {
                wrong.push(format!("{DOCUMENT} does not name {name} for {class}"));
            }
        }
    }
    for name in rows.values().flat_map(|held| names(held)) {
        if !tests.contains(name) {
            wrong.push(format!("{DOCUMENT} names {name}, which is no test"));
        }
    }
    wrong
}

/// Tests that a cell names: words in backticks that could be one.
fn names(held: &str) -> impl Iterator<Item = &str> {
    let quoted = held.split('`').skip(1).step_by(2);
    quoted.filter(|word| word.contains('_') && !word.contains(' ') && !word.starts_with("archive_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(document: &str, tests: &[&str]) -> Vec<String> {
        let tests = tests.iter().map(|test| (*test).to_owned()).collect();
        let mut wrong = compare(document, &tests);
        wrong.retain(|line| !line.contains("no reason"));
        wrong
    }

    #[test]
    fn tests_and_document_name_each_other() {
        let row = "| T1 | x | `t01_one`, `t01_two` |";
        assert!(wrong(row, &["t01_one", "t01_two", "other"]).is_empty());
        assert_eq!(wrong(row, &["t01_one"]).len(), 1);
        assert_eq!(
            wrong(row, &["t01_one", "t01_two", "t01_i10_three"]).len(),
            2
        );
        assert_eq!(wrong("| T1 | x | y |\n| T1 | x | y |", &[]).len(), 1);
        assert_eq!(
            compare("| T1 | x | not yet: y |", &BTreeSet::new()).len(),
            45
        );
    }

    #[test]
    fn numbers_stand_at_the_beginning() {
        assert_eq!(classes("t01_t02_i10_t3_t04"), ["T1", "T2", "I10"]);
        assert_eq!(classes("two_t01"), [""; 0]);
        let source = "    async fn t01_one() {\n}\npub fn other(";
        assert_eq!(functions(source), ["t01_one"]);
    }
}
