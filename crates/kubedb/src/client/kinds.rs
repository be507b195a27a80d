//! The kinds that commands know, in every spelling users type.

use kube::core::ApiResource;

use crate::error::CommandError;

/// A kind of object. Known at build time, so that no command asks the server what it serves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// `Postgres`.
    pub(crate) kind: &'static str,
    /// `postgres`.
    pub(crate) singular: &'static str,
    /// `postgreses`.
    pub(crate) plural: &'static str,
    /// `pg`.
    pub(crate) short: &'static str,
    /// `kubedb.com`; empty for the core group.
    pub(crate) group: &'static str,
    /// `v1alpha1`.
    pub(crate) version: &'static str,
    /// Whether objects lie in a namespace.
    pub(crate) namespaced: bool,
    /// Whether `create` takes it.
    pub(crate) creatable: bool,
}

const OURS: Kind = Kind {
    kind: "",
    singular: "",
    plural: "",
    short: "",
    group: "kubedb.com",
    version: "v1alpha1",
    namespaced: true,
    creatable: true,
};
const CORE: Kind = Kind {
    group: "",
    version: "v1",
    ..OURS
};

/// A database.
pub(crate) static POSTGRES: Kind = Kind {
    kind: "Postgres",
    singular: "postgres",
    plural: "postgreses",
    short: "pg",
    ..OURS
};
/// A backup.
pub(crate) static SNAPSHOT: Kind = Kind {
    kind: "Snapshot",
    singular: "snapshot",
    plural: "snapshots",
    short: "snap",
    ..OURS
};
/// The record of a paused database; the operator alone makes it.
pub(crate) static DORMANT_DATABASE: Kind = Kind {
    kind: "DormantDatabase",
    singular: "dormantdatabase",
    plural: "dormantdatabases",
    short: "drmn",
    creatable: false,
    ..OURS
};
/// A PostgreSQL version.
pub(crate) static POSTGRES_VERSION: Kind = Kind {
    kind: "PostgresVersion",
    singular: "postgresversion",
    plural: "postgresversions",
    short: "pgversion",
    group: "catalog.kubedb.com",
    namespaced: false,
    ..OURS
};
/// A namespace.
pub(crate) static NAMESPACE: Kind = Kind {
    kind: "Namespace",
    singular: "namespace",
    plural: "namespaces",
    short: "ns",
    namespaced: false,
    ..CORE
};
/// A Secret.
pub(crate) static SECRET: Kind = Kind {
    kind: "Secret",
    singular: "secret",
    plural: "secrets",
    short: "secret",
    ..CORE
};
/// A ConfigMap.
pub(crate) static CONFIG_MAP: Kind = Kind {
    kind: "ConfigMap",
    singular: "configmap",
    plural: "configmaps",
    short: "cm",
    ..CORE
};
/// What happened.
pub(crate) static EVENT: Kind = Kind {
    kind: "Event",
    singular: "event",
    plural: "events",
    short: "ev",
    creatable: false,
    ..CORE
};

/// In the order help names them.
pub(crate) static ALL: [&Kind; 8] = [
    &POSTGRES,
    &SNAPSHOT,
    &DORMANT_DATABASE,
    &POSTGRES_VERSION,
    &NAMESPACE,
    &SECRET,
    &CONFIG_MAP,
    &EVENT,
];

impl Kind {
    /// As the client addresses it.
    pub(crate) fn api_resource(&self) -> ApiResource {
        let api_version = if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        };
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version,
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    fn is_called(&self, typed: &str) -> bool {
        [self.kind, self.singular, self.plural, self.short]
            .iter()
            .any(|name| name.eq_ignore_ascii_case(typed))
    }
}

/// Reads `pg`, `pg,snap` or `all`, in any case and spelling, without doubles.
pub(crate) fn parse_kinds(typed: &str) -> Result<Vec<&'static Kind>, CommandError> {
    let mut kinds: Vec<&'static Kind> = Vec::new();
    for part in typed
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let named: Vec<&'static Kind> = if part.eq_ignore_ascii_case("all") {
            vec![&POSTGRES, &SNAPSHOT, &DORMANT_DATABASE]
        } else {
            vec![parse_kind(part)?]
        };
        for kind in named {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    if kinds.is_empty() {
        return Err(CommandError::UnknownKind {
            typed: typed.to_owned(),
        });
    }
    Ok(kinds)
}

