//! AWS Systems Manager: the one-time tokens of machines, the parameter that names
//! an image, and the door to a machine whose agent does not answer.
//!
//! A token lies under the machine's own name and is tagged with it, so that a
//! role can let each machine read its own and no other.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::Builder;
use aws_sdk_ssm::types::{CommandInvocationStatus, ParameterType, Tag};
use tokio::time::{Instant, sleep, timeout_at};

use super::ec2::answers::Failure;
use super::ec2::limits::Limits;
use super::user_data::token_folder;
use super::{Error, Fault};

/// Parameters in one answer: the most that SSM gives.
const PAGE: i32 = 10;
/// How long a list of all tokens may take: a thousand machines that wait for one
/// are a hundred pages.
const LIST_DEADLINE: Duration = Duration::from_secs(60);
/// The tag that a role's policy compares with the machine that asks.
const INSTANCE: &str = "InstanceId";
/// How long a machine may take to fetch a command: the least that SSM takes.
const DELIVERY_SECONDS: i32 = 30;
/// How long a command may take altogether; delivery is most of it.
const COMMAND_DEADLINE: Duration = Duration::from_secs(45);
/// The first look at a command's outcome, and the longest time between two.
const LOOK_FIRST: Duration = Duration::from_millis(250);
const LOOK_LONGEST: Duration = Duration::from_secs(4);

/// What the rescue document does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rescue {
    /// Starts the agent anew.
    Restart,
    /// Prints the end of its journal.
    Journal,
}

impl Rescue {
    fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Journal => "journal",
        }
    }
}

#[derive(Debug)]
pub(super) struct Ssm {
    client: Client,
    /// `/browserfleet/<deployment>/enrol/`, before a machine's name.
    folder: String,
}

impl Ssm {
    pub fn new(sdk: &SdkConfig, timeouts: TimeoutConfig, deployment: &str) -> Self {
        let config = Builder::from(sdk)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        Self {
            client: Client::from_conf(config.build()),
            folder: token_folder(deployment),
        }
    }

    /// What a parameter holds.
    pub async fn parameter(&self, limits: &Limits, name: &str) -> Result<String, Error> {
        const DOING: &str = "read a parameter";
        let turn = limits.parameters.turn().await;
        turn.map_err(|it| it.of_call(DOING))?;
        let asked = self.client.get_parameter().name(name).send().await;
        let found = asked.map_err(|it| Failure::of(&it).of_call(DOING))?;
        let value = found.parameter().and_then(|it| it.value());
        value.map(ToOwned::to_owned).ok_or_else(|| Error {
            doing: DOING,
            fault: Fault::Refused,
            reason: format!("{name} holds nothing"),
        })
    }

    /// Puts a token where one machine finds it. A new one takes an old one's
    /// place: SSM writes over or tags, not both at once, so the old one goes first.
    pub async fn hand(&self, limits: &Limits, instance: &str, token: &str) -> Result<(), Error> {
        match self.put(limits, instance, token).await {
            Err(failure) if failure.code() == "ParameterAlreadyExists" => {
                self.take(limits, instance).await?;
                let again = self.put(limits, instance, token).await;
                again.map_err(|it| it.of_call(HANDING))
            }
            put => put.map_err(|it| it.of_call(HANDING)),
        }
    }

    async fn put(&self, limits: &Limits, instance: &str, token: &str) -> Result<(), Failure> {
        limits.put.turn().await?;
        let tag = Tag::builder().key(INSTANCE).value(instance).build();
        let tag = tag.map_err(|it| Failure::of_writing(&it))?;
        let put = self
            .client
            .put_parameter()
            .name(format!("{}{instance}", self.folder))
            .r#type(ParameterType::SecureString)
            .value(token)
            .tags(tag);
        put.send().await.map_err(|it| Failure::of(&it))?;
        Ok(())
    }

    /// Takes a token away.
    pub async fn take(&self, limits: &Limits, instance: &str) -> Result<(), Error> {
        const DOING: &str = "take a token away";
        let turn = limits.delete.turn().await;
        turn.map_err(|it| it.of_call(DOING))?;
        let name = format!("{}{instance}", self.folder);
        match self.client.delete_parameter().name(name).send().await {
            Ok(_) => Ok(()),
            Err(error) => match Failure::of(&error) {
                gone if gone.fault() == Fault::NotFound => Ok(()),
                failure => Err(failure.of_call(DOING)),
            },
        }
    }

