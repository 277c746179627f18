//! Shares: links with which somebody without an account sees or drives one session.
//! A link's token is shown once and kept as a hash; with it one gets tickets, and
//! nothing else.

use std::time::Duration;

use browserfleet_proto::ids::{SessionId, ShareId};

use super::secrets::{hash_of, new_secret};
use super::tickets::TICKET_LIFE;
use super::{Accounts, Client, CurrentUser, name_of};
use crate::clock;
use crate::domain::access::{Reach, Right};
use crate::domain::audit::{Action, Credential, Event};
use crate::domain::share::Share;
use crate::domain::user::{Role, User};
use crate::error::Error;
use crate::store::access::Endings;

/// What every token starts with.
const PREFIX: &str = "share_";
/// Shares of one session that count: more people than look at one page.
const SHARES_MAX: u32 = 50;
/// Shortest life: less than this nobody opens a link in.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// Longest life: no session lives longer without being extended.
const LIFE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A life where nobody says otherwise.
const LIFE_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// How exactly it is known when a share was last used.
const USE_PRECISION: Duration = Duration::from_secs(60);

/// What a new share is to be.
#[derive(Debug)]
pub struct NewShare {
    /// As its owner calls it.
    pub name: Option<String>,
    /// How far its holder may go.
    pub right: Right,
    /// How long it lives.
    pub life: Option<Duration>,
}

/// A new share, and for this once what is secret of it.
#[derive(Debug)]
pub struct ShownShare {
    /// The share.
    pub share: Share,
    /// What is exchanged for tickets.
    pub token: String,
    /// The page's address, with the token in the part that no browser sends.
    pub url: String,
}

impl Accounts {
    /// Makes a share of the caller's own session.
    ///
    /// # Errors
    /// Names the field that is refused; [`Error::QuotaReached`];
    /// [`Error::NotFound`] where the session is over.
    pub async fn create_share(
        &self,
        caller: &CurrentUser,
        session: SessionId,
        wish: NewShare,
        client: &Client,
    ) -> Result<ShownShare, Error> {
        let life = wish.life.unwrap_or(LIFE_DEFAULT);
        if !(LIFE_MIN..=LIFE_MAX).contains(&life) {
            let why = format!(
                "has to be {} to {}",
                LIFE_MIN.as_millis(),
                LIFE_MAX.as_millis()
            );
            return Err(Error::invalid("expires_in_ms", why));
        }
        if wish.right == Right::Own {
            return Err(Error::invalid("right", "has to be `view` or `drive`"));
        }
        let token = new_secret(PREFIX);
        let now = clock::now();
        let share = Share {
            id: ShareId::new(),
            session,
            user: caller.id,
            name: name_of("name", wish.name)?,
            right: wish.right,
            created_at: now,
            expires_at: now.plus(life),
            last_used_at: None,
        };
        let event = client
            .did(Action::ShareCreated)
            .on(caller.id)
            .by(caller.id, Some(caller.credential))
            .detail(format!("{} {session} {}", share.id, share.right.as_str()));
        let hash = hash_of(&token);
        let made = self.store.create_share(&share, &hash, SHARES_MAX, &event);
        if made.await? {
            let url = format!("{}/live/{session}#share={token}", self.public_url);
            return Ok(ShownShare { share, token, url });
        }
        let row = self.store.session(session).await?;
        if let Some(reason) = row.and_then(|it| it.end_reason) {
            return Err(Error::SessionGone { reason });
        }
        Err(Error::QuotaReached {
            name: "shares",
            limit: SHARES_MAX,
            retry_after: None,
        })
    }

    /// A session's shares that count, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn shares(&self, session: SessionId) -> Result<Vec<Share>, Error> {
        Ok(self.store.shares_of(session, clock::now()).await?)
    }

    /// Ends a share of the caller's own session: its tickets are refused at once, its
    /// sockets closed within 5 s, wherever they are.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub async fn revoke_share(
        &self,
        caller: &CurrentUser,
        session: SessionId,
        share: ShareId,
        client: &Client,
    ) -> Result<(), Error> {
        let event = client
            .did(Action::ShareRevoked)
            .on(caller.id)
            .by(caller.id, Some(caller.credential))
            .detail(format!("{share} {session}"));
        if !self.store.revoke_share(session, share, &event).await? {
            return Err(Error::NotFound("share"));
        }
        let endings = Endings {
            shares: vec![share],
            ..Endings::default()
        };
        self.access.learn(endings, clock::now(), false);
        Ok(())
    }

    /// Exchanges a link's token for a ticket. Whoever guesses is slowed, and learns
    /// nothing from the answer.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is none, was revoked, is too old, or its session is
    /// over; [`Error::TooManyAttempts`].
    pub async fn redeem_share(
        &self,
        token: &str,
        client: &Client,
    ) -> Result<(Share, String), Error> {
        self.throttle.address(client.origin())?;
        let now = clock::now();
        let unknown = || Error::NotFound("share");
        if !token.starts_with(PREFIX) {
            return Err(unknown());
        }
        let share = self.store.share_by_hash(&hash_of(token), now).await?;
        let share = share.ok_or_else(unknown)?;
        let owner = self.store.user(share.user).await?;
        let owner = owner.filter(User::may_sign_in).ok_or_else(unknown)?;
        let holder = CurrentUser {
            id: owner.id,
            role: Role::User,
            credential: Credential::Share(share.id),
            // What the share is for is in the ticket; there is nothing else.
            scopes: Some(Vec::new()),
            has_to_enrol: false,
            access_version: owner.access_version,
            good_until: None,
        };
        let reach = Reach {
            right: share.right,
            session: Some(share.session),
        };
        let ticket = self.write_ticket(&holder, reach, TICKET_LIFE).await?;
        let noted = share
            .last_used_at
            .is_some_and(|at| now.since(at) < USE_PRECISION);
        if !noted {
            let event = used(client, &share);
            self.store.share_used(share.id, &event).await?;
        }
        Ok((share, ticket))
    }
}

fn used(client: &Client, share: &Share) -> Event {
    let mut event = client
        .did(Action::ShareUsed)
        .on(share.user)
        .detail(share.session.to_string());
    event.credential = Some(Credential::Share(share.id));
    event
}
