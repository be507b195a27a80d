//! The one place that prints: data to standard output, everything else to standard error.

use std::io::{self, Write as _};

use crate::error::CommandError;

/// The terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui;

impl Ui {
    /// Prints data. A reader that went away (`| head`) is not an error.
    pub(crate) fn data(self, text: &str) {
        let _ = writeln!(io::stdout(), "{text}");
    }

    /// Prints an error, its causes and its hint.
    pub(crate) fn error(self, error: &CommandError) {
        let mut stderr = io::stderr();
        let _ = writeln!(stderr, "error: {error}");
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            let _ = writeln!(stderr, "  caused by: {next}");
            cause = next.source();
        }
        if let Some(hint) = error.hint() {
            let _ = writeln!(stderr, "\nhint: {hint}");
        }
    }
}
