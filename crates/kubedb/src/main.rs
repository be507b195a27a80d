//! The `kubedb` command: what users type, and what machines run.

mod cli;
mod client;
mod commands;
mod error;
mod manifest;
mod table;
mod ui;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{cli::Cli, ui::Ui};

fn main() -> ExitCode {
    let ui = Ui;
    match commands::run(Cli::parse(), &ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            error.exit_code()
        }
    }
}
