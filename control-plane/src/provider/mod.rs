//! What makes and ends instances. The seam to the outside world: `local` starts
//! agents as child processes. It knows nothing of users or sessions.

pub mod local;

use std::future::Future;
use std::pin::Pin;

use browserfleet_proto::ids::InstanceId;
use tokio::sync::mpsc;

/// A boxed future, so that providers can be chosen at run time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A machine as the provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The row that it was made for.
    pub instance: InstanceId,
    /// The provider's own name for it: a process id, an EC2 instance id.
    pub reference: String,
}

/// What a machine is made with.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The row that it is for.
    pub instance: InstanceId,
    /// With this the agent joins, once.
    pub token: String,
}

/// Why a provider did not do what it was asked. `left_behind` says whether
/// something may exist now that has to be looked for.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing}: {reason}")]
pub struct Error {
    /// What was being done.
    pub doing: &'static str,
    /// For the operator.
    pub reason: String,
    /// Whether a machine may be there nevertheless.
    pub left_behind: bool,
}

/// Makes and ends instances.
pub trait Provider: Send + Sync {
    /// The name in the rows.
    fn name(&self) -> &'static str;

    /// Makes one machine.
    fn launch(&self, launch: Launch) -> Answer<'_, Machine>;

    /// Ends one machine. Ending one that is not there is no error.
    fn terminate(&self, instance: InstanceId) -> Answer<'_, ()>;

    /// All machines of this deployment.
    fn list(&self) -> Answer<'_, Vec<Machine>>;

    /// Machines that ended by themselves, as they do. Taken once.
    fn departures(&self) -> Option<mpsc::Receiver<InstanceId>>;
}
