//! Statements out of the text that pg_dump writes, piece by piece, and none of what only psql understands.
//!
//! The rules are those by which psql itself finds a statement's end: a semicolon that stands in no quote, comment or parenthesis, and not in the body of a
//! function that is written in SQL (`BEGIN ATOMIC … END`).

/// Longest statement: PostgreSQL itself takes none of more than 1 GiB.
const STATEMENT: usize = 1 << 30;

/// What the text consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A statement, without the comments before it, with its semicolon.
    Statement(Vec<u8>),
    /// A command of psql.
    Meta(String),
}

/// A text that cannot be taken apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A backslash within a statement.
    #[error("a command of psql stands within a statement: {0}")]
    Within(String),
    /// The text ends within a statement.
    #[error("it ends within a statement: {0}")]
    Cut(String),
    /// A statement without end.
    #[error("a statement is longer than any: {0}")]
    Long(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    /// In single quotes; whether a backslash escapes.
    Quote(bool),
    /// In double quotes.
    Name,
    /// In dollar quotes, by their tag with both dollars.
    Dollar(Vec<u8>),
    Line,
    /// In a comment that may hold others, so deep.
    Block(u32),
}

/// Takes a text apart.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    text: Vec<u8>,
    /// Up to here nobody needs it any more.
    done: usize,
    /// Up to here it was looked at.
    at: usize,
    /// Where the statement in work begins; nothing between statements.
    begin: Option<usize>,
    state: State,
    parentheses: u32,
    /// Words that the statement in work began with, in small letters: as many as decide whether it makes a function.
    words: Vec<Vec<u8>>,
    /// `BEGIN` and `CASE` that are open in the body of a function.
    bodies: u32,
    is_whole: bool,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

