//! What many databases cost one operator: `cargo xtask bench scale`.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use kubedb_contract::scale::{Failure, Record, Sizes, Subject, measure};

const HELP: &str = "usage: bench_scale BINARY PROFILE OUT DATABASES SNAPSHOTS";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [binary, profile, out, databases, snapshots] = arguments.as_slice() else {
        return Err(HELP.into());
    };
    let subject = Subject {
        binary: binary.into(),
        profile: profile.clone(),
    };
    let sizes = Sizes {
        databases: databases.parse()?,
        snapshots: snapshots.parse()?,
        steady: Duration::from_secs(120),
        spread: Duration::from_secs(60),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let folder = tempfile::tempdir()?;
    let measured = runtime.block_on(measure(&subject, &sizes, folder.path(), say));
    if measured.is_err() {
        say(&format!("logs: {}", folder.keep().display()));
    }
    let records = measured?;
    for record in &records {
        say(&row(record));
    }
    write(&PathBuf::from(out), &subject, &sizes, &records)?;
    say(&format!("written: {out}"));
    Ok(())
}

/// A list, each with the sizes that it was measured at.
fn write(
    path: &PathBuf,
    subject: &Subject,
    sizes: &Sizes,
    records: &[Record],
) -> Result<(), Failure> {
    let mut list = Vec::new();
    for record in records {
        let mut entry = serde_json::to_value(record)?;
        entry["databases"] = sizes.databases.into();
        entry["snapshots"] = sizes.snapshots.into();
        entry["profile"] = subject.profile.clone().into();
        list.push(entry);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, serde_json::to_string_pretty(&list)? + "\n")?;
    Ok(())
}

fn row(record: &Record) -> String {
    let aim = record.aim.map_or_else(String::new, |aim| aim.to_string());
    let verdict = match record.met {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    };
    let Record {
        name, unit, value, ..
    } = record;
    format!("{name:<44} {value:>9.2} {unit:<9} {aim:>5} {verdict}")
        .trim_end()
        .to_owned()
}

#[expect(clippy::print_stderr, reason = "it is a command")]
fn say(line: &str) {
    eprintln!("{line}");
}
