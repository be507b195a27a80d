//! The server as a value: opened on a file, reached through a `kube::Client`.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::api;
use crate::api::resource;
use crate::api::route::{Part, Query, Target};
use crate::api::service::Api;
use crate::api::status::ApiError;
use crate::auth::Identity;
use crate::limits::Limits;
use crate::storage::{OpenError, Store};
use crate::tokens::Tokens;

/// The embedded Kubernetes API. Clones are the same server.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) api: Arc<Api>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) limits: Limits,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ApiServer")
    }
}

impl ApiServer {
    /// Opens or creates the SQLite file, and creates the namespaces and PostgresVersions that exist without anyone
    /// creating them.
    ///
    /// # Errors
    /// When the file cannot be opened or read, or another process has it.
    pub fn open(database: &Path) -> Result<Self, OpenError> {
        Self::open_within(database, Limits::default())
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_within(database: &Path, limits: Limits) -> Result<Self, OpenError> {
        let store = Arc::new(Store::open(database)?);
        create_built_in(&store).map_err(|error| OpenError::BuiltIn {
            message: error.message,
        })?;
        let tokens = Tokens::load(&store).map_err(|error| OpenError::BuiltIn {
            message: error.to_string(),
        })?;
        let tokens = Arc::new(tokens);
        api::collect::start(&store, &tokens).map_err(|source| OpenError::Collector { source })?;
        Ok(Self {
            tokens,
            api: Arc::new(Api::new(store, &limits)),
            limits,
        })
    }

    /// Forgets the history of changes, which is bounded anyway: whoever watches from a version before now, or goes on with a
    /// list that was begun before, has to begin anew.
    pub fn compact(&self) {
        self.api.store.compact();
    }

    /// A client in memory that may do everything, with `default` as its namespace. Needs a tokio runtime.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        let api = self.api.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move {
                let request = request.map(Body::new);
                let response: Response<Body> = api.handle(Identity::Admin, request).await;
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        kube::Client::new(service, "default")
    }
}

fn create_built_in(store: &Store) -> Result<(), ApiError> {
    for name in ["default", "kube-system"] {
        ensure(
            store,
            ("", "v1", "namespaces"),
            json!({"metadata": {"name": name}}),
        )?;
    }
    for version in kubedb_api::catalogue::built_in() {
        let object = serde_json::to_value(&version)
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let place = ("catalog.kubedb.com", "v1alpha1", "postgresversions");
        ensure(store, place, object)?;
    }
    Ok(())
}

fn ensure(store: &Store, place: (&str, &str, &str), object: Value) -> Result<(), ApiError> {
    let (group, version, plural) = place;
    let resource = resource::find(group, version, plural).ok_or_else(ApiError::no_such_path)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if store.get(&resource.key("", name)).is_some() {
        return Ok(());
    }
    let target = Target {
        resource,
        namespace: String::new(),
        name: String::new(),
        part: Part::Main,
    };
    api::create(store, &target, &Query::default(), object).map(drop)
}
