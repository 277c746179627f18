//! How the agent comes to its identity: the one that an earlier process left, or a new
//! one for a one-time token. Where the token comes from depends on the machine.
//!
//! ```text
//! earlier process ─────────────────────────────────────────▶ identity
//! local   standard input ─────────────────────▶ join ──────▶ identity
//! ec2     metadata: id, region ─▶ parameter ──▶ join ──────▶ identity, parameter deleted
//! ```

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, ensure};
use browserfleet_proto::ladder;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{Config, Ec2, Machine};
use crate::end::End;
use crate::host::metadata::{self, Metadata};
use crate::host::parameter::Parameter;
use crate::host::start::Start;
use crate::link::identity::Identity;
use crate::link::keeper::{Joining, Keeper};
use crate::tasks;

/// How long whoever started the agent may take to give the token.
const TOKEN_DEADLINE: Duration = Duration::from_secs(30);
/// How long to wait before the metadata service is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Comes to an identity: the time for it counts from the agent's start, and is a
/// token's.
///
/// # Errors
/// Why there is none.
pub async fn identity(config: &Config, keeper: &Keeper, start: &Start) -> Result<Identity, End> {
    if let Some(identity) = keeper.earlier()? {
        tracing::info!(
            instance.id = identity.instance,
            "goes on with the certificate of an earlier process"
        );
        start.reach("joined");
        return Ok(identity);
    }
    let latest = start.began() + ladder::JOIN_TOKEN;
    let identity = match &config.machine {
        Machine::Local => {
            let joining = Joining {
                token: from_standard_input().await?,
                machine: String::new(),
            };
            keeper.join(&joining, latest).await?
        }
        Machine::Ec2(ec2) => {
            let metadata = config.metadata.as_deref();
            let (joining, parameter) = of_instance(ec2, metadata, latest).await?;
            start.reach("token");
            let identity = keeper.join(&joining, latest).await?;
            // The link need not wait for it.
            tasks::spawn("used token", parameter.delete());
            identity
        }
    };
    start.reach("joined");
    tracing::info!(instance.id = identity.instance, "joined");
    Ok(identity)
}

/// By an argument or an environment variable others on the machine could read it.
async fn from_standard_input() -> anyhow::Result<String> {
    let mut line = String::new();
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    let input = Receiver::from_owned_fd(input).context("standard input has to be a pipe")?;
    let mut input = BufReader::new(input);
    let read = timeout(TOKEN_DEADLINE, input.read_line(&mut line)).await;
    read.context("nobody wrote the join token to standard input")??;
    let token = line.trim().to_owned();
    ensure!(
        !token.is_empty(),
        "the first line of standard input has to be the join token"
    );
    Ok(token)
}

async fn of_instance(
    ec2: &Ec2,
    endpoint: Option<&str>,
    latest: Instant,
) -> Result<(Joining, Parameter), End> {
    let mut metadata = Metadata::at(endpoint).map_err(End::Misconfigured)?;
    let machine = answer(latest, async || metadata.instance_id().await).await?;
    let region = match &ec2.region {
        Some(region) => region.clone(),
        None => answer(latest, async || metadata.region().await).await?,
    };
    tracing::info!(machine, region, "looking for this machine's token");
    let parameter = Parameter::of(ec2, endpoint, region, &machine);
    let token = parameter.token(latest).await.map_err(End::NoIdentity)?;
    Ok((Joining { token, machine }, parameter))
}

/// Asks the metadata service until it answers: it may come up after the agent.
async fn answer(
    latest: Instant,
    mut ask: impl AsyncFnMut() -> Result<String, metadata::Error>,
) -> Result<String, End> {
    let mut told = false;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if Instant::now() + ASK_AGAIN_AFTER > latest {
            return Err(End::NoIdentity(format!("no identity: {error}")));
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%error, "asking again until it answers");
        }
        sleep(ASK_AGAIN_AFTER).await;
    }
}
