//! One file per command.

mod schedule;

use std::io;

use clap::CommandFactory as _;

use crate::{
    cli::{Cli, Command},
    error::CommandError,
    ui::Ui,
};

/// Runs what was typed.
pub(crate) fn run(cli: Cli, ui: &Ui) -> Result<(), CommandError> {
    match cli.command {
        Command::Schedule(arguments) => schedule::run(arguments.command, ui),
        Command::Demo => Err(CommandError::NotBuilt { command: "demo" }),
        Command::Version => {
            ui.data(concat!("kubedb ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "kubedb", &mut io::stdout());
            Ok(())
        }
    }
}
