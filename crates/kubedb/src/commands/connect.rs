//! `kubedb connect`: psql on a database, or where to point another client.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use kube::Api;
use kubedb_api::protocol::InstanceRole;
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::Config;
use url::Url;

use super::selection::{self, NamespaceArgs};
use crate::{
    client::{
        ServerArgs, Session, is_pod,
        kinds::{POSTGRES, parse_kind},
        tunnel::Tunnel,
    },
    error::CommandError,
    ui::Ui,
};

/// The superuser, as in the original.
const USER: &str = "postgres";
/// Key of the Secret.
const PASSWORD_KEY: &str = "POSTGRES_PASSWORD";
/// Where Debian keeps clients that are not in `PATH`.
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";

const EXAMPLES: &str = "\
psql is looked for in PATH and in /usr/lib/postgresql. The password goes to it in its environment. A database in a
cluster is reached through its API server, where this machine is none of the cluster's.

Examples:
  kubedb connect pg scheduled-pg -n demo
  kubedb connect pg scheduled-pg -n demo -- -c 'select pg_is_in_recovery()'
  kubedb connect pg scheduled-pg -n demo --standby
  psql \"$(kubedb connect pg scheduled-pg -n demo --url --show-password)\"";

/// What `connect` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct ConnectArgs {
    /// pg NAME or pg/NAME
    #[arg(value_name = "TYPE NAME", required = true, num_args = 1..=2)]
    pub(crate) object: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
    /// A standby in place of the primary
    #[arg(long)]
    pub(crate) standby: bool,
    /// Print the address and start nothing
    #[arg(long)]
    pub(crate) url: bool,
    /// Put the password into the printed address
    #[arg(long, requires = "url")]
    pub(crate) show_password: bool,
    /// Database to connect to
    #[arg(short, long, value_name = "NAME", default_value = "postgres")]
    pub(crate) database: String,
    /// Arguments for psql
    #[arg(last = true, value_name = "PSQL ARGUMENTS", conflicts_with = "url")]
    pub(crate) psql: Vec<OsString>,
}

pub(super) async fn run(
    arguments: ConnectArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let name = database_name(&arguments.object)?;
    let namespace = arguments.namespace.namespace.as_str();
    let session = Session::open(server).await?;
    let api: Api<kubedb_api::Postgres> = Api::namespaced(session.client.clone(), namespace);
    let postgres = api
        .get(&name)
        .await
        .map_err(|error| session.fail(error, None))?;
    let address = endpoint(&postgres, arguments.standby, namespace)?;
    let pod = pod_behind(&address, &postgres, arguments.standby);
    let secret = secret_name(&postgres);
    let place = format!("the password is in Secret {secret}, key {PASSWORD_KEY}");
    if let Some(pod) = pod.as_ref().filter(|_| arguments.url) {
        ui.note(&format!(
            "the address is one of the cluster; from elsewhere: kubectl port-forward -n {namespace} pod/{pod} 5432"
        ));
    }
    if arguments.show_password {
        let password = password(&session, namespace, &secret).await?;
        ui.data(url(&address, &arguments.database, Some(&password))?.as_str());
        return Ok(());
    }
    let url = url(&address, &arguments.database, None)?;
    if arguments.url {
        ui.note(&place);
        ui.data(url.as_str());
        return Ok(());
    }
    let Some(psql) = find_psql() else {
        ui.data(url.as_str());
        return without_psql(&arguments.psql, &place, ui);
    };
    let password = password(&session, namespace, &secret).await?;
    let command = |url: &Url| {
        // The address is no secret; the password must not be seen in the list of processes.
        let mut command = Command::new(&psql);
        command
            .arg(url.as_str())
            .args(&arguments.psql)
            .env("PGPASSWORD", password);
        command
    };
    let failed = |source| CommandError::Local {
        doing: format!("start {}", psql.display()),
        source,
    };
    match pod {
        None => Err(failed(command(&url).exec())),
        Some(pod) => {
            let tunnel = Tunnel::open(session.client.clone(), namespace, &pod).await?;
            let url = self::url(&tunnel.address.to_string(), &arguments.database, None)?;
            beside(command(&url)).await.map_err(failed)?
        }
    }
}

