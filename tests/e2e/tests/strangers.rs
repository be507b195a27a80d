//! Other users of the machine, tried by being one: what they can read, whom they can call, what they see of processes.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kubedb_e2e::{
    kubedb::{Ran, Server, copy_of_binary, run},
    machine::Machine,
    wait::eventually,
};

/// `nobody` on Debian and elsewhere.
const NOBODY: u32 = 65_534;
/// Tells each path of its input that can be read, listed or written. A folder that is only passed through is none of them.
const TRY_ALL: &str = r#"while IFS= read -r path; do
    if [ -d "$path" ]; then ls "$path" >/dev/null 2>&1 && echo "lists $path"
    elif [ -S "$path" ]; then :
    else head -c 1 "$path" >/dev/null 2>&1 && echo "reads $path"; fi
    [ -w "$path" ] && echo "writes $path"
done; true"#;

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}

/// Runs a program as another user, who has a folder of their own.
fn as_user(
    user: u32,
    home: &Path,
    program: impl AsRef<Path>,
    arguments: &[&str],
    input: &str,
) -> Ran {
    let mut command = Command::new(program.as_ref());
    command
        .args(arguments)
        .current_dir(home)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home)
        .uid(user)
        .gid(user);
    run(&mut command, input).unwrap()
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path()).collect::<Vec<_>>());
        next += 1;
    }
    found
}

fn lines(paths: &[PathBuf]) -> String {
    let lines: Vec<String> = paths
        .iter()
        .map(|path| format!("{}\n", path.display()))
        .collect();
    lines.concat()
}

struct World {
    machine: Machine,
    server: Server,
    home: PathBuf,
}

impl World {
    /// A server with a database that runs, and a folder of the stranger's.
    fn new() -> Self {
        let machine = Machine::new().unwrap();
        let server = machine.start().unwrap();
        let manifest = "apiVersion: kubedb.com/v1alpha1\nkind: Postgres\nmetadata: {name: pg}\nspec:\n  version: \"15\"\n  storage: {resources: {requests: {storage: 50Mi}}}\n";
        let created = server.kubedb(&["create", "-f", "-"], manifest).unwrap();
        assert_eq!(created.code, 0, "{}", created.stderr);
        eventually("a database", Duration::from_secs(60), || {
            let object = server.object("pg", "pg", "default")?;
            match object["status"]["phase"] == "Running" {
                true => Ok(()),
                false => Err(object["status"].to_string()),
            }
        });
        let home = machine.scratch().join("stranger");
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
        Self {
            machine,
            server,
            home,
        }
    }

    fn shell(&self, user: u32, script: &str, input: &str) -> String {
        let ran = as_user(user, &self.home, "/bin/sh", &["-c", script], input);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout
    }

    /// What the user can do with what lies under a folder; programs and links to them excepted.
    fn reach(&self, user: u32, folder: &Path) -> String {
        let programs = self.machine.data().join("bin");
        let mut paths = paths(folder);
        paths.retain(|path| !path.starts_with(&programs) && !path.is_symlink());
        assert!(paths.len() > 2, "{paths:?}");
        self.shell(user, TRY_ALL, &lines(&paths))
    }
}

/// Nothing else can be shown to whoever runs the tests as somebody who cannot become anybody else.
fn skipped() -> bool {
    let skipped = !is_root();
    if skipped {
        eprintln!("NOTHING IS SHOWN ABOUT OTHER USERS: only root can be one");
    }
    skipped
}

