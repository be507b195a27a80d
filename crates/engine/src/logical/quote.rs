//! Names and texts as SQL has them.

/// A name.
#[must_use]
pub(crate) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name within a schema.
#[must_use]
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// A text, whatever `standard_conforming_strings` says.
#[must_use]
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// A name as psql's `\connect` takes it: within a connection string, within double quotes.
#[must_use]
pub(crate) fn connect(database: &str) -> String {
    let value = database.replace('\\', "\\\\").replace('\'', "\\'");
    let string = format!("dbname='{value}'");
    format!(
        "\\connect -reuse-previous=on \"{}\"",
        string.replace('"', "\"\"")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_quote_is_doubled() {
        assert_eq!(qualified("a\"b", "c.d"), "\"a\"\"b\".\"c.d\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(
            connect("a'b\"c\\"),
            "\\connect -reuse-previous=on \"dbname='a\\'b\"\"c\\\\'\""
        );
    }
}
