//! Machines of Amazon's EC2.
//!
//! ```text
//! draft ─▶ request (in the row) ─▶ launch ─▶ accepted: a machine
//!                                     ├────▶ refused: the next offering, a new token
//!                                     ├────▶ throttled: later
//!                                     └────▶ unknown: the same request again
//! ```
//!
//! Nothing is tried again here, and the SDK's own retries are off: rows remember,
//! and a retry that nobody wrote down is a second machine that nobody knows of.
//! Every call has a deadline, a turn in [`limits`], and an answer that
//! [`answers`] judges by its code.

pub(in crate::provider) mod answers;
pub(in crate::provider) mod limits;

mod launching;
mod listing;
mod machines;
mod power;
mod request;
mod rescue;
mod tags;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::Builder;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::mpsc;

use self::launching::Roots;
use self::limits::{Bucket, Limits};
use super::ssm::{Rescue, Ssm};
use super::user_data::UserData;
use super::{Answer, Error, Fault, LaunchError, Provider};
use crate::config::{self, MarketOrder};
use crate::domain::machine::{Draft, Machine, Market, Offering, Trouble};

/// How long AWS may take to take a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// How long it may take to answer. There is one attempt; the rest of an
/// operation's time is for credentials.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);
const OPERATION_DEADLINE: Duration = Duration::from_secs(15);
/// How long a page of a list may take, which is larger.
const LOOK_DEADLINE: Duration = Duration::from_secs(20);
/// How long what EC2 shows may lag behind what was done. It says minutes at the
/// most, and names no figure.
const LAG: Duration = Duration::from_secs(5 * 60);
/// Machines in one answer of a list: the most that EC2 gives.
const PAGE: i32 = 1_000;

/// What machines are made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As the operator decided.
    pub pool: config::Ec2,
    /// The database's own id: only its machines are ours.
    pub deployment: String,
    /// What a machine does when it starts for the first time.
    pub user_data: UserData,
    /// Machines in one answer of a list, 5 to 1,000; `None`: as many as EC2 gives.
    pub page: Option<i32>,
}

/// Makes and ends machines of EC2.
#[derive(Debug)]
pub struct Ec2 {
    pool: config::Ec2,
    /// In base64.
    user_data: String,
    page: i32,
    region: String,
    /// For what changes something.
    acts: Client,
    /// For what looks, with more time.
    looks: Client,
    ssm: Ssm,
    limits: Limits,
    roots: Roots,
}

impl Ec2 {
    /// With the credentials and addresses that the SDK finds in its variables.
    ///
    /// # Errors
    /// Where there is no region. Nothing is asked of EC2 yet.
    pub async fn connect(settings: Settings) -> Result<Self, Error> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = settings.pool.region.clone() {
            loader = loader.region(Region::new(region));
        }
        Self::new(&loader.load().await, settings)
    }

    /// With credentials and addresses that are known.
    ///
    /// # Errors
    /// Where there is no region.
    pub fn new(sdk: &SdkConfig, settings: Settings) -> Result<Self, Error> {
        let region = sdk.region().ok_or_else(|| Error {
            doing: "choose a region",
            fault: Fault::Refused,
            reason: "there is none; name it with BROWSERFLEET_EC2_REGION or AWS_REGION".into(),
        })?;
        let acts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .operation_attempt_timeout(ATTEMPT_DEADLINE)
            .operation_timeout(OPERATION_DEADLINE)
            .build();
        let looks = TimeoutConfig::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .operation_timeout(LOOK_DEADLINE)
            .build();
        let client = |timeouts: &TimeoutConfig| {
            let config = Builder::from(sdk)
                .retry_config(RetryConfig::disabled())
                .timeout_config(timeouts.clone());
            Client::from_conf(config.build())
        };
        Ok(Self {
            region: region.to_string(),
            acts: client(&acts),
            looks: client(&looks),
            ssm: Ssm::new(sdk, acts, &settings.deployment),
            limits: Limits::default(),
            roots: Roots::default(),
            page: settings.page.unwrap_or(PAGE),
            user_data: STANDARD.encode(settings.user_data.as_bytes()),
            pool: settings.pool,
        })
    }

    async fn resolve_image(&self) -> Result<String, Error> {
        let named = &self.pool.image;
        if !named.starts_with('/') {
            return Ok(named.clone());
        }
        let image = self.ssm.parameter(&self.limits, named).await?;
        if image.starts_with("ami-") {
            return Ok(image);
        }
        Err(Error {
            doing: "choose an image",
            fault: Fault::Refused,
            reason: format!("the parameter {named} holds no image's id"),
        })
    }
}

