//! What happens without being asked. Jobs are woken by signals and by the time
//! that they themselves named; what they do they decide from what they read.

mod certificates;
mod control;
mod converge;
mod expire;
mod place;
mod presence;
mod purge;
mod revoke;

use std::sync::Arc;

use tokio::sync::watch;

use crate::accounts::Accounts;
use crate::domain::certificate::Certificate;
use crate::fleet::Fleet;
use crate::provider::Provider;
use crate::sessions::Sessions;
use crate::store::Store;
use crate::tasks::Tasks;

/// What the jobs work on.
#[derive(Clone)]
pub struct Jobs {
    /// Rows.
    pub store: Store,
    /// Users.
    pub accounts: Arc<Accounts>,
    /// Instances.
    pub fleet: Arc<Fleet>,
    /// Browsers.
    pub sessions: Arc<Sessions>,
    /// Machines.
    pub provider: Arc<dyn Provider>,
    /// Changes whenever a link came or went.
    pub links: watch::Receiver<u64>,
    /// Certificates of ours.
    pub certificates: Vec<Certificate>,
}

impl Jobs {
    /// Starts all of them.
    pub fn start(&self, tasks: &Tasks) {
        tasks.spawn("converge", converge::run(self.clone(), tasks.clone()));
        tasks.spawn("place", place::run(self.clone(), tasks.clone()));
        tasks.spawn("presence", presence::run(self.clone(), tasks.clone()));
        tasks.spawn(
            "expire",
            expire::run(Arc::clone(&self.sessions), tasks.clone()),
        );
        tasks.spawn("control", control::run(self.clone(), tasks.clone()));
        tasks.spawn("revoke", revoke::run(self.clone(), tasks.clone()));
        tasks.spawn(
            "certificates",
            certificates::run(self.certificates.clone(), tasks.clone()),
        );
        tasks.spawn("purge", purge::run(self.clone(), tasks.clone()));
    }
}
