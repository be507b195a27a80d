//! What belongs to no database: roles, settings and the databases themselves. Read in one transaction, and made anew by statements.

use std::collections::BTreeMap;

use super::{
    client::{Client, Row, SqlError},
    contents::{Contents, Database, Membership, Privilege, Role, Setting},
    error::LogicalError,
    quote::{ident, literal},
};

/// Roles of ours: each server has its own.
pub(crate) const OWN_ROLES: [&str; 2] = ["kubedb_replication", "kubedb_monitor"];

/// Settings whose value is a list of names, each quoted where it must be.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

const SUPERUSER: &str = "SELECT rolname::text FROM pg_catalog.pg_authid WHERE oid = 10";

const ROLES: &str = "SELECT rolname::text, rolconnlimit::text, rolpassword, (rolvaliduntil AT TIME ZONE 'UTC')::text || '+00',
        pg_catalog.shobj_description(oid, 'pg_authid'),
        CASE WHEN rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
        CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
        CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
        CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END
    FROM pg_catalog.pg_authid WHERE rolname !~ '^pg_' AND oid <> 10 ORDER BY 1";

/// Options that a major does not have are null.
const MEMBERSHIPS: &str = "SELECT r.rolname::text, m.rolname::text, pg_catalog.bool_or(a.admin_option)::text,
        pg_catalog.bool_or((pg_catalog.to_jsonb(a) ->> 'inherit_option')::boolean)::text, pg_catalog.bool_or((pg_catalog.to_jsonb(a) ->> 'set_option')::boolean)::text
    FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_authid r ON r.oid = a.roleid JOIN pg_catalog.pg_authid m ON m.oid = a.member
    WHERE m.rolname !~ '^pg_' GROUP BY 1, 2 ORDER BY 1, 2";

const SETTINGS: &str = "SELECT r.rolname::text, d.datname::text, pg_catalog.split_part(s.one, '=', 1), pg_catalog.substr(s.one, pg_catalog.strpos(s.one, '=') + 1)
    FROM (SELECT setrole, setdatabase, pg_catalog.unnest(setconfig) AS one FROM pg_catalog.pg_db_role_setting) s
        LEFT JOIN pg_catalog.pg_authid r ON r.oid = s.setrole LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
    WHERE (s.setrole = 0 OR r.oid IS NOT NULL) AND (s.setdatabase = 0 OR d.oid IS NOT NULL) ORDER BY 2, 1, 3";

/// Since 15.
const PARAMETERS: &str = "SELECT p.parname, a.privilege_type, g.rolname::text, a.is_grantable::text
    FROM pg_catalog.pg_parameter_acl p, pg_catalog.aclexplode(p.paracl) a LEFT JOIN pg_catalog.pg_authid g ON g.oid = a.grantee
    WHERE a.grantee <> 10 AND (a.grantee = 0 OR g.oid IS NOT NULL) ORDER BY 1, 3, 2";

const TABLESPACES: &str =
    "SELECT spcname::text FROM pg_catalog.pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1";

const DATABASES: &str = "SELECT d.datname::text, pg_catalog.pg_get_userbyid(d.datdba)::text, pg_catalog.pg_encoding_to_char(d.encoding)::text,
        d.datcollate::text, d.datctype::text, coalesce(j ->> 'datlocprovider', 'c'), coalesce(j ->> 'daticulocale', j ->> 'datlocale'), j ->> 'daticurules',
        d.datistemplate::text, d.datconnlimit::text, (d.datacl IS NOT NULL)::text, pg_catalog.shobj_description(d.number, 'pg_database'), d.datallowconn::text
    FROM (SELECT *, oid AS number, pg_catalog.to_jsonb(d) AS j FROM pg_catalog.pg_database d) d
    WHERE d.datname <> 'template0' AND d.datconnlimit <> -2 ORDER BY d.datname";

const DATABASE_PRIVILEGES: &str = "SELECT d.datname::text, a.privilege_type, g.rolname::text, a.is_grantable::text
    FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a LEFT JOIN pg_catalog.pg_authid g ON g.oid = a.grantee
    WHERE a.grantee = 0 OR g.oid IS NOT NULL ORDER BY 1, 3, 2";

