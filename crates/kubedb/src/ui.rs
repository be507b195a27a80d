//! The one place that prints: data to standard output, everything else to standard error.

use std::io::{self, Write as _};

use crate::error::CommandError;

/// The terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui;

impl Ui {
    /// Prints a line of data. A reader that went away (`| head`) is not an error.
    pub(crate) fn data(self, text: &str) {
        let _ = writeln!(io::stdout(), "{text}");
    }

    /// Prints data that brings its own line ends.
    pub(crate) fn block(self, text: &str) {
        let mut stdout = io::stdout();
        let _ = stdout.write_all(text.as_bytes());
        let _ = stdout.flush();
    }

    /// Prints a line about the work.
    pub(crate) fn note(self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Prints an error, its causes and its hint.
    pub(crate) fn error(self, error: &CommandError) {
        let Some(line) = error.line() else { return };
        self.note(&line);
        let mut said = line;
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            let text = next.to_string();
            // Wrappers that repeat their source would say everything twice.
            if !said.ends_with(&text) {
                self.note(&format!("  caused by: {text}"));
                said = text;
            }
            cause = next.source();
        }
        if let Some(hint) = error.hint() {
            self.note(&format!("\nhint: {hint}"));
        }
    }
}
