//! The agent: one on each instance. It dials out to the control plane, starts
//! Chrome, and drives it.
//!
//! Nothing here listens, and nothing here decides who may do what: that is the
//! control plane's.

pub mod app;
pub mod browser;
mod clock;
pub mod config;
mod dead_man;
mod end;
mod enrol;
mod fence;
pub mod host;
mod link;
mod remembered;
mod session;
mod sessions;
pub mod tasks;
pub mod telemetry;

/// When an agent dials again: what stands in for many of them has to be as patient.
pub use link::backoff::Backoff;
