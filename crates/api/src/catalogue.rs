//! The PostgresVersion objects that exist without anyone creating them.

use crate::postgres_version::{DatabaseImage, PostgresVersion, PostgresVersionSpec};

/// Name, full version, deprecated.
const VERSIONS: &[(&str, &str, bool)] = &[
    ("9.6", "9.6.24", false),
    ("9.6.7", "9.6.24", true),
    ("10", "10", false),
    ("10.2", "10.23", true),
    ("11", "11", false),
    ("12", "12", false),
    ("13", "13", false),
    ("14", "14", false),
    ("15", "15", false),
    ("16", "16", false),
    ("17", "17", false),
    ("18", "18", false),
];

/// The built-in versions. A bare major stands for whatever release of it is installed, else for its latest.
#[must_use]
pub fn built_in() -> Vec<PostgresVersion> {
    VERSIONS
        .iter()
        .map(|(name, version, deprecated)| {
            let spec = PostgresVersionSpec {
                version: (*version).to_owned(),
                db: DatabaseImage {
                    image: format!("postgres:{version}"),
                },
                deprecated: *deprecated,
                ..PostgresVersionSpec::default()
            };
            PostgresVersion::new(name, spec)
        })
        .collect()
}
