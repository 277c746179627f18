//! The metadata service of an EC2 instance, version 2: a token first, then questions
//! with it.
//!
//! A client of our own. The AWS SDK has one; for plain HTTP to the machine itself that
//! one holds a TLS connector with every root certificate for the machine's whole life,
//! heeds the proxy variables, and goes on using a token for six hours that the service
//! refuses. This one asks for a new token when it is refused, and holds a string. The
//! SDK's own is used where the SDK needs it, for credentials, and gone after that.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Where it is on every EC2 instance: over IPv4, and over IPv6 where that is on.
pub const EVERYWHERE: [&str; 2] = ["169.254.169.254:80", "[fd00:ec2::254]:80"];
/// How long one question may take; the service answers within milliseconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Largest answer that is read: what we ask for has a hundred bytes or two.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// The longest that the service gives a token, 6 h, in its own header's unit. One that
/// ends, or that it forgets, is refused and asked for anew.
const TOKEN_LIFE_S: &str = "21600";
const TOKEN_LIFE_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
/// Longest instance id: they have 19 characters.
const INSTANCE_ID_MAX: usize = 64;

/// Why it gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answered.
    #[error("the metadata service does not answer: {0}")]
    Silent(String),
    /// It would not say.
    #[error("the metadata service answers {0}")]
    Refused(StatusCode),
    /// It said something else than it was asked for.
    #[error("the metadata service's answer cannot be read: {0}")]
    Strange(String),
}

/// The service, and the token for it.
#[derive(Debug)]
pub struct Metadata {
    /// Host and port.
    address: String,
    token: Option<String>,
}

impl Metadata {
    /// The service at this `http://` address; `None`: where it always is.
    ///
    /// # Errors
    /// Where the address is none.
    pub fn at(endpoint: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self {
            address: match endpoint {
                Some(endpoint) => address_of(endpoint)?,
                None => EVERYWHERE[0].to_owned(),
            },
            token: None,
        })
    }

    /// EC2's id of this machine.
    ///
    /// # Errors
    /// Where the service does not say.
    pub async fn instance_id(&mut self) -> Result<String, Error> {
        let id = self.needed("/latest/meta-data/instance-id").await?;
        let plain = |it: char| it.is_ascii_alphanumeric() || it == '-';
        if id.is_empty() || id.len() > INSTANCE_ID_MAX || !id.chars().all(plain) {
            return Err(Error::Strange("an instance id that is none".into()));
        }
        Ok(id)
    }

    /// The region that this machine is in.
    ///
    /// # Errors
    /// Where the service does not say.
    pub async fn region(&mut self) -> Result<String, Error> {
        self.needed("/latest/meta-data/placement/region").await
    }

    /// When and how the machine is taken back, as JSON; `None`: it is not.
    ///
    /// # Errors
    /// Where the service does not say.
    pub async fn interruption(&mut self) -> Result<Option<String>, Error> {
        self.get("/latest/meta-data/spot/instance-action").await
    }

    /// That the machine may be taken back soon, as JSON; `None`: nothing says so.
    ///
    /// # Errors
    /// Where the service does not say.
    pub async fn rebalance(&mut self) -> Result<Option<String>, Error> {
        self.get("/latest/meta-data/events/recommendations/rebalance")
            .await
    }

    async fn needed(&mut self, path: &str) -> Result<String, Error> {
        let answer = self.get(path).await?;
        answer.ok_or(Error::Refused(StatusCode::NOT_FOUND))
    }

    /// `None`: there is no such thing.
    async fn get(&mut self, path: &str) -> Result<Option<String>, Error> {
        let answered = match self.token.clone() {
            Some(token) => self.get_with(path, &token).await?,
            None => (StatusCode::UNAUTHORIZED, String::new()),
        };
        let (status, text) = if answered.0 == StatusCode::UNAUTHORIZED {
            let token = self.new_token().await?;
            let answered = self.get_with(path, &token).await?;
            self.token = Some(token);
            answered
        } else {
            answered
        };
        match status {
            StatusCode::OK => Ok(Some(text)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(Error::Refused(status)),
        }
    }

    async fn get_with(&self, path: &str, token: &str) -> Result<(StatusCode, String), Error> {
        self.ask(Method::GET, path, (TOKEN_HEADER, token)).await
    }

    async fn new_token(&self) -> Result<String, Error> {
        let life = (TOKEN_LIFE_HEADER, TOKEN_LIFE_S);
        match self.ask(Method::PUT, "/latest/api/token", life).await? {
            (StatusCode::OK, token) => Ok(token),
            (status, _) => Err(Error::Refused(status)),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        header: (&str, &str),
    ) -> Result<(StatusCode, String), Error> {
        match timeout(ANSWERS_WITHIN, self.exchange(method, path, header)).await {
            Ok(Ok((status, body))) => String::from_utf8(body)
                .map(|text| (status, text.trim().to_owned()))
                .map_err(|error| Error::Strange(error.to_string())),
            Ok(Err(error)) => Err(Error::Silent(format!("{error:#}"))),
            Err(_) => Err(Error::Silent("it takes too long".into())),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        header: (&str, &str),
    ) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.address)
            .header(header.0, header.1)
            .body(Empty::<bytes::Bytes>::new())?;
        let socket = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = handshake(TokioIo::new(socket)).await?;
        let answered = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
            let body = body.await.map_err(anyhow::Error::from_boxed)?;
            Ok((status, body.to_bytes().to_vec()))
        };
        // The connection ends with the sender, and both with this question.
        join(answered, connection).await.0
    }
}