/// Runs a client while a tunnel is kept open beside it. Ctrl-C is the client's.
async fn beside(command: Command) -> io::Result<Result<(), CommandError>> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut child = tokio::process::Command::from(command).spawn()?;
    loop {
        tokio::select! {
            ended = child.wait() => {
                let code = ended?.code().and_then(|code| u8::try_from(code).ok());
                return Ok(match code {
                    Some(0) => Ok(()),
                    code => Err(CommandError::Reported { code: code.unwrap_or(1) }),
                });
            }
            _ = interrupts.recv() => {}
        }
    }
}

/// The pod whose PostgreSQL an address of a cluster leads to; none where the address leads there from here.
fn pod_behind(address: &str, postgres: &kubedb_api::Postgres, standby: bool) -> Option<String> {
    let (host, _) = address.rsplit_once(':')?;
    let status = postgres
        .status
        .as_ref()
        .filter(|_| host.ends_with(".svc") && !is_pod())?;
    if !standby {
        return status.primary.clone();
    }
    let mut instances = status.instances.iter();
    let found =
        instances.find(|(_, report)| report.ready && report.role == Some(InstanceRole::Standby));
    found.map(|(name, _)| name.clone())
}

/// Where a program of ours reaches the primary, and what must live as long as it does.
pub(super) async fn reach(
    session: &Session,
    postgres: &kubedb_api::Postgres,
    namespace: &str,
) -> Result<(Config, Option<Tunnel>), CommandError> {
    let address = endpoint(postgres, false, namespace)?;
    let pod = pod_behind(&address, postgres, false);
    let tunnel = match pod {
        Some(pod) => Some(Tunnel::open(session.client.clone(), namespace, &pod).await?),
        None => None,
    };
    let address = tunnel
        .as_ref()
        .map_or(address, |tunnel| tunnel.address.to_string());
    let password = password(session, namespace, &secret_name(postgres)).await?;
    let mut url = url(&address, "postgres", Some(&password))?;
    url.set_query(Some("connect_timeout=10&application_name=kubedb"));
    let config = url.as_str().parse();
    let config = config.map_err(|source| CommandError::Server {
        doing: "read the database's address",
        source: Box::<dyn std::error::Error + Send + Sync>::from(source),
    });
    Ok((config?, tunnel))
}

/// The address serves any client; statements for psql would have been lost.
fn without_psql(statements: &[OsString], place: &str, ui: &Ui) -> Result<(), CommandError> {
    let hint =
        "apt install postgresql-client brings psql; any other client takes the address above";
    if statements.is_empty() {
        ui.note(&format!("psql is not installed; {place}\n\nhint: {hint}"));
        return Ok(());
    }
    Err(CommandError::State {
        message: format!("failed to find psql, which was given arguments; {place}"),
        hint: Some(hint.to_owned()),
    })
}

fn database_name(object: &[String]) -> Result<String, CommandError> {
    let (kind, name) = match object {
        [pair] => pair.split_once('/').ok_or_else(|| {
            CommandError::usage("the name of a database is missing: kubedb connect pg NAME")
        })?,
        [kind, name] => (kind.as_str(), name.as_str()),
        _ => return Err(CommandError::usage("one database at a time")),
    };
    if parse_kind(kind)? != &POSTGRES {
        let message = format!("resource type \"{kind}\" doesn't support connect operation");
        return Err(CommandError::usage(message));
    }
    selection::check_name(name)?;
    Ok(name.to_owned())
}

/// `host:port` of the primary, or of the first standby that has one.
fn endpoint(
    postgres: &kubedb_api::Postgres,
    standby: bool,
    namespace: &str,
) -> Result<String, CommandError> {
    let name = postgres.metadata.name.as_deref().unwrap_or_default();
    let endpoints = postgres
        .status
        .as_ref()
        .and_then(|status| status.endpoints.clone());
    let endpoints = endpoints.unwrap_or_default();
    let (found, what) = if standby {
        (
            endpoints.standbys.into_iter().next(),
            "standby that accepts connections",
        )
    } else {
        (endpoints.primary, "primary that accepts connections")
    };
    found.ok_or_else(|| CommandError::State {
        message: format!("postgres \"{name}\" has no {what}"),
        hint: Some(format!("kubedb describe pg {name} -n {namespace} says why")),
    })
}

fn secret_name(postgres: &kubedb_api::Postgres) -> String {
    let named = postgres.spec.database_secret.as_ref();
    let named = named.and_then(|secret| secret.secret_name.clone());
    let name = postgres.metadata.name.as_deref().unwrap_or_default();
    named.unwrap_or_else(|| format!("{name}-auth"))
}

