//! Archives and base backups as wal-g lays them out, read and never written: `basebackups_005/<backup>/…` and `wal_005/<file>.<codec>` below one folder.
//!
//! What they say of themselves is not believed: names, sizes and positions come from a store that others write to.

mod backups;
mod chain;
mod codec;
mod error;
mod fetch;
mod increment;
mod lz4;
mod object;
mod sentinel;
mod unpack;
mod wal;

pub use backups::find;
pub use error::WalgError;
pub use fetch::{WalgRequest, fetch};
pub use wal::WalgArchive;

/// Folder of base backups, and of the objects that say that one is complete.
const BACKUPS: &str = "basebackups_005";
/// End of the name of such an object.
const SENTINEL: &str = "_backup_stop_sentinel.json";
/// Folder of WAL.
const WAL: &str = "wal_005";
/// Within a backup: the folder of its archives.
const PARTS: &str = "tar_partitions";
/// Within a backup: what became of each file.
const FILES: &str = "files_metadata.json";

/// A key below a folder, which may be the store's root.
fn below(folder: &str, path: &str) -> String {
    if folder.is_empty() {
        path.to_owned()
    } else {
        format!("{folder}/{path}")
    }
}

/// Unpacks what others have packed, for those who try it with anything.
pub(crate) mod readers {
    use std::io::Read as _;

    use super::{codec::Codec, increment::Increment, sentinel::Sentinel};

    /// Reads what says that a backup is complete; its start, if it has one.
    pub(crate) fn sentinel(bytes: &[u8]) -> Result<u64, String> {
        let read = Sentinel::read(bytes)?;
        Ok(read.start().map_or(0, |lsn| lsn.0))
    }

    /// Unpacks at most so many bytes that were packed by the codec of a name.
    pub(crate) fn packed(name: &str, bytes: &[u8], limit: u64) -> Result<Vec<u8>, String> {
        let (_, codec) = Codec::of(name);
        let mut content = Vec::new();
        let reader = codec.reader(bytes).map_err(|error| error.to_string())?;
        let read = reader.take(limit).read_to_end(&mut content);
        read.map_err(|error| error.to_string())?;
        Ok(content)
    }

    /// Reads pages that changed, in pieces of this length; gives the file's length and how many pages there were.
    pub(crate) fn increment(bytes: &[u8], piece: usize) -> Result<(u64, u32), String> {
        let mut increment = Increment::default();
        let mut pages = 0;
        for piece in bytes.chunks(piece.max(1)) {
            increment.feed(piece, &mut |_, _| {
                pages += 1;
                Ok(())
            })?;
        }
        Ok((increment.finish()?, pages))
    }
}
