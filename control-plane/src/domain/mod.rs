//! The rules, pure: no async, no I/O, no clock, no randomness. State and input
//! go in, the new state or a refusal comes out.

pub mod command;
pub mod instance;
pub mod placement;
pub mod session;
pub mod time;
pub mod user;
