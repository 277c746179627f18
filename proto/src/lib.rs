//! What the control plane and its agents say to each other: the generated
//! messages and services, and the few types that give them a meaning.
//!
//! Nothing here decides anything, and nothing here does I/O.

pub mod action;
pub mod frame;
pub mod ids;
pub mod input;
pub mod ladder;
pub mod limits;
pub mod wire;

/// The protocol version that this build speaks. An agent and a control plane
/// with different versions part at once, in words.
pub const PROTOCOL_VERSION: u32 = 1;

/// Between an agent and the control plane.
pub mod agent {
    /// Version 1: link, media, enrolment.
    #[expect(
        missing_docs,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated; the .proto files are the documentation"
    )]
    pub mod v1 {
        tonic::include_proto!("browserfleet.agent.v1");
    }
}

/// What a browser can be asked, and the API for internal services.
pub mod browser {
    /// The files of the API for internal services, for reflection.
    pub const FILES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/browser.bin"));

    /// Version 1.
    #[expect(
        missing_docs,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated; the .proto files are the documentation"
    )]
    pub mod v1 {
        tonic::include_proto!("browserfleet.browser.v1");
    }
}
