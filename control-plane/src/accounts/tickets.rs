//! Tickets: what a socket is opened with where no header can be sent. A ticket is in a
//! URL, which others may log: so it is good once, briefly, and for no more than was
//! asked for.

use std::time::Duration;

use browserfleet_proto::ids::{SessionId, ShareId};

use super::secrets::{hash_of, new_secret};
use super::tokens::ACCESS_TOKEN_LIFE;
use super::{Accounts, CurrentUser};
use crate::clock;
use crate::domain::access::{Reach, Right};
use crate::domain::audit::Credential;
use crate::domain::key::Scope;
use crate::domain::time::Timestamp;
use crate::domain::user::{Role, User};
use crate::error::Error;
use crate::store::access::Good;
use crate::store::tickets::Ticket;

/// What every ticket starts with.
const PREFIX: &str = "tkt_";
/// From the answer that brings a ticket to the socket that uses it: a page opens it at
/// once, also over a slow network.
pub const TICKET_LIFE: Duration = Duration::from_secs(30);
/// Tickets of one login, key or share that are not used: as many sockets as a page
/// with all of a user's sessions opens at once.
const TICKETS_MAX: u32 = 100;

/// What a socket may do, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// Whose sessions it reaches. Of a share: the session's owner, with no right beyond
    /// this session.
    pub user: CurrentUser,
    /// How far.
    pub right: Right,
    /// Only this one.
    pub session: Option<SessionId>,
    /// The share that it was opened with.
    pub share: Option<ShareId>,
    /// The end of the ticket that it was got with, and of all that are got with it.
    pub tickets_until: Option<Timestamp>,
}

impl Pass {
    /// The pass of a caller who came with a header or a cookie.
    #[must_use]
    pub fn of(user: CurrentUser) -> Self {
        Self {
            right: user.most(),
            user,
            session: None,
            share: None,
            tickets_until: None,
        }
    }

    /// Whether it is for this session and goes this far.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is for another session, [`Error::Forbidden`] where it
    /// goes less far.
    pub fn permit(&self, session: SessionId, right: Right) -> Result<(), Error> {
        if self.session.is_some_and(|only| only != session) {
            return Err(Error::NotFound("session"));
        }
        if self.right < right {
            return Err(Error::Forbidden(match self.right {
                Right::View => "you may only watch this session",
                Right::Drive | Right::Own => "this is for the session's owner",
            }));
        }
        Ok(())
    }
}

impl CurrentUser {
    /// How far they may go with their own sessions.
    fn most(&self) -> Right {
        match &self.scopes {
            None => Right::Own,
            Some(scopes) if scopes.contains(&Scope::SessionsWrite) => Right::Own,
            Some(_) => Right::View,
        }
    }
}

impl Accounts {
    /// Whether this looks like a ticket, rather than a key or a token.
    #[must_use]
    pub fn is_ticket(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Gives the caller a ticket, which is good for [`TICKET_LIFE`]; with no right named,
    /// for all that they may.
    ///
    /// # Errors
    /// [`Error::InsufficientScope`] where they may less than they ask for,
    /// [`Error::TooManyAttempts`] where they use none of those that they have.
    pub async fn issue_ticket(
        &self,
        caller: &CurrentUser,
        session: Option<SessionId>,
        right: Option<Right>,
    ) -> Result<String, Error> {
        let most = caller.most();
        let right = right.unwrap_or(most);
        if right > most {
            return Err(Error::InsufficientScope {
                needed: Scope::SessionsWrite.as_str(),
            });
        }
        let reach = Reach { right, session };
        self.write_ticket(caller, reach, TICKET_LIFE).await
    }

    /// Gives whoever has a pass a ticket for as much. One that is got with a ticket ends
    /// with it: whoever read one address has no way in for longer.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] where that is now, [`Error::TooManyAttempts`] where they
    /// use none of those that they have.
    pub async fn pass_on(&self, pass: &Pass, session: Option<SessionId>) -> Result<String, Error> {
        let reach = Reach {
            right: pass.right,
            session: session.or(pass.session),
        };
        let now = clock::now();
        let life = pass
            .tickets_until
            .map_or(TICKET_LIFE, |until| until.since(now));
        if life.is_zero() {
            return Err(Error::Unauthenticated);
        }
        self.write_ticket(&pass.user, reach, life).await
    }

    pub(super) async fn write_ticket(
        &self,
        caller: &CurrentUser,
        reach: Reach,
        life: Duration,
    ) -> Result<String, Error> {
        let secret = new_secret(PREFIX);
        let ticket = Ticket {
            user: caller.id,
            credential: caller.credential,
            access_version: caller.access_version,
            scopes: caller.scopes.clone(),
            reach,
        };
        let hash = hash_of(&secret);
        let issued = self
            .store
            .issue_ticket(&ticket, &hash, life, TICKETS_MAX)
            .await?;
        if issued {
            Ok(secret)
        } else {
            Err(Error::TooManyAttempts {
                retry_after: TICKET_LIFE,
            })
        }
    }

    /// Takes a ticket in, once.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] where it is none, was used, is too old, or was given to
    /// a login, key or share that has ended since.
    pub async fn redeem_ticket(&self, ticket: &str) -> Result<Pass, Error> {
        if !Self::is_ticket(ticket) {
            return Err(Error::Unauthenticated);
        }
        let taken = self.store.take_ticket(&hash_of(ticket)).await?;
        let (ticket, left) = taken.ok_or(Error::Unauthenticated)?;
        // The rows tell what ended on whichever replica, without waiting until it is
        // known here.
        let good = match self.store.good(ticket.credential).await? {
            Good::NoMore => false,
            Good::Until(end) => end > clock::now(),
            Good::Forever => true,
        };
        let user = self.store.user(ticket.user).await?;
        let user = user
            .filter(|it| good && it.may_sign_in() && it.access_version == ticket.access_version)
            .ok_or(Error::Unauthenticated)?;
        Ok(pass_of(&user, ticket, clock::now().plus(left)))
    }
}

fn pass_of(user: &User, ticket: Ticket, ends: Timestamp) -> Pass {
    let share = match ticket.credential {
        Credential::Share(share) => Some(share),
        Credential::Login(_) | Credential::Key(_) => None,
    };
    Pass {
        user: CurrentUser {
            id: user.id,
            // Whoever has a link administers nothing.
            role: if share.is_some() {
                Role::User
            } else {
                user.role
            },
            credential: ticket.credential,
            scopes: ticket.scopes,
            // Who has to enrol gets no ticket.
            has_to_enrol: false,
            access_version: ticket.access_version,
            // A ticket stands for the token that it was asked for with; those of keys and
            // shares end with them.
            good_until: match ticket.credential {
                Credential::Login(_) => Some(clock::now().plus(ACCESS_TOKEN_LIFE)),
                Credential::Key(_) | Credential::Share(_) => None,
            },
        },
        right: ticket.reach.right,
        session: ticket.reach.session,
        share,
        tickets_until: Some(ends),
    }
}
