//! The machine that the agent runs on.

pub mod load;
pub mod power;
