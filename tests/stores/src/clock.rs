//! A clock for one program that a test can set while it runs: libfaketime, unpacked by `cargo xtask tools`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{net::tool, process::HelperError};

/// The time of day of the programs that are started with its environment. Clocks that only count go on as they are.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// A clock that is right, and that is set by a file in `folder`.
    pub fn new(folder: &Path) -> Result<Self, HelperError> {
        let name = format!("{}-linux-gnu", std::env::consts::ARCH);
        let below = format!("faketime/usr/lib/{name}/faketime/libfaketimeMT.so.1");
        let clock = Self {
            file: folder.join("clock"),
            library: tool(&below),
        };
        if !clock.library.exists() {
            return Err(HelperError::NotReady {
                what: clock.library.display().to_string(),
                seconds: 0,
            });
        }
        clock.set(0)?;
        Ok(clock)
    }

    /// Lets the clock be so many seconds ahead from now on, or behind.
    pub fn set(&self, seconds: i64) -> Result<(), HelperError> {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n"))
            .and_then(|()| fs::rename(&new, &self.file))
            .map_err(|source| HelperError::Prepare {
                what: "a clock".to_owned(),
                source,
            })
    }

    /// What a program is started with.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}
