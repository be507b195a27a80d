//! The two engines: `kubedb server`'s API over TLS, and a kube-apiserver with our definitions.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use kubedb_server::{AgentGrant, ApiServer, Serving};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use kubedb_cluster::{
    StartError,
    loopback::{AGENT_TOKEN, ControlPlane, Lifetime},
};

/// Whose engine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// `kubedb server`.
    Ours,
    /// kube-apiserver.
    Theirs,
}

/// Who calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum User {
    /// May do everything.
    #[default]
    Admin,
    /// May do what an agent of the database `pg` in the namespace `agents` may.
    Agent,
    /// Has a token that nobody gave it.
    Liar,
    /// Says nothing.
    Nobody,
}

/// Why an engine does not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// kube-apiserver and its companions.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Our server.
    #[error("failed to start our server")]
    Ours(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kubeconfig.
    #[error("failed to make a client")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An object that the suite needs.
    #[error("failed to create {path}: {answer}")]
    Create {
        /// Where.
        path: String,
        /// What was answered.
        answer: String,
    },
}

/// An engine that runs. It ends with `end`.
pub struct Engine {
    /// Whose it is.
    pub whose: Whose,
    /// The administrator's.
    pub kubeconfig: PathBuf,
    /// For files of cases.
    pub folder: tempfile::TempDir,
    clients: Vec<(User, Client)>,
    running: Running,
}

enum Running {
    Ours(Box<(ApiServer, Serving, CancellationToken)>),
    Theirs(Arc<Mutex<ControlPlane>>),
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Engine({:?})", self.whose)
    }
}

impl Engine {
    /// Starts one, with everything that the cases expect to be there.
    ///
    /// # Errors
    /// When it does not start, or what is needed cannot be created.
    pub async fn start(whose: Whose) -> Result<Self, EngineError> {
        // A build of the whole workspace holds two providers of cryptography, and kube's client asks for a choice.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().map_err(|source| StartError::Prepare {
            what: "a folder".to_owned(),
            source,
        })?;
        let engine = match whose {
            Whose::Ours => ours(folder).await?,
            Whose::Theirs => theirs(folder).await?,
        };
        Ok(engine)
    }

    /// Ends its processes and connections.
    pub async fn end(self) {
        match self.running {
            Running::Ours(parts) => {
                let (server, serving, shutdown) = *parts;
                shutdown.cancel();
                let _ = tokio::time::timeout(Duration::from_secs(10), serving.task).await;
                drop(server);
            }
            Running::Theirs(plane) => drop(plane),
        }
    }

    /// A client of a user.
    ///
    /// # Panics
    /// Never: every user has one.
    #[must_use]
    pub fn client(&self, user: User) -> Client {
        let found = self.clients.iter().find(|(one, _)| *one == user);
        found.map(|(_, client)| client.clone()).expect("a client")
    }

    /// Makes it forget everything that was before now: etcd by a compaction, and kube-apiserver, which keeps a history of its
    /// own, by a new start.
    ///
    /// # Errors
    /// When etcd refuses, or kube-apiserver does not come back.
    pub async fn forget(&self) -> Result<(), EngineError> {
        let plane = match &self.running {
            Running::Ours(parts) => {
                parts.0.compact();
                return Ok(());
            }
            Running::Theirs(plane) => plane,
        };
        let kubeconfig = lock(plane).etcd_kubeconfig.clone();
        let etcd = client_of(&kubeconfig).await?;
        // Any key will do: the answer's header tells the revision. `eA==` is `x`.
        let (_, text) = call(&etcd, "POST", "/v3/kv/range", r#"{"key": "eA=="}"#).await?;
        let told: Value = serde_json::from_str(&text).map_err(client_error)?;
        let body = json!({"revision": told["header"]["revision"], "physical": true}).to_string();
        let path = "/v3/kv/compaction";
        let (code, answer) = call(&etcd, "POST", path, &body).await?;
        if !code.is_success() {
            let path = path.to_owned();
            return Err(EngineError::Create { path, answer });
        }
        // A process ends with the thread that started it, so that one has to stay.
        let (tell, told) = tokio::sync::oneshot::channel();
        let plane = plane.clone();
        thread::spawn(move || {
            let outcome = lock(&plane).restart_apiserver(Lifetime::OfStarter);
            drop(plane);
            let _ = tell.send(outcome);
            loop {
                thread::park();
            }
        });
        Ok(told.await.map_err(client_error)??)
    }

    /// Names and ids of the processes it consists of; ours is part of this one.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        match &self.running {
            Running::Theirs(plane) => lock(plane)
                .processes()
                .into_iter()
                .map(|(name, id)| (name.to_owned(), id))
                .collect(),
            Running::Ours(_) => Vec::new(),
        }
    }
}

fn lock(plane: &Mutex<ControlPlane>) -> MutexGuard<'_, ControlPlane> {
    plane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The client of a kubeconfig.
///
/// # Errors
/// When it cannot be read.
pub async fn client_of(kubeconfig: &Path) -> Result<Client, EngineError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).map_err(client_error)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(client_error)?;
    Client::try_from(config).map_err(client_error)
}

fn client_error(error: impl std::error::Error + Send + Sync + 'static) -> EngineError {
    EngineError::Client(Box::new(error))
}

