//! Dialing: TLS with the control plane's own authority, and nobody else's.

use std::time::Duration;

use browserfleet_proto::ladder;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::authorities::Authorities;
use super::identity::Identity;

/// The name that the control plane's port has, whatever its address.
const SERVER_NAME: &str = "control-plane.browserfleet";
/// How long a connection may take, TLS included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// What the connection for pictures may have in flight.
const MEDIA_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What one tunnel may have in flight: large messages keep a 1 Gbit/s line with 8 ms of
/// round trip full.
const TUNNEL_WINDOW_BYTES: u32 = 1024 * 1024;
/// What all tunnels may have in flight: more than they can together, so that one that
/// stalls takes nothing from the others. It is the most that HTTP/2 knows.
const TUNNELS_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// Where the control plane is, and how it proves that it is that.
#[derive(Debug, Clone)]
pub struct Dialer {
    address: String,
    authorities: Authorities,
}

impl Dialer {
    /// The control plane at `address`, with a certificate of these authorities.
    #[must_use]
    pub fn new(address: &str, authorities: Authorities) -> Self {
        Self {
            address: address.to_owned(),
            authorities,
        }
    }

    /// Trusts these alone, from the next dial on. Links that are up go on.
    pub fn trust(&self, authorities: &Authorities) {
        self.authorities.replace(authorities);
    }

    fn endpoint(&self, identity: Option<&Identity>) -> Result<Endpoint, String> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.authorities.pem()))
            .domain_name(SERVER_NAME);
        if let Some(identity) = identity {
            tls = tls.identity(tonic::transport::Identity::from_pem(
                &identity.certificate,
                &identity.key,
            ));
        }
        Endpoint::from_shared(self.address.clone())
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map(|endpoint| {
                endpoint
                    .connect_timeout(CONNECT_DEADLINE)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(ladder::KEEP_ALIVE)
                    .keep_alive_timeout(ladder::KEEP_ALIVE_TIMEOUT)
                    .keep_alive_while_idle(true)
            })
            .map_err(|error| describe(&error))
    }

    /// Connects without an identity, to join.
    ///
    /// # Errors
    /// Why not, for the log.
    pub async fn dial_to_join(&self) -> Result<Channel, String> {
        let endpoint = self.endpoint(None)?;
        endpoint.connect().await.map_err(|error| describe(&error))
    }

    /// Connects as this agent.
    ///
    /// # Errors
    /// Why not, for the log.
    pub async fn dial(&self, identity: &Identity) -> Result<Channel, String> {
        let endpoint = self.endpoint(Some(identity))?;
        endpoint.connect().await.map_err(|error| describe(&error))
    }

    /// A connection of its own for pictures, made when the first one is sent.
    ///
    /// # Errors
    /// Why not, for the log.
    pub fn media(&self, identity: &Identity) -> Result<Channel, String> {
        Ok(self
            .endpoint(Some(identity))?
            .initial_stream_window_size(MEDIA_WINDOW_BYTES)
            .connect_lazy())
    }

    /// A connection of its own for clients of CDP, made when the first one joins.
    /// Neither commands nor pictures wait behind what they say.
    ///
    /// # Errors
    /// Why not, for the log.
    pub fn tunnels(&self, identity: &Identity) -> Result<Channel, String> {
        Ok(self
            .endpoint(Some(identity))?
            .initial_stream_window_size(TUNNEL_WINDOW_BYTES)
            .initial_connection_window_size(TUNNELS_WINDOW_BYTES)
            .connect_lazy())
    }
}

/// The whole chain: the outermost text of a transport error says nothing.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
