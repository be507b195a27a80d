//! The PostgresVersion objects that exist without anyone creating them.

use crate::postgres_version::{DatabaseImage, PostgresVersion, PostgresVersionSpec};

/// Name, full version, deprecated.
const VERSIONS: &[(&str, &str, bool)] = &[
    ("9.6", "9.6.24", false),
    ("9.6.7", "9.6.24", true),
    ("15", "15", false),
];

/// The built-in versions. `15` stands for whatever release of 15 is installed.
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
                bin_directory: None,
            };
            PostgresVersion::new(name, spec)
        })
        .collect()
}