/// The clients of all users; `agent` is the agent's kubeconfig or token.
async fn clients(kubeconfig: &Path, agent: Agent) -> Result<Vec<(User, Client)>, EngineError> {
    let admin = Kubeconfig::read_from(kubeconfig).map_err(client_error)?;
    let with_token = |token: Option<&str>| {
        let mut changed = admin.clone();
        for user in &mut changed.auth_infos {
            if let Some(info) = &mut user.auth_info {
                info.token = token.map(|token| token.to_owned().into());
            }
        }
        changed
    };
    let agent = match agent {
        Agent::Kubeconfig(text) => Kubeconfig::from_yaml(&text).map_err(client_error)?,
        Agent::Token(token) => with_token(Some(token)),
    };
    let mut clients = Vec::new();
    for (user, kubeconfig) in [
        (User::Admin, admin.clone()),
        (User::Agent, agent),
        (User::Liar, with_token(Some("not-a-token"))),
        (User::Nobody, with_token(None)),
    ] {
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(client_error)?;
        // What is answered counts, also when it is "try again".
        config.default_retry = false;
        clients.push((user, Client::try_from(config).map_err(client_error)?));
    }
    Ok(clients)
}

enum Agent {
    Kubeconfig(String),
    Token(&'static str),
}

async fn ours(folder: tempfile::TempDir) -> Result<Engine, EngineError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| EngineError::Ours(error);
    let server = ApiServer::open(&folder.path().join("api").join("kubedb.db"))
        .map_err(|error| failed(error.into()))?;
    let shutdown = CancellationToken::new();
    let listen = ([127, 0, 0, 1], 0).into();
    let serving = server
        .serve(listen, folder.path(), shutdown.clone())
        .await
        .map_err(|error| failed(error.into()))?;
    let grant = AgentGrant {
        namespace: "agents".to_owned(),
        database: "pg".to_owned(),
        instance: "pg-0".to_owned(),
        secrets: vec![("agents".to_owned(), "auth".to_owned())],
    };
    let agent = server
        .agent_kubeconfig(grant, &serving)
        .map_err(|error| failed(error.into()))?;
    let kubeconfig = serving.kubeconfig.clone();
    let clients = clients(&kubeconfig, Agent::Kubeconfig(agent)).await?;
    create(&clients[0].1, "/api/v1/namespaces", &namespace("agents")).await?;
    Ok(Engine {
        whose: Whose::Ours,
        kubeconfig,
        clients,
        running: Running::Ours(Box::new((server, serving, shutdown))),
        folder,
    })
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

async fn theirs(folder: tempfile::TempDir) -> Result<Engine, EngineError> {
    let mut plane = ControlPlane::start(folder.path(), Lifetime::OfStarter)?;
    let clients = clients(&plane.kubeconfig, Agent::Token(AGENT_TOKEN)).await?;
    let client = clients[0].1.clone();
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for definition in kubedb_api::crd::crds() {
        let value = serde_json::to_value(definition).map_err(client_error)?;
        create(&client, definitions, &value).await?;
    }
    for version in kubedb_api::catalogue::built_in() {
        let value = serde_json::to_value(version).map_err(client_error)?;
        let path = "/apis/catalog.kubedb.com/v1alpha1/postgresversions";
        create(&client, path, &value).await?;
    }
    wait_for_schemas(&client).await?;
    plane.start_controllers(Lifetime::OfStarter)?;
    create(&client, "/api/v1/namespaces", &namespace("agents")).await?;
    grant_agent(&client).await?;
    Ok(Engine {
        whose: Whose::Theirs,
        kubeconfig: plane.kubeconfig.clone(),
        clients,
        running: Running::Theirs(Arc::new(Mutex::new(plane))),
        folder,
    })
}

/// What the embedded server grants an agent by itself.
async fn grant_agent(client: &Client) -> Result<(), EngineError> {
    let rule = |group: &str, resource: &str, names: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": verbs});
    let role = json!({"metadata": {"name": "agent"}, "rules": [
        rule("kubedb.com", "postgreses", &["pg"], &["get", "list", "watch"]),
        rule("kubedb.com", "postgreses/status", &["pg"], &["get", "patch", "update"]),
        rule("coordination.k8s.io", "leases", &["pg"], &["get", "update", "patch"]),
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        rule("", "secrets", &["auth"], &["get"]),
    ]});
    let binding = json!({"metadata": {"name": "agent"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "agent"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "kubedb:agent:agents:pg-0"}]});
    let base = "/apis/rbac.authorization.k8s.io/v1/namespaces/agents";
    create(client, &format!("{base}/roles"), &role).await?;
    create(client, &format!("{base}/rolebindings"), &binding).await
}

/// Creates an object; a definition's kind is served a moment after the definition.
async fn create(client: &Client, path: &str, object: &Value) -> Result<(), EngineError> {
    let (mut code, mut text) = (StatusCode::OK, String::new());
    for _ in 0..300 {
        (code, text) = call(client, "POST", path, &object.to_string()).await?;
        if code.is_success() {
            return Ok(());
        }
        if code != StatusCode::NOT_FOUND && code != StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(EngineError::Create {
        path: path.to_owned(),
        answer: format!("{code} {text}"),
    })
}

/// Schemas of definitions are published some time after the kinds are served; kubectl reads them.
async fn wait_for_schemas(client: &Client) -> Result<(), EngineError> {
    let mut text = String::new();
    for _ in 0..300 {
        let path = "/openapi/v3";
        text = call(client, "GET", path, "").await?.1;
        if [
            "apis/kubedb.com/v1alpha1",
            "apis/catalog.kubedb.com/v1alpha1",
        ]
        .iter()
        .all(|path| text.contains(path))
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(EngineError::Create {
        path: "/openapi/v3".to_owned(),
        answer: text.chars().take(500).collect(),
    })
}

async fn call(
    client: &Client,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(StatusCode, String), EngineError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(kube::client::Body::from(body.as_bytes().to_vec()))
        .map_err(client_error)?;
    let response = client.send(request).await.map_err(client_error)?;
    let code = response.status();
    let bytes = response.into_body().collect().await.map_err(client_error)?;
    let text = String::from_utf8_lossy(&bytes.to_bytes()).into_owned();
    Ok((code, text))
}
