//! The command that PostgreSQL runs for each file. It starts no runtime and reads no configuration: it is run once for every 16 MiB.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Longest that an archived file is waited for. The agent goes on, and the next run of the command finds it done.
const PUSH_LIMIT: Duration = Duration::from_secs(120);
/// Longest that a file is fetched; the agent gives up before.
const FETCH_LIMIT: Duration = Duration::from_secs(900);
/// Longest answer.
const ANSWER_BYTES: u64 = 4_096;

/// What the agent answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, and durable.
    Done,
    /// The file is proven absent.
    Absent,
    /// It is not done; why, in words.
    Failed(String),
}

/// Stores a file of `pg_wal`.
pub fn push(socket: &Path, name: &str) -> io::Result<Answer> {
    ask(socket, &["push", name], PUSH_LIMIT)
}

/// Fetches a file to a path.
pub fn fetch(socket: &Path, name: &str, to: &Path) -> io::Result<Answer> {
    let to = std::path::absolute(to)?;
    let to = to
        .to_str()
        .ok_or_else(|| io::Error::other("the path is no text"))?;
    ask(socket, &["fetch", name, to], FETCH_LIMIT)
}

fn ask(socket: &Path, words: &[&str], limit: Duration) -> io::Result<Answer> {
    if words.iter().any(|word| word.contains(['\t', '\n'])) {
        return Err(io::Error::other("a name holds a tabulator or a line's end"));
    }
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(format!("{}\n", words.join("\t")).as_bytes())?;
    let mut line = String::new();
    let mut answer = BufReader::new(io::Read::take(stream, ANSWER_BYTES));
    answer.read_line(&mut line)?;
    match line.trim_end_matches('\n').split_once('\t') {
        None if line == "done\n" => Ok(Answer::Done),
        None if line == "absent\n" => Ok(Answer::Absent),
        Some(("failed", why)) if line.ends_with('\n') => Ok(Answer::Failed(why.to_owned())),
        // Half an answer is none: an agent that is killed must not be taken at its first letters.
        _ => Err(io::Error::other("the agent hung up")),
    }
}
