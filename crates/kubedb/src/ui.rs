//! The one place that prints: data to standard output, everything else to standard error.

use std::{
    cell::Cell,
    io::{self, Write as _},
};

use crate::error::CommandError;

/// The terminal, or whatever reads in its place.
#[derive(Debug, Default)]
pub(crate) struct Ui {
    /// Why standard output took no more; what comes later is not even tried.
    lost: Cell<Option<io::ErrorKind>>,
}

impl Ui {
    /// Prints a line of data.
    pub(crate) fn data(&self, text: &str) {
        self.write(|stdout| writeln!(stdout, "{text}"));
    }

    /// Prints data that brings its own line ends.
    pub(crate) fn block(&self, text: &str) {
        self.write(|stdout| stdout.write_all(text.as_bytes()));
    }

    /// A command that has begun to change objects ends its work, whoever reads; so this is remembered, not returned.
    fn write(&self, work: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) {
        if self.lost.get().is_some() {
            return;
        }
        let mut stdout = io::stdout().lock();
        if let Err(error) = work(&mut stdout).and_then(|()| stdout.flush()) {
            self.lost.set(Some(error.kind()));
        }
    }

    /// Whether nobody reads any more: a command that only prints may end.
    pub(crate) fn nobody_reads(&self) -> bool {
        self.lost.get().is_some()
    }

    /// Fails when data was lost. A reader that went away (`| head`) had what it wanted.
    pub(crate) fn finish(&self) -> Result<(), CommandError> {
        match self.lost.get() {
            None | Some(io::ErrorKind::BrokenPipe) => Ok(()),
            Some(kind) => Err(CommandError::Local {
                doing: "write to standard output".to_owned(),
                source: kind.into(),
            }),
        }
    }

    /// Prints a line about the work.
    pub(crate) fn note(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Prints an error, its causes and its hint.
    pub(crate) fn error(&self, error: &CommandError) {
        let Some(line) = error.line() else { return };
        self.note(&line);
        let mut said = line;
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            let text = next.to_string();
            // Wrappers that repeat their source would say everything twice.
            if !said.contains(&text) {
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
