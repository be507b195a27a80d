//! `docs/reference/cli.md`, made from the command line itself.

use std::{env, fs, path::Path};

use clap::{Command, CommandFactory as _};

use super::Cli;

/// Width of help texts, whatever the terminal of whoever makes the file.
const WIDTH: usize = 100;

const HEAD: &str = "\
# Command line

Made from the program by `UPDATE=1 cargo test -p kubedb reference`; do not edit.

Exit codes: 0 done, 1 failed, 2 typed wrongly, 3 the object is not there, 4 timed out while the server goes on, 130
interrupted by Ctrl-C. Data goes to standard output, everything
else to standard error. The server is the one of `--kubeconfig`, else of `KUBECONFIG`, else of `~/.kube/config`, else of
the data folder of `kubedb server` (`/var/lib/kubedb` as root, `${XDG_DATA_HOME:-~/.local/share}/kubedb` otherwise).
";

fn reference() -> String {
    let mut root = Cli::command()
        .term_width(WIDTH)
        .disable_help_subcommand(true);
    root.build();
    let mut text = HEAD.to_owned();
    add(&mut root, &mut text);
    text
}

fn add(command: &mut Command, text: &mut String) {
    if command.is_hide_set() {
        return;
    }
    let name = command
        .get_bin_name()
        .unwrap_or(command.get_name())
        .to_owned();
    let help = command.render_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!(
        "\n## {name}\n\n```text\n{}\n```\n",
        lines.join("\n").trim_end()
    ));
    for sub in command.get_subcommands_mut() {
        add(sub, text);
    }
}

/// A page of docs/reference that is made from the program is what the program says; `UPDATE` writes it.
pub(crate) fn assert_current(page: &str, wanted: &str, test: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/reference")
        .join(page);
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, wanted).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == wanted,
        "docs/reference/{page} is old: UPDATE=1 cargo test -p kubedb {test}"
    );
}

#[test]
fn the_reference_is_current() {
    assert_current("cli.md", &reference(), "reference");
}

/// Every command that people type has examples: a command without them is learned by failing.
#[test]
fn every_command_has_examples() {
    for command in Cli::command().get_subcommands() {
        if command.is_hide_set() {
            continue;
        }
        let help = command.clone().render_help().to_string();
        assert!(help.contains("Examples:"), "{}", command.get_name());
    }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}