/// Host and port of an `http://` address.
///
/// # Errors
/// Where it is none.
pub fn address_of(endpoint: &str) -> anyhow::Result<String> {
    let uri: Uri = endpoint
        .parse()
        .with_context(|| format!("`{endpoint}` is no address of a metadata service"))?;
    ensure!(
        uri.scheme_str() == Some("http"),
        "`{endpoint}` has to start with `http://`"
    );
    let host = uri.host().context("it has no host")?;
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::scene::{Answer, Scene};

    const ID: &str = "/latest/meta-data/instance-id";

    #[tokio::test]
    async fn a_token_is_asked_for_once_and_anew_when_it_is_refused() {
        let scene = Scene::start().await;
        scene.set(ID, Answer::ok("i-0123\n"));
        let mut metadata = Metadata::at(Some(&scene.endpoint())).unwrap();
        for _ in 0..2 {
            assert_eq!(metadata.instance_id().await.unwrap(), "i-0123");
        }
        assert_eq!(scene.tokens_given(), 1);
        scene.forget_tokens();
        assert_eq!(metadata.instance_id().await.unwrap(), "i-0123");
        assert_eq!(scene.tokens_given(), 2);
        assert!(matches!(metadata.interruption().await, Ok(None)));
    }

    #[tokio::test]
    async fn what_it_refuses_and_what_cannot_be_an_id_is_said() {
        let scene = Scene::start().await;
        let mut metadata = Metadata::at(Some(&scene.endpoint())).unwrap();
        for strange in ["", "a/../b", &"i".repeat(100)] {
            scene.set(ID, Answer::ok(strange));
            let answer = metadata.instance_id().await;
            assert!(matches!(answer, Err(Error::Strange(_))), "{answer:?}");
        }
        scene.set(ID, Answer::ok(&"i".repeat(ANSWER_BYTES_MAX + 1)));
        assert!(matches!(
            metadata.instance_id().await,
            Err(Error::Silent(_))
        ));
        scene.set("/latest/api/token", Answer::status(403));
        scene.forget_tokens();
        let refused = metadata.instance_id().await;
        assert!(matches!(refused, Err(Error::Refused(it)) if it == StatusCode::FORBIDDEN));
    }

    #[tokio::test]
    async fn a_service_that_never_answers_costs_the_deadline_only() {
        let scene = Scene::start().await;
        scene.set("/latest/api/token", Answer::never());
        let mut metadata = Metadata::at(Some(&scene.endpoint())).unwrap();
        let asked = tokio::time::Instant::now();
        assert!(matches!(metadata.region().await, Err(Error::Silent(_))));
        assert!(asked.elapsed() < ANSWERS_WITHIN * 2);
    }

    #[test]
    fn an_address_has_a_host_and_perhaps_a_port() {
        assert_eq!(address_of("http://127.0.0.1:81/").unwrap(), "127.0.0.1:81");
        assert_eq!(address_of("http://[fd00::1]").unwrap(), "[fd00::1]:80");
        for none in ["127.0.0.1", "https://a", "/x", ""] {
            assert!(address_of(none).is_err(), "{none}");
        }
    }
}
