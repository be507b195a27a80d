//! Verification of Snapshots: who asks for it, by annotation `kubedb.com/verify`, and what came of it, in `status.verification`.

use jiff::Timestamp;
use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Snapshot, labels, protocol::Progress, snapshot::SnapshotPhase};

/// How much is proven, each level with what those before prove.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum VerificationLevel {
    /// Every object that the manifest names is there and is what was written.
    Objects,
    /// Every page of every relation, as it would be restored, fits its checksum.
    Pages,
    /// A PostgreSQL starts on it, replays all of it, and reads every table and index.
    Boot,
}

/// Longest query.
pub const QUERY_MAX: usize = 16 << 10;

/// What of each Snapshot of a schedule is verified, once it succeeded (`backupSchedule.verify`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledVerification {
    /// How much is proven.
    pub level: VerificationLevel,
    /// With `Boot`: one statement that must run without an error, as a role that may only read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Database that the query runs in; `postgres` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
}

/// A wish, as the annotation has it: this as JSON, or a level alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerificationRequest {
    /// How much shall be proven.
    pub level: VerificationLevel,
    /// With `Boot`: one statement that must run without an error, as a role that may only read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Database that the query runs in; `postgres` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// When it was asked for: the same wish again is another one.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<Timestamp>,
}

/// Where a verification stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerificationPhase {
    /// Waits for its turn.
    Pending,
    /// In work.
    Running,
    /// Everything asked for is proven.
    Succeeded,
    /// It is proven that the Snapshot is not as it should be.
    Failed,
    /// It could not be carried out, and so proves nothing.
    Inconclusive,
}

impl VerificationPhase {
    /// Whether it is over.
    #[must_use]
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

/// The last verification of a Snapshot (`status.verification`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// What was asked for.
    pub request: VerificationRequest,
    /// Where it stands.
    pub phase: VerificationPhase,
    /// Why; what was proven, of one that succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// While Pending: since when it waits.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// When the current, or last, try began.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When it ended.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Timestamp>,
    /// Instance that does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Counts on from the attempts of the Snapshot, over all its verifications.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Tries that failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries: u32,
    /// Times that it was taken back for a Snapshot of the database.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub yields: u32,
    /// Whether its task may still be in the database's status.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_task: bool,
    /// Whether its data was found damaged; a query that fails shows no damage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// Bytes read of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Reads the annotation.
///
/// # Errors
/// In words, when it is none.
pub fn parse(text: &str) -> Result<VerificationRequest, String> {
    let value = match text.trim() {
        text if text.starts_with('{') => {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        }
        word => serde_json::json!({ "level": word }),
    };
    let request: VerificationRequest = serde_json::from_value(value).map_err(|_| {
        "it must be Objects, Pages or Boot, or JSON with level, query, database and requested"
            .to_owned()
    })?;
    check(
        request.level,
        request.query.as_deref(),
        request.database.as_deref(),
    )?;
    Ok(request)
}

/// What is wrong with a query.
///
/// # Errors
/// In words.
pub fn check(
    level: VerificationLevel,
    query: Option<&str>,
    database: Option<&str>,
) -> Result<(), String> {
    match query {
        None if database.is_some() => Err("a database without a query means nothing".to_owned()),
        None => Ok(()),
        Some(_) if level != VerificationLevel::Boot => {
            Err("a query needs level Boot: without a PostgreSQL nobody can run it".to_owned())
        }
        Some(query) if query.trim().is_empty() => Err("the query is empty".to_owned()),
        Some(query) if query.len() > QUERY_MAX => {
            Err(format!("the query has more than {QUERY_MAX} bytes"))
        }
        Some(_) => Ok(()),
    }
}

/// The wish of a Snapshot that nothing was done about yet. One that cannot be read is none.
#[must_use]
pub fn wish(snapshot: &Snapshot) -> Option<VerificationRequest> {
    let text = snapshot.annotations().get(labels::VERIFY)?;
    let request = parse(text).ok()?;
    let status = snapshot.status.as_ref()?;
    let is_known = |known: &Verification| known.request == request;
    (!status.verification.as_deref().is_some_and(is_known)).then_some(request)
}

/// Whether something is to be done for the verification of a Snapshot.
#[must_use]
pub fn is_wanted(snapshot: &Snapshot) -> bool {
    let Some(status) = &snapshot.status else {
        return false;
    };
    let is_under_way = |known: &Verification| !known.phase.is_over() || known.has_task;
    status.phase == Some(SnapshotPhase::Succeeded)
        && snapshot.metadata.deletion_timestamp.is_none()
        && (status.verification.as_deref().is_some_and(is_under_way) || wish(snapshot).is_some())
}

/// Whether a verification has proven that the data of a Snapshot is damaged.
#[must_use]
pub fn is_refuted(snapshot: &Snapshot) -> bool {
    let known = snapshot
        .status
        .as_ref()
        .and_then(|status| status.verification.as_deref());
    known.is_some_and(|known| known.phase == VerificationPhase::Failed && known.damaged)
}

/// The annotation of a wish.
#[must_use]
pub fn annotation(request: &VerificationRequest) -> String {
    serde_json::to_value(request)
        .map(|value: Value| value.to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_a_level_or_json_and_what_it_cannot_mean_is_said() {
        assert_eq!(parse("Pages").unwrap().level, VerificationLevel::Pages);
        let whole = parse(r#"{"level": "Boot", "query": "SELECT 1", "database": "app"}"#).unwrap();
        assert_eq!(parse(&annotation(&whole)).unwrap(), whole);
        for (text, words) in [
            ("pages", "Objects, Pages or Boot"),
            ("", "Objects, Pages or Boot"),
            ("{", "EOF"),
            (
                r#"{"level": "Pages", "query": "SELECT 1"}"#,
                "needs level Boot",
            ),
            (r#"{"level": "Boot", "query": " "}"#, "empty"),
            (r#"{"level": "Boot", "database": "app"}"#, "without a query"),
        ] {
            let told = parse(text).unwrap_err();
            assert!(told.contains(words), "{text}: {told}");
        }
    }
}
