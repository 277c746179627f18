//! Counts what a provider is asked, and how it answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Answer, Error, Fault, LaunchError, Provider};
use crate::domain::machine::{Draft, Machine, Offering, Trouble};
use crate::telemetry::labels::{self, ProviderCall};
use crate::telemetry::metrics;

/// A provider whose calls are counted.
pub struct Counted(pub Arc<dyn Provider>);

/// What an error says about what was done.
trait Judged {
    fn answer(&self) -> labels::Answer;
}

impl Judged for Error {
    fn answer(&self) -> labels::Answer {
        match self.fault {
            Fault::Throttled => labels::Answer::Throttled,
            Fault::NotFound | Fault::NoCapacity | Fault::Refused => labels::Answer::Refused,
            Fault::Unknown => labels::Answer::Unknown,
        }
    }
}

impl Judged for LaunchError {
    fn answer(&self) -> labels::Answer {
        match self {
            Self::Refused { .. } | Self::Spent | Self::Mismatch(_) => labels::Answer::Refused,
            Self::Throttled(_) => labels::Answer::Throttled,
            Self::Unknown(_) => labels::Answer::Unknown,
        }
    }
}

fn counted<'a, T: Send + 'a, E: Judged + Send + 'a>(
    call: ProviderCall,
    asked: Answer<'a, T, E>,
) -> Answer<'a, T, E> {
    Box::pin(async move {
        let answer = asked.await;
        let judged = answer
            .as_ref()
            .map_or_else(Judged::answer, |_| labels::Answer::Accepted);
        metrics::provider_call(call, judged);
        answer
    })
}

impl Provider for Counted {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn region(&self) -> &str {
        self.0.region()
    }

    fn lag(&self) -> Duration {
        self.0.lag()
    }

    fn outlives_us(&self) -> bool {
        self.0.outlives_us()
    }

    fn offerings(&self) -> Vec<Offering> {
        self.0.offerings()
    }

    fn image(&self) -> Answer<'_, String> {
        counted(ProviderCall::Image, self.0.image())
    }

    fn draft(&self, draft: &Draft<'_>) -> Result<String, Error> {
        self.0.draft(draft)
    }

    fn launch<'a>(&'a self, request: &'a str) -> Answer<'a, Machine, LaunchError> {
        counted(ProviderCall::Launch, self.0.launch(request))
    }

    fn list<'a>(&'a self, deployment: &'a str) -> Answer<'a, Vec<Machine>> {
        counted(ProviderCall::List, self.0.list(deployment))
    }

    fn find<'a>(&'a self, references: &'a [String]) -> Answer<'a, Vec<Machine>> {
        counted(ProviderCall::List, self.0.find(references))
    }

    fn troubles<'a>(&'a self, references: &'a [String]) -> Answer<'a, Vec<Trouble>> {
        counted(ProviderCall::Check, self.0.troubles(references))
    }

    fn terminate<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        counted(ProviderCall::Terminate, self.0.terminate(reference))
    }

    fn stop<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        counted(ProviderCall::Stop, self.0.stop(reference))
    }

    fn start<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        counted(ProviderCall::Start, self.0.start(reference))
    }

    fn reboot<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        counted(ProviderCall::Reboot, self.0.reboot(reference))
    }

    fn restart_agent<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        counted(ProviderCall::Rescue, self.0.restart_agent(reference))
    }

    fn journal<'a>(&'a self, reference: &'a str) -> Answer<'a, String> {
        counted(ProviderCall::Rescue, self.0.journal(reference))
    }

    fn hand_token<'a>(&'a self, reference: &'a str, token: &'a str) -> Answer<'a, ()> {
        counted(ProviderCall::GiveToken, self.0.hand_token(reference, token))
    }

    fn take_token<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        counted(ProviderCall::TakeToken, self.0.take_token(reference))
    }

    fn tokens(&self) -> Answer<'_, Vec<String>> {
        counted(ProviderCall::TakeToken, self.0.tokens())
    }

    fn departures(&self) -> Option<mpsc::Receiver<String>> {
        self.0.departures()
    }
}
