//! Databases as SQL: what a logical Snapshot consists of, how it is read from a server of one major and made anew on one of another.

mod client;
pub(crate) mod contents;
mod error;
mod export;
pub(crate) mod globals;
mod load;
mod open;
mod post_data;
mod program;
mod quote;
mod split;
pub(crate) mod tables;

/// For those who try readers with anything at all.
pub(crate) fn statements(text: &[u8], length: usize) -> Result<Vec<Vec<u8>>, String> {
    let mut splitter = split::Splitter::default();
    let mut statements = Vec::new();
    let parts = text.chunks(length.max(1)).map(Some);
    for part in parts.chain([None]) {
        match part {
            Some(part) => splitter.push(part),
            None => splitter.end(),
        }
        while let Some(piece) = splitter.next().map_err(|error| error.to_string())? {
            statements.push(match piece {
                split::Piece::Statement(statement) => statement,
                split::Piece::Meta(command) => command.into_bytes(),
            });
        }
    }
    Ok(statements)
}

/// The same.
pub(crate) fn databases(bytes: &[u8]) -> Result<usize, String> {
    match contents::Contents::read(bytes) {
        Ok(contents) => Ok(contents.databases.len()),
        Err(error) => Err(format!("{error:?}")),
    }
}

pub(crate) use self::{
    client::Client,
    open::{Opening, Point},
    program::Program,
};
pub use self::{
    client::{Address, SqlError},
    error::{LoadError, LogicalError},
    export::{ExportRequest, export},
    load::{LoadRequest, Loaded, load},
    open::pause_note,
    program::program_folders,
    split::SplitError,
};
