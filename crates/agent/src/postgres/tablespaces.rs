//! Tablespaces of a database that has several instances on one machine.
//!
//! The WAL holds the folder of a new tablespace as it was typed, so whoever replays it writes where the primary writes, and over what
//! the primary wrote. Copies and restores are safe: they link to folders of the instance's own. So tablespaces are made while a
//! database has one instance, and by a server that is in no recovery. PostgreSQL notes each by a link in one folder; where it may not
//! write there it refuses a new one before it has touched anything.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// Where a server keeps the links to its tablespaces, below the data folder.
const LINKS: &str = "pg_tblspc";

/// What a server says, when it may not make a tablespace, up to the tablespace's number.
pub(crate) const REFUSAL: &str = "could not create symbolic link \"pg_tblspc/";

/// Lets the server of this data folder make and drop tablespaces, or has it refuse. A folder that is not there is fine.
pub(crate) fn allow(data: &Path, is_allowed: bool) -> io::Result<()> {
    let links = data.join(LINKS);
    let mode = if is_allowed { 0o700 } else { 0o500 };
    let found = match fs::symlink_metadata(&links) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.is_dir() || found.permissions().mode() & 0o777 == mode {
        return Ok(());
    }
    fs::set_permissions(&links, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_of_links_changes_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        allow(folder.path(), false).unwrap();
        let links = folder.path().join(LINKS);
        fs::create_dir(&links).unwrap();
        let mode = || fs::metadata(&links).unwrap().permissions().mode() & 0o777;
        allow(folder.path(), false).unwrap();
        assert_eq!(mode(), 0o500);
        allow(folder.path(), true).unwrap();
        assert_eq!(mode(), 0o700);
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&links, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &links).unwrap();
        allow(folder.path(), false).unwrap();
        assert_eq!(mode(), 0o700);
    }
}
