//! kubedb-engine. See ARCHITECTURE.md.
