//! What somebody may do who came in by a ticket or a share.

use browserfleet_proto::ids::SessionId;
use serde::{Deserialize, Serialize};

/// How far a socket's holder may go. Each has what is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// See what the page shows, and who drives.
    View,
    /// Take control, and answer what a person is asked for.
    Drive,
    /// All that the session's owner may.
    Own,
}

impl Right {
    /// All, from the least.
    pub const ALL: [Self; 3] = [Self::View, Self::Drive, Self::Own];

    /// As it is stored and read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Drive => "drive",
            Self::Own => "own",
        }
    }

    /// As it was stored.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

/// What a ticket is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// How far.
    pub right: Right,
    /// Of this session only; `None`: of all that its user has.
    pub session: Option<SessionId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_has_what_is_before_it() {
        assert!(Right::View < Right::Drive && Right::Drive < Right::Own);
        for right in Right::ALL {
            assert_eq!(Right::from_text(right.as_str()), Some(right));
        }
        assert_eq!(Right::from_text("owner"), None);
    }
}
