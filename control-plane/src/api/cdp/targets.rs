//! `/json/list`, `/json/new` and the like: a session's pages.

use axum::extract::{Path, Request, State};
use axum::response::Response;
use browserfleet_proto::ids::SessionId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::address::Address;
use super::pass::{Visitor, decoded};
use super::shown;
use crate::api::Api;
use crate::error::Error;
use crate::sessions::{OwnedSession, address};

/// A page, as Chrome shows it.
#[derive(Serialize)]
struct TargetView {
    description: &'static str,
    id: String,
    title: String,
    r#type: String,
    url: String,
    #[serde(rename = "webSocketDebuggerUrl")]
    socket: String,
}

/// A page, as Chrome tells of it over CDP.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    target_id: String,
    r#type: String,
    title: String,
    url: String,
}

impl Info {
    fn view(self, address: &Address, session: SessionId, token: Option<&str>) -> TargetView {
        let id = &self.target_id;
        let token = token.map_or_else(String::new, |it| format!("&token={it}"));
        let path = format!("/devtools/page/{id}?session_id={session}{token}");
        let socket = address.socket(&path);
        TargetView {
            description: "",
            id: self.target_id,
            title: self.title,
            r#type: self.r#type,
            url: self.url,
            socket,
        }
    }
}

async fn all(api: &Api, session: &OwnedSession) -> Result<Vec<Info>, Error> {
    let nothing = json!({});
    let mut told = api
        .sessions
        .ask_browser(session, "Target.getTargets", nothing)
        .await?;
    serde_json::from_value(told["targetInfos"].take())
        .map_err(|error| Error::Internal(error.into()))
}

/// Lists a session's pages.
///
/// # Errors
/// Where the caller may not, or the session is not live.
pub async fn list(State(api): State<Api>, request: Request) -> Result<Response, Error> {
    let (parts, _) = request.into_parts();
    let visitor = Visitor::of(&api, &parts).await?;
    let address = Address::of(&api.front, &parts)?;
    let session = visitor.existing_session(&api).await?;
    let mut views = Vec::new();
    for info in all(&api, &session).await? {
        let token = visitor.token(&api, session.id()).await?;
        views.push(info.view(&address, session.id(), token.as_deref()));
    }
    Ok(shown(&views))
}

/// Opens a page.
///
/// # Errors
/// Where the caller may not, the session is not live, or its address is none that
/// sessions open.
pub async fn open(State(api): State<Api>, request: Request) -> Result<Response, Error> {
    let (parts, _) = request.into_parts();
    let visitor = Visitor::of(&api, &parts).await?;
    let shown_at = Address::of(&api.front, &parts)?;
    let url = match visitor.rest.as_str() {
        "" => "about:blank".to_owned(),
        url => address::check(&decoded(url)?)?,
    };
    let session = visitor.existing_session(&api).await?;
    api.sessions.admit_client(&session)?;
    let create = json!({ "url": url });
    let told = api
        .sessions
        .ask_browser(&session, "Target.createTarget", create)
        .await?;
    let info = Info {
        target_id: told["targetId"].as_str().unwrap_or_default().to_owned(),
        r#type: "page".into(),
        title: String::new(),
        url,
    };
    let token = visitor.token(&api, session.id()).await?;
    Ok(shown(&info.view(&shown_at, session.id(), token.as_deref())))
}

/// Brings a page to the front.
///
/// # Errors
/// Where the caller may not, the session is not live, or there is no such page.
pub async fn activate(
    State(api): State<Api>,
    Path(target): Path<String>,
    request: Request,
) -> Result<&'static str, Error> {
    tell(&api, "Target.activateTarget", target, request).await?;
    Ok("Target activated")
}

/// Closes a page.
///
/// # Errors
/// Where the caller may not, the session is not live, or there is no such page.
pub async fn close(
    State(api): State<Api>,
    Path(target): Path<String>,
    request: Request,
) -> Result<&'static str, Error> {
    tell(&api, "Target.closeTarget", target, request).await?;
    Ok("Target is closing")
}

async fn tell(api: &Api, method: &str, target: String, request: Request) -> Result<Value, Error> {
    let (parts, _) = request.into_parts();
    let visitor = Visitor::of(api, &parts).await?;
    let session = visitor.existing_session(api).await?;
    api.sessions.admit_client(&session)?;
    let page = json!({ "targetId": target });
    match api.sessions.ask_browser(&session, method, page).await {
        Err(Error::Invalid { .. }) => Err(Error::NotFound("page")),
        other => other,
    }
}
