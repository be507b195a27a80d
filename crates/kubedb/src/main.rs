//! The `kubedb` command: what users type, and what machines run.
fn main() {}