async fn password(
    session: &Session,
    namespace: &str,
    secret: &str,
) -> Result<String, CommandError> {
    let value = session
        .secret(namespace, secret)
        .await?
        .remove(PASSWORD_KEY);
    value
        .and_then(|value| String::from_utf8(value).ok())
        .ok_or_else(|| CommandError::State {
            message: format!("Secret {secret} has no readable key {PASSWORD_KEY}"),
            hint: None,
        })
}

/// Every part is encoded, so that no name or password can be read as another part.
fn url(address: &str, database: &str, password: Option<&str>) -> Result<Url, CommandError> {
    let wrong = |source| CommandError::Manifest {
        message: format!("failed to read endpoint {address:?}"),
        source: Some(Box::new(source)),
    };
    let mut url = Url::parse(&format!("postgresql://{USER}@{address}/")).map_err(wrong)?;
    url.set_path(&format!(
        "/{}",
        encode_percent(database).replace('/', "%2F")
    ));
    if let Some(password) = password {
        // Fails for addresses without a host alone; this one has one.
        let _ = url.set_password(Some(&encode_percent(password)));
    }
    Ok(url)
}

/// The url library takes `%` for the start of an encoded byte.
fn encode_percent(text: &str) -> String {
    text.replace('%', "%25")
}

fn find_psql() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("psql"));
    in_path
        .chain(debian_clients(Path::new(DEBIAN_FOLDER)))
        .find(|file| is_executable(file))
}

/// Newest version first: newer clients speak to older servers.
fn debian_clients(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let major = entry
                .file_name()
                .to_str()?
                .split('.')
                .next()?
                .parse()
                .ok()?;
            Some((major, entry.path().join("bin/psql")))
        })
        .collect();
    versions.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    versions.into_iter().map(|(_, path)| path).collect()
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_encoded() {
        let plain = url("127.0.0.1:5433", "postgres", None).unwrap();
        assert_eq!(
            plain.as_str(),
            "postgresql://postgres@127.0.0.1:5433/postgres"
        );
        let odd = url("[::1]:5433", "a/b?c", Some("p@s:s/w#d%")).unwrap();
        assert_eq!(
            odd.as_str(),
            "postgresql://postgres:p%40s%3As%2Fw%23d%25@[::1]:5433/a%2Fb%3Fc"
        );
        assert!(url("no port:x", "postgres", None).is_err());
    }

    #[test]
    fn the_right_endpoint_is_taken() {
        let postgres = |status| -> kubedb_api::Postgres {
            serde_json::from_value(json!({
                "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
                "metadata": { "name": "p" }, "spec": { "version": "15" }, "status": status
            }))
            .unwrap()
        };
        let ready = postgres(json!({ "endpoints": { "primary": "a:1", "standbys": ["b:2"] } }));
        assert_eq!(endpoint(&ready, false, "demo").unwrap(), "a:1");
        assert_eq!(endpoint(&ready, true, "demo").unwrap(), "b:2");
        let error = endpoint(&postgres(json!({})), false, "demo").unwrap_err();
        assert_eq!(
            error.to_string(),
            "postgres \"p\" has no primary that accepts connections"
        );
        assert_eq!(
            error.hint().unwrap(),
            "kubedb describe pg p -n demo says why"
        );
        assert_eq!(secret_name(&ready), "p-auth");
    }

    #[test]
    fn without_psql_the_address_is_enough_but_statements_are_not_lost() {
        let ui = Ui::default();
        assert!(without_psql(&[], "the password is in Secret s", &ui).is_ok());
        let error = without_psql(&["-c".into()], "the password is in Secret s", &ui).unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to find psql, which was given arguments; the password is in Secret s"
        );
        assert!(error.hint().unwrap().contains("postgresql-client"));
    }

    #[test]
    fn only_databases_are_connected_to() {
        let name = |parts: &[&str]| {
            let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            database_name(&parts)
        };
        assert_eq!(name(&["pg", "x"]).unwrap(), "x");
        assert_eq!(name(&["postgres/x"]).unwrap(), "x");
        assert!(name(&["pg"]).is_err());
        let error = name(&["snap", "x"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "resource type \"snap\" doesn't support connect operation"
        );
    }

    #[test]
    fn the_newest_client_is_preferred() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["9.6", "15", "11", "notes"] {
            fs::create_dir_all(folder.path().join(version).join("bin")).unwrap();
        }
        let clients = debian_clients(folder.path());
        let names: Vec<_> = clients
            .iter()
            .map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["15/bin/psql", "11/bin/psql", "9.6/bin/psql"]);
    }
}
