//! A machine as its provider sees it, and what it is asked for with.

use browserfleet_proto::ids::InstanceId;
use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// On which market a machine is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Market {
    /// Until it is given back.
    OnDemand,
    /// Cheaper, until it is taken back.
    Spot,
}

impl Market {
    /// As it is stored and read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
        }
    }

    /// Whether a machine of it can be stopped and started again by us.
    #[must_use]
    pub fn can_stop(self) -> bool {
        self == Self::OnDemand
    }
}

/// One way to have a machine: of which kind, where, on which market.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Offering {
    /// `m7i.large`; `process` on `local`.
    pub kind: String,
    /// A subnet; `here` on `local`.
    pub place: String,
    /// On which market.
    pub market: Market,
}

/// What a launch is to be, before its provider writes it out.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// The row that it is for.
    pub instance: InstanceId,
    /// Counts from 1. Each attempt is one request, byte for byte.
    pub attempt: i64,
    /// The database that the row is in.
    pub deployment: &'a str,
    /// Which of the pool's makings it is of.
    pub generation: i64,
    /// What it is started from.
    pub image: &'a str,
    /// How it is to be had.
    pub offering: &'a Offering,
}

/// How far a machine is, as its provider says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MachineState {
    /// It starts.
    Pending,
    /// It runs.
    Running,
    /// It is there and does not run.
    Stopped,
    /// It is on its way out.
    ShuttingDown,
    /// It is gone.
    Terminated,
}

impl MachineState {
    /// Whether there is something that has to be ended.
    #[must_use]
    pub fn is_there(self) -> bool {
        matches!(self, Self::Pending | Self::Running | Self::Stopped)
    }
}

/// A machine as its provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The provider's own name for it.
    pub reference: String,
    /// The row that it says it was made for.
    pub instance: Option<InstanceId>,
    /// The attempt that it says it was made by.
    pub attempt: i64,
    /// How far it is.
    pub state: MachineState,
    /// When it was launched.
    pub launched_at: Timestamp,
    /// Why it is not running, in the provider's words.
    pub reason: Option<String>,
    /// Where it is reached, as far as it is known.
    pub addresses: Addresses,
    /// Of which kind, where.
    pub kind: String,
    /// The provider's name of its zone.
    pub zone: String,
}

/// Where a machine is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// A name for everybody.
    pub public_dns: Option<String>,
    /// For everybody.
    pub public_ip: Option<String>,
    /// In its own network.
    pub private_ip: Option<String>,
}

/// What a provider says is wrong with a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The provider's own name for it.
    pub reference: String,
    /// `status_check_failed`, `scheduled_event`.
    pub reason: String,
}
