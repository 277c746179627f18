//! Whether a page could reach the metadata service, and with it what the machine's
//! role may do. Chrome shares the machine's network, so the service's own hop limit
//! keeps nothing from it: a packet filter on the browsers' user does. This tries it,
//! by the way that Chrome is started, before there is a browser.
//!
//! ```text
//! the agent itself reaches it?  no ─▶ wait (EC2), or there is none (local)
//!   yes ─▶ as the browsers' user?  no ─▶ closed
//!                                  yes ─▶ the packet filter is open
//!                                  could not be tried ─▶ counts as open
//! ```

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::metadata::{EVERYWHERE, address_of};
use crate::browser::user::User;

/// What the agent's program is called with, to try addresses and do nothing else.
pub const REACH: &str = "reach";
/// How long a connection may take; the service is on the machine itself.
const CONNECTS_WITHIN: Duration = Duration::from_secs(1);
/// How long trying may take: two addresses that nobody answers for, and a start.
const TRIES_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait before the agent tries again to reach the service itself.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where the service may be, and how long it may take to be there.
#[derive(Debug)]
pub struct Service {
    addresses: Vec<String>,
    /// `None`: there need not be one.
    there_by: Option<Instant>,
}

impl Service {
    /// The one at this address; `None`: where it always is.
    ///
    /// # Errors
    /// Where the address is none.
    pub fn at(endpoint: Option<&str>, there_by: Option<Instant>) -> anyhow::Result<Self> {
        let addresses = match endpoint {
            Some(endpoint) => vec![address_of(endpoint)?],
            None => EVERYWHERE.map(str::to_owned).to_vec(),
        };
        Ok(Self {
            addresses,
            there_by,
        })
    }

    /// Tries as the browsers' user. `agent` is the agent's own program.
    ///
    /// # Errors
    /// Which layer is open, or why that could not be tried.
    pub async fn is_closed_to(&self, user: &User, agent: &Path) -> anyhow::Result<()> {
        if !self.is_there().await? {
            tracing::info!("there is no metadata service that browsers would have to be kept from");
            return Ok(());
        }
        let name = &user.name;
        let reached = self.reached_by(user, agent).await;
        let reached = reached.with_context(|| {
            format!("could not try whether {name} reaches the metadata service")
        })?;
        ensure!(
            reached.is_empty(),
            "the packet filter is open: {name} reaches the metadata service at {}, and so would every page",
            reached.join(", ")
        );
        tracing::info!(user = name, "browsers are kept from the metadata service");
        Ok(())
    }

    /// Whether the agent reaches it itself. Where it does not, that others do not
    /// either shows nothing.
    async fn is_there(&self) -> anyhow::Result<bool> {
        loop {
            let addresses = self.addresses.clone();
            let reached = tokio::task::spawn_blocking(move || reached(&addresses)).await?;
            if !reached.is_empty() {
                return Ok(true);
            }
            let Some(latest) = self.there_by else {
                return Ok(false);
            };
            if Instant::now() + TRY_AGAIN_AFTER > latest {
                bail!(
                    "the metadata service is not there, so nobody can say whether browsers are kept from it"
                );
            }
            sleep(TRY_AGAIN_AFTER).await;
        }
    }

    async fn reached_by(&self, user: &User, agent: &Path) -> anyhow::Result<Vec<String>> {
        let trying = Command::new("setpriv")
            .args(user.privileges())
            .arg("--")
            .arg(agent)
            .arg(REACH)
            .args(&self.addresses)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .output();
        let output = timeout(TRIES_WITHIN, trying)
            .await
            .context("it takes too long")??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{}: {}",
            output.status,
            said.trim()
        );
        let reached = String::from_utf8(output.stdout)?;
        Ok(reached.lines().map(str::to_owned).collect())
    }
}

/// Those of these addresses that take a connection. Blocks.
#[must_use]
pub fn reached(addresses: &[String]) -> Vec<String> {
    let takes = |address: &&String| {
        let resolved = address.to_socket_addrs();
        resolved.is_ok_and(|mut it| {
            it.any(|it| TcpStream::connect_timeout(&it, CONNECTS_WITHIN).is_ok())
        })
    };
    addresses.iter().filter(takes).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::scene::Scene;

    /// Nobody listens there.
    const CLOSED: &str = "http://127.0.0.1:1";

    fn nobody() -> User {
        User::find("nobody").unwrap()
    }

    fn no_agent() -> &'static Path {
        Path::new("/no/such/agent")
    }

    #[tokio::test]
    async fn only_what_takes_a_connection_is_reached() {
        let scene = Scene::start().await;
        let open = address_of(&scene.endpoint()).unwrap();
        let both = [open.clone(), address_of(CLOSED).unwrap()];
        let reached = tokio::task::spawn_blocking(move || reached(&both)).await;
        assert_eq!(reached.unwrap(), [open]);
    }

    #[tokio::test]
    async fn what_cannot_be_tried_counts_as_open() {
        let scene = Scene::start().await;
        let service = Service::at(Some(&scene.endpoint()), None).unwrap();
        let refused = service.is_closed_to(&nobody(), no_agent()).await;
        let refused = format!("{:#}", refused.unwrap_err());
        assert!(
            refused.contains("could not try whether nobody"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_machine_without_the_service_passes_and_one_that_should_have_it_does_not() {
        let none = Service::at(Some(CLOSED), None).unwrap();
        assert!(none.is_closed_to(&nobody(), no_agent()).await.is_ok());
        let late = Service::at(Some(CLOSED), Some(Instant::now())).unwrap();
        let refused = late.is_closed_to(&nobody(), no_agent()).await.unwrap_err();
        assert!(refused.to_string().contains("is not there"), "{refused:#}");
    }
}
