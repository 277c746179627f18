//! The audit: who did what, from where, and whether it was done.

use std::str::FromStr;

use browserfleet_proto::ids::{ApiKeyId, AuditId, LoginId, NotAnId, ShareId, UserId};

use super::time::Timestamp;

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What was done, or was to be done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Action {
            $($(#[$doc])* $name,)*
        }

        impl Action {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As it is stored.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

actions! {
    /// An account was made.
    AccountRegistered = "account.registered",
    /// Its address was proven.
    AccountVerified = "account.verified",
    /// Its owner wants another address, which is to be proven.
    EmailChangeRequested = "account.email_change_requested",
    /// Its address was changed.
    EmailChanged = "account.email_changed",
    /// Its owner left.
    AccountDeleted = "account.deleted",
    /// Somebody signed in, or tried to.
    Login = "login",
    /// Somebody was told to wait before they try again.
    LoginThrottled = "login.throttled",
    /// A login was ended by its user.
    LoginEnded = "login.ended",
    /// A refresh token was used that had been used up: its family ended.
    LoginReplayed = "login.replayed",
    /// The password was changed by its user.
    PasswordChanged = "password.changed",
    /// A mail to set a new password was asked for.
    PasswordResetRequested = "password.reset_requested",
    /// A new password was set through a mail.
    PasswordReset = "password.reset",
    /// A second factor was enrolled.
    SecondFactorEnabled = "second_factor.enabled",
    /// A second factor was turned off.
    SecondFactorDisabled = "second_factor.disabled",
    /// New recovery codes were made.
    RecoveryCodesMade = "second_factor.recovery_codes_made",
    /// A recovery code was used up.
    RecoveryCodeUsed = "second_factor.recovery_code_used",
    /// An API key was made.
    KeyCreated = "key.created",
    /// An API key was ended.
    KeyRevoked = "key.revoked",
    /// An identity of another provider was joined to an account.
    IdentityLinked = "identity.linked",
    /// It was taken off.
    IdentityUnlinked = "identity.unlinked",
    /// An administrator invited somebody.
    InvitationSent = "invitation.sent",
    /// An administrator disabled an account.
    UserDisabled = "user.disabled",
    /// An administrator enabled an account.
    UserEnabled = "user.enabled",
    /// An administrator changed what somebody may do.
    UserRoleChanged = "user.role_changed",
    /// An administrator changed how much somebody may have.
    UserQuotasChanged = "user.quotas_changed",
    /// An administrator requires a second factor, or no longer.
    SecondFactorRequired = "user.second_factor_required",
    /// Whoever has a shell on the control plane made an administrator.
    AdministratorRescued = "administrator.rescued",
    /// An agent, or who said to be one, was given no certificate.
    AgentRefused = "agent.refused",
    /// A share of a session was made.
    ShareCreated = "share.created",
    /// Somebody came in with a share's link.
    ShareUsed = "share.used",
    /// A share was ended.
    ShareRevoked = "share.revoked",
    /// A person took a session's control.
    ControlTaken = "control.taken",
    /// A session's control was given to another.
    ControlGiven = "control.given",
    /// A session's control went back to its automation.
    ControlReleased = "control.released",
    /// A session asked a person for help.
    HandoffRequested = "handoff.requested",
    /// A person answered.
    HandoffAnswered = "handoff.answered",
    /// Somebody asked for what is not for them.
    AccessDenied = "access.denied",
}

/// Whether it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was.
    Done,
    /// It was not.
    Refused,
}

impl Verdict {
    /// As it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

/// How somebody was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// They signed in.
    Login(LoginId),
    /// A program with a key.
    Key(ApiKeyId),
    /// Whoever has the link of a share.
    Share(ShareId),
}

impl std::fmt::Display for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Login(id) => id.fmt(f),
            Self::Key(id) => id.fmt(f),
            Self::Share(id) => id.fmt(f),
        }
    }
}

impl FromStr for Credential {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if text.starts_with(LoginId::PREFIX) {
            text.parse().map(Self::Login)
        } else if text.starts_with(ApiKeyId::PREFIX) {
            text.parse().map(Self::Key)
        } else {
            text.parse().map(Self::Share)
        }
    }
}

/// One line, to be written.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    pub action: Action,
    /// Whether it was done.
    pub verdict: Verdict,
    /// Who did it, as far as it is known.
    pub actor: Option<UserId>,
    /// How they were known.
    pub credential: Option<Credential>,
    /// To whose account.
    pub subject: Option<UserId>,
    /// What more there is to say; never a secret, never what a stranger typed.
    pub detail: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// With what, as it says itself.
    pub user_agent: Option<String>,
}

impl Event {
    /// Something that was done, by nobody that is known.
    #[must_use]
    pub fn new(at: Timestamp, action: Action) -> Self {
        Self {
            at,
            action,
            verdict: Verdict::Done,
            actor: None,
            credential: None,
            subject: None,
            detail: None,
            address: None,
            user_agent: None,
        }
    }

    /// It concerns this account.
    #[must_use]
    pub fn on(mut self, subject: UserId) -> Self {
        self.subject = Some(subject);
        self
    }

    /// The account's owner did it.
    #[must_use]
    pub fn by(mut self, actor: UserId, credential: Option<Credential>) -> Self {
        self.actor = Some(actor);
        self.credential = credential;
        self
    }

    /// There is more to say.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// It was not done.
    #[must_use]
    pub fn refused(mut self, why: impl Into<String>) -> Self {
        self.verdict = Verdict::Refused;
        self.detail(why)
    }
}

/// One line, as it was written.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its id; later ones are larger.
    pub id: AuditId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub action: String,
    /// `done` or `refused`.
    pub result: String,
    /// Who did it.
    pub actor: Option<String>,
    /// How they were known.
    pub credential: Option<String>,
    /// To whose account.
    pub subject: Option<String>,
    /// What more there is to say.
    pub detail: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
}
