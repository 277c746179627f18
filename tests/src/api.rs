//! A caller of the REST API.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

/// The longest that any call may take: a command's deadline and what follows it.
const CALL_DEADLINE: Duration = Duration::from_secs(60);

/// How long a session waits for its instance, in milliseconds.
const INSTANCE_WAIT_MS: u64 = 30_000;

/// Calls the API, as one user or as nobody. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// As it came.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON; null where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What a browser would send back of the cookies that were set.
    #[must_use]
    pub fn cookies(&self) -> String {
        let set = self.headers.get_all("set-cookie").iter();
        let pairs = set.filter_map(|it| it.to_str().ok()?.split(';').next());
        pairs
            .filter(|it| !it.ends_with('='))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// The stable code of a problem.
    #[must_use]
    pub fn code(&self) -> String {
        self.text("code")
    }

    /// A text field of the JSON; empty where there is none.
    #[must_use]
    pub fn text(&self, field: &str) -> String {
        self.json()[field].as_str().unwrap_or_default().to_owned()
    }

    /// The JSON of a call that has to have worked.
    ///
    /// # Panics
    /// Where it has not.
    pub fn ok(self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        assert!((200..300).contains(&self.status), "{}: {text}", self.status);
        self.json()
    }
}

impl Caller {
    /// Nobody.
    #[must_use]
    pub fn nobody(base: &str) -> Self {
        Self {
            http: reqwest::Client::new(),
            base: base.to_owned(),
            token: None,
        }
    }

    /// Nobody, calling from this address of this machine.
    ///
    /// # Panics
    /// Where there is no such client.
    #[must_use]
    pub fn from_address(base: &str, address: IpAddr) -> Self {
        let http = reqwest::Client::builder().local_address(address).build();
        Self {
            http: http.expect("a client"),
            base: base.to_owned(),
            token: None,
        }
    }

    /// The same base, as the user with this token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// What every address begins with.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The token, to be used by hand.
    #[must_use]
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// Signs in.
    ///
    /// # Errors
    /// What the API answered instead.
    pub async fn sign_in(&self, email: &str, password: &str) -> anyhow::Result<Self> {
        let body = json!({ "email": email, "password": password });
        let reply = self
            .try_call(Method::POST, "/api/auth/login", Some(body), &[])
            .await?;
        anyhow::ensure!(
            reply.status == 200,
            "could not sign in: {}",
            reply.text("detail")
        );
        Ok(self.with_token(&reply.text("access_token")))
    }

    /// Makes one call.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<Reply> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .timeout(CALL_DEADLINE);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        Ok(Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await?,
        })
    }

    /// Makes one call that has to be answered.
    ///
    /// # Panics
    /// Where it is not.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Reply {
        let reply = self.try_call(method, path, body, &[]).await;
        reply.unwrap_or_else(|error| panic!("{path} was not answered: {error}"))
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, None).await
    }

    /// `PUT`
    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// `PATCH`
    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.call(Method::PATCH, path, Some(body)).await
    }

    /// One call with headers of its own, that has to be answered.
    ///
    /// # Panics
    /// Where it is not.
    pub async fn call_with(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Reply {
        let reply = self.try_call(method, path, body, headers).await;
        reply.unwrap_or_else(|error| panic!("{path} was not answered: {error}"))
    }

    /// `POST`
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.call(Method::POST, path, Some(body)).await
    }

    /// `DELETE`
    pub async fn delete(&self, path: &str) -> Reply {
        self.call(Method::DELETE, path, None).await
    }

    /// Opens a session, and waits for an instance where none is free.
    pub async fn open(&self, mut wish: Value) -> Session {
        if wish["wait_ms"].is_null() {
            wish["wait_ms"] = INSTANCE_WAIT_MS.into();
        }
        let opened = self.post("/api/sessions", wish).await.ok();
        Session {
            caller: self.clone(),
            id: opened["id"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// A session that a caller holds.
#[derive(Debug, Clone)]
pub struct Session {
    /// Who opened it.
    pub caller: Caller,
    /// Its id.
    pub id: String,
}

impl Session {
    /// Runs one command: `navigate`, `click`, …
    pub async fn command(&self, kind: &str, mut parameters: Value) -> Reply {
        parameters["session_id"] = self.id.clone().into();
        self.caller
            .post(&format!("/api/browser/{kind}"), parameters)
            .await
    }

    /// Goes to a URL.
    pub async fn navigate(&self, url: &str) -> Reply {
        self.command("navigate", json!({ "url": url })).await
    }

    /// The value of an expression.
    pub async fn value(&self, expression: &str) -> Value {
        let reply = self
            .command("execute", json!({ "expression": expression }))
            .await;
        reply.ok()["value"].clone()
    }

    /// The page's state.
    pub async fn state(&self) -> Reply {
        self.caller
            .get(&format!("/api/browser/state?session_id={}", self.id))
            .await
    }

    /// The session itself.
    pub async fn show(&self) -> Value {
        self.caller
            .get(&format!("/api/sessions/{}", self.id))
            .await
            .ok()
    }

    /// Its commands, newest first.
    pub async fn commands(&self) -> Vec<Value> {
        let path = format!("/api/sessions/{}/commands?limit=100", self.id);
        let reply = self.caller.get(&path).await.ok();
        reply["data"].as_array().cloned().unwrap_or_default()
    }

    /// Ends it.
    pub async fn end(&self) -> Reply {
        self.caller
            .delete(&format!("/api/sessions/{}", self.id))
            .await
    }
}