impl Splitter {
    /// Adds a piece of the text.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        // Once for many statements, since what stays is moved.
        if self.done > self.text.len() / 2 {
            self.text.drain(..self.done);
            self.at -= self.done;
            self.begin = self.begin.map(|begin| begin - self.done);
            self.done = 0;
        }
        self.text.extend_from_slice(piece);
    }

    /// No more of it comes.
    pub(crate) fn end(&mut self) {
        self.is_whole = true;
    }

    /// The next piece; nothing where more text is needed, or none is left.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, SplitError> {
        loop {
            if self.begin.is_none()
                && self.state == State::Plain
                && self.text.get(self.at) == Some(&b'\\')
            {
                return self.meta();
            }
            let Some(step) = self.step()? else { break };
            self.at += step.0;
            if step.1 {
                return Ok(Some(self.cut()));
            }
        }
        if self.text.len() - self.begin.unwrap_or(self.at) > STATEMENT {
            return Err(SplitError::Long(self.excerpt()));
        }
        let is_between = self.begin.is_none() && matches!(self.state, State::Plain | State::Line);
        if self.is_whole && (self.at < self.text.len() || !is_between) {
            return Err(SplitError::Cut(self.excerpt()));
        }
        if self.begin.is_none() {
            self.forget(self.at);
        }
        Ok(None)
    }

    fn excerpt(&self) -> String {
        head(&self.text[self.begin.unwrap_or(self.at)..])
    }

    fn forget(&mut self, until: usize) {
        self.done = until;
    }

    fn meta(&mut self) -> Result<Option<Piece>, SplitError> {
        let rest = &self.text[self.at..];
        let length = match rest.iter().position(|byte| *byte == b'\n') {
            Some(length) => length,
            None if self.is_whole => rest.len(),
            None if rest.len() > 1 << 20 => return Err(SplitError::Long(head(rest))),
            None => return Ok(None),
        };
        let line = String::from_utf8_lossy(&rest[..length])
            .trim_end()
            .to_owned();
        self.at += length;
        self.forget(self.at);
        Ok(Some(Piece::Meta(line)))
    }

    fn cut(&mut self) -> Piece {
        let begin = self.begin.take().unwrap_or(self.at);
        let statement = self.text[begin..self.at].to_vec();
        self.forget(self.at);
        self.words.clear();
        (self.parentheses, self.bodies) = (0, 0);
        Piece::Statement(statement)
    }

    /// How many bytes come next, and whether they end a statement; nothing where it takes more text to tell.
    fn step(&mut self) -> Result<Option<(usize, bool)>, SplitError> {
        let rest = &self.text[self.at..];
        let Some(&byte) = rest.first() else {
            return Ok(None);
        };
        let needs = |length: usize| rest.len() < length && !self.is_whole;
        match &mut self.state {
            State::Plain => return self.plain(),
            State::Quote(escapes) => {
                if *escapes && byte == b'\\' {
                    return Ok((!needs(2)).then_some((rest.len().min(2), false)));
                }
                // A doubled one ends it and begins it again, which comes to the same.
                if byte == b'\'' {
                    if needs(2) {
                        return Ok(None);
                    }
                    if rest.get(1) == Some(&b'\'') {
                        return Ok(Some((2, false)));
                    }
                    self.state = State::Plain;
                }
            }
            State::Name if byte == b'"' => self.state = State::Plain,
            State::Dollar(tag) if byte == b'$' => {
                if needs(tag.len()) {
                    return Ok(None);
                }
                if rest.starts_with(tag) {
                    let length = tag.len();
                    self.state = State::Plain;
                    return Ok(Some((length, false)));
                }
            }
            State::Line if byte == b'\n' => self.state = State::Plain,
            State::Block(depth) if byte == b'*' || byte == b'/' => {
                if needs(2) {
                    return Ok(None);
                }
                if rest.starts_with(b"*/") {
                    *depth -= 1;
                    if *depth == 0 {
                        self.state = State::Plain;
                    }
                    return Ok(Some((2, false)));
                }
                if rest.starts_with(b"/*") {
                    *depth += 1;
                    return Ok(Some((2, false)));
                }
            }
            _ => {}
        }
        Ok(Some((1, false)))
    }

    fn plain(&mut self) -> Result<Option<(usize, bool)>, SplitError> {
        let rest = &self.text[self.at..];
        let byte = rest[0];
        let needs = |length: usize| rest.len() < length && !self.is_whole;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | 0x0c => return Ok(Some((1, false))),
            b'-' | b'/' if needs(2) => return Ok(None),
            b'-' if rest.starts_with(b"--") => {
                self.state = State::Line;
                return Ok(Some((2, false)));
            }
            b'/' if rest.starts_with(b"/*") => {
                self.state = State::Block(1);
                return Ok(Some((2, false)));
            }
            b'\\' => return Err(SplitError::Within(self.excerpt())),
            b';' if self.begin.is_none() => return Ok(Some((1, false))),
            _ => {}
        }
        let begin = *self.begin.get_or_insert(self.at);
        let before = self.text[begin..self.at].last().copied();
        match byte {
            b';' => Ok(Some((1, self.parentheses == 0 && self.bodies == 0))),
            b'(' => {
                self.parentheses += 1;
                Ok(Some((1, false)))
            }
            b')' => {
                self.parentheses = self.parentheses.saturating_sub(1);
                Ok(Some((1, false)))
            }
            b'\'' => {
                self.state = State::Quote(false);
                Ok(Some((1, false)))
            }
            b'"' => {
                self.state = State::Name;
                Ok(Some((1, false)))
            }
            b'$' if before.is_none_or(|byte| !is_word(byte) && byte != b'$') => {
                let tag = rest[1..].iter().position(|byte| !is_word(*byte));
                match tag {
                    None if !self.is_whole => Ok(None),
                    Some(length) if rest[1 + length] == b'$' && !rest[1].is_ascii_digit() => {
                        let tag = rest[..length + 2].to_vec();
                        let length = tag.len();
                        self.state = State::Dollar(tag);
                        Ok(Some((length, false)))
                    }
                    _ => Ok(Some((1, false))),
                }
            }
            _ if is_word(byte) && !byte.is_ascii_digit() => Ok(self.word()),
            // A number, with all that clings to it.
            _ if is_word(byte) => {
                let end = rest.iter().position(|byte| !is_word(*byte));
                Ok(match end {
                    None if !self.is_whole => None,
                    end => Some((end.unwrap_or(rest.len()), false)),
                })
            }
            _ => Ok(Some((1, false))),
        }
    }

    fn word(&mut self) -> Option<(usize, bool)> {
        let rest = &self.text[self.at..];
        let end = rest
            .iter()
            .position(|byte| !is_word(*byte) && *byte != b'$');
        let length = match end {
            None if !self.is_whole => return None,
            end => end.unwrap_or(rest.len()),
        };
        let word = rest[..length].to_ascii_lowercase();
        if word == b"e" && rest.get(1) == Some(&b'\'') {
            self.state = State::Quote(true);
            return Some((2, false));
        }
        if self.makes_function() && self.parentheses == 0 {
            match word.as_slice() {
                b"begin" => self.bodies += 1,
                b"case" if self.bodies > 0 => self.bodies += 1,
                b"end" => self.bodies = self.bodies.saturating_sub(1),
                _ => {}
            }
        }
        if self.words.len() < 4 {
            self.words.push(word);
        }
        Some((length, false))
    }

    fn makes_function(&self) -> bool {
        let words: Vec<&[u8]> = self.words.iter().map(Vec::as_slice).collect();
        matches!(
            words.as_slice(),
            [b"create", b"function" | b"procedure", ..]
                | [b"create", b"or", b"replace", b"function" | b"procedure"]
        )
    }
}

