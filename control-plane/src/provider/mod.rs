//! What makes and ends machines. The seam to the outside world: `local` starts
//! agents as child processes, `ec2` has machines of Amazon's. It knows nothing of
//! users or sessions, and remembers nothing: what it was asked for is in rows.

pub mod counted;
pub mod ec2;
pub mod local;
pub mod user_data;

mod ssm;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::machine::{Draft, Machine, Offering, Trouble};
use crate::domain::offering::Shortage;

/// A boxed future, so that providers can be chosen at run time.
pub type Answer<'a, T, E = Error> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// What became of a launch that did not give a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// No machine was made, and none will be by this request.
    #[error("refused: {code}: {message}")]
    Refused {
        /// What there was too little of.
        shortage: Shortage,
        /// The provider's.
        code: String,
        /// For the operator.
        message: String,
    },
    /// Nothing was looked at; the same request may be sent later.
    #[error("throttled: {0}")]
    Throttled(String),
    /// A machine may have been made. The same request, and no other, finds it.
    #[error("no answer that can be told apart: {0}")]
    Unknown(String),
    /// This request made a machine that is gone again.
    #[error("the machine of this request is gone")]
    Spent,
    /// The provider remembers another request under the same token.
    #[error("the provider remembers another request: {0}")]
    Mismatch(String),
}

/// How a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Too many calls; nothing was done.
    Throttled,
    /// There is no such machine, or not yet.
    NotFound,
    /// It was not done: there is no room for it now.
    NoCapacity,
    /// It will not do it, now or later.
    Refused,
    /// It may have been done.
    Unknown,
}

/// Why a provider did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not {doing}: {reason}")]
pub struct Error {
    /// What was being done.
    pub doing: &'static str,
    /// How it failed.
    pub fault: Fault,
    /// For the operator.
    pub reason: String,
}

/// Makes and ends machines. Every call may be made again; none retries by itself,
/// and each ends within its own deadline.
pub trait Provider: Send + Sync {
    /// The name in the rows.
    fn name(&self) -> &'static str;

    /// Where its machines are; a region of AWS.
    fn region(&self) -> &str;

    /// How long after a launch, or after a change, a list may not show it.
    fn lag(&self) -> Duration;

    /// Whether its machines go on when this process ends.
    fn outlives_us(&self) -> bool;

    /// The ways to have a machine, best first, where nobody says otherwise.
    fn offerings(&self) -> Vec<Offering>;

    /// What machines are started from now: an image's id.
    fn image(&self) -> Answer<'_, String>;

    /// Writes a request out. What is written is kept in the row and sent as it is,
    /// as often as it takes.
    ///
    /// # Errors
    /// Where the settings do not make a request.
    fn draft(&self, draft: &Draft<'_>) -> Result<String, Error>;

    /// Sends a request. The same request never makes a second machine.
    fn launch<'a>(&'a self, request: &'a str) -> Answer<'a, Machine, LaunchError>;

    /// All machines of this deployment that are not gone, or none at all: a list
    /// is whole, or is an error.
    fn list<'a>(&'a self, deployment: &'a str) -> Answer<'a, Vec<Machine>>;

    /// Some machines by name, the gone ones too. Those that are not known (yet, or
    /// any more) are left out.
    fn find<'a>(&'a self, references: &'a [String]) -> Answer<'a, Vec<Machine>>;

    /// What is wrong with machines, as far as the provider notices.
    fn troubles<'a>(&'a self, references: &'a [String]) -> Answer<'a, Vec<Trouble>>;

    /// Ends a machine. Ending one that is gone is no error.
    fn terminate<'a>(&'a self, reference: &'a str) -> Answer<'a, ()>;

    /// Stops a machine so that it can be started again.
    fn stop<'a>(&'a self, reference: &'a str) -> Answer<'a, ()>;

    /// Starts a stopped machine.
    fn start<'a>(&'a self, reference: &'a str) -> Answer<'a, ()>;

    /// Starts a machine anew, as its power button would.
    fn reboot<'a>(&'a self, reference: &'a str) -> Answer<'a, ()>;

    /// Starts a machine's agent anew, past the agent itself.
    fn restart_agent<'a>(&'a self, reference: &'a str) -> Answer<'a, ()>;

    /// The last words of a machine's agent, or of its start.
    fn journal<'a>(&'a self, reference: &'a str) -> Answer<'a, String>;

    /// Puts the token where only this machine finds it.
    fn hand_token<'a>(&'a self, reference: &'a str, token: &'a str) -> Answer<'a, ()>;

    /// Takes it away from there. Taking away what is not there is no error.
    fn take_token<'a>(&'a self, reference: &'a str) -> Answer<'a, ()>;

    /// The machines for which a token lies ready.
    fn tokens(&self) -> Answer<'_, Vec<String>>;

    /// Names of machines that ended by themselves, as they do. Taken once.
    fn departures(&self) -> Option<mpsc::Receiver<String>>;
}
