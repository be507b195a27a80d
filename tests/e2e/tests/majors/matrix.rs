//! What was proved on which major. A cell that nobody filled is a failed test.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Every major, the two with the longest way first.
pub(crate) const MAJORS: [&str; 10] = ["18", "9.6", "17", "10", "16", "11", "15", "12", "14", "13"];

/// What is proved on each.
pub(crate) const CELLS: [&str; 15] = [
    "script init",
    "snapshot of primary",
    "clone",
    "stream",
    "no tablespace on two",
    "metrics",
    "raised settings",
    "snapshot of standby",
    "restore",
    "rows",
    "pages",
    "backup_manifest",
    "pg_verifybackup",
    "amcheck",
    "checks can fail",
];

#[derive(Clone, Debug)]
enum Cell {
    Proved {
        took: Duration,
        by: &'static str,
    },
    /// The major cannot do it.
    Absent(&'static str),
}

/// The matrix, filled by several threads.
#[derive(Debug, Default)]
pub(crate) struct Matrix {
    cells: Mutex<BTreeMap<(&'static str, &'static str), Cell>>,
    failures: Mutex<Vec<String>>,
}

/// One major's column.
#[derive(Debug)]
pub(crate) struct Column<'a> {
    pub(crate) major: &'static str,
    matrix: &'a Matrix,
    since: Instant,
}

impl Matrix {
    pub(crate) fn column(&self, major: &'static str) -> Column<'_> {
        Column {
            major,
            matrix: self,
            since: Instant::now(),
        }
    }

    pub(crate) fn failed(&self, major: &str, reason: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push(format!("PostgreSQL {major}: {reason}"));
    }

    /// The table, and why some cells cannot be.
    fn print(&self) -> String {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut majors = MAJORS;
        majors.sort_by_key(|major| crate::content::number(major));
        let (mut table, mut notes) = (String::new(), Vec::new());
        let _ = write!(table, "\n{:22}", "PostgreSQL");
        for major in majors {
            let _ = write!(table, "{major:>8}");
        }
        for cell in CELLS {
            let _ = write!(table, "\n{cell:22}");
            for major in majors {
                let text = match cells.get(&(major, cell)) {
                    Some(Cell::Proved { took, by }) => {
                        note(&mut notes, by).map_or(String::new(), |n| format!("{n} "))
                            + &format!("{:.1}s", took.as_secs_f64())
                    }
                    Some(Cell::Absent(reason)) => {
                        let number = note(&mut notes, reason).unwrap_or_default();
                        format!("{number} -")
                    }
                    None => "MISSING".to_owned(),
                };
                let _ = write!(table, "{text:>8}");
            }
        }
        for (number, reason) in (1..).zip(&notes) {
            let _ = write!(table, "\n[{number}] {reason}");
        }
        table + "\n"
    }

    /// Prints it, and fails where it has holes.
    #[track_caller]
    pub(crate) fn conclude(&self) {
        // Past the capture of tests' output: it is what this test is for.
        let _ = writeln!(std::io::stderr(), "{}", self.print());
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(cells.len(), MAJORS.len() * CELLS.len(), "cells are missing");
    }
}

fn note(notes: &mut Vec<&'static str>, text: &'static str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let place = notes.iter().position(|known| *known == text);
    let place = place.unwrap_or_else(|| {
        notes.push(text);
        notes.len() - 1
    });
    Some(format!("[{}]", place + 1))
}

impl Column<'_> {
    /// Begins to count the time of the next cell.
    pub(crate) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// The cell is proved; the next begins.
    pub(crate) fn proved(&mut self, cell: &'static str) {
        self.proved_by(cell, "");
    }

    /// The same, with a word on how.
    pub(crate) fn proved_by(&mut self, cell: &'static str, by: &'static str) {
        let took = self.since.elapsed();
        self.fill(cell, Cell::Proved { took, by });
        self.begin();
    }

    /// The major cannot do it, and why.
    pub(crate) fn absent(&self, cell: &'static str, reason: &'static str) {
        self.fill(cell, Cell::Absent(reason));
    }

    fn fill(&self, cell: &'static str, content: Cell) {
        assert!(CELLS.contains(&cell), "{cell}");
        let cells = &self.matrix.cells;
        let mut cells = cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.insert((self.major, cell), content);
    }
}
