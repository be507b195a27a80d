//! kubedb-agent. See ARCHITECTURE.md.
