//! What a server on this machine has of its databases: folders and processes.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use crate::{kubedb::Server, wait::eventually, world::processes};

#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a helper that fails is a failed test"
)]
impl Server {
    /// Folder of an instance.
    #[must_use]
    pub fn instance(&self, database: &str, ordinal: u32) -> PathBuf {
        self.folder_of(database)
            .join(format!("{database}-{ordinal}"))
    }

    /// Folder of a database, which its UID is part of; the server makes it soon after the object.
    fn folder_of(&self, database: &str) -> PathBuf {
        let object = self.object("pg", database, "demo");
        let object = object.expect("the database");
        let resumed = &object["status"]["resumed"]["uid"];
        let own = &object["metadata"]["uid"];
        let uid = if resumed.is_string() { resumed } else { own };
        let short: String = uid.as_str().unwrap_or_default().chars().take(8).collect();
        let folder = self
            .data_folder()
            .join("databases/demo")
            .join(format!("{database}-{short}"));
        eventually("the database's folder", Duration::from_secs(60), || {
            if folder.is_dir() {
                Ok(())
            } else {
                Err(folder.display().to_string())
            }
        });
        folder
    }

    /// Puts a file of bytes that do not compress, other ones each time, into an instance's data folder; Snapshots hold it as they hold any
    /// file there, and no earlier one has it.
    pub fn write_noise(&self, database: &str, ordinal: u32, bytes: usize) {
        let data = self.instance(database, ordinal).join("data");
        let owner = fs::metadata(&data).expect("the data folder");
        let path = data.join("noise");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.expect("a time after 1970").subsec_nanos();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(now);
        let noise: Vec<u8> = (0..bytes / 8)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        fs::write(&path, noise).expect("room for noise");
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()))
            .expect("to hand it over");
    }

    /// What the server keeps of an instance's agent: its configuration and its log.
    #[must_use]
    pub fn agent_folder(&self, database: &str, ordinal: u32) -> PathBuf {
        let instance = format!("{database}-{ordinal}");
        self.folder_of(database).join("agents").join(instance)
    }

    /// Process ids of an instance's agents, of which there is one at most.
    #[must_use]
    pub fn agents(&self, database: &str, ordinal: u32) -> Vec<u32> {
        let config = self.agent_folder(database, ordinal).join("agent.json");
        processes(&["agent", "run", &config.to_string_lossy()])
    }

    /// Process id of an instance's PostgreSQL, by its lock file.
    #[must_use]
    pub fn postmaster(&self, database: &str, ordinal: u32) -> Option<u32> {
        let lock = self.instance(database, ordinal).join("data/postmaster.pid");
        fs::read_to_string(lock).ok()?.lines().next()?.parse().ok()
    }
}
