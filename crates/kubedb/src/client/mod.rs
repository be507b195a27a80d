//! Which server a command talks to, and how.

pub(crate) mod kinds;
pub(crate) mod tunnel;

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    core::DynamicObject,
};
use kubedb_agent::proxy;
use nix::unistd::Uid;

use self::kinds::Kind;
use crate::error::{CommandError, RootCause};

/// A server that does not take a connection within this time is down: servers of ours are on the same machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Namespace of commands and manifests that name none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Flags of every command that talks to a server.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServerArgs {
    /// Configuration file that says where the server is
    #[arg(long, global = true, value_name = "FILE", help_heading = "Server")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the configuration file
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        alias = "kube-context",
        help_heading = "Server"
    )]
    pub(crate) context: Option<String>,
}

/// A server and the way to it.
#[derive(Clone)]
pub(crate) struct Session {
    /// The client.
    pub(crate) client: Client,
    /// Address, for messages.
    pub(crate) url: String,
}

impl Session {
    /// Reads the configuration. Nothing is sent yet.
    pub(crate) async fn open(arguments: &ServerArgs) -> Result<Self, CommandError> {
        // Fails when one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (origin, kubeconfig) = match read_kubeconfig(arguments) {
            // In a pod its service account counts, where nobody said otherwise.
            Err(CommandError::NoServer { .. }) if is_pod() => return Self::of_pod(),
            found => found?,
        };
        let options = KubeConfigOptions {
            context: arguments.context.clone(),
            ..KubeConfigOptions::default()
        };
        let use_kubeconfig = |error| CommandError::UseKubeconfig {
            origin: origin.clone(),
            source: RootCause::of(&error),
        };
        let names_proxy = proxy::names_proxy(&kubeconfig);
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|source| use_kubeconfig(kube::Error::InferKubeconfig(source)))?;
        proxy::settle(&mut config, names_proxy);
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(use_kubeconfig)?;
        Ok(Self { client, url })
    }

    fn of_pod() -> Result<Self, CommandError> {
        let failed = |source| CommandError::UseKubeconfig {
            origin: "the pod's service account".to_owned(),
            source,
        };
        let mut config = Config::incluster().map_err(|error| failed(RootCause::of(&error)))?;
        proxy::settle(&mut config, false);
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| failed(RootCause::of(&error)))?;
        Ok(Self { client, url })
    }

    /// Objects of a kind: of one namespace, or of all.
    pub(crate) fn api(&self, kind: &Kind, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = kind.api_resource();
        match namespace.filter(|_| kind.namespaced) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// What a Secret holds.
    pub(crate) async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<BTreeMap<String, Vec<u8>>, CommandError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = secrets.get(name).await;
        let secret = secret.map_err(|error| self.fail(error, None))?;
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(data.map(|(key, value)| (key, value.0)).collect())
    }

    /// Says what the server answered. `doing` is put before its words.
    pub(crate) fn fail(&self, error: kube::Error, doing: Option<String>) -> CommandError {
        CommandError::from_kube(error, &self.url, doing)
    }
}

/// Whether this runs in a pod, where names of the cluster lead somewhere.
pub(crate) fn is_pod() -> bool {
    env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        && Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
}

/// The first place that holds a configuration, and what it is called.
fn read_kubeconfig(arguments: &ServerArgs) -> Result<(String, Kubeconfig), CommandError> {
    if let Some(path) = &arguments.kubeconfig {
        return read_file(path);
    }
    let mut tried = Vec::new();
    if let Some(paths) = env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
        let mut merged: Option<(String, Kubeconfig)> = None;
        for path in env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()) {
            if !path.is_file() {
                tried.push(format!("{} (KUBECONFIG)", path.display()));
                continue;
            }
            let (name, next) = read_file(&path)?;
            merged = Some(match merged {
                None => (name, next),
                Some((names, earlier)) => {
                    let both = earlier
                        .merge(next)
                        .map_err(|error| use_failed(&name, &error))?;
                    (format!("{names}, {name}"), both)
                }
            });
        }
        // Whoever names files does not mean another server when they are missing.
        return merged.ok_or(CommandError::NoServer { tried });
    }
    if let Some(home) = env::home_dir() {
        let path = home.join(".kube/config");
        if path.is_file() {
            return read_file(&path);
        }
        tried.push(path.display().to_string());
    }
    let path = default_data_folder().join("kubeconfig");
    if path.is_file() {
        return read_file(&path);
    }
    tried.push(path.display().to_string());
    Err(CommandError::NoServer { tried })
}

fn read_file(path: &Path) -> Result<(String, Kubeconfig), CommandError> {
    let name = path.display().to_string();
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| use_failed(&name, &error))?;
    Ok((name, kubeconfig))
}

fn use_failed(origin: &str, error: &kube::config::KubeconfigError) -> CommandError {
    CommandError::UseKubeconfig {
        origin: origin.to_owned(),
        source: RootCause::of(error),
    }
}

/// Where `kubedb server` keeps its data unless it is told another place.
pub(crate) fn default_data_folder() -> PathBuf {
    if Uid::effective().is_root() {
        return PathBuf::from("/var/lib/kubedb");
    }
    let data_home = env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".local/share")));
    data_home.unwrap_or_default().join("kubedb")
}