/// Reads one kind. A group after a dot, as in `postgreses.kubedb.com`, is accepted when it is the kind's.
pub(crate) fn parse_kind(typed: &str) -> Result<&'static Kind, CommandError> {
    ALL.into_iter()
        .find(|kind| {
            kind.is_called(typed)
                || typed
                    .split_once('.')
                    .is_some_and(|(name, group)| kind.is_called(name) && group == kind.group)
        })
        .ok_or_else(|| CommandError::UnknownKind {
            typed: typed.to_owned(),
        })
}

/// Finds the kind of a manifest by its `apiVersion` and `kind`; the error says what is meant instead, where that can be guessed.
pub(crate) fn by_manifest(api_version: &str, kind: &str) -> Result<&'static Kind, String> {
    let matches = |known: &&&Kind| known.api_resource().api_version == api_version;
    if let Some(known) = ALL.iter().filter(matches).find(|known| known.kind == kind) {
        return Ok(known);
    }
    let refused = format!("kubedb doesn't support a resource type \"{kind}\" of {api_version}");
    let meant = nearest(kind).filter(|known| known.creatable);
    Err(match meant {
        Some(known) => {
            let meant = known.api_resource();
            format!(
                "{refused}; did you mean \"{}\" of {}?",
                meant.kind, meant.api_version
            )
        }
        None => refused,
    })
}

/// The kind with a name that differs from what was typed by one letter in three, two at most.
pub(crate) fn nearest(typed: &str) -> Option<&'static Kind> {
    let typed = typed.to_lowercase();
    let distance = |kind: &Kind| {
        [kind.singular, kind.plural, kind.short]
            .iter()
            .map(|name| strsim::osa_distance(name, &typed))
            .min()
    };
    let limit = (typed.chars().count() / 3).min(2);
    ALL.into_iter()
        .filter_map(|kind| distance(kind).map(|letters| (letters, kind)))
        .filter(|(letters, _)| *letters <= limit)
        .min_by_key(|(letters, _)| *letters)
        .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_means_the_kind() {
        for typed in [
            "pg",
            "PG",
            "postgres",
            "Postgreses",
            "postgreses.kubedb.com",
        ] {
            assert_eq!(parse_kind(typed).unwrap(), &POSTGRES, "{typed}");
        }
        assert!(parse_kind("postgreses.example.com").is_err());
        let kinds = parse_kinds("snap,all,snapshots").unwrap();
        assert_eq!(kinds, [&SNAPSHOT, &POSTGRES, &DORMANT_DATABASE]);
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let error = parse_kinds("pg,mongo").unwrap_err();
        assert_eq!(
            error.to_string(),
            "kubedb doesn't support a resource type \"mongo\""
        );
        assert!(parse_kinds(",").is_err());
    }

    #[test]
    fn manifests_are_matched_by_group_too() {
        assert_eq!(by_manifest("v1", "Secret"), Ok(&SECRET));
        assert_eq!(
            by_manifest("kubedb.com/v1alpha1", "Postgres"),
            Ok(&POSTGRES)
        );
        for (api_version, kind) in [
            ("v1", "Postgres"),
            ("kubedb.com/v1", "Postgres"),
            ("kubedb.com/v1alpha1", "postgres"),
            ("kubedb.com/v1alpha1", "Postgress"),
        ] {
            let message = by_manifest(api_version, kind).unwrap_err();
            assert_eq!(
                message,
                format!(
                    "kubedb doesn't support a resource type \"{kind}\" of {api_version}; did you mean \"Postgres\" of kubedb.com/v1alpha1?"
                )
            );
        }
        assert_eq!(
            by_manifest("v1", "Pod").unwrap_err(),
            "kubedb doesn't support a resource type \"Pod\" of v1"
        );
    }

    #[test]
    fn near_misses_are_guessed_and_others_are_not() {
        for (typed, kind) in [
            ("postgress", &POSTGRES),
            ("Postgers", &POSTGRES),
            ("snapshto", &SNAPSHOT),
            ("secretes", &SECRET),
            ("evnt", &EVENT),
            ("pgg", &POSTGRES),
            ("pgversions", &POSTGRES_VERSION),
        ] {
            assert_eq!(nearest(typed), Some(kind), "{typed}");
        }
        for typed in ["mongo", "pod", "svc", "", "x", "mysql"] {
            assert_eq!(nearest(typed), None, "{typed}");
        }
        let hint = parse_kind("postgress").unwrap_err().hint().unwrap();
        assert!(hint.starts_with("did you mean postgres (pg)?"), "{hint}");
    }
}
