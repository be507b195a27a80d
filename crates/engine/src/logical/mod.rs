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
