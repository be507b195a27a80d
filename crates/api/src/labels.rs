//! Names of labels, annotations and finalizers.

/// Kind of the object a thing belongs to.
pub const KIND: &str = "kubedb.com/kind";
/// Name of the database a thing belongs to.
pub const NAME: &str = "kubedb.com/name";
/// Role of an instance: `primary` or `replica`, as its agent says.
pub const ROLE: &str = "kubedb.com/role";
/// Whether an instance that is a replica answers queries: `hot` or `warm`, as its agent says.
pub const STANDBY_MODE: &str = "kubedb.com/standby-mode";
/// Namespace of the database that something in another namespace belongs to.
pub const NAMESPACE: &str = "kubedb.com/namespace";
/// UID of the Postgres object that a thing belongs to.
pub const DATABASE_UID: &str = "kubedb.com/uid";
/// Annotation of what the operator applied: a digest of all it wanted.
pub const APPLIED: &str = "kubedb.com/applied";
/// Annotation of a StatefulSet whose pods were refused: when it was asked to try again.
pub const RETRIED: &str = "kubedb.com/retried";
/// What a pod is for that is no instance: `delete`, `store`.
pub const TASK: &str = "kubedb.com/task";
/// Annotation of a Secret with certificates: when they end.
pub const EXPIRES: &str = "kubedb.com/expires";
/// Name of what serves a volume, on its pod.
pub const VOLUME: &str = "kubedb.com/volume";
/// Marks a Snapshot in work.
pub const SNAPSHOT_STATUS: &str = "snapshot.kubedb.com/status";
/// Marks a database whose initialisation is over.
pub const INITIALIZED: &str = "kubedb.com/initialized";
/// Finalizer on Postgres and Snapshot.
pub const FINALIZER: &str = "kubedb.com";
/// Annotation of a scheduled Snapshot: the tick it was made for.
pub const TICK: &str = "kubedb.com/scheduled-for";
/// Annotation of a scheduled Snapshot: it starts no earlier, so that not all start on the tick.
pub const START_AFTER: &str = "kubedb.com/start-after";
/// Annotation of a Snapshot that retention never deletes.
pub const PINNED: &str = "kubedb.com/pinned";
/// Annotation of a Snapshot that shall be verified: how.
pub const VERIFY: &str = "kubedb.com/verify";
/// Annotation of an Event: what it tells of, so that the same occurrence is told once.
pub const OCCURRENCE: &str = "kubedb.com/occurrence";
