//! What a restore will fetch and write, and how long that takes, as far as it can be known.

use std::{path::Path, thread, time::Duration};

use kubedb_core::estimate::{Measured, estimate};
use kubedb_engine::{
    restore::{Outlook, disk, outlook},
    store::Store,
};
use tokio::task::spawn_blocking;

use crate::{commands::describe::size, error::CommandError, ui::Ui};

/// Where the data will go.
#[derive(Clone, Copy, Debug)]
pub(in crate::commands) enum Place<'a> {
    /// Into an empty folder of this machine.
    Empty(&'a Path),
    /// Into a folder of this machine that has some of it.
    Existing(&'a Path),
    /// Onto another machine.
    Elsewhere,
}

/// Measures, and says it.
pub(in crate::commands) async fn tell(
    store: &Store,
    key: &str,
    place: Place<'_>,
    ui: &Ui,
) -> Result<(), CommandError> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let outlook = outlook(store, key, threads).await?;
    let written = match place {
        Place::Empty(folder) | Place::Existing(folder) => {
            let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
            spawn_blocking(move || disk(&folder)).await.ok().flatten()
        }
        Place::Elsewhere => None,
    };
    for line in lines(&outlook, written, place) {
        ui.note(&format!("  {line}"));
    }
    Ok(())
}

fn lines(outlook: &Outlook, written: Option<Measured>, place: Place<'_>) -> Vec<String> {
    let (fetch, write) = (size(outlook.fetch_bytes), size(outlook.unpacked_bytes));
    let bytes = match place {
        Place::Existing(_) => format!(
            "fetches at most {fetch}, and writes at most {write}: what is there already stays"
        ),
        _ => format!("fetches {fetch}, and writes {write}"),
    };
    let Some(told) = estimate(outlook.unpacked_bytes, outlook.unpacked, written) else {
        return vec![
            bytes,
            "how long that takes is not known: too little was fetched to tell".to_owned(),
        ];
    };
    let rate = |measured: Option<Measured>| {
        let rate = measured.and_then(Measured::rate)?;
        Some(format!("{}/s", size(rate as u64)))
    };
    let unpacked = rate(outlook.unpacked).unwrap_or_default();
    let at_most = match place {
        Place::Existing(_) => "at most ",
        _ => "",
    };
    let time = seconds(told.time);
    let measured = match rate(written) {
        Some(written) => format!(
            "that takes {at_most}about {time}: {unpacked} were fetched and unpacked just now, and {written} written"
        ),
        None => format!(
            "that takes about {time} or, by the disk that it goes to, longer: {unpacked} were fetched and unpacked just now from here, and the disk was not measured"
        ),
    };
    vec![bytes, measured]
}

/// In words that do not claim more than is known.
fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0 => "a second".to_owned(),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// What replay adds: nobody knows beforehand how fast PostgreSQL is at it.
pub(in crate::commands) const REPLAY: &str =
    "how long PostgreSQL replays is not known beforehand: it depends on what was changed";

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn measured(mib: u64) -> Option<Measured> {
        Some(Measured {
            bytes: mib * MIB,
            time: Duration::from_secs(1),
        })
    }

    #[test]
    fn what_is_not_known_is_said_to_be() {
        let mut outlook = Outlook {
            fetch_bytes: 300 * MIB,
            unpacked_bytes: 1_000 * MIB,
            unpacked: measured(100),
        };
        let folder = Path::new("/tmp");
        let told = lines(&outlook, measured(50), Place::Empty(folder));
        assert_eq!(
            told,
            [
                "fetches 300.0 MiB, and writes 1000.0 MiB",
                "that takes about 20 s: 100.0 MiB/s were fetched and unpacked just now, and 50.0 MiB/s written"
            ]
        );
        let told = lines(&outlook, measured(50), Place::Existing(folder));
        assert!(told[0].contains("at most 300.0 MiB") && told[1].contains("at most about 20 s"));
        let told = lines(&outlook, None, Place::Elsewhere);
        assert!(told[1].contains("about 10 s or") && told[1].contains("not measured"));
        outlook.unpacked = None;
        let told = lines(&outlook, measured(50), Place::Empty(folder));
        assert!(told[1].contains("is not known"), "{told:?}");
    }
}
