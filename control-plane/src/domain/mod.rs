//! The rules, pure: no async, no I/O, no clock, no randomness. State and input
//! go in, the new state or a refusal comes out.

pub mod access;
pub mod audit;
pub mod certificate;
pub mod command;
pub mod control;
pub mod health;
pub mod identity;
pub mod instance;
pub mod key;
pub mod login;
pub mod machine;
pub mod offering;
pub mod placement;
pub mod pool;
pub mod reconcile;
pub mod session;
pub mod settings;
pub mod share;
#[cfg(test)]
mod simulation;
pub mod time;
pub mod user;
