//! What the contract suite is made of: two engines, talks with them that are written down, and the comparison with what
//! kube-apiserver answered.

pub mod engine;
pub mod expected;
pub mod kubectl;
pub mod normalise;
pub mod scale;
pub mod suite;
pub mod talk;
