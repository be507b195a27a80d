//! `backup_manifest`: what `pg_verifybackup` knows a base backup by, since PostgreSQL 13.

use std::fmt::Write as _;

use jiff::Timestamp;
use kubedb_core::lsn::Lsn;
use sha2::{Digest as _, Sha256};

/// Name of the file.
pub const BACKUP_MANIFEST: &str = "backup_manifest";

/// A file of the backup. Files of the WAL are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its path below the data folder.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

/// What else the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFacts {
    /// Major that will verify it.
    pub major: u32,
    /// Identifier of the cluster.
    pub system_identifier: u64,
    /// Timeline of the WAL.
    pub timeline: u32,
    /// Where recovery begins.
    pub start: Lsn,
    /// Where the backup is consistent.
    pub stop: Lsn,
    /// When the backup ended.
    pub created: Timestamp,
}

/// The first major that has such manifests.
pub const FIRST_MAJOR: u32 = 13;

/// The manifest's text.
#[must_use]
pub fn backup_manifest(facts: &BackupFacts, files: &[ManifestFile]) -> String {
    let mut text = String::from("{ \"PostgreSQL-Backup-Manifest-Version\": ");
    // The second version names the cluster.
    if facts.major >= 17 {
        let _ = write!(
            text,
            "2,\n\"System-Identifier\": {},\n",
            facts.system_identifier
        );
    } else {
        text += "1,\n";
    }
    text += "\"Files\": [";
    let modified = facts.created.strftime("%Y-%m-%d %H:%M:%S GMT");
    for (number, file) in files.iter().enumerate() {
        let separator = if number == 0 { "\n" } else { ",\n" };
        let path = serde_json::Value::from(file.path.as_str());
        let _ = write!(
            text,
            "{separator}{{ \"Path\": {path}, \"Size\": {}, \"Last-Modified\": \"{modified}\", \"Checksum-Algorithm\": \"SHA256\", \"Checksum\": \"{}\" }}",
            file.bytes,
            hex::encode(file.sha256)
        );
    }
    let _ = write!(
        text,
        "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}\n],\n",
        facts.timeline, facts.start, facts.stop
    );
    // Of everything before this line.
    let sum = hex::encode(Sha256::digest(text.as_bytes()));
    let _ = writeln!(text, "\"Manifest-Checksum\": \"{sum}\"}}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_json_that_names_its_own_hash() {
        let mut facts = BackupFacts {
            major: 17,
            system_identifier: 7_320_280_665_284_567_118,
            timeline: 3,
            start: Lsn(0x1_0000_0028),
            stop: Lsn(0x1_0000_0100),
            created: "2026-11-26T14:05:07.5Z".parse().unwrap(),
        };
        let file = ManifestFile {
            path: "base/1/\"x\"".to_owned(),
            bytes: 7,
            sha256: [0xab; 32],
        };
        let text = backup_manifest(&facts, &[file.clone(), file]);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["PostgreSQL-Backup-Manifest-Version"], 2);
        assert_eq!(read["System-Identifier"], 7_320_280_665_284_567_118_u64);
        assert_eq!(read["Files"][1]["Path"], "base/1/\"x\"");
        assert_eq!(read["Files"][0]["Last-Modified"], "2026-11-26 14:05:07 GMT");
        assert_eq!(read["WAL-Ranges"][0]["Start-LSN"], "1/28");
        let (before, last) = text.split_at(text.rfind("\"Manifest-Checksum\"").unwrap());
        assert!(last.contains(&hex::encode(Sha256::digest(before))));
        facts.major = 16;
        let text = backup_manifest(&facts, &[]);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["PostgreSQL-Backup-Manifest-Version"], 1);
        assert!(read.get("System-Identifier").is_none());
    }
}
