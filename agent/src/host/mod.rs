//! The machine that the agent runs on.

pub mod isolation;
pub mod load;
pub mod metadata;
pub mod parameter;
pub mod power;
#[cfg(test)]
mod scene;
pub mod spot;
pub mod start;
