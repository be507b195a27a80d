//! `kubedb repo rotate-key`.

use clap::Args;
use kubedb_core::age::Recipient;
use kubedb_engine::{
    encryption::{Keys, recipient_of, rotate},
    repository::keys::DatabaseFolder,
};

use super::PlaceArgs;
use crate::{error::CommandError, ui::Ui};

const EXAMPLES: &str = "\
Data is encrypted with a data key, which lies beside it, wrapped for recipients. This wraps every data key of a database for the recipients that are named, and for
nobody else; nothing of the data is read or written. It may be run again at any time. A run that was cut off leaves keys that more can open than should.

Give the new identity too, where you have it: the key then bears its word, and the next Snapshot goes on with the same data key. Without it that Snapshot is stored whole.

Examples:
  kubedb repo rotate-key gs://kubedb demo/wal-postgres --identity old.txt --identity new.txt --recipient age1...
  kubedb repo rotate-key /backups demo/wal-postgres --identity own.txt --recipient age1... --recipient age1...";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// NAMESPACE/DATABASE
    #[arg(value_name = "DATABASE")]
    database: String,
    /// Recipient of age that can read from now on, as age-keygen prints it; several may be given
    #[arg(long, value_name = "RECIPIENT", required = true)]
    recipient: Vec<String>,
}

pub(super) async fn run(arguments: RotateArgs, ui: &Ui) -> Result<(), CommandError> {
    let usage = |message: String| CommandError::usage(message);
    let names = arguments.database.split_once('/');
    let folder = names.map(|(namespace, name)| DatabaseFolder::new(namespace, name));
    let folder = match folder {
        Some(Ok(folder)) => folder,
        Some(Err(error)) => return Err(usage(error.to_string())),
        None => {
            let database = &arguments.database;
            return Err(usage(format!(
                "{database:?} is no database: write NAMESPACE/DATABASE"
            )));
        }
    };
    let mut recipients = Vec::new();
    for (number, text) in (1..).zip(&arguments.recipient) {
        let read = text.parse::<Recipient>();
        recipients.push(read.map_err(|error| usage(format!("--recipient {number} {error}")))?);
    }
    let identities = arguments.place.identities()?;
    if identities.is_empty() {
        return Err(usage(
            "no identity was given that opens the keys: --identity FILE names one".to_owned(),
        ));
    }
    let mut own = identities.iter().filter_map(|one| recipient_of(one).ok());
    let vouches = own.any(|own| recipients.contains(&own));
    let store = arguments.place.open()?;
    let store = store.with_keys(Keys::rotating(identities, recipients)?);
    let rotated = rotate(&store, &folder).await?;
    if rotated.is_empty() {
        return Err(CommandError::NotInStore {
            what: format!("no keys of {}", arguments.database),
            store: store.label().to_owned(),
        });
    }
    for one in &rotated {
        let done = match (one.is_new, one.deleted) {
            (true, _) => "wrapped for them",
            (false, 0) => "is wrapped for them already",
            (false, _) => "is wrapped for them already; for others it is not any more",
        };
        ui.data(&format!("key {}: {done}", one.key));
    }
    if !vouches {
        ui.note("none of the recipients is that of an identity that was given: the next Snapshot will be stored whole, under a data key of its own");
    }
    Ok(())
}
