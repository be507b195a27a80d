//! Object stores to try things against: `cargo xtask stores up|down|status`.

use std::{fs, path::PathBuf, process::ExitCode};

use kubedb_stores::{
    azurite::{self, Azurite},
    gcs::FakeGcs,
    keystone::{self, Keystone},
    left::{self, Left},
    minio::{self, Minio},
    net::cache,
    process::{self, HelperError},
    swift::{self, Settings, Swift},
};

/// The bucket that each of them has.
const BUCKET: &str = "kubedb";

/// A token of Keystone lives as long as one of a real cloud.
const TOKEN_SECONDS: u32 = 3_600;

/// File with what was printed.
const MANIFESTS: &str = "stores.yaml";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["up"] => up(),
        ["down"] => down(),
        ["status"] => status(),
        _ => Err("usage: stores up | down | status".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            say(&format!("error: {reason}"));
            ExitCode::FAILURE
        }
    }
}

/// Beside the tests' programs, outside the checkout.
fn folder() -> PathBuf {
    cache("stores")
}

fn up() -> Result<(), String> {
    let folder = folder();
    if left::read(&folder).is_some_and(|known| known.iter().any(Left::lives)) {
        return Err("they are up already; end them with: cargo xtask stores down".to_owned());
    }
    let _ = fs::remove_dir_all(&folder);
    let failed = |error: std::io::Error| format!("failed to use {}: {error}", folder.display());
    left::private(&folder).map_err(failed)?;
    process::outlive();
    let started = start(&folder);
    let running = process::outliving();
    left::write(&folder, &running).map_err(failed)?;
    match started {
        Ok(text) => {
            fs::write(folder.join(MANIFESTS), &text).map_err(failed)?;
            print(&text);
            Ok(())
        }
        Err(error) => {
            left::end(&folder, &running).map_err(failed)?;
            Err(words(&error))
        }
    }
}

fn down() -> Result<(), String> {
    let folder = folder();
    let known = left::read(&folder).ok_or("they are not up")?;
    left::end(&folder, &known)
        .map_err(|error| format!("failed to remove {}: {error}", folder.display()))
}

fn status() -> Result<(), String> {
    let folder = folder();
    let known =
        left::read(&folder).ok_or("they are not up; start them with: cargo xtask stores up")?;
    for program in &known {
        let state = if program.lives() { "runs" } else { "has ended" };
        say(&format!(
            "{} (process {}) {state}",
            program.name, program.id
        ));
    }
    let text = fs::read_to_string(folder.join(MANIFESTS));
    print(&text.map_err(|error| format!("failed to read what was printed: {error}"))?);
    Ok(())
}

/// Starts all of them, and says how each is used.
fn start(folder: &std::path::Path) -> Result<String, HelperError> {
    let gcs = FakeGcs::start(folder, &[BUCKET])?;
    let minio = Minio::start(folder, &[BUCKET])?;
    let azurite = Azurite::start(folder, &[BUCKET])?;
    let swift = Swift::start(folder, &[BUCKET], Settings::default())?;
    let keystone = Keystone::start(folder, TOKEN_SECONDS)?;
    let settings = Settings {
        keystone: Some(&keystone),
        ..Settings::default()
    };
    let with_keystone = Swift::start(&folder.join("with-keystone"), &[BUCKET], settings)?;
    let (tempauth, keystone_address) = (swift.auth_address(), keystone.auth_address());
    let text = [
        entry(
            "gcs",
            &[],
            &[("bucket", BUCKET), ("endpoint", &gcs.endpoint())],
        ),
        entry(
            "s3",
            &[
                ("AWS_ACCESS_KEY_ID", minio::KEYS.0),
                ("AWS_SECRET_ACCESS_KEY", minio::KEYS.1),
            ],
            &[("bucket", BUCKET), ("endpoint", &minio.endpoint())],
        ),
        entry(
            "azure",
            &[
                ("AZURE_ACCOUNT_NAME", azurite::ACCOUNT.0),
                ("AZURE_ACCOUNT_KEY", azurite::ACCOUNT.1),
            ],
            &[("container", BUCKET), ("endpoint", &azurite.endpoint())],
        ),
        entry(
            "swift",
            &[
                ("ST_AUTH", &tempauth),
                ("ST_USER", swift::USER.0),
                ("ST_KEY", swift::USER.1),
            ],
            &[("container", BUCKET)],
        ),
        entry(
            "swift-keystone",
            &[
                ("OS_AUTH_URL", &keystone_address),
                ("OS_REGION_NAME", keystone::REGION),
                ("OS_USERNAME", keystone::USER),
                ("OS_PASSWORD", keystone::PASSWORD),
                ("OS_USER_DOMAIN_NAME", keystone::DOMAIN),
                ("OS_PROJECT_NAME", keystone::PROJECT),
                ("OS_PROJECT_DOMAIN_NAME", keystone::DOMAIN),
            ],
            &[("container", BUCKET)],
        ),
    ]
    .join("---\n");
    drop((gcs, minio, azurite, swift, keystone, with_keystone));
    Ok(text)
}

/// A Secret, and in front of it, as comments, what stands in a schedule or a Snapshot to use it.
fn entry(name: &str, secret: &[(&str, &str)], fields: &[(&str, &str)]) -> String {
    let secret_name = format!("{name}-secret");
    let store = name.split('-').next().unwrap_or(name);
    let lines = |pairs: &[(&str, &str)], before: &str| -> String {
        pairs
            .iter()
            .map(|(key, value)| format!("{before}{key}: {value:?}\n"))
            .collect()
    };
    // A store that is asked unsigned needs a Secret all the same where a manifest names one.
    let data = match secret {
        [] => "stringData: {}\n".to_owned(),
        pairs => format!("stringData:\n{}", lines(pairs, "  ")),
    };
    format!(
        "# storageSecretName: {secret_name}\n# {store}:\n{}apiVersion: v1\nkind: Secret\nmetadata: {{name: {secret_name}}}\n{data}",
        lines(fields, "#   ")
    )
}

fn words(error: &HelperError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[expect(clippy::print_stderr, reason = "it is a command")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stdout, reason = "it is a command")]
fn print(text: &str) {
    print!("{text}");
}
