//! Where clients find us: as the operator says, else as the client itself dialed.
//! Addresses are written with their port, without which some clients do not dial.

use axum::http::header;
use axum::http::request::Parts;

use crate::api::Front;
use crate::error::Error;

/// What is before the path of an address that a client is given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Whether over TLS.
    tls: bool,
    /// Host, port, and what else is before our paths.
    rest: String,
}

impl Address {
    /// Where this request's client finds us.
    ///
    /// # Errors
    /// [`Error::BadRequest`] where it does not say.
    pub(super) fn of(front: &Front, parts: &Parts) -> Result<Self, Error> {
        if let Some(url) = &front.public_url {
            let rest = url.split_once("://").map_or(url.as_str(), |it| it.1);
            return Ok(Self::new(front.tls, rest.trim_end_matches('/')));
        }
        let host = parts.headers.get(header::HOST);
        let host = host.and_then(|it| it.to_str().ok());
        // HTTP/2 has it in the address.
        let host = host.or_else(|| {
            parts
                .uri
                .authority()
                .map(axum::http::uri::Authority::as_str)
        });
        match host {
            Some(host) => Ok(Self::new(front.tls, host)),
            None => Err(Error::BadRequest {
                field: None,
                message: "the request has no `Host`".into(),
            }),
        }
    }

    fn new(tls: bool, rest: &str) -> Self {
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let after_ipv6 = host.rsplit(']').next().unwrap_or(host);
        let rest = if after_ipv6.contains(':') {
            rest.to_owned()
        } else {
            let port = if tls { 443 } else { 80 };
            format!("{host}:{port}{path}")
        };
        Self { tls, rest }
    }

    /// A socket's address.
    pub(super) fn socket(&self, path: &str) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}{path}", self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_port_and_their_scheme() {
        for (tls, rest, expected) in [
            (false, "a", "ws://a:80/x"),
            (true, "a", "wss://a:443/x"),
            (true, "a:8443", "wss://a:8443/x"),
            (true, "a/prefix", "wss://a:443/prefix/x"),
            (false, "[::1]", "ws://[::1]:80/x"),
            (false, "[::1]:9", "ws://[::1]:9/x"),
        ] {
            assert_eq!(Address::new(tls, rest).socket("/x"), expected);
        }
    }
}
