//! Where a request comes from: the peer, or whoever a proxy that we trust says
//! was before it. What others say of that is not looked at.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use ipnet::IpNet;

use crate::accounts::Client;
use crate::error::Error;

/// The addresses of proxies that we trust.
pub type TrustedProxies = Arc<[IpNet]>;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Finds out where a request comes from, for all that comes after.
pub async fn identify(
    State(proxies): State<TrustedProxies>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(ConnectInfo(peer)) = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .copied()
    {
        let headers = request.headers();
        let client = Client {
            address: address_of(peer.ip(), headers, &proxies),
            user_agent: headers
                .get(header::USER_AGENT)
                .map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned()),
        };
        request.extensions_mut().insert(Known(client));
    }
    next.run(request).await
}

#[derive(Clone)]
struct Known(Client);

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let known = parts.extensions.get::<Known>().map(|it| it.0.clone());
        known.ok_or_else(|| Error::Internal(anyhow::anyhow!("a request without a peer")))
    }
}

/// The last address that a proxy of ours did not write for another one of ours.
fn address_of(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
    let trusted = |address: IpAddr| {
        let address = address.to_canonical();
        proxies.iter().any(|it| it.contains(&address))
    };
    let mut address = peer;
    let mut said: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|it| it.to_str().ok())
        .flat_map(|it| it.split(','))
        .map(str::trim)
        .collect();
    while trusted(address) {
        let Some(before) = said.pop().and_then(|it| it.parse().ok()) else {
            break;
        };
        address = before;
    }
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn address(peer: &str, forwarded: &[&'static str]) -> String {
        let proxies = ["10.0.0.0/8".parse().expect("a network")];
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(line));
        }
        address_of(peer.parse().expect("an address"), &headers, &proxies).to_string()
    }

    #[test]
    fn only_proxies_of_ours_are_believed() {
        assert_eq!(address("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(address("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            address("::ffff:10.0.0.1", &["198.51.100.1"]),
            "198.51.100.1"
        );
        // What the client itself wrote is before what our proxy wrote.
        assert_eq!(
            address("10.0.0.1", &["203.0.113.9, 198.51.100.1"]),
            "198.51.100.1"
        );
        assert_eq!(
            address("10.0.0.1", &["203.0.113.9", "198.51.100.1, 10.1.1.1"]),
            "198.51.100.1"
        );
        assert_eq!(address("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(address("10.0.0.1", &[]), "10.0.0.1");
    }
}
