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
