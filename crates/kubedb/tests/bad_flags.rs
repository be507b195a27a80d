//! What was typed wrongly, and the exact words for it. Nothing of it asks a server.

#![allow(clippy::unwrap_used)]

mod bad;

use std::process::{Command, Stdio};

use bad::Table;

#[test]
fn every_wrong_word_on_the_command_line_has_its_answer() {
    let home = tempfile::tempdir().unwrap();
    let nothing = home.path().join("nothing");
    let nothing = nothing.to_str().unwrap();
    let mut record = Table::default();
    for line in bad::lines(include_str!("bad/flags.txt")) {
        let output = Command::new("sh")
            .args(["-c", &format!("exec \"$0\" {line}")])
            .arg(env!("CARGO_BIN_EXE_kubedb"))
            .env("HOME", home.path())
            .env("KUBECONFIG", nothing)
            .env("COLUMNS", "120")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code().unwrap();
        assert!(matches!(code, 1 | 2), "{line}: {code}: {said}");
        assert_eq!(output.stdout, b"", "{line}");
        let said = said.replace(home.path().to_str().unwrap(), "HOME");
        record.add(&format!("kubedb {line} [{code}]"), &said);
    }
    bad::keep("flags", &record);
}
