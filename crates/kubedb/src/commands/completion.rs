//! `kubedb completion`: a script that lets a shell complete commands, flags and types.

use clap::{Command, CommandFactory as _, builder::PossibleValuesParser};
use clap_complete::Shell;

use crate::{cli::Cli, client::kinds};

/// Commands that take `TYPE [NAME]`, the argument, and the types it means.
const TYPED: [(&str, &str, Types); 5] = [
    ("get", "objects", Types::All),
    ("describe", "objects", Types::All),
    ("delete", "objects", Types::All),
    ("edit", "object", Types::All),
    ("connect", "object", Types::Databases),
];

#[derive(Clone, Copy)]
enum Types {
    All,
    Databases,
}

/// The script. It asks no server: a shell that hangs while one types is worse than a name typed in full.
pub(super) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut with_types(), "kubedb", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The command line as scripts see it. The real one also takes comma lists, TYPE/NAME and names, which no list holds.
fn with_types() -> Command {
    let mut command = Cli::command();
    for (name, argument, types) in TYPED {
        let names: Vec<&'static str> = match types {
            Types::Databases => vec![kinds::POSTGRES.singular, kinds::POSTGRES.short],
            Types::All => kinds::ALL
                .iter()
                .flat_map(|kind| [kind.plural, kind.singular, kind.short])
                .collect(),
        };
        command = command.mut_subcommand(name, |sub| {
            sub.mut_arg(argument, |argument| {
                argument.value_parser(PossibleValuesParser::new(names))
            })
        });
    }
    // A changed argument goes to the end; the statements for psql come behind the database.
    command = command.mut_subcommand("connect", |sub| sub.mut_arg("psql", |argument| argument));
    let formats = PossibleValuesParser::new(["table", "wide", "json", "yaml", "name"]);
    command.mut_subcommand("get", |sub| {
        sub.mut_arg("output", |argument| argument.value_parser(formats))
    })
}
