//! Who comes to Chrome's doors, and for which session. Clients of CDP have no cookies;
//! some can send no headers, so that a key or a ticket may be in the address.

use axum::http::header;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use browserfleet_proto::ids::SessionId;
use percent_encoding::percent_decode_str;

use crate::accounts::{Accounts, CurrentUser, Pass};
use crate::api::{Api, origin};
use crate::domain::access::Right;
use crate::error::Error;
use crate::sessions::OwnedSession;

/// Longest token that is looked at, in bytes, as everywhere.
const TOKEN_BYTES_MAX: usize = 4096;

/// Whoever comes, and what they say of what they want.
#[derive(Debug)]
pub(super) struct Visitor {
    pass: Pass,
    brought: Brought,
    session: Option<String>,
    /// What they open outlives their connection.
    pub(super) keep_alive: bool,
    /// What of the query is none of ours.
    pub(super) rest: String,
}

/// How they said who they are.
#[derive(Debug)]
enum Brought {
    /// As they will to a socket.
    Header,
    /// In the address, where it can be brought again.
    Token(String),
    /// In the address, and it is used up.
    Ticket,
}

/// A query, in which an address that is to be opened may stand as it is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    token: Option<String>,
    session: Option<String>,
    keep_alive: bool,
    rest: String,
}

impl Query {
    fn read(text: &str) -> Result<Self, Error> {
        let mut query = Self::default();
        let mut rest = Vec::new();
        for part in text.split('&').filter(|it| !it.is_empty()) {
            match part.split_once('=') {
                Some(("token", value)) => query.token = Some(decoded(value)?),
                Some(("session_id", value)) => query.session = Some(decoded(value)?),
                Some(("keep_alive", value)) => query.keep_alive = flag(value)?,
                _ if part == "keep_alive" => query.keep_alive = true,
                _ => rest.push(part),
            }
        }
        query.rest = rest.join("&");
        Ok(query)
    }
}

fn flag(value: &str) -> Result<bool, Error> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Error::invalid("keep_alive", "has to be true or false")),
    }
}

pub(super) fn decoded(text: &str) -> Result<String, Error> {
    let text = percent_decode_str(text).decode_utf8();
    let text = text.map_err(|_| Error::invalid("query", "is not UTF-8"))?;
    Ok(text.into_owned())
}

/// What stands in the header: a token alone, or as a name or password before the host of
/// an address, which clients send so.
fn header_token(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    let token = if password.is_empty() { name } else { password };
    Some(token.to_owned())
}

impl Visitor {
    /// Who this is. The header counts before the address.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`], [`Error::CrossOrigin`] where a page asks that may not,
    /// [`Error::Forbidden`] where they may only watch.
    pub(super) async fn of(api: &Api, parts: &Parts) -> Result<Self, Error> {
        if parts.headers.contains_key(header::ORIGIN) {
            origin::check_socket(parts, &api.front)?;
        }
        let query = Query::read(parts.uri.query().unwrap_or_default())?;
        let said = match parts.headers.get(header::AUTHORIZATION) {
            Some(value) => {
                let token = value.to_str().ok().and_then(header_token);
                Some(token.ok_or(Error::Unauthenticated)?)
            }
            None => None,
        };
        let came_in_query = said.is_none();
        let token = said.or(query.token).ok_or(Error::Unauthenticated)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Error::Unauthenticated);
        }
        let is_ticket = Accounts::is_ticket(&token);
        let pass = if is_ticket {
            api.accounts.redeem_ticket(&token).await?
        } else {
            Pass::of(api.accounts.authenticate(&token).await?)
        };
        tracing::Span::current().record("user.id", tracing::field::display(pass.user.id));
        if pass.user.has_to_enrol {
            return Err(Error::SecondFactorEnrolmentNeeded);
        }
        if pass.right < Right::Own {
            return Err(Error::Forbidden("this is for the session's owner"));
        }
        Ok(Self {
            pass,
            brought: match (came_in_query, is_ticket) {
                (false, _) => Brought::Header,
                (true, false) => Brought::Token(token),
                (true, true) => Brought::Ticket,
            },
            session: query.session,
            keep_alive: query.keep_alive,
            rest: query.rest,
        })
    }

    /// Whose sessions they reach.
    pub(super) fn user(&self) -> &CurrentUser {
        &self.pass.user
    }

    /// The session that they name, or that their ticket is for.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub(super) async fn named_session(&self, api: &Api) -> Result<Option<OwnedSession>, Error> {
        match (&self.session, self.pass.session) {
            (Some(id), _) => self.session(api, id).await.map(Some),
            (None, Some(only)) => Ok(Some(api.sessions.owned(self.user(), only).await?)),
            (None, None) => Ok(None),
        }
    }

    /// The session of this id, if it is theirs.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub(super) async fn session(&self, api: &Api, id: &str) -> Result<OwnedSession, Error> {
        let id: SessionId = id.parse().map_err(|_| Error::NotFound("session"))?;
        self.pass.permit(id, Right::Own)?;
        api.sessions.owned(self.user(), id).await
    }

    /// The session that they name, or the only one that they have.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::SessionAmbiguous`]
    pub(super) async fn existing_session(&self, api: &Api) -> Result<OwnedSession, Error> {
        if let Some(session) = self.named_session(api).await? {
            return Ok(session);
        }
        let mut live = api.sessions.live_of(self.user());
        match (live.pop(), live.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(_), false) => Err(Error::SessionAmbiguous),
            (None, _) => Err(Error::NotFound("session")),
        }
    }

    /// Whether they may have a session opened for them.
    ///
    /// # Errors
    /// [`Error::Forbidden`]
    pub(super) fn may_open(&self) -> Result<(), Error> {
        match self.pass.session {
            None => Ok(()),
            Some(_) => Err(Error::Forbidden("this ticket is for one session")),
        }
    }

    /// What a socket's address carries: good once, for no more than they may.
    ///
    /// # Errors
    /// Where the database fails, or too many are not used.
    pub(super) async fn ticket(
        &self,
        api: &Api,
        session: Option<SessionId>,
    ) -> Result<String, Error> {
        api.accounts.pass_on(&self.pass, session).await
    }

    /// What their addresses carry where they come with nothing else: what they brought in
    /// theirs, since they have it there already.
    ///
    /// # Errors
    /// Where the database fails, or too many are not used.
    pub(super) async fn token(
        &self,
        api: &Api,
        session: SessionId,
    ) -> Result<Option<String>, Error> {
        match &self.brought {
            Brought::Header => Ok(None),
            Brought::Token(token) => Ok(Some(token.clone())),
            Brought::Ticket => self.ticket(api, Some(session)).await.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_stand_in_a_query_as_it_is() {
        let query = Query::read("https://a/?x=1&y&token=k%2B1&session_id=s&keep_alive").unwrap();
        assert_eq!(query.rest, "https://a/?x=1&y");
        assert_eq!(query.token.as_deref(), Some("k+1"));
        assert_eq!(query.session.as_deref(), Some("s"));
        assert!(query.keep_alive);
        assert_eq!(Query::read("").unwrap(), Query::default());
        assert!(Query::read("keep_alive=perhaps").is_err());
    }

    #[test]
    fn headers_carry_tokens_in_two_ways() {
        assert_eq!(header_token("bearer k").as_deref(), Some("k"));
        // `k:` and `user:k`
        assert_eq!(header_token("Basic azo=").as_deref(), Some("k"));
        assert_eq!(header_token("Basic dXNlcjpr").as_deref(), Some("k"));
        assert_eq!(header_token("Digest k"), None);
        assert_eq!(header_token("Basic ?"), None);
    }
}
