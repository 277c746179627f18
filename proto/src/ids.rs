//! Ids: a prefix that says of what, and a `UUIDv7`. `ses_0192f0c1…` is the only
//! spelling: lower case, 32 hexadecimal digits, so that one thing has one name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id that starts with `{prefix}`")]
pub struct NotAnId {
    /// What the id should have started with.
    pub prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, later than all that this process made before.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "an id by default would hide that it is a new one")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Its UUID, as binary messages carry it.
            #[must_use]
            pub fn bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// The id that a binary message names.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                parse($prefix, text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAnId;

            fn try_from(text: String) -> Result<Self, NotAnId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    )*};
}

ids! {
    /// A user.
    UserId = "usr_";
    /// A session: one browser that one user holds.
    SessionId = "ses_";
    /// A machine of the pool.
    InstanceId = "ins_";
    /// One action on a session.
    CommandId = "cmd_";
    /// One life of the stream between an agent and the control plane.
    LinkId = "lnk_";
    /// One life of an agent's process.
    BootId = "boot_";
    /// One request at a door of the control plane.
    RequestId = "req_";
    /// One time of being signed in, from its login to its end.
    LoginId = "lgn_";
    /// A key with which programs call.
    ApiKeyId = "key_";
    /// Who a user is at another provider.
    IdentityId = "idt_";
    /// A link with which somebody without an account sees or drives one session.
    ShareId = "shr_";
    /// One time of holding a session's control.
    HolderId = "ctl_";
    /// One time that a session asks a person for help.
    HandoffId = "hnd_";
    /// One life of the stream that shows a session's pages.
    LiveId = "liv_";
    /// One client of CDP that is joined to a session.
    TunnelId = "tun_";
    /// One line of the audit.
    AuditId = "aud_";
}

fn parse(prefix: &'static str, text: &str) -> Result<Uuid, NotAnId> {
    let digits = text.strip_prefix(prefix).ok_or(NotAnId { prefix })?;
    let canonical = digits.len() == 32
        && digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !canonical {
        return Err(NotAnId { prefix });
    }
    Uuid::try_parse(digits).map_err(|_| NotAnId { prefix })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_reads_back_what_it_wrote() {
        let id = SessionId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn an_id_of_another_kind_or_case_is_refused() {
        let id = SessionId::new().to_string();
        assert!(id.parse::<CommandId>().is_err());
        assert!(id.replace("ses_", "ses_A").parse::<SessionId>().is_err());
        assert!(id.to_uppercase().parse::<SessionId>().is_err());
    }

    proptest! {
        #[test]
        fn only_one_spelling_is_an_id(text in "\\PC{0,40}") {
            if let Ok(id) = text.parse::<SessionId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
