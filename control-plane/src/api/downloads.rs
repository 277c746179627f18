//! `/api/sessions/{session}/downloads`

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::extract::{self, Caller};
use super::sessions::ListView;
use crate::error::Error;
use crate::sessions::{Download, OwnedSession};

/// A file of a session of the caller's.
pub struct Named {
    session: OwnedSession,
    name: String,
}

impl FromRequestParts<Api> for Named {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Error> {
        let Caller(user) = Caller::from_request_parts(parts, api).await?;
        let path = Path::<(String, String)>::from_request_parts(parts, api).await;
        let Path((session, name)) = path.map_err(|_| Error::NotFound("download"))?;
        let session = extract::find(api, &user, &session).await?;
        Ok(Self { session, name })
    }
}

/// Lists what a session's browser downloaded.
pub async fn list(
    State(api): State<Api>,
    session: OwnedSession,
) -> Result<Json<ListView<Download>>, Error> {
    let all = api.sessions.downloads(&session).await?;
    Ok(Json(ListView::whole(all.into_iter())))
}

/// Gives one of those files. A browser that follows a link to it shows nothing of it: it
/// is saved.
pub async fn fetch(
    State(api): State<Api>,
    Named { session, name }: Named,
) -> Result<Response, Error> {
    let file = api.sessions.download(&session, &name).await?;
    let mut response = Body::from_stream(file).into_response();
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    let saved = HeaderValue::from_static("attachment");
    headers.insert(header::CONTENT_DISPOSITION, saved);
    Ok(response)
}
