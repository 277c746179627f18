//! What there is. A list is whole, or it is an error: who reads half of one takes
//! the other half for gone.

use std::time::Duration;

use aws_sdk_ec2::types::{Filter, Instance, Reservation};
use tokio::time::{Instant, timeout_at};

use super::answers::Failure;
use super::{Ec2, machines, tags, turn};
use crate::domain::machine::{Machine, Trouble};
use crate::provider::{Error, Fault};

/// How long all pages together may take.
const LIST_DEADLINE: Duration = Duration::from_secs(60);
/// Values that EC2 takes in one filter.
const FILTER_VALUES_MAX: usize = 200;
/// Ids that EC2 takes in one question about status.
const IDS_MAX: usize = 100;
/// How often what EC2 does not know is taken out of a question. It names all
/// that it does not know; a second time, for those that ended meanwhile.
const QUESTIONS_MAX: usize = 3;
/// All but `terminated`, of which EC2 keeps some for an hour.
const STATES: [&str; 5] = ["pending", "running", "stopping", "stopped", "shutting-down"];

const LISTING: &str = "list the machines";

impl Ec2 {
    /// All machines of a deployment.
    pub(super) async fn all(&self, deployment: &str) -> Result<Vec<Machine>, Error> {
        let ours = format!("tag:{}", tags::DEPLOYMENT);
        self.pages(&[
            filter(&ours, [deployment]),
            filter("instance-state-name", STATES),
        ])
        .await
    }

    /// Some machines. Asked for by a filter: by name, one that EC2 does not know
    /// would spoil the rest.
    pub(super) async fn some(&self, references: &[String]) -> Result<Vec<Machine>, Error> {
        let mut found = Vec::new();
        for some in references.chunks(FILTER_VALUES_MAX) {
            let named = filter("instance-id", some.iter().map(String::as_str));
            found.extend(self.pages(&[named]).await?);
        }
        Ok(found)
    }

    async fn pages(&self, filters: &[Filter]) -> Result<Vec<Machine>, Error> {
        let latest = Instant::now() + LIST_DEADLINE;
        let mut found = Vec::new();
        let mut next = None;
        loop {
            turn(&self.limits.instances, LISTING).await?;
            let page = self
                .looks
                .describe_instances()
                .set_filters(Some(filters.to_vec()))
                .max_results(self.page)
                .set_next_token(next)
                .send();
            let page = timeout_at(latest, page).await.map_err(|_| late())?;
            let page = page.map_err(|it| Failure::of(&it).of_call(LISTING))?;
            for it in page.reservations().iter().flat_map(Reservation::instances) {
                found.push(machines::machine(it).ok_or_else(|| untold(it))?);
            }
            next = page
                .next_token()
                .filter(|it| !it.is_empty())
                .map(ToOwned::to_owned);
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// What is wrong with some machines. Only those that run have a status.
    pub(super) async fn unwell(&self, references: &[String]) -> Result<Vec<Trouble>, Error> {
        let mut troubles = Vec::new();
        for some in references.chunks(IDS_MAX) {
            troubles.extend(self.statuses(some.to_vec()).await?);
        }
        Ok(troubles)
    }

    async fn statuses(&self, mut references: Vec<String>) -> Result<Vec<Trouble>, Error> {
        const DOING: &str = "look at the machines' status";
        for _ in 1..QUESTIONS_MAX {
            match self.status(&references).await {
                Err(failure) if failure.fault() == Fault::NotFound => {
                    let unknown = failure.message().to_owned();
                    references.retain(|it| !names(&unknown, it));
                }
                answer => return answer.map_err(|it| it.of_call(DOING)),
            }
        }
        let answer = self.status(&references).await;
        answer.map_err(|it| it.of_call(DOING))
    }

    async fn status(&self, references: &[String]) -> Result<Vec<Trouble>, Failure> {
        // A question that names nobody is about everybody.
        if references.is_empty() {
            return Ok(Vec::new());
        }
        self.limits.statuses.turn().await?;
        let asked = self
            .looks
            .describe_instance_status()
            .set_instance_ids(Some(references.to_vec()))
            .send()
            .await;
        let answer = asked.map_err(|it| Failure::of(&it))?;
        let statuses = answer.instance_statuses().iter();
        Ok(statuses.filter_map(machines::trouble).collect())
    }
}

fn filter<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Filter {
    let values = values.into_iter().map(ToOwned::to_owned).collect();
    Filter::builder()
        .name(name)
        .set_values(Some(values))
        .build()
}

/// Whether a message names this machine, and not one whose name begins like it.
fn names(message: &str, reference: &str) -> bool {
    message
        .split(|it: char| !it.is_ascii_alphanumeric() && it != '-')
        .any(|it| it == reference)
}

fn late() -> Error {
    Error {
        doing: LISTING,
        fault: Fault::Unknown,
        reason: "it took too long".into(),
    }
}

fn untold(it: &Instance) -> Error {
    Error {
        doing: LISTING,
        fault: Fault::Unknown,
        reason: format!(
            "{} is described without its state, kind or time",
            it.instance_id().unwrap_or("a machine")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_whole_ids_only() {
        let one = "The instance ID 'i-0a1' does not exist";
        assert!(names(one, "i-0a1"));
        assert!(!names(one, "i-0a"));
        let two = "The instance IDs 'i-0a1, i-0b2' do not exist";
        assert!(names(two, "i-0a1") && names(two, "i-0b2"));
        assert!(!names(two, "i-0c3"));
    }
}