/// A row of an answer, column by column.
pub(crate) struct Cells(std::vec::IntoIter<Option<String>>);

impl Cells {
    pub(crate) fn of(row: Row) -> Self {
        Self(row.into_iter())
    }

    pub(crate) fn text(&mut self) -> String {
        self.maybe().unwrap_or_default()
    }

    pub(crate) fn maybe(&mut self) -> Option<String> {
        self.0.next().flatten()
    }

    pub(crate) fn truth(&mut self) -> bool {
        self.text() == "true"
    }

    pub(crate) fn number<T: std::str::FromStr + Default>(&mut self) -> T {
        self.text().parse().unwrap_or_default()
    }
}

/// Names of the databases that can be dumped. One that allows no connections is an error: its rows would be missing, and nobody would know.
pub(crate) async fn databases(client: &mut Client) -> Result<Vec<Database>, LogicalError> {
    let fail = |source| LogicalError::sql("list the databases", "postgres")(source);
    let mut databases = Vec::new();
    for (number, row) in (1..).zip(client.rows(DATABASES).await.map_err(fail)?) {
        let mut row = Cells::of(row);
        let database = Database {
            folder: format!("{number:04}"),
            name: row.text(),
            owner: row.text(),
            encoding: row.text(),
            collate: row.text(),
            ctype: row.text(),
            provider: row.text(),
            locale: row.maybe(),
            icu_rules: row.maybe(),
            is_template: row.truth(),
            connection_limit: row.number(),
            privileges: row.truth().then(Vec::new),
            comment: row.maybe(),
            ..Database::default()
        };
        if !row.truth() {
            return Err(LogicalError::Closed {
                database: database.name,
            });
        }
        databases.push(database);
    }
    for row in client.rows(DATABASE_PRIVILEGES).await.map_err(fail)? {
        let mut row = Cells::of(row);
        let name = row.text();
        let known = databases.iter_mut().find(|known| known.name == name);
        if let Some(privileges) = known.and_then(|known| known.privileges.as_mut()) {
            privileges.push(privilege(String::new(), &mut row));
        }
    }
    Ok(databases)
}

fn privilege(on: String, row: &mut Cells) -> Privilege {
    Privilege {
        on,
        privilege: row.text(),
        grantee: row.maybe(),
        grantable: row.truth(),
    }
}

/// Reads all but the databases.
pub(crate) async fn read(client: &mut Client, major: u32) -> Result<Contents, LogicalError> {
    let unbuilt = |what: String| LogicalError::Unbuilt { what };
    let fail = |source: SqlError| LogicalError::sql("read the roles", "postgres")(source);
    let labels = "SELECT pg_catalog.count(*)::text FROM pg_catalog.pg_shseclabel";
    if client.value(labels).await.map_err(fail)? != "0" {
        let what = "one with security labels of roles or databases".to_owned();
        return Err(unbuilt(what));
    }
    let mut contents = Contents {
        version: super::contents::VERSION,
        superuser: client.value(SUPERUSER).await.map_err(fail)?,
        ..Contents::default()
    };
    for row in client.rows(ROLES).await.map_err(fail)? {
        let mut row = Cells::of(row);
        contents.roles.push(Role {
            name: row.text(),
            connection_limit: row.number(),
            password: row.maybe(),
            valid_until: row.maybe(),
            comment: row.maybe(),
            attributes: (0..7).map(|_| row.text()).collect(),
        });
    }
    for row in client.rows(MEMBERSHIPS).await.map_err(fail)? {
        let mut row = Cells::of(row);
        contents.memberships.push(Membership {
            role: row.text(),
            member: row.text(),
            admin: row.truth(),
            inherit: row.maybe().map(|text| text == "true"),
            set: row.maybe().map(|text| text == "true"),
        });
    }
    for row in client.rows(SETTINGS).await.map_err(fail)? {
        let mut row = Cells::of(row);
        contents.settings.push(Setting {
            role: row.maybe(),
            database: row.maybe(),
            name: row.text(),
            value: row.text(),
        });
    }
    if major >= 15 {
        for row in client.rows(PARAMETERS).await.map_err(fail)? {
            let mut row = Cells::of(row);
            let on = row.text();
            contents.parameters.push(privilege(on, &mut row));
        }
    }
    for row in client.rows(TABLESPACES).await.map_err(fail)? {
        contents.tablespaces.push(Cells::of(row).text());
    }
    let own = |name: &str| OWN_ROLES.contains(&name);
    contents.roles.retain(|role| !own(&role.name));
    contents
        .memberships
        .retain(|membership| !own(&membership.member));
    let mine = |setting: &Setting| setting.role.as_deref().is_some_and(own);
    contents.settings.retain(|setting| !mine(setting));
    Ok(contents)
}

