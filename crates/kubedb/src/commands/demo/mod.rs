//! `kubedb demo`: the story of a scheduled backup, told with the real program on a scratch folder.
//!
//! Every step runs the command a user would type, in a process of its own. The demo ends well only if every claim held.

mod story;
mod terminal;

use std::time::{Duration, Instant};

use self::{story::Story, terminal::Terminal};
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
    let told = Terminal::start(*ui).and_then(|terminal| {
        let told = Story::new(&terminal).tell();
        if told.is_err() {
            terminal.keep_for_inspection();
        }
        told
    });
    told.map_err(|error| CommandError::Server {
        doing: "tell the story to its end",
        source: error.into(),
    })?;
    ui.data(&format!(
        "\nAll of it held. It took {} s.",
        begun.elapsed().as_secs()
    ));
    Ok(())
}