async fn turn(bucket: &Bucket, doing: &'static str) -> Result<(), Error> {
    bucket.turn().await.map_err(|it| it.of_call(doing))
}

/// All ways to have a machine: a kind is tried in every place before the next
/// kind is, and a market with every kind before the next market is.
fn offerings(pool: &config::Ec2) -> Vec<Offering> {
    let markets: &[Market] = match pool.market {
        MarketOrder::OnDemand => &[Market::OnDemand],
        MarketOrder::Spot => &[Market::Spot],
        MarketOrder::SpotFirst => &[Market::Spot, Market::OnDemand],
    };
    let mut offerings = Vec::new();
    for market in markets {
        for kind in &pool.kinds {
            for place in &pool.subnets {
                offerings.push(Offering {
                    kind: kind.clone(),
                    place: place.clone(),
                    market: *market,
                });
            }
        }
    }
    offerings
}

impl Provider for Ec2 {
    fn name(&self) -> &'static str {
        "ec2"
    }

    fn region(&self) -> &str {
        &self.region
    }

    fn lag(&self) -> Duration {
        LAG
    }

    fn outlives_us(&self) -> bool {
        true
    }

    fn offerings(&self) -> Vec<Offering> {
        offerings(&self.pool)
    }

    fn image(&self) -> Answer<'_, String> {
        Box::pin(async {
            let image = self.resolve_image().await?;
            self.learn_root(&image).await?;
            Ok(image)
        })
    }

    fn draft(&self, draft: &Draft<'_>) -> Result<String, Error> {
        self.write(draft)
    }

    fn launch<'a>(&'a self, request: &'a str) -> Answer<'a, Machine, LaunchError> {
        Box::pin(self.send(request))
    }

    fn list<'a>(&'a self, deployment: &'a str) -> Answer<'a, Vec<Machine>> {
        Box::pin(self.all(deployment))
    }

    fn find<'a>(&'a self, references: &'a [String]) -> Answer<'a, Vec<Machine>> {
        Box::pin(self.some(references))
    }

    fn troubles<'a>(&'a self, references: &'a [String]) -> Answer<'a, Vec<Trouble>> {
        Box::pin(self.unwell(references))
    }

    fn terminate<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.end(reference))
    }

    fn stop<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.halt(reference))
    }

    fn start<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.wake(reference))
    }

    fn reboot<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.start_anew(reference))
    }

    fn restart_agent<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.rescue(Rescue::Restart, reference).await.map(drop) })
    }

    fn journal<'a>(&'a self, reference: &'a str) -> Answer<'a, String> {
        Box::pin(self.last_words(reference))
    }

    fn hand_token<'a>(&'a self, reference: &'a str, token: &'a str) -> Answer<'a, ()> {
        Box::pin(self.ssm.hand(&self.limits, reference, token))
    }

    fn take_token<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.ssm.take(&self.limits, reference))
    }

    fn tokens(&self) -> Answer<'_, Vec<String>> {
        Box::pin(self.ssm.waiting(&self.limits))
    }

    /// EC2 tells nobody by itself.
    fn departures(&self) -> Option<mpsc::Receiver<String>> {
        None
    }
}