/// A statement, and what is told of it: none of it is secret.
pub(crate) struct Told {
    pub(crate) statement: String,
}

impl From<String> for Told {
    fn from(statement: String) -> Self {
        Self { statement }
    }
}

impl Contents {
    /// Statements that make the roles, in order.
    pub(crate) fn make_roles(&self) -> Vec<Told> {
        let mut made: Vec<Told> = Vec::new();
        for role in &self.roles {
            let name = ident(&role.name);
            made.push(format!("CREATE ROLE {name};").into());
            let mut options = role.attributes.join(" ");
            if role.connection_limit != -1 {
                options += &format!(" CONNECTION LIMIT {}", role.connection_limit);
            }
            if let Some(password) = &role.password {
                options += &format!(" PASSWORD {}", literal(password));
            }
            if let Some(until) = &role.valid_until {
                options += &format!(" VALID UNTIL {}", literal(until));
            }
            made.push(format!("ALTER ROLE {name} WITH {options};").into());
            if let Some(comment) = &role.comment {
                made.push(format!("COMMENT ON ROLE {name} IS {};", literal(comment)).into());
            }
        }
        made.extend(self.memberships.iter().map(|one| {
            let mut options = Vec::new();
            if one.admin {
                options.push("ADMIN OPTION");
            }
            // 15 and earlier have no words for these, and the role's own word counts there.
            match one.inherit {
                Some(true) => options.push("INHERIT TRUE"),
                Some(false) => options.push("INHERIT FALSE"),
                None => {}
            }
            if one.set == Some(false) {
                options.push("SET FALSE");
            }
            let with = if options.is_empty() {
                String::new()
            } else {
                format!(" WITH {}", options.join(", "))
            };
            format!(
                "GRANT {} TO {}{with};",
                ident(&one.role),
                ident(&one.member)
            )
            .into()
        }));
        made.extend(self.parameters.iter().map(|one| {
            let on = format!("PARAMETER {}", ident(&one.on));
            grant(&on, one).into()
        }));
        made
    }

    /// Statements for the end, when nothing stands in their way any more: a database that is read-only could not be filled.
    pub(crate) fn make_settings(&self, databases: &BTreeMap<&str, &Database>) -> Vec<Told> {
        let is_wanted = |setting: &&Setting| {
            let database = setting.database.as_deref();
            database.is_none_or(|name| databases.contains_key(name))
        };
        let settings = self.settings.iter().filter(is_wanted);
        settings.map(|setting| setting.statement().into()).collect()
    }
}

fn grant(on: &str, one: &Privilege) -> String {
    let grantee = one.grantee.as_deref().map_or("PUBLIC".to_owned(), ident);
    let option = if one.grantable {
        " WITH GRANT OPTION"
    } else {
        ""
    };
    format!("GRANT {} ON {on} TO {grantee}{option};", one.privilege)
}

impl Setting {
    fn statement(&self) -> String {
        let whose = match (&self.role, &self.database) {
            (Some(role), Some(database)) => {
                format!("ROLE {} IN DATABASE {}", ident(role), ident(database))
            }
            (Some(role), None) => format!("ROLE {}", ident(role)),
            (None, Some(database)) => format!("DATABASE {}", ident(database)),
            (None, None) => "ROLE ALL".to_owned(),
        };
        let value = if LISTS.contains(&self.name.as_str()) {
            let names = names(&self.value);
            let quoted: Vec<String> = names.iter().map(|name| literal(name)).collect();
            if quoted.is_empty() {
                "''".to_owned()
            } else {
                quoted.join(", ")
            }
        } else {
            literal(&self.value)
        };
        format!("ALTER {whose} SET {} TO {value};", ident(&self.name))
    }
}

