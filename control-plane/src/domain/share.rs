//! Links with which somebody without an account sees or drives one session.

use browserfleet_proto::ids::{SessionId, ShareId, UserId};

use super::access::Right;
use super::time::Timestamp;

/// A share, without what is secret of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its id.
    pub id: ShareId,
    /// Of this session.
    pub session: SessionId,
    /// The session's owner.
    pub user: UserId,
    /// As its owner calls it.
    pub name: Option<String>,
    /// [`Right::View`] or [`Right::Drive`].
    pub right: Right,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// When somebody last came in with it, to the minute.
    pub last_used_at: Option<Timestamp>,
}