#[test]
fn a_stranger_reads_no_file_and_no_process() {
    if skipped() {
        return;
    }
    let world = World::new();
    // The trial finds what can be found.
    let open = world.home.join("open");
    fs::create_dir(&open).unwrap();
    for index in 0..5 {
        let file = open.join(format!("file {index}"));
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let found = world.reach(NOBODY, &open);
    assert_eq!(found.matches("reads ").count(), 5, "{found}");

    assert_eq!(world.reach(NOBODY, world.machine.data()), "");
    // PostgreSQL's user owns the databases; the API's file, its keys and the administrator's token are not theirs.
    let databases = fs::metadata(world.machine.data().join("databases/default")).unwrap();
    let user = paths(&world.machine.data().join("databases"))
        .iter()
        .filter_map(|path| fs::metadata(path).ok().map(|found| found.uid()))
        .find(|uid| *uid != 0);
    let user = user.unwrap_or_else(|| panic!("{databases:?}: nobody's databases"));
    let api = world.machine.data().join("api");
    assert_eq!(world.reach(user, &api), "");

    let mut processes = world.machine.instances();
    assert!(processes.len() >= 2, "{processes:?}");
    processes.push(world.server.id());
    for process in processes {
        let secret: Vec<PathBuf> = ["environ", "mem", "maps", "fd", "cwd/."]
            .iter()
            .map(|file| PathBuf::from(format!("/proc/{process}/{file}")))
            .collect();
        assert_eq!(world.shell(NOBODY, TRY_ALL, &lines(&secret)), "");
        // They see that it runs, and nothing of what it is given: see `no_secret_is_in_a_command_line_…`.
        let kill = format!("kill -0 {process} 2>/dev/null && echo reached || true");
        assert_eq!(world.shell(NOBODY, &kill, ""), "");
    }
}

#[test]
fn a_stranger_can_call_nobody() {
    if skipped() {
        return;
    }
    let world = World::new();
    let program = copy_of_binary(&world.home).unwrap();
    let kubedb = |arguments: &[&str]| as_user(NOBODY, &world.home, &program, arguments, "");
    let given = kubedb(&["get", "pg", "--kubeconfig", world.server.kubeconfig()]);
    assert_ne!(given.code, 0);
    assert!(
        given.stderr.contains("ermission denied"),
        "{}",
        given.stderr
    );

    // The address is no secret; the authority's certificate need not be one either.
    let kubeconfig = fs::read_to_string(world.server.kubeconfig()).unwrap();
    let (before, token) = kubeconfig.split_once("token: ").unwrap();
    let end = token.find('\n').unwrap_or(token.len());
    for (name, guess) in [("guessed", "x".repeat(43)), ("empty", String::new())] {
        let path = world.home.join(name);
        let text = format!("{before}token: \"{guess}\"{}", &token[end..]);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let ran = kubedb(&["get", "pg", "--kubeconfig", path.to_str().unwrap()]);
        assert_ne!(ran.code, 0, "{name}: {}", ran.stdout);
        assert!(!ran.stderr.contains("ermission denied"), "{}", ran.stderr);
    }

    // PostgreSQL, at its port and at its socket.
    let status = world.server.object("pg", "pg", "default").unwrap()["status"].clone();
    let endpoint = status["endpoints"].to_string();
    let port: String = endpoint
        .split_once("127.0.0.1:")
        .unwrap_or_else(|| panic!("{status}"))
        .1
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let psql = "/usr/lib/postgresql/15/bin/psql";
    for user in ["postgres", "kubedb", "replicator"] {
        let arguments = [
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            user,
            "-w",
            "-Atc",
            "select 1",
            "postgres",
        ];
        let ran = as_user(NOBODY, &world.home, psql, &arguments, "");
        assert_ne!(ran.code, 0, "{user}: {}", ran.stdout);
    }
    let sockets: Vec<PathBuf> = paths(world.machine.data())
        .into_iter()
        .filter(|path| {
            use std::os::unix::fs::FileTypeExt as _;
            fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
        })
        .collect();
    assert!(!sockets.is_empty(), "an instance listens at a socket");
    for socket in sockets {
        let (folder, name) = (socket.parent().unwrap(), socket.file_name().unwrap());
        // The agent's own lies beside PostgreSQL's; nobody gets into the folder.
        if !name.to_str().unwrap().starts_with(".s.PGSQL.") {
            let arguments = ["-l", socket.to_str().unwrap()];
            let ran = as_user(NOBODY, &world.home, "/bin/ls", &arguments, "");
            assert!(ran.stderr.contains("ermission denied"), "{}", ran.stderr);
            continue;
        }
        let port = name
            .to_str()
            .unwrap()
            .trim_start_matches(".s.PGSQL.")
            .to_owned();
        let folder = folder.to_str().unwrap();
        let arguments = [
            "-h", folder, "-p", &port, "-U", "postgres", "-w", "-Atc", "select 1", "postgres",
        ];
        let ran = as_user(NOBODY, &world.home, psql, &arguments, "");
        assert_ne!(ran.code, 0, "{}", ran.stdout);
        assert!(ran.stderr.contains("ermission denied"), "{}", ran.stderr);
    }
}
