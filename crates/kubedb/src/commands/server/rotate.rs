//! `kubedb server rotate`: for whoever fears that a token was seen.

use std::path::PathBuf;

use clap::Args;

use super::{folder, server};
use crate::{client::default_data_folder, error::CommandError, ui::Ui};

#[derive(Debug, Args)]
#[command(after_help = "\
Stop the server first. The next start makes a new authority, certificate and tokens, and writes a new kubeconfig; old ones are refused.
Databases and their passwords stay as they are.

Examples:
  kubedb server rotate
  kubedb server rotate --data-dir ./pg")]
pub(super) struct RotateArgs {
    /// Folder of the server
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) fn run(arguments: RotateArgs, ui: &Ui) -> Result<(), CommandError> {
    let path = arguments.data_dir.unwrap_or_else(default_data_folder);
    if !path.join("api/kubedb.db").exists() {
        return Err(CommandError::State {
            message: format!("no server was ever started on {}", path.display()),
            hint: Some("kubedb server rotate --data-dir DIR names another folder".to_owned()),
        });
    }
    let data = folder::open(path)?;
    kubedb_server::rotate(&data.path.join("api/kubedb.db"), &data.path)
        .map_err(|error| server("rotate the keys")(error.into()))?;
    ui.data(&format!("keys of {} rotated", data.path.display()));
    ui.note("the next kubedb server makes new ones and writes a new kubeconfig");
    Ok(())
}
