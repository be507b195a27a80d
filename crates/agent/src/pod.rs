//! An agent in a pod: what it finds out about itself, and how its program comes beside PostgreSQL's image.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use kubedb_api::agent_config::{AgentConfig, HEALTH_PORT, POSTGRES_PORT, PodConfig};
use kubedb_core::release::{fits, major, said};

/// Why an agent cannot run in its pod.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The pod's name has no ordinal.
    #[error(
        "failed to read the ordinal of pod {0:?}: a StatefulSet's pods are called NAME-0, NAME-1, …"
    )]
    ReadOrdinal(String),
    /// The image holds no PostgreSQL, or another.
    #[error("failed to find PostgreSQL {version} in the image; {found}")]
    FindPostgres {
        /// What the catalogue says.
        version: String,
        /// What there is instead.
        found: String,
    },
    /// A folder that it needs cannot be made.
    #[error("failed to make folder {path}")]
    PrepareVolume {
        /// The folder.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program could not be copied.
    #[error("failed to copy the program to {path}")]
    Install {
        /// Where to.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Everything an agent needs to know, from what all pods of the database are told and the name of its own.
pub fn configuration(pod: PodConfig, name: &str) -> Result<AgentConfig, PodError> {
    let (bin_directory, postgres_version) = find_postgres(&pod)?;
    let ordinal = name
        .strip_prefix(&pod.database)
        .and_then(|end| end.strip_prefix('-')?.parse().ok())
        .ok_or_else(|| PodError::ReadOrdinal(name.to_owned()))?;
    // The volume outlives the database: one made anew under the same name must not find another's data for its own.
    let directory = pod
        .volume
        .join(pod.data_uid.as_ref().unwrap_or(&pod.database_uid));
    // Sockets lie in an empty folder of the pod, and commands ask at one before PostgreSQL has made its own.
    for folder in [&directory, &pod.socket_directory] {
        make_private(folder).map_err(|source| PodError::PrepareVolume {
            path: folder.display().to_string(),
            source,
        })?;
    }
    Ok(AgentConfig {
        instance: name.to_owned(),
        ordinal,
        directory,
        socket_directory: pod.socket_directory,
        bin_directory,
        postgres_version,
        listen_address: "*".to_owned(),
        advertised_host: Some(format!("{name}.{}.{}.svc", pod.service, pod.namespace)),
        port: POSTGRES_PORT,
        kubeconfig: None,
        health_port: Some(HEALTH_PORT),
        metrics_port: None,
        namespace: pod.namespace,
        database: pod.database,
        database_uid: pod.database_uid,
        data_uid: pod.data_uid,
    })
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// The folder that the catalogue names; else where Debian, the images built on it and others have it; else the one of `PATH`.
fn find_postgres(pod: &PodConfig) -> Result<(PathBuf, String), PodError> {
    let major = major(&pod.version);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = match &pod.bin_directory {
        Some(folder) => vec![folder.clone()],
        None => [
            format!("/usr/lib/postgresql/{major}/bin"),
            format!("/usr/pgsql-{major}/bin"),
            format!("/usr/libexec/postgresql{major}"),
            "/usr/local/bin".to_owned(),
        ]
        .into_iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .collect(),
    };
    let mut others = Vec::new();
    for place in places {
        match version_of(&place) {
            Some(version) if fits(&pod.version, &version) => return Ok((place, version)),
            Some(version) => others.push(format!("{} holds {version}", place.display())),
            None => {}
        }
    }
    others.dedup();
    let found = if others.is_empty() {
        "there is none: name its folder in the PostgresVersion's spec.binDirectory".to_owned()
    } else {
        format!(
            "{}: the PostgresVersion names another image",
            others.join(", ")
        )
    };
    Err(PodError::FindPostgres {
        version: pod.version.clone(),
        found,
    })
}

/// Asks `postgres --version`; none where there is no such program.
fn version_of(folder: &Path) -> Option<String> {
    let output = Command::new(folder.join("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    said(&text)
        .filter(|_| output.status.success())
        .map(str::to_owned)
}

/// Puts this program where the database's container finds it, whole or not at all.
pub fn install(folder: &Path) -> Result<PathBuf, PodError> {
    use std::os::unix::fs::PermissionsExt as _;
    let (target, unfinished) = (folder.join("kubedb"), folder.join("kubedb.unfinished"));
    let copy = || {
        fs::copy("/proc/self/exe", &unfinished)?;
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o755))?;
        fs::File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, &target)
    };
    copy().map_err(|source| PodError::Install {
        path: target.display().to_string(),
        source,
    })?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn pod(folder: &Path, version: &str) -> PodConfig {
        PodConfig {
            namespace: "demo".to_owned(),
            database: "pg".to_owned(),
            database_uid: "u-1".to_owned(),
            data_uid: None,
            service: "pg-pods".to_owned(),
            volume: folder.join("volume"),
            socket_directory: folder.join("socket"),
            bin_directory: Some(folder.to_owned()),
            version: version.to_owned(),
        }
    }

    fn says(folder: &Path, version: &str) {
        let (text, program) = (folder.join("text"), folder.join("postgres"));
        let script = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n");
        fs::write(&text, script).unwrap();
        fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
        // Written by another process: a child that another test forks meanwhile would hold a file of ours open for writing, and nobody can run it then.
        let copied = Command::new("cp").arg(&text).arg(&program).status();
        assert!(copied.unwrap().success());
    }

    #[test]
    fn a_pod_knows_itself_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        says(folder.path(), "15.19 (Debian 15.19-0+deb12u1)");
        let config = configuration(pod(folder.path(), "15"), "pg-2").unwrap();
        assert_eq!((config.ordinal, &*config.postgres_version), (2, "15.19"));
        assert_eq!(config.endpoint(), "pg-2.pg-pods.demo.svc:5432");
        assert_eq!(config.directory, folder.path().join("volume/u-1"));
        assert!(config.directory.is_dir() && config.socket_directory.is_dir());
        let error = configuration(pod(folder.path(), "15"), "other-2").unwrap_err();
        assert!(matches!(error, PodError::ReadOrdinal(_)));
    }

    #[test]
    fn an_image_of_another_major_is_told() {
        let folder = tempfile::tempdir().unwrap();
        says(folder.path(), "16.1");
        let error = configuration(pod(folder.path(), "15"), "pg-0").unwrap_err();
        assert!(error.to_string().contains("holds 16.1"), "{error}");
        fs::remove_file(folder.path().join("postgres")).unwrap();
        let error = configuration(pod(folder.path(), "15"), "pg-0").unwrap_err();
        assert!(error.to_string().contains("spec.binDirectory"), "{error}");
    }

    #[test]
    fn the_program_is_copied_whole() {
        let folder = tempfile::tempdir().unwrap();
        let copied = install(folder.path()).unwrap();
        let own = fs::metadata("/proc/self/exe").unwrap().len();
        assert_eq!(fs::metadata(copied).unwrap().len(), own);
        // Again, over the one that runs.
        install(folder.path()).unwrap();
    }
}
