//! kubedb-server. See ARCHITECTURE.md.
