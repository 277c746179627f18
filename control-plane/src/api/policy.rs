//! Who may call what: every address that is not for everybody, on one screen.
//! What is not named here is for people who signed in, never for keys.

use axum::http::Method;

use crate::accounts::CurrentUser;
use crate::domain::key::Scope;
use crate::domain::user::Role;
use crate::error::Error;

/// Where the API for services is, and which of its calls only read.
pub(super) const BROWSER_SERVICE: &str = "/browserfleet.browser.v1.BrowserService/";
const READING_CALLS: [&str; 4] = ["GetSession", "ListSessions", "WatchEvents", "WatchFrames"];

/// Where a second factor is enrolled, which goes before everything else where an
/// administrator requires one.
const ENROLMENT: &str = "/api/users/me/second-factor";

/// Whether this caller may.
///
/// # Errors
/// What they lack.
pub fn permit(user: &CurrentUser, method: &Method, path: &str) -> Result<(), Error> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let either = |read, write| Some(if reads { read } else { write });
    let within = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if user.has_to_enrol && !within(ENROLMENT) {
        return Err(Error::SecondFactorEnrolmentNeeded);
    }
    let scope = if within("/api/admin") || within("/api/ec2/pool") {
        if user.role != Role::Admin {
            return Err(Error::Forbidden("this is for administrators"));
        }
        either(Scope::AdminRead, Scope::AdminWrite)
    } else if ["/api/sessions", "/api/browser", "/api/queue", "/api/ec2"]
        .into_iter()
        .any(within)
    {
        either(Scope::SessionsRead, Scope::SessionsWrite)
    } else if let Some(call) = path.strip_prefix(BROWSER_SERVICE) {
        Some(if READING_CALLS.contains(&call) {
            Scope::SessionsRead
        } else {
            Scope::SessionsWrite
        })
    } else if path == "/api/ws-ticket" {
        // What it is good for is no more than what else the key is for.
        Some(Scope::SessionsRead)
    } else if reads && (path == "/api/users/me" || path == "/api/users/settings") {
        Some(Scope::AccountRead)
    } else {
        None
    };
    match (&user.scopes, scope) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(Error::InsufficientScope {
            needed: "a login: keys do not manage accounts",
        }),
        (Some(scopes), Some(scope)) if scopes.contains(&scope) => Ok(()),
        (Some(_), Some(scope)) => Err(Error::InsufficientScope {
            needed: scope.as_str(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::Credential;
    use browserfleet_proto::ids::{ApiKeyId, LoginId, UserId};

    fn user(role: Role, scopes: Option<&[Scope]>) -> CurrentUser {
        CurrentUser {
            id: UserId::new(),
            role,
            credential: match scopes {
                Some(_) => Credential::Key(ApiKeyId::new()),
                None => Credential::Login(LoginId::new()),
            },
            scopes: scopes.map(<[Scope]>::to_vec),
            has_to_enrol: false,
            access_version: 1,
            good_until: None,
        }
    }

    #[test]
    fn keys_reach_what_they_are_for() {
        let all = user(Role::Admin, Some(&Scope::ALL));
        let reader = user(Role::User, Some(&[Scope::SessionsRead]));
        let may = |user: &CurrentUser, method, path: &str| permit(user, &method, path).is_ok();
        assert!(may(&all, Method::PATCH, "/api/admin/users/usr_1"));
        assert!(may(&all, Method::POST, "/api/browser/click"));
        assert!(may(&all, Method::PUT, "/api/ec2/pool"));
        assert!(may(&reader, Method::GET, "/api/ec2/instances"));
        assert!(!may(&reader, Method::POST, "/api/ec2/instances"));
        assert!(!may(&all, Method::POST, "/api/keys"));
        assert!(!may(&all, Method::POST, "/api/users/me/password"));
        assert!(!may(&all, Method::PUT, "/api/users/settings"));
        assert!(!may(&all, Method::GET, "/api/auth/sessions"));
        assert!(may(&reader, Method::GET, "/api/sessions/ses_1"));
        let call = |name| format!("{BROWSER_SERVICE}{name}");
        assert!(may(&reader, Method::POST, &call("WatchEvents")));
        assert!(!may(&reader, Method::POST, &call("Perform")));
        assert!(may(&all, Method::POST, &call("Perform")));
        assert!(!may(&reader, Method::DELETE, "/api/sessions/ses_1"));
        assert!(!may(&reader, Method::GET, "/api/users/me"));
        assert!(may(&reader, Method::POST, "/api/ws-ticket"));
        let account = user(Role::User, Some(&[Scope::AccountRead]));
        assert!(!may(&account, Method::POST, "/api/ws-ticket"));
    }

    #[test]
    fn who_is_no_administrator_does_not_administer() {
        let somebody = user(Role::User, None);
        assert!(permit(&somebody, &Method::GET, "/api/admin/users").is_err());
        assert!(permit(&somebody, &Method::GET, "/api/ec2/pool").is_err());
        assert!(permit(&somebody, &Method::POST, "/api/ec2/instances").is_ok());
        assert!(permit(&somebody, &Method::POST, "/api/keys").is_ok());
    }

    #[test]
    fn who_has_to_enrol_does_that_first() {
        let mut somebody = user(Role::Admin, None);
        somebody.has_to_enrol = true;
        assert!(permit(&somebody, &Method::GET, "/api/users/me").is_err());
        assert!(permit(&somebody, &Method::POST, "/api/users/me/second-factor").is_ok());
        let confirm = "/api/users/me/second-factor/confirm";
        assert!(permit(&somebody, &Method::POST, confirm).is_ok());
    }
}
