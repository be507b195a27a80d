//! What is made when all rows are there: indexes and constraints beside one another, everything else in its turn.

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{client::Client, error::LoadError, load::Statements};

/// Statements of one kind that are gathered before they are run.
const GATHERED: usize = 256;

/// SQLSTATE of a statement that was given up so that another could go on.
const DEADLOCK: &str = "40P01";

/// Which statements may run beside which: those of one kind that are not `Alone`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Indexes, and constraints that are kept by one.
    Index,
    /// They look at two tables each, whose keys must be there.
    Foreign,
    Alone,
}

/// Passes over a name, in quotes or not, and the space behind it.
fn after_name(text: &str) -> Option<&str> {
    let Some(rest) = text.strip_prefix('"') else {
        let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_')?;
        return Some(text[end..].trim_start());
    };
    let (mut at, bytes) = (0, rest.as_bytes());
    loop {
        at += rest.get(at..)?.find('"')?;
        if bytes.get(at + 1) != Some(&b'"') {
            return Some(rest[at + 1..].trim_start());
        }
        at += 2;
    }
}

fn kind_of(statement: &[u8]) -> Kind {
    let Ok(text) = std::str::from_utf8(statement) else {
        return Kind::Alone;
    };
    if text.starts_with("CREATE INDEX ") || text.starts_with("CREATE UNIQUE INDEX ") {
        return Kind::Index;
    }
    let constraint = || {
        let rest = text.strip_prefix("ALTER TABLE ")?;
        let rest = rest.strip_prefix("ONLY ").unwrap_or(rest);
        let rest = after_name(rest)?.strip_prefix('.')?;
        let rest = after_name(rest)?.strip_prefix("ADD CONSTRAINT ")?;
        after_name(rest)
    };
    match constraint() {
        Some(rest) if rest.starts_with("FOREIGN KEY") => Kind::Foreign,
        Some(rest) if rest.starts_with("PRIMARY KEY") || rest.starts_with("UNIQUE") => Kind::Index,
        _ => Kind::Alone,
    }
}

/// Runs all statements, by the sessions that are given, and gives them back.
pub(super) async fn run(
    mut clients: Vec<Client>,
    mut statements: Statements,
) -> Result<Vec<Client>, LoadError> {
    let (mut gathered, mut kind) = (Vec::new(), Kind::Alone);
    loop {
        let next = statements.next().await?;
        let its = next.as_deref().map_or(Kind::Alone, kind_of);
        if !gathered.is_empty() && (its != kind || gathered.len() == GATHERED) {
            clients = beside(clients, std::mem::take(&mut gathered)).await?;
        }
        kind = its;
        match next {
            None => return Ok(clients),
            Some(statement) if its == Kind::Alone => one(&mut clients[0], &statement).await?,
            Some(statement) => gathered.push(statement),
        }
    }
}

async fn one(client: &mut Client, statement: &[u8]) -> Result<(), LoadError> {
    let ran = client.run(statement).await;
    ran.map_err(LoadError::statement(&client.database, statement))
}

/// Runs statements beside one another. Two that wait for each other's tables are run again, one after the other.
async fn beside(clients: Vec<Client>, statements: Vec<Vec<u8>>) -> Result<Vec<Client>, LoadError> {
    let count = clients.len();
    let shared = std::sync::Mutex::new(statements.into_iter());
    let shared = &shared;
    let worked = stream::iter(clients).map(|mut client| async move {
        let mut given_up = Vec::new();
        loop {
            let statement = {
                let mut left = shared
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                left.next()
            };
            let Some(statement) = statement else { break };
            match client.run(&statement).await {
                Ok(()) => {}
                Err(error) if error.code() == Some(DEADLOCK) => given_up.push(statement),
                Err(error) => {
                    return Err(LoadError::statement(&client.database, &statement)(error));
                }
            }
        }
        Ok((client, given_up))
    });
    let worked: Vec<(Client, Vec<Vec<u8>>)> = worked.buffer_unordered(count).try_collect().await?;
    let (mut clients, given_up): (Vec<_>, Vec<_>) = worked.into_iter().unzip();
    for statement in given_up.into_iter().flatten() {
        one(&mut clients[0], &statement).await?;
    }
    Ok(clients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_run_beside_what_follows_from_the_statement_itself() {
        for (text, kind) in [
            (
                "CREATE INDEX \"i\" ON \"s\".\"t\" USING btree (a);",
                Kind::Index,
            ),
            (
                "CREATE UNIQUE INDEX \"i\" ON x USING btree (a);",
                Kind::Index,
            ),
            (
                "ALTER TABLE ONLY \"s\".\"t \"\".ADD CONSTRAINT \"\n    ADD CONSTRAINT \"FOREIGN KEY\" PRIMARY KEY (a);",
                Kind::Index,
            ),
            (
                "ALTER TABLE \"s\".\"t\"\n    ADD CONSTRAINT \"c\" UNIQUE (a);",
                Kind::Index,
            ),
            (
                "ALTER TABLE ONLY \"s\".\"t\"\n    ADD CONSTRAINT \"c\" FOREIGN KEY (a) REFERENCES x(a);",
                Kind::Foreign,
            ),
            (
                "ALTER TABLE ONLY \"s\".\"t\" CLUSTER ON \"c\";",
                Kind::Alone,
            ),
            (
                "ALTER INDEX \"s\".\"i\" ATTACH PARTITION \"s\".\"j\";",
                Kind::Alone,
            ),
            ("ALTER TABLE \"s", Kind::Alone),
            (
                "CREATE TRIGGER \"CREATE INDEX \" AFTER INSERT ON x;",
                Kind::Alone,
            ),
        ] {
            assert_eq!(kind_of(text.as_bytes()), kind, "{text}");
        }
    }
}
