//! Names of labels, annotations and finalizers.

/// Kind of the object a thing belongs to.
pub const KIND: &str = "kubedb.com/kind";
/// Name of the database a thing belongs to.
pub const NAME: &str = "kubedb.com/name";
/// Role of an instance.
pub const ROLE: &str = "kubedb.com/role";
/// Marks a Snapshot in work.
pub const SNAPSHOT_STATUS: &str = "snapshot.kubedb.com/status";
/// Marks a database whose initialisation is over.
pub const INITIALIZED: &str = "kubedb.com/initialized";
/// Finalizer on Postgres and Snapshot.
pub const FINALIZER: &str = "kubedb.com";
