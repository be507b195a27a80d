//! How data folders come into being, with real programs: nothing of a killed agent gets in the way of the next.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use kubedb_agent::{
    bootstrap::Place,
    paths::{Paths, STATE_FILE},
    postgres::leftovers::end_leftovers,
    state::{self, InstanceState, StoredRole},
};
use kubedb_engine::postgres::dialect::PgDialect;

fn place(folder: &Path) -> Place {
    Place {
        paths: Paths::new(folder, &folder.join("run")),
        bin_directory: PathBuf::from("/usr/lib/postgresql/15/bin"),
        dialect: PgDialect::of("15.2").unwrap(),
        socket_port: 5_432,
        volume_bytes: None,
        is_alone: true,
    }
}

fn state(lineage: &str) -> InstanceState {
    InstanceState {
        database_uid: "uid".to_owned(),
        lineage: lineage.to_owned(),
        system_identifier: 7,
        timeline: 1,
        epoch: 0,
        role: StoredRole::Primary,
        last_primary: None,
        postgres_version: "15.2".to_owned(),
        archives: false,
    }
}

#[test]
fn wherever_the_last_step_is_cut_off_there_is_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    let (data, new_data) = (place.paths.data(), place.paths.new_data());
    fs::create_dir(&new_data).unwrap();
    fs::write(new_data.join("rows"), "1").unwrap();

    // Cut off before the rename: the instance does not exist.
    state::write(&new_data.join(STATE_FILE), &state("one")).unwrap();
    assert_eq!(state::claim(&place.paths).unwrap(), None);
    // Cut off after it, before the state stands beside the data: it exists, and stays so.
    fs::rename(&new_data, &data).unwrap();
    for _ in 0..2 {
        assert_eq!(state::claim(&place.paths).unwrap(), Some(state("one")));
        assert!(place.paths.state().exists() && !data.join(STATE_FILE).exists());
    }
    // The state beside the data counts, whatever a copy brings within.
    state::write(&data.join(STATE_FILE), &state("other")).unwrap();
    assert_eq!(state::claim(&place.paths).unwrap(), Some(state("one")));

    // A folder that nobody claims is set aside, not thrown away.
    state::forget(&place.paths.state()).unwrap();
    fs::remove_file(data.join(STATE_FILE)).unwrap();
    fs::create_dir(&new_data).unwrap();
    place.finish(&state("two")).unwrap();
    assert_eq!(state::claim(&place.paths).unwrap(), Some(state("two")));
    let aside = folder.path().join("data.unclaimed-two/rows");
    assert_eq!(fs::read_to_string(aside).unwrap(), "1");

    // A damaged state is no absent one.
    fs::write(place.paths.state(), "{").unwrap();
    let error = state::claim(&place.paths).unwrap_err();
    assert!(error.to_string().contains(STATE_FILE), "{error}");
}

/// A process that works on a folder as an initdb or a script does.
fn worker(mark: Option<&Path>, folder: &Path) -> std::process::Child {
    let mut command = Command::new("sleep");
    command.arg("60").current_dir(folder).stdin(Stdio::null());
    if let Some(mark) = mark {
        command.env("KUBEDB_BOOTSTRAP", mark);
    }
    command.spawn().unwrap()
}

#[tokio::test]
async fn processes_of_a_killed_agents_bootstrap_are_ended_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    let new_data = place.paths.new_data();
    fs::create_dir(&new_data).unwrap();
    let other_folder = folder.path().join("data.new-2");
    let mut ours = worker(Some(&new_data), folder.path());
    let mut other = worker(Some(&other_folder), folder.path());
    // A shell that somebody opened in the folder.
    let mut shell = worker(None, &new_data);

    let waiting = tokio::task::spawn_blocking(move || {
        let status = ours.wait().unwrap();
        std::os::unix::process::ExitStatusExt::signal(&status)
    });
    tokio::time::timeout(Duration::from_secs(20), place.clear())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(waiting.await.unwrap(), Some(9));
    assert!(!new_data.exists());
    assert!(other.try_wait().unwrap().is_none() && shell.try_wait().unwrap().is_none());
    end_leftovers(&new_data).await.unwrap();
    for child in [&mut other, &mut shell] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
