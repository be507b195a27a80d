//! What a logical Snapshot holds: the file `contents.json` in it, from which everything that is not in a database's schema is made anew.

use serde::{Deserialize, Serialize};

/// The file's path.
pub(crate) const CONTENTS: &str = "contents.json";

/// The version that this code writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;

/// Largest such file: a million tables.
pub(crate) const CONTENTS_BYTES: u64 = 512 << 20;

/// Everything, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Contents {
    pub(crate) version: u32,
    /// Version of the pg_dump that read the schemas.
    pub(crate) pg_dump: String,
    /// The superuser that initdb made, who belongs to the server and not to what it holds.
    pub(crate) superuser: String,
    pub(crate) roles: Vec<Role>,
    pub(crate) memberships: Vec<Membership>,
    pub(crate) settings: Vec<Setting>,
    /// Privileges on settings.
    pub(crate) parameters: Vec<Privilege>,
    /// Names of tablespaces, whose tables come back in the database's own.
    pub(crate) tablespaces: Vec<String>,
    pub(crate) databases: Vec<Database>,
}

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Role {
    pub(crate) name: String,
    /// `SUPERUSER`, `NOINHERIT` and the like.
    pub(crate) attributes: Vec<String>,
    pub(crate) connection_limit: i32,
    /// As the server keeps it: a hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) valid_until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
}

/// Who is a member of what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Membership {
    pub(crate) role: String,
    pub(crate) member: String,
    pub(crate) admin: bool,
    /// Since 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inherit: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) set: Option<bool>,
}

/// What was set for a role, a database, or a role in a database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Setting {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) database: Option<String>,
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Something that somebody may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Privilege {
    /// On which setting; empty for a database.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) on: String,
    pub(crate) privilege: String,
    /// Nobody: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grantee: Option<String>,
    pub(crate) grantable: bool,
}

/// A database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Database {
    pub(crate) name: String,
    /// Folder of its files.
    pub(crate) folder: String,
    pub(crate) owner: String,
    pub(crate) encoding: String,
    pub(crate) collate: String,
    pub(crate) ctype: String,
    /// `c`, `i` or `b`.
    pub(crate) provider: String,
    /// Of ICU, or of the server's own provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) locale: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) icu_rules: Option<String>,
    pub(crate) is_template: bool,
    pub(crate) connection_limit: i32,
    /// Whoever made it may have left them as they are by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) privileges: Option<Vec<Privilege>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
    pub(crate) tables: Vec<Table>,
    /// Pages of large objects, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) large_objects: Option<Part>,
}

/// A table that has rows of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// Columns that are written, in the order of the rows. Without any, rows are empty or all is generated.
    pub(crate) columns: Vec<String>,
    /// The partitioned table that finds the partition, where a row may belong into another on another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) into: Option<(String, String)>,
    /// Made by an extension, which says which of its rows belong to the user.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_extensions: bool,
    pub(crate) parts: Vec<Part>,
}

/// A file of rows, as `COPY` writes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Part {
    pub(crate) file: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// Words of a role.
const ATTRIBUTES: [&str; 14] = [
    "SUPERUSER",
    "NOSUPERUSER",
    "INHERIT",
    "NOINHERIT",
    "CREATEROLE",
    "NOCREATEROLE",
    "CREATEDB",
    "NOCREATEDB",
    "LOGIN",
    "NOLOGIN",
    "REPLICATION",
    "NOREPLICATION",
    "BYPASSRLS",
    "NOBYPASSRLS",
];

