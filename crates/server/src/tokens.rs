//! Bearer tokens: the administrator's and one for each agent, kept in the database file.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt;

use crate::auth::{AgentGrant, Identity};
use crate::storage::Store;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// Agents at most: far more than instances fit on a machine.
const MAX_AGENTS: usize = 10_000;

/// Why a token could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// SQLite.
    #[error("failed to keep a token")]
    Sqlite(#[from] rusqlite::Error),
    /// The list of Secrets.
    #[error("failed to encode the grant of a token")]
    Encode(#[from] serde_json::Error),
    /// There are too many.
    #[error("failed to issue a token: {MAX_AGENTS} agents have one")]
    TooMany,
}

/// Looked up by their hash, so that the time of a lookup says nothing about a token.
type Known = HashMap<blake3::Hash, Identity>;

/// All valid tokens.
pub(crate) struct Tokens {
    known: RwLock<Known>,
    /// Those of deleted databases. They may read nothing any more, but their agents must see that their database is
    /// gone, which is another answer than being unknown. Forgotten at the next start.
    retired: RwLock<Known>,
    admin: String,
}

/// Forgets every token that is kept. Tokens that were loaded stay valid, so no server may run.
pub(crate) fn discard(store: &Store) -> Result<(), TokenError> {
    store.connection().execute("DELETE FROM tokens", [])?;
    Ok(())
}

impl Tokens {
    /// Reads the tokens; makes the administrator's at the first start.
    pub(crate) fn load(store: &Store) -> Result<Self, TokenError> {
        let rows: Vec<(String, String, String, String, String)> = {
            let connection = store.connection();
            let mut statement = connection
                .prepare("SELECT namespace, database, instance, token, secrets FROM tokens")?;
            statement
                .query_map([], |row| {
                    Ok((
                        row.get(0)?,
                        row.get(1)?,
                        row.get(2)?,
                        row.get(3)?,
                        row.get(4)?,
                    ))
                })?
                .collect::<Result<_, _>>()?
        };
        let mut known = Known::new();
        let mut admin = None;
        for (namespace, database, instance, token, secrets) in rows {
            // No agent has an empty namespace.
            if namespace.is_empty() {
                known.insert(hash(&token), Identity::Admin);
                admin = Some(token);
                continue;
            }
            let grant = AgentGrant {
                namespace,
                database,
                instance,
                secrets: serde_json::from_str(&secrets)?,
            };
            known.insert(hash(&token), Identity::Agent(Arc::new(grant)));
        }
        let admin = match admin {
            Some(token) => token,
            None => {
                let token = generate();
                keep(store, &AgentGrant::default(), &token)?;
                known.insert(hash(&token), Identity::Admin);
                token
            }
        };
        Ok(Self {
            known: RwLock::new(known),
            retired: RwLock::default(),
            admin,
        })
    }

    /// The administrator's token.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// Who has this token.
    pub(crate) fn identify(&self, token: &str) -> Option<Identity> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let hash = hash(token);
        known.get(&hash).cloned().or_else(|| {
            let retired = self.retired.read().unwrap_or_else(PoisonError::into_inner);
            retired.get(&hash).cloned()
        })
    }

    /// The token of an agent, whose grant is replaced. The same agent keeps its token.
    pub(crate) fn issue(&self, store: &Store, grant: AgentGrant) -> Result<String, TokenError> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let found = known
            .iter()
            .find(|(_, identity)| is_agent(identity, &grant))
            .map(|(hash, identity)| (*hash, identity.clone()));
        if found.is_none() && known.len() >= MAX_AGENTS {
            return Err(TokenError::TooMany);
        }
        let token = match &found {
            Some(_) => token_of(store, &grant)?,
            None => generate(),
        };
        let same = matches!(&found, Some((_, Identity::Agent(old))) if **old == grant);
        if !same {
            keep(store, &grant, &token)?;
            known.insert(hash(&token), Identity::Agent(Arc::new(grant)));
        }
        Ok(token)
    }

    /// Takes their rights from the agents of a deleted database.
    pub(crate) fn revoke(
        &self,
        store: &Store,
        namespace: &str,
        database: &str,
    ) -> Result<(), TokenError> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let is_of = |grant: &AgentGrant| grant.namespace == namespace && grant.database == database;
        let gone: Vec<_> = known
            .extract_if(|_, identity| matches!(identity, Identity::Agent(grant) if is_of(grant)))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut retired = self.retired.write().unwrap_or_else(PoisonError::into_inner);
        if retired.len() + gone.len() > MAX_AGENTS {
            retired.clear();
        }
        for (hash, identity) in gone {
            let Identity::Agent(grant) = identity else {
                continue;
            };
            let bare = AgentGrant {
                secrets: Vec::new(),
                ..(*grant).clone()
            };
            retired.insert(hash, Identity::Agent(Arc::new(bare)));
        }
        store.connection().execute(
            "DELETE FROM tokens WHERE namespace = ?1 AND database = ?2",
            (namespace, database),
        )?;
        Ok(())
    }
}

fn is_agent(identity: &Identity, grant: &AgentGrant) -> bool {
    match identity {
        Identity::Agent(known) => {
            known.namespace == grant.namespace
                && known.database == grant.database
                && known.instance == grant.instance
        }
        Identity::Admin => false,
    }
}

fn token_of(store: &Store, grant: &AgentGrant) -> Result<String, TokenError> {
    let connection = store.connection();
    Ok(connection.query_row(
        "SELECT token FROM tokens WHERE namespace = ?1 AND database = ?2 AND instance = ?3",
        (&grant.namespace, &grant.database, &grant.instance),
        |row| row.get(0),
    )?)
}

fn keep(store: &Store, grant: &AgentGrant, token: &str) -> Result<(), TokenError> {
    let secrets = serde_json::to_string(&grant.secrets)?;
    store.connection().execute(
        "INSERT OR REPLACE INTO tokens VALUES (?1, ?2, ?3, ?4, ?5)",
        (
            &grant.namespace,
            &grant.database,
            &grant.instance,
            token,
            secrets,
        ),
    )?;
    Ok(())
}

fn hash(token: &str) -> blake3::Hash {
    blake3::hash(token.as_bytes())
}

fn generate() -> String {
    let mut bytes = [0_u8; TOKEN_BYTES];
    rand::rng().fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}
