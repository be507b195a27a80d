//! The readers, and what each promises.

mod postgres;
mod repository;
mod schedule;
mod walg;
mod wire;
mod written;

/// A reader, and inputs to begin with.
#[derive(Debug)]
pub struct Target {
    /// As `--target` and folders name it.
    pub name: &'static str,
    /// Reads, and checks its promises. The answer says which way it went.
    pub run: fn(&[u8]) -> String,
    /// Inputs beside those in `seeds/` and `regressions/`.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "manifest",
        run: repository::manifest,
        seeds: repository::manifest_seeds,
    },
    Target {
        name: "map",
        run: repository::map,
        seeds: repository::map_seeds,
    },
    Target {
        name: "pack",
        run: repository::pack,
        seeds: repository::pack_seeds,
    },
    Target {
        name: "sealed",
        run: repository::sealed,
        seeds: repository::sealed_seeds,
    },
    Target {
        name: "wrapped_key",
        run: repository::wrapped_key,
        seeds: repository::wrapped_key_seeds,
    },
    Target {
        name: "keys",
        run: repository::keys,
        seeds: repository::key_seeds,
    },
    Target {
        name: "statements",
        run: repository::statements,
        seeds: repository::statement_seeds,
    },
    Target {
        name: "contents",
        run: repository::contents,
        seeds: repository::contents_seeds,
    },
    Target {
        name: "tar",
        run: postgres::tar,
        seeds: postgres::tar_seeds,
    },
    Target {
        name: "tar_of_others",
        run: walg::tar,
        seeds: walg::tar_seeds,
    },
    Target {
        name: "sentinel",
        run: walg::sentinel,
        seeds: walg::sentinel_seeds,
    },
    Target {
        name: "packed",
        run: walg::packed,
        seeds: walg::packed_seeds,
    },
    Target {
        name: "increment",
        run: walg::increment,
        seeds: walg::increment_seeds,
    },
    Target {
        name: "backup_label",
        run: postgres::backup_label,
        seeds: postgres::label_seeds,
    },
    Target {
        name: "control",
        run: postgres::control,
        seeds: postgres::control_seeds,
    },
    Target {
        name: "wal",
        run: postgres::wal,
        seeds: postgres::wal_seeds,
    },
    Target {
        name: "lsn",
        run: postgres::lsn,
        seeds: postgres::lsn_seeds,
    },
    Target {
        name: "walsender",
        run: wire::walsender,
        seeds: wire::seeds,
    },
    Target {
        name: "schedule",
        run: schedule::schedule,
        seeds: schedule::seeds,
    },
    Target {
        name: "within",
        run: schedule::within,
        seeds: schedule::within_seeds,
    },
    Target {
        name: "yaml",
        run: written::yaml,
        seeds: written::yaml_seeds,
    },
    Target {
        name: "objects",
        run: written::objects,
        seeds: written::object_seeds,
    },
];

/// The answer of a reader as a text.
fn said<T>(result: Result<T, impl std::fmt::Display>) -> String {
    match result {
        Ok(_) => "read".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
