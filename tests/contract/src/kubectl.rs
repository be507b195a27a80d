//! The kubectls whose transcripts are compared: the oldest that is promised to work, the one of the control plane that
//! the contract is recorded from, and the newest.

use std::path::PathBuf;

use kubedb_cluster::tools::tools;

/// One version of kubectl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kubectl {
    /// Major and minor.
    pub version: &'static str,
    program: &'static str,
}

impl Kubectl {
    /// The one whose transcripts the others are told apart from.
    pub const BASE: Self = Self {
        version: "1.34",
        program: "kubectl",
    };

    /// What else is tried.
    pub const OTHERS: [Self; 2] = [
        Self {
            version: "1.32",
            program: "kubectl-1.32",
        },
        Self {
            version: "1.37",
            program: "kubectl-1.37",
        },
    ];

    /// Where it lies. `KUBEDB_TEST_KUBECTL` names another one, to try what is in none of the lists.
    #[must_use]
    pub fn path(self) -> PathBuf {
        match std::env::var_os("KUBEDB_TEST_KUBECTL") {
            Some(named) if self == Self::BASE => named.into(),
            _ => tools().join(self.program),
        }
    }

    /// Whether it is installed.
    #[must_use]
    pub fn exists(self) -> bool {
        self.path().exists()
    }
}
