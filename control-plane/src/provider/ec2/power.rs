//! Ending a machine, and its power: off, on, off and on.

use super::answers::Failure;
use super::{Ec2, turn};
use crate::provider::{Error, Fault};

impl Ec2 {
    pub(super) async fn end(&self, reference: &str) -> Result<(), Error> {
        const DOING: &str = "end a machine";
        turn(&self.limits.terminate, DOING).await?;
        // One at a time: one bad name in a request spoils the rest.
        let ended = self.acts.terminate_instances().instance_ids(reference);
        match ended.send().await {
            Ok(_) => Ok(()),
            Err(error) => match Failure::of(&error) {
                gone if gone.fault() == Fault::NotFound => Ok(()),
                failure => Err(failure.of_call(DOING)),
            },
        }
    }

    pub(super) async fn halt(&self, reference: &str) -> Result<(), Error> {
        const DOING: &str = "stop a machine";
        turn(&self.limits.stop, DOING).await?;
        let stopped = self.acts.stop_instances().instance_ids(reference);
        let stopped = stopped.send().await;
        stopped.map_err(|it| Failure::of(&it).of_call(DOING))?;
        Ok(())
    }

    pub(super) async fn wake(&self, reference: &str) -> Result<(), Error> {
        const DOING: &str = "start a machine";
        turn(&self.limits.start, DOING).await?;
        let started = self.acts.start_instances().instance_ids(reference);
        let started = started.send().await;
        started.map_err(|it| Failure::of(&it).of_start(DOING))?;
        Ok(())
    }

    pub(super) async fn start_anew(&self, reference: &str) -> Result<(), Error> {
        const DOING: &str = "reboot a machine";
        turn(&self.limits.reboot, DOING).await?;
        let rebooted = self.acts.reboot_instances().instance_ids(reference);
        let rebooted = rebooted.send().await;
        rebooted.map_err(|it| Failure::of(&it).of_call(DOING))?;
        Ok(())
    }
}