/// The beginning of a statement in one line, for people. Texts are left out: a password may be among them.
pub(crate) fn head(statement: &[u8]) -> String {
    const LETTERS: usize = 160;
    let text = String::from_utf8_lossy(&statement[..statement.len().min(4_096)]);
    let (mut head, mut letters) = (String::new(), text.chars().peekable());
    let mut is_name = false;
    while let Some(letter) = letters.next() {
        if head.chars().count() >= LETTERS {
            head.push('…');
            break;
        }
        match letter {
            '"' => {
                is_name = !is_name;
                head.push(letter);
            }
            '\'' if !is_name => {
                // Up to the last quote that may belong to it: rather too much than a part of a secret.
                head.push_str("'…'");
                while let Some(inner) = letters.next() {
                    if inner == '\\' {
                        letters.next();
                    } else if inner == '\'' && letters.next_if_eq(&'\'').is_none() {
                        break;
                    }
                }
            }
            letter if letter.is_control() || letter == ' ' => {
                if !head.ends_with(' ') {
                    head.push(' ');
                }
            }
            letter => head.push(letter),
        }
    }
    head.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All pieces of a text that comes in parts of this length.
    fn split(text: &[u8], length: usize) -> Result<Vec<Piece>, SplitError> {
        let mut splitter = Splitter::default();
        let mut pieces = Vec::new();
        for part in text.chunks(length) {
            splitter.push(part);
            while let Some(piece) = splitter.next()? {
                pieces.push(piece);
            }
        }
        splitter.end();
        while let Some(piece) = splitter.next()? {
            pieces.push(piece);
        }
        Ok(pieces)
    }

    const TEXT: &str = r#"--
-- PostgreSQL database dump
--
\restrict abc
SET a = 'x;y';;
/* one; /* two; */ */ CREATE TABLE "a;""b" (c text DEFAULT 'it''s;' || E'\';');
CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $_$ BEGIN; \x $$;$$ END; $_$;
CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC
 SELECT CASE WHEN true THEN 1 END;
 INSERT INTO t VALUES (1);
END;
CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);
SELECT a$b$c, $1, 'begin';
-- the end; 'of it
\unrestrict abc
"#;

    #[test]
    fn a_statement_ends_where_psql_says() {
        let pieces = split(TEXT.as_bytes(), 1 << 20).unwrap();
        let told: Vec<String> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Statement(text) => String::from_utf8(text.clone()).unwrap(),
                Piece::Meta(line) => line.clone(),
            })
            .collect();
        let begins: Vec<&str> = told
            .iter()
            .map(|text| &text[..text.len().min(12)])
            .collect();
        assert_eq!(
            begins,
            [
                "\\restrict ab",
                "SET a = 'x;y",
                "CREATE TABLE",
                "CREATE FUNCT",
                "CREATE OR RE",
                "CREATE RULE ",
                "SELECT a$b$c",
                "\\unrestrict "
            ]
        );
        assert!(told[4].ends_with("(1);\nEND;") && told[5].ends_with("SELECT 2);"));
        for length in 1..40 {
            assert_eq!(split(TEXT.as_bytes(), length).unwrap(), pieces, "{length}");
        }
    }

    #[test]
    fn what_is_no_whole_statement_is_refused() {
        for text in [
            "SELECT 1",
            "SELECT 'a;",
            "SELECT $x$ ;",
            "SELECT (1;",
            "/* ",
            "SELECT 1 \\g\n;",
        ] {
            assert!(split(text.as_bytes(), 7).is_err(), "{text}");
        }
        assert_eq!(split(b"-- only this\n", 3).unwrap(), []);
    }

    #[test]
    fn a_head_is_a_line_without_what_stands_in_quotes() {
        let told = head(
            b"CREATE USER MAPPING FOR \"o'x\"\n  OPTIONS (password 'it''s \\' secret', b 'c');",
        );
        assert_eq!(
            told,
            "CREATE USER MAPPING FOR \"o'x\" OPTIONS (password '…', b '…');"
        );
        assert!(head(&[b'x'; 900]).chars().count() <= 161);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_parts_make_no_difference(text in "[-a-z;$'\"\\\\/*() \n_1]{0,60}", length in 1usize..9) {
            // What is told of one that is refused may be shorter where less of it had come.
            prop_assert_eq!(split(text.as_bytes(), 1 << 20).ok(), split(text.as_bytes(), length).ok());
        }
    }
}