/// Names of a list, each in double quotes or not.
fn names(list: &str) -> Vec<String> {
    let (mut names, mut name, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut letters = list.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.next_if_eq(&'"').is_some() => name.push('"'),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => names.push(std::mem::take(&mut name)),
            letter if letter.is_whitespace() && !is_quoted => {}
            letter => name.push(letter),
        }
    }
    if !names.is_empty() || !name.is_empty() {
        names.push(name);
    }
    names
}

impl Database {
    /// The statement that makes it, empty. `major` is that of the server that does.
    pub(crate) fn create(&self, major: u32) -> String {
        let mut statement = format!(
            "CREATE DATABASE {} WITH TEMPLATE = template0 ENCODING = {}",
            ident(&self.name),
            literal(&self.encoding)
        );
        statement += &format!(
            " LC_COLLATE = {} LC_CTYPE = {}",
            literal(&self.collate),
            literal(&self.ctype)
        );
        if major >= 15 {
            statement += match self.provider.as_str() {
                "i" => " LOCALE_PROVIDER = icu",
                "b" => " LOCALE_PROVIDER = builtin",
                _ => " LOCALE_PROVIDER = libc",
            };
        }
        match (self.provider.as_str(), &self.locale) {
            ("i", Some(locale)) => statement += &format!(" ICU_LOCALE = {}", literal(locale)),
            ("b", Some(locale)) => statement += &format!(" BUILTIN_LOCALE = {}", literal(locale)),
            _ => {}
        }
        if let Some(rules) = &self.icu_rules {
            statement += &format!(" ICU_RULES = {}", literal(rules));
        }
        statement + ";"
    }

    /// Statements for the end: who owns it, and who may do what.
    pub(crate) fn finish(&self) -> Vec<Told> {
        let name = ident(&self.name);
        let mut made: Vec<Told> =
            vec![format!("ALTER DATABASE {name} OWNER TO {};", ident(&self.owner)).into()];
        if let Some(comment) = &self.comment {
            made.push(format!("COMMENT ON DATABASE {name} IS {};", literal(comment)).into());
        }
        if let Some(privileges) = &self.privileges {
            let on = format!("DATABASE {name}");
            made.push(format!("REVOKE ALL ON {on} FROM PUBLIC;").into());
            made.push(format!("REVOKE ALL ON {on} FROM {};", ident(&self.owner)).into());
            made.extend(privileges.iter().map(|one| grant(&on, one).into()));
        }
        if self.is_template {
            made.push(format!("ALTER DATABASE {name} IS_TEMPLATE true;").into());
        }
        if self.connection_limit != -1 {
            let limit = self.connection_limit;
            made.push(format!("ALTER DATABASE {name} CONNECTION LIMIT {limit};").into());
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_a_list_stays_one() {
        let setting = |name: &str, value: &str| Setting {
            role: Some("a\"b".to_owned()),
            name: name.to_owned(),
            value: value.to_owned(),
            ..Setting::default()
        };
        assert_eq!(
            setting("search_path", "\"$user\", public, \"a, \"\"b\"").statement(),
            "ALTER ROLE \"a\"\"b\" SET \"search_path\" TO '$user', 'public', 'a, \"b';"
        );
        assert_eq!(
            setting("search_path", "\"\"").statement(),
            "ALTER ROLE \"a\"\"b\" SET \"search_path\" TO '';"
        );
        assert_eq!(
            setting("my.own", "x, y").statement(),
            "ALTER ROLE \"a\"\"b\" SET \"my.own\" TO 'x, y';"
        );
    }

    #[test]
    fn a_database_is_made_by_the_words_of_the_server_that_makes_it() {
        let database = Database {
            name: "d".to_owned(),
            encoding: "UTF8".to_owned(),
            collate: "C".to_owned(),
            ctype: "C".to_owned(),
            provider: "c".to_owned(),
            ..Database::default()
        };
        let old = "CREATE DATABASE \"d\" WITH TEMPLATE = template0 ENCODING = 'UTF8' LC_COLLATE = 'C' LC_CTYPE = 'C';";
        assert_eq!(database.create(14), old);
        assert!(database.create(15).ends_with(" LOCALE_PROVIDER = libc;"));
    }
}
