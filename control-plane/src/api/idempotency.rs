//! `Idempotency-Key`: a POST with a key runs once. The same key with the same
//! request gets the first answer again; with another request it is refused.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use browserfleet_proto::ids::BootId;
use http_body_util::{BodyExt, Limited};
use sha2::{Digest, Sha256};

use super::Api;
use super::body::Raw;
use super::extract::Caller;
use crate::clock;
use crate::error::Error;
use crate::store::Store;
use crate::store::idempotency::{Answer, Claim, Key};

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// Largest answer that is kept, in bytes; pictures are not.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
const HEADER: &str = "idempotency-key";

/// What was answered to which key.
#[derive(Clone, Debug)]
pub struct Answered {
    store: Store,
    /// This life of this process: a key that another one left is abandoned.
    process: BootId,
}

impl Answered {
    /// Keys in this database.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            process: BootId::new(),
        }
    }

    async fn claim(&self, key: &Key, fingerprint: &str) -> Result<Claim, Error> {
        let process = self.process.to_string();
        Ok(self
            .store
            .claim_key(key, fingerprint, &process, clock::now())
            .await?)
    }
}

/// Lets a request with a key pass once. The request goes on if its caller
/// leaves, so that the key always gets its answer.
pub async fn once(
    State(api): State<Api>,
    Caller(user): Caller,
    request: Request,
    next: Next,
) -> Result<Response, Error> {
    let Some(key) = key_of(&request)? else {
        return Ok(next.run(request).await);
    };
    let key = Key { user: user.id, key };
    let (parts, body) = request.into_parts();
    let Raw(body) = Raw::from_request(Request::from_parts(parts.clone(), body), &()).await?;
    let fingerprint = fingerprint_of(&parts.uri.to_string(), &body);
    match api.answered.claim(&key, &fingerprint).await? {
        Claim::Claimed => {}
        Claim::Mismatch => return Err(Error::IdempotencyMismatch),
        Claim::InProgress => return Err(Error::IdempotencyInProgress),
        Claim::Abandoned => return Err(Error::OutcomeUnknown),
        Claim::Answered(answer) => return again(answer),
    }
    let request = Request::from_parts(parts, Body::from(body));
    let store = api.answered.store.clone();
    let work = api
        .sessions
        .tasks()
        .spawn("idempotent request", async move {
            let response = next.run(request).await;
            keep(&store, &key, response).await
        });
    match work.await {
        Ok(Some(response)) => response,
        Ok(None) | Err(_) => Err(Error::Internal(anyhow::anyhow!(
            "the request's task ended before the request"
        ))),
    }
}

fn key_of(request: &Request) -> Result<Option<String>, Error> {
    let Some(value) = request.headers().get(HEADER) else {
        return Ok(None);
    };
    if request.method() != Method::POST {
        return Ok(None);
    }
    let key = value
        .to_str()
        .ok()
        .filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX);
    match key {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(Error::invalid(
            "Idempotency-Key",
            format!("has to be 1 to {KEY_BYTES_MAX} visible ASCII characters"),
        )),
    }
}

fn fingerprint_of(address: &str, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(address.as_bytes());
    hash.update([0]);
    hash.update(body);
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keeps an answer, and passes it on. What did nothing and may be tried again
/// gives its key back.
async fn keep(store: &Store, key: &Key, response: Response) -> Result<Response, Error> {
    let (parts, body) = response.into_parts();
    if matches!(
        parts.status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    ) {
        store.release_key(key).await?;
        return Ok(Response::from_parts(parts, body));
    }
    let content_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|it| it.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let mut answer = Answer {
        status: parts.status.as_u16(),
        content_type,
        body: None,
    };
    let length = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|it| it.to_str().ok()?.parse::<usize>().ok());
    let is_text = answer.content_type.contains("json");
    if !is_text || length.is_some_and(|it| it > ANSWER_BYTES_MAX) {
        store.answer_key(key, &answer).await?;
        return Ok(Response::from_parts(parts, body));
    }
    let bytes: Bytes = match Limited::new(body, 256 * ANSWER_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            return Err(Error::Internal(anyhow::anyhow!(
                "could not read the answer"
            )));
        }
    };
    if bytes.len() <= ANSWER_BYTES_MAX {
        answer.body = String::from_utf8(bytes.to_vec()).ok();
    }
    store.answer_key(key, &answer).await?;
    Ok(Response::from_parts(parts, bytes.into()))
}

fn again(answer: Answer) -> Result<Response, Error> {
    let body = answer.body.ok_or(Error::IdempotencyNotKept)?;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, body).into_response();
    if let Ok(content_type) = HeaderValue::from_str(&answer.content_type) {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
    }
    response
        .headers_mut()
        .insert("idempotency-replayed", HeaderValue::from_static("true"));
    Ok(response)
}
