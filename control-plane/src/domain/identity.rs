//! Who a user is at another provider.

use browserfleet_proto::ids::{IdentityId, UserId};

use super::time::Timestamp;
use super::user::Email;

/// An identity that is joined to an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub id: IdentityId,
    /// Whose.
    pub user: UserId,
    /// At which provider, by its configured name.
    pub provider: String,
    /// The e-mail address that the provider had for it.
    pub email: Option<String>,
    /// When it was joined.
    pub created_at: Timestamp,
    /// When it was last used to sign in.
    pub last_login_at: Option<Timestamp>,
}

/// What a provider says of somebody.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The provider's configured name.
    pub provider: String,
    /// Their id there, which never changes and is never given to another.
    pub subject: String,
    /// Their address, where the provider has verified it.
    pub verified_email: Option<Email>,
    /// As they are called there.
    pub first_name: Option<String>,
    /// As they are called there.
    pub last_name: Option<String>,
}
