//! Releases of PostgreSQL: which one a program says it is, and whether it is the one asked for.

/// Major of a version: `9.6` of `9.6.24`, `15` of `15.18`.
#[must_use]
pub fn major(version: &str) -> String {
    let mut parts = version.split('.');
    let first = parts.next().unwrap_or_default();
    match (first, parts.next()) {
        ("9", Some(second)) => format!("9.{second}"),
        _ => first.to_owned(),
    }
}

/// Whether a version is the one asked for; a bare major is content with any of its releases.
#[must_use]
pub fn fits(wanted: &str, version: &str) -> bool {
    wanted == version || wanted == major(version)
}

/// What `postgres --version` says: `postgres (PostgreSQL) 15.18 (Debian …)`.
#[must_use]
pub fn said(answer: &str) -> Option<&str> {
    answer.split(") ").nth(1)?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_is_content_with_any_release_of_it() {
        assert!(fits("15", "15.18"));
        assert!(fits("9.6", "9.6.24"));
        assert!(fits("9.6.24", "9.6.24"));
        assert!(!fits("9.6.7", "9.6.24"));
        assert!(!fits("9", "9.6.24"));
        assert!(!fits("1", "15.18"));
    }

    #[test]
    fn a_program_says_which_release_it_is() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(said(debian), Some("15.18"));
        assert_eq!(said("postgres (PostgreSQL) 9.6.24\n"), Some("9.6.24"));
        assert_eq!(said("bash: postgres: command not found"), None);
    }
}
