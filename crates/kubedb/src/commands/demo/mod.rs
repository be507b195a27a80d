//! `kubedb demo`: the story of a scheduled backup, told with the real program on a scratch folder.
//!
//! Every step runs the command a user would type, in a process of its own. The demo ends well only if every claim held.

mod interrupt;
mod story;
mod terminal;

use std::time::{Duration, Instant};

use self::{interrupt::Interrupt, story::Story, terminal::Terminal};
use crate::{error::CommandError, ui::Ui};

/// Why the story ended early: a claim did not hold, or a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// A command failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// As shown.
        command: String,
        /// What it said.
        output: String,
    },
    /// Something that should be did not come to be.
    #[error("not seen within {} s: {what}; last seen: {last}", limit.as_secs())]
    NotSeen {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What was there instead.
        last: String,
    },
    /// Ctrl-C, or a signal that asks for the end.
    #[error("interrupted")]
    Interrupted,
    /// A claim is not true.
    #[error("{0}")]
    Untrue(String),
    /// The machine refused.
    #[error("failed to {doing}")]
    Machine {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// For `map_err` on what the machine refuses.
fn machine<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    doing: &'static str,
) -> impl FnOnce(E) -> DemoError {
    move |source| DemoError::Machine {
        doing,
        source: source.into(),
    }
}

/// Tells the story.
pub(super) fn run(ui: &Ui) -> Result<(), CommandError> {
    let begun = Instant::now();
    match tell(ui) {
        Ok(()) => {}
        Err(DemoError::Interrupted) => {
            ui.note("interrupted: the server and its databases are stopped, the scratch folder is removed");
            return Err(CommandError::Interrupted);
        }
        Err(error) => {
            return Err(CommandError::Server {
                doing: "tell the story to its end",
                source: error.into(),
            });
        }
    }
    ui.data(&format!(
        "\nAll of it held. It took {} s.",
        begun.elapsed().as_secs()
    ));
    Ok(())
}

/// From the first process to the last: whatever happens, no server is left behind.
fn tell(ui: &Ui) -> Result<(), DemoError> {
    let interrupt = Interrupt::listen().map_err(machine("listen for signals"))?;
    let terminal = Terminal::start(ui, interrupt)?;
    match Story::new(&terminal).tell() {
        Ok(()) => terminal.end(),
        Err(DemoError::Interrupted) => Err(DemoError::Interrupted),
        Err(error) => {
            terminal.keep_for_inspection();
            Err(error)
        }
    }
}
