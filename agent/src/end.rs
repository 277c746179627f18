//! Why the agent's process ends, and what that means to whoever looks after it.

use std::process::ExitCode;
use std::time::Duration;

use thiserror::Error;

use crate::link::keeper;

/// Why the agent's process ends.
#[derive(Debug, Error)]
pub enum End {
    /// It was told to, by a signal.
    #[error("told to end")]
    Told,
    /// The control plane wants a new process.
    #[error("told to restart: {0}")]
    Restart(String),
    /// Something failed that a new process may find in order.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    /// The machine's configuration names something that is not there.
    #[error("{0:#}")]
    Misconfigured(anyhow::Error),
    /// The control plane will not have this agent.
    #[error("the control plane refused this agent: {0}")]
    Refused(String),
    /// It has no identity, and there is no time left to get one.
    #[error("{0}")]
    NoIdentity(String),
    /// Nothing was heard of the control plane for this long.
    #[error("no control plane for {} s; a machine that nobody knows must not go on", .0.as_secs())]
    DeadMan(Duration),
}

impl From<keeper::Error> for End {
    fn from(error: keeper::Error) -> Self {
        match error {
            keeper::Error::Refused(reason) => Self::Refused(reason),
            keeper::Error::Late(reason) => Self::NoIdentity(reason),
            keeper::Error::Failed(error) => Self::Failed(error),
        }
    }
}

impl End {
    /// What the process says with its exit: whether it is of use to start it again.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Told => 0,
            Self::Failed(_) | Self::NoIdentity(_) | Self::DeadMan(_) => 1,
            Self::Misconfigured(_) => 2,
            Self::Refused(_) => 3,
            Self::Restart(_) => 4,
        }
    }

    /// Whether the machine has no use any more, so that it must not go on costing.
    #[must_use]
    pub fn is_the_machines(&self) -> bool {
        match self {
            Self::Refused(_) | Self::NoIdentity(_) | Self::DeadMan(_) => true,
            Self::Told | Self::Restart(_) | Self::Failed(_) | Self::Misconfigured(_) => false,
        }
    }

    /// Says it in the log, and as an exit code.
    #[must_use]
    pub fn tell(&self) -> ExitCode {
        let reason = self.to_string();
        match self {
            Self::Told | Self::Restart(_) => tracing::info!(reason, "the agent ends"),
            _ => tracing::error!(reason, "the agent ends"),
        }
        ExitCode::from(self.code())
    }
}
