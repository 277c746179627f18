//! `POST /api/browser/navigate`

use axum::extract::State;
use axum::response::Response;
use browserfleet_proto::action::{Action, Navigate, WaitUntil};
use browserfleet_proto::browser::v1;
use serde::Deserialize;

use super::{Asked, chosen, perform, said};
use crate::api::Api;
use crate::api::body::Body;
use crate::api::extract::Caller;
use crate::error::Error;
use crate::sessions::address;

/// Where to, and when it is done.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NavigateRequest {
    session_id: Option<String>,
    timeout_ms: Option<u64>,
    url: String,
    #[serde(default)]
    wait_until: Moment,
    referer: Option<String>,
}

/// The moment at which a navigation is done.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Moment {
    #[default]
    Load,
    DomContentLoaded,
    NetworkIdle,
    Commit,
}

impl From<Moment> for WaitUntil {
    fn from(moment: Moment) -> Self {
        match moment {
            Moment::Load => Self::Load,
            Moment::DomContentLoaded => Self::DomContentLoaded,
            Moment::NetworkIdle => Self::NetworkIdle,
            Moment::Commit => Self::Commit,
        }
    }
}

/// Goes to an address.
pub async fn navigate(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<NavigateRequest>,
) -> Result<Response, Response> {
    Ok(perform(&api, &caller, request).await?.into_json())
}

impl TryFrom<v1::Navigate> for NavigateRequest {
    type Error = Error;

    fn try_from(it: v1::Navigate) -> Result<Self, Error> {
        use v1::WaitUntil;
        Ok(Self {
            session_id: None,
            timeout_ms: None,
            url: it.url,
            wait_until: match chosen("wait_until", it.wait_until)? {
                WaitUntil::Unspecified => Moment::default(),
                WaitUntil::Commit => Moment::Commit,
                WaitUntil::DomContentLoaded => Moment::DomContentLoaded,
                WaitUntil::Load => Moment::Load,
                WaitUntil::NetworkIdle => Moment::NetworkIdle,
            },
            referer: said(it.referer),
        })
    }
}

impl TryFrom<NavigateRequest> for Asked {
    type Error = Error;

    fn try_from(request: NavigateRequest) -> Result<Self, Error> {
        let action = action_of(&request)?;
        Ok(Self {
            session_id: request.session_id,
            timeout_ms: request.timeout_ms,
            action,
        })
    }
}

fn action_of(request: &NavigateRequest) -> Result<Action, Error> {
    let referer = match request.referer.as_deref() {
        None | Some("") => String::new(),
        Some(text) => match address::check(text) {
            Ok(url) if url.starts_with("http") => url,
            _ => return Err(Error::invalid("referer", "has to be an http or https URL")),
        },
    };
    Ok(Action::Navigate(Navigate {
        url: address::check(&request.url)?,
        wait_until: request.wait_until.into(),
        referer,
    }))
}
