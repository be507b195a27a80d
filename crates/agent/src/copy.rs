//! Data folders that come from elsewhere: a copy of the primary, or a Snapshot.

use crate::{agent::Agent, observe::Facts, serve::ActError};

impl Agent {
    pub(crate) async fn copy(&mut self, _facts: &Facts, _primary: &str) -> Result<(), ActError> {
        Err(ActError::NotBuilt("copying the primary"))
    }

    pub(crate) async fn restore(&mut self, _facts: &Facts) -> Result<(), ActError> {
        Err(ActError::NotBuilt("restoring a Snapshot"))
    }
}
