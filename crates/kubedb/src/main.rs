//! The `kubedb` command: what users type, and what machines run.

mod cli;
mod client;
mod commands;
mod error;
mod manifest;
mod table;
mod ui;

use std::process::ExitCode;

use crate::ui::Ui;

fn main() -> ExitCode {
    let ui = Ui::default();
    match commands::run(cli::parse(), &ui).and_then(|()| ui.finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            error.exit_code()
        }
    }
}
