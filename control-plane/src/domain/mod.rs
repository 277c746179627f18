//! The rules, pure: no async, no I/O, no clock, no randomness. State and input
//! go in, the new state or a refusal comes out.

pub mod audit;
pub mod certificate;
pub mod command;
pub mod identity;
pub mod instance;
pub mod key;
pub mod login;
pub mod placement;
pub mod session;
pub mod settings;
pub mod time;
pub mod user;
