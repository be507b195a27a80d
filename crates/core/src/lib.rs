//! kubedb-core. See ARCHITECTURE.md.
