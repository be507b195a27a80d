//! Folders whose instances shall not run: of deleted databases, and of databases that were deleted while no server looked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    agent::{AgentProcess, Launch},
    database::REMOVED,
    layout::Layout,
    user::ServiceUser,
};

/// The instances of one folder, on their way down. The data stays.
#[derive(Debug)]
pub(super) struct Retiring {
    agents: Vec<AgentProcess>,
}

impl Retiring {
    /// Takes over instances that ran here.
    pub(super) fn new(agents: impl IntoIterator<Item = AgentProcess>) -> Self {
        let mut retiring = Self {
            agents: agents.into_iter().collect(),
        };
        retiring.agents.iter_mut().for_each(AgentProcess::terminate);
        retiring
    }

    /// Looks for what runs in a folder that this server never opened, of the instances that `is_meant` says.
    pub(super) fn find(folder: &Path, user: ServiceUser, is_meant: impl Fn(&str) -> bool) -> Self {
        let meant = instances(folder);
        let meant = meant.into_iter().filter(|instance| is_meant(instance));
        let launches = meant.map(|instance| Launch {
            program: PathBuf::new(),
            config: Layout::agent(folder, &instance).join("agent.json"),
            log: Layout::agent(folder, &instance).join("agent.log"),
            folder: folder.join(&instance),
            user,
        });
        Self::new(launches.map(AgentProcess::adopt).collect::<Vec<_>>())
    }

    /// Whether nothing of it runs any more.
    pub(super) fn is_down(&mut self) -> bool {
        // Every instance is asked: they end side by side.
        self.agents
            .iter_mut()
            .filter_map(|agent| (!agent.is_down()).then_some(()))
            .count()
            == 0
    }
}

/// Names of the instances that a database's folder has, or had agents for.
fn instances(folder: &Path) -> Vec<String> {
    let database = folder.file_name().unwrap_or_default().to_string_lossy();
    // The folder is called `<database>-<uid>`.
    let database = database.rsplit_once('-').map_or("", |(name, _)| name);
    let is_instance = |name: &String| {
        name.strip_prefix(database)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|ordinal| ordinal.parse::<u32>().is_ok())
    };
    let mut names = names(folder);
    names.extend(names_of_agents(folder));
    names.retain(is_instance);
    names.sort();
    names.dedup();
    names
}

fn names_of_agents(folder: &Path) -> Vec<String> {
    names(&folder.join("agents"))
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Every database's folder.
pub(super) fn folders(layout: &Layout) -> Vec<PathBuf> {
    let namespaces = names(&layout.databases());
    namespaces
        .iter()
        .map(|namespace| layout.databases().join(namespace))
        .flat_map(|namespace| {
            let databases = names(&namespace);
            // What is being removed is nobody's any more.
            let databases = databases.into_iter().filter(|name| !name.contains(REMOVED));
            databases
                .map(move |name| namespace.join(name))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_told_from_what_else_lies_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("my-pg-0a1b2c3d");
        for name in [
            "my-pg-0",
            "my-pg-1",
            "my-pg-1.removed-x",
            "agents/my-pg-2",
            "my-pg-x",
        ] {
            fs::create_dir_all(database.join(name)).unwrap();
        }
        fs::write(database.join("platform.json"), "{}").unwrap();
        assert_eq!(instances(&database), ["my-pg-0", "my-pg-1", "my-pg-2"]);
    }
}