    /// The machines for which a token lies there. Names only: what is in them is
    /// not decrypted.
    pub async fn waiting(&self, limits: &Limits) -> Result<Vec<String>, Error> {
        const DOING: &str = "list the tokens";
        let latest = Instant::now() + LIST_DEADLINE;
        let mut machines = Vec::new();
        let mut next = None;
        loop {
            let turn = limits.parameters.turn().await;
            turn.map_err(|it| it.of_call(DOING))?;
            let page = self
                .client
                .get_parameters_by_path()
                .path(self.folder.trim_end_matches('/'))
                .recursive(false)
                .with_decryption(false)
                .max_results(PAGE)
                .set_next_token(next)
                .send();
            let page = timeout_at(latest, page).await.map_err(|_| late(DOING))?;
            let page = page.map_err(|it| Failure::of(&it).of_call(DOING))?;
            let names = page.parameters().iter().filter_map(|it| it.name());
            machines.extend(
                names
                    .filter_map(|it| it.strip_prefix(&self.folder))
                    .map(ToOwned::to_owned),
            );
            next = page.next_token().map(ToOwned::to_owned);
            if next.is_none() {
                return Ok(machines);
            }
        }
    }

    /// Has a machine do what the document says, and gives back what it printed.
    pub async fn rescue(
        &self,
        limits: &Limits,
        document: &str,
        what: Rescue,
        instance: &str,
    ) -> Result<String, Error> {
        let latest = Instant::now() + COMMAND_DEADLINE;
        let run = async {
            let command = self.send(limits, document, what, instance).await?;
            self.outcome(limits, &command, instance).await
        };
        timeout_at(latest, run)
            .await
            .unwrap_or_else(|_| Err(late(RESCUING)))
    }

    async fn send(
        &self,
        limits: &Limits,
        document: &str,
        what: Rescue,
        instance: &str,
    ) -> Result<String, Error> {
        let turn = limits.command.turn().await;
        turn.map_err(|it| it.of_call(RESCUING))?;
        let sent = self
            .client
            .send_command()
            .document_name(document)
            .instance_ids(instance)
            .parameters("Action", vec![what.as_str().to_owned()])
            .timeout_seconds(DELIVERY_SECONDS)
            .send()
            .await;
        let sent = sent.map_err(|it| Failure::of(&it).of_call(RESCUING))?;
        let id = sent.command().and_then(|it| it.command_id());
        id.map(ToOwned::to_owned).ok_or_else(|| Error {
            doing: RESCUING,
            fault: Fault::Unknown,
            reason: "the answer names no command".into(),
        })
    }

    /// Looks until the command has ended. There is no event for it.
    async fn outcome(
        &self,
        limits: &Limits,
        command: &str,
        instance: &str,
    ) -> Result<String, Error> {
        let mut wait = LOOK_FIRST;
        loop {
            sleep(wait).await;
            wait = (wait * 2).min(LOOK_LONGEST);
            let turn = limits.invocations.turn().await;
            turn.map_err(|it| it.of_call(RESCUING))?;
            let asked = self
                .client
                .get_command_invocation()
                .command_id(command)
                .instance_id(instance)
                .send()
                .await;
            let invocation = match asked {
                Ok(invocation) => invocation,
                Err(error) => match Failure::of(&error) {
                    // What was sent a moment ago is not seen everywhere yet; and
                    // the command goes on whether this look is answered or not.
                    not_now if not_now.fault() != Fault::Refused => continue,
                    failure => return Err(failure.of_call(RESCUING)),
                },
            };
            match invocation.status() {
                Some(CommandInvocationStatus::Success) => {
                    return Ok(invocation
                        .standard_output_content()
                        .unwrap_or_default()
                        .into());
                }
                Some(
                    CommandInvocationStatus::Failed
                    | CommandInvocationStatus::TimedOut
                    | CommandInvocationStatus::Cancelled,
                ) => {
                    let details = invocation.status_details().unwrap_or_default();
                    let output = invocation.standard_error_content().unwrap_or_default();
                    return Err(Error {
                        doing: RESCUING,
                        fault: Fault::Refused,
                        reason: format!("{details}: {output}"),
                    });
                }
                // Pending, under way, being cancelled.
                _ => {}
            }
        }
    }
}

const HANDING: &str = "hand a token over";
const RESCUING: &str = "reach a machine through Run Command";

fn late(doing: &'static str) -> Error {
    Error {
        doing,
        fault: Fault::Unknown,
        reason: "it took too long".into(),
    }
}
