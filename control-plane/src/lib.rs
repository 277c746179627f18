//! Browserfleet's control plane: users, the pool of instances, sessions, their
//! history, and the relay to the browsers. See `ARCHITECTURE.md` for the map.

pub mod accounts;
pub mod api;
pub mod app;
pub mod clock;
pub mod config;
pub mod domain;
pub mod error;
pub mod fleet;
pub mod jobs;
pub mod provider;
pub mod relay;
pub mod sessions;
pub mod store;
pub mod tasks;
pub mod telemetry;
