//! Whatever dies or goes away, what was acknowledged comes back.

use std::time::Duration;

use kubedb_e2e::{
    by_hand::User, instance::Instance, process::signal, wait::eventually, world::World,
};
use serde_json::Value;

use crate::source::{ROWS, Source};

#[test]
fn t04_t05_nothing_is_lost_while_the_store_is_away() {
    let world = World::new();
    let source = Source::begin(&world, "src", "15");
    source.step(1);
    source.archive();
    world.line.cut(true);
    source.step(2);
    source.sql("SELECT pg_switch_wal()");
    source.step(3);
    source.sql("SELECT pg_switch_wal()");
    let failing = eventually("a reason", Duration::from_secs(120), || {
        let archive = source.archive_status();
        if archive["reason"].is_string() {
            Ok(archive)
        } else {
            Err(archive.to_string())
        }
    });
    assert!(failing["failingSince"].is_string(), "{failing}");
    // The agent dies, and so does what it had begun.
    signal(world.agent("src", 0).unwrap(), 9);
    source.step(4);
    world.line.cut(false);
    source.archive();
    assert_eq!(source.archive_status()["reason"], Value::Null);
    assert_eq!(source.recovered("base", "{timeline: latest}"), "1 2 3 4");
}

#[test]
fn t19_a_recovery_that_is_killed_or_loses_its_store_begins_anew_and_comes_whole() {
    let world = World::new();
    let source = Source::begin(&world, "src", "15");
    for step in 1..=6 {
        source.step(step);
        source.archive();
    }
    source.recover("back", "base", "{timeline: latest}");
    for delay in [0, 150, 400, 900] {
        let what = "an agent that restores, or is done";
        let agent = eventually(what, Duration::from_secs(60), || {
            let object = world.server.object("pg", "back", "demo")?;
            let phase = &object["status"]["instances"]["back-0"]["phase"];
            let is_at_work = phase == "Restoring" || phase == "Running";
            world
                .agent("back", 0)
                .filter(|_| is_at_work)
                .ok_or_else(|| object["status"].to_string())
        });
        std::thread::sleep(Duration::from_millis(delay));
        signal(agent, 9);
    }
    // The store goes away for a while, whatever is being fetched.
    world.line.cut(true);
    std::thread::sleep(Duration::from_secs(5));
    world.line.cut(false);
    world.status("pg", "back", "Running", 180);
    world.sql_becomes("back", ROWS, "1 2 3 4 5 6");
    let kept = world.instance("back", 0).join("data.new");
    assert!(!kept.exists());
}

/// Kills the server first, so that nobody starts again what dies with it.
fn kill_everything(world: &mut World) {
    let victims = [
        world.agent("src", 0).unwrap(),
        world.postmaster("src", 0).unwrap(),
    ];
    world.server.kill();
    for victim in victims {
        signal(victim, 9);
    }
}

#[test]
fn t04_a_server_that_starts_while_the_api_is_away_archives_nothing_into_nowhere() {
    let mut world = World::new();
    {
        let source = Source::begin(&world, "src", "15");
        source.step(1);
        source.archive();
    }
    let instance = Instance::of(&world, "src", 0);
    let config = world.agent_folder("src", 0).join("agent.json");
    let log = world.folder().join("lonely agent.log");
    // Where the server has put it: PostgreSQL's user need not reach the folder that it was built in.
    let agent = world.agent("src", 0).unwrap();
    let program = std::fs::read_link(format!("/proc/{agent}/exe")).unwrap();
    kill_everything(&mut world);
    // As a kubelet restarts a container while no API server answers.
    let mut agent = User::of(&instance.data())
        .command(&program)
        .args(["agent", "run", "--config"])
        .arg(config)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    instance.becomes("SELECT pg_is_in_recovery()", "f");
    instance.sql("INSERT INTO step VALUES (2)").unwrap();
    let file = instance
        .sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
        .unwrap();
    instance.sql("SELECT pg_switch_wal()").unwrap();
    // What was archived before may still be counted, or not: that depends on how the server ended.
    let query = format!(
        "SELECT last_failed_time > pg_postmaster_start_time() AND coalesce(last_archived_wal, '') < '{file}', pg_stat_archiver, \
         pg_postmaster_start_time(), ARRAY(SELECT pg_ls_dir('pg_wal/archive_status')) FROM pg_stat_archiver"
    );
    eventually("failure to archive", Duration::from_secs(60), || {
        let found = instance.sql(&query)?;
        let told = || std::fs::read_to_string(&log).unwrap_or_default();
        let is_told = found.starts_with("t|");
        is_told
            .then_some(())
            .ok_or_else(|| format!("{found}\n{}", told()))
    });
    signal(agent.id(), 15);
    agent.wait().unwrap();
    world.server.kill_and_restart().unwrap();
    world.sql_becomes("src", "SELECT count(*) FROM step", "2");
    let source = Source {
        world: &world,
        name: "src".to_owned(),
        version: "15",
    };
    source.archive();
    assert_eq!(source.recovered("base", "{timeline: latest}"), "1 2");
}

#[test]
fn what_was_committed_behind_the_last_whole_segment_outlives_the_machine() {
    let mut world = World::new();
    let (folder, rows) = {
        let source = Source::begin(&world, "src", "15");
        source.step(1);
        source.archive();
        eventually("pieces that go", Duration::from_secs(60), || {
            // Whole segments take their place.
            let begun = source.begun();
            begun.is_empty().then_some(()).ok_or(format!("{begun:?}"))
        });
        source.step(2);
        source.covered(&source.now());
        // The server crashes, and what it writes behind its crash is another generation.
        signal(world.agent("src", 0).unwrap(), 9);
        signal(world.postmaster("src", 0).unwrap(), 9);
        world.sql_becomes("src", ROWS, "1 2");
        // PostgreSQL ends a segment when its time has come, which may be just now.
        for step in 3..=9 {
            source.step(step);
            source.covered(&source.now());
            if !source.begun().is_empty() {
                break;
            }
        }
        assert!(!source.begun().is_empty());
        (world.instance("src", 0), source.sql(ROWS))
    };
    kill_everything(&mut world);
    eventually("end of all", Duration::from_secs(30), || {
        let left = kubedb_e2e::world::processes(&["postgres", &folder.to_string_lossy()]);
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    });
    std::fs::remove_dir_all(folder).unwrap();
    world.server.kill_and_restart().unwrap();
    let source = Source {
        world: &world,
        name: "src".to_owned(),
        version: "15",
    };
    assert_eq!(source.recovered("base", "{timeline: latest}"), rows);
}

#[test]
fn t25_what_was_committed_before_a_pause_comes_back_from_the_archive_alone() {
    let world = World::new();
    let source = Source::begin(&world, "src", "15");
    source.step(1);
    // At once: nothing waits for anything to be archived.
    world.delete("pg", "src");
    eventually("a paused database", Duration::from_secs(90), || {
        let record = world.server.object("drmn", "src", "demo")?;
        let phase = &record["status"]["phase"];
        (phase == "Paused").then_some(()).ok_or(record.to_string())
    });
    assert_eq!(source.recovered("base", "{timeline: latest}"), "1");
}