impl Contents {
    /// Reads the list. What comes into a statement without quotes must be what it is meant to be.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ReadContentsError> {
        let version: Version = serde_json::from_slice(bytes)
            .map_err(|error| ReadContentsError::Damaged(error.to_string()))?;
        if version.version > VERSION {
            return Err(ReadContentsError::TooNew(version.version));
        }
        let contents: Self = serde_json::from_slice(bytes)
            .map_err(|error| ReadContentsError::Damaged(error.to_string()))?;
        match contents.strange_word() {
            Some(word) => Err(ReadContentsError::Damaged(format!(
                "it holds {:?}, which no server has",
                word.chars().take(80).collect::<String>()
            ))),
            None => Ok(contents),
        }
    }

    fn strange_word(&self) -> Option<&str> {
        let attributes = self.roles.iter().flat_map(|role| &role.attributes);
        let mut attributes = attributes.map(String::as_str);
        let of_databases = self.databases.iter().flat_map(|one| &one.privileges);
        let privileges = self.parameters.iter().chain(of_databases.flatten());
        let mut privileges = privileges.map(|one| one.privilege.as_str());
        let mut encodings = self.databases.iter().map(|one| one.encoding.as_str());
        let mut providers = self.databases.iter().map(|one| one.provider.as_str());
        let is_capital = |byte: u8| byte.is_ascii_uppercase() || byte == b' ';
        let is_encoding =
            |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        attributes
            .find(|word| !ATTRIBUTES.contains(word))
            .or_else(|| privileges.find(|word| word.is_empty() || !word.bytes().all(is_capital)))
            .or_else(|| encodings.find(|word| word.is_empty() || !word.bytes().all(is_encoding)))
            .or_else(|| providers.find(|word| !matches!(*word, "c" | "i" | "b")))
    }
}

/// What alone is known of a list that a later program wrote.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Why a list cannot be used.
#[derive(Debug)]
pub(crate) enum ReadContentsError {
    Damaged(String),
    TooNew(u32),
}

impl Database {
    /// What its schema is written in.
    pub(crate) fn text_encoding(&self) -> &'static str {
        text_encoding(&self.encoding)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    pub(crate) fn rows(&self) -> u64 {
        let parts = self.tables.iter().flat_map(|table| &table.parts);
        parts.map(|part| part.rows).sum()
    }
}

/// Text that has no encoding cannot be converted.
pub(crate) fn text_encoding(encoding: &str) -> &'static str {
    if encoding == "SQL_ASCII" {
        "SQL_ASCII"
    } else {
        "UTF8"
    }
}

/// What is made before everything else, and what after it, within a database's folder.
pub(crate) const PRE_DATA: &str = "pre-data.sql";
pub(crate) const POST_DATA: &str = "post-data.sql";
pub(crate) const SEQUENCES: &str = "sequences.sql";
pub(crate) const LARGE_OBJECTS: &str = "large-objects.copy";

impl Table {
    /// The statement that reads it back.
    pub(crate) fn copy_in(&self, encoding: &str) -> String {
        let (schema, name) = match &self.into {
            Some((schema, name)) => (schema, name),
            None => (&self.schema, &self.name),
        };
        format!(
            "COPY {}{} FROM STDIN WITH (ENCODING '{encoding}')",
            super::quote::qualified(schema, name),
            column_list(&self.columns)
        )
    }

    pub(crate) fn title(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

pub(crate) fn column_list(columns: &[String]) -> String {
    if columns.is_empty() {
        return String::new();
    }
    let names: Vec<String> = columns
        .iter()
        .map(|name| super::quote::ident(name))
        .collect();
    format!(" ({})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_stand_in_no_quotes_are_those_of_a_server() {
        let list = |change: fn(&mut Contents)| {
            let mut contents = Contents {
                version: VERSION,
                roles: vec![Role {
                    attributes: vec!["LOGIN".to_owned()],
                    ..Role::default()
                }],
                databases: vec![Database {
                    encoding: "SQL_ASCII".to_owned(),
                    provider: "c".to_owned(),
                    privileges: Some(vec![Privilege {
                        privilege: "CONNECT".to_owned(),
                        ..Privilege::default()
                    }]),
                    ..Database::default()
                }],
                ..Contents::default()
            };
            change(&mut contents);
            Contents::read(&serde_json::to_vec(&contents).unwrap())
        };
        assert!(list(|_| ()).is_ok());
        let changes: [fn(&mut Contents); 5] = [
            |contents| contents.roles[0].attributes[0] = "LOGIN; \\! x".to_owned(),
            |contents| contents.databases[0].encoding = "UTF8') \n\\! x".to_owned(),
            |contents| contents.databases[0].provider = String::new(),
            |contents| {
                let privileges = contents.databases[0].privileges.as_mut();
                privileges.unwrap()[0].privilege = "ALL; ".to_owned();
            },
            |contents| contents.version = VERSION + 1,
        ];
        for change in changes {
            assert!(list(change).is_err());
        }
    }
}
