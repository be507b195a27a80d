//! The socket at which PostgreSQL's commands ask.

use std::{io, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use super::{WalDesk, client::Answer};

/// Commands at once. PostgreSQL runs one for its archive and one for its recovery.
const COMMANDS: usize = 16;
/// A question is one short line, sent at once.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);
const QUESTION_BYTES: u64 = 8_192;

/// Listens until the agent ends. Only the agent's own user can enter the socket's folder.
pub(crate) fn listen(socket: &Path, desk: WalDesk) -> io::Result<tokio::task::JoinHandle<()>> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    let places = Arc::new(Semaphore::new(COMMANDS));
    Ok(tokio::spawn(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let desk = desk.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve(stream, &desk).await {
                            tracing::debug!(%error, "a command about WAL went away");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a command about WAL could not be taken");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }))
}

async fn serve(mut stream: UnixStream, desk: &WalDesk) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut question = String::new();
    let mut lines = BufReader::new(read.take(QUESTION_BYTES));
    timeout(QUESTION_LIMIT, lines.read_line(&mut question))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let answer = match question.strip_suffix('\n') {
        Some(question) => answer(question, desk).await,
        None => return Ok(()),
    };
    let line = match answer {
        Answer::Done => "done\n".to_owned(),
        Answer::Absent => "absent\n".to_owned(),
        Answer::Failed(why) => format!("failed\t{}\n", why.replace(['\t', '\n'], " ")),
    };
    timeout(QUESTION_LIMIT, write.write_all(line.as_bytes()))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn answer(question: &str, desk: &WalDesk) -> Answer {
    let words: Vec<&str> = question.split('\t').collect();
    match words.as_slice() {
        ["push", name] => match desk.archiver() {
            Some(archiver) => match archiver.push(name).await {
                Ok(()) => Answer::Done,
                Err(why) => Answer::Failed(why),
            },
            None => Answer::Failed("the agent does not archive yet".to_owned()),
        },
        ["fetch", name, to] => match desk.source() {
            Some(source) => source.fetch(name, Path::new(to)).await,
            None => Answer::Failed("the agent restores nothing".to_owned()),
        },
        _ => Answer::Failed("the question is not understood".to_owned()),
    }
}
