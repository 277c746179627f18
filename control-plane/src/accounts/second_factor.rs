//! The second factor: codes by time (RFC 6238), and codes on paper for the day
//! that the device is lost. A code is good once.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use browserfleet_proto::ids::UserId;
use serde::{Deserialize, Serialize};
use totp_rs::{Builder, Secret, Totp};

use super::secrets::hash_of;
use super::{Accounts, Client, CurrentUser, SignedIn};
use crate::clock;
use crate::domain::audit::{Action, Event};
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::Error;
use crate::store::second_factors::SecondFactor;

/// What an authenticator shows the account as.
const ISSUER: &str = "Browserfleet";
/// Bytes of the shared secret: as many as its hash has (RFC 4226, section 4).
const SECRET_BYTES: usize = 20;
/// Seconds for which a code is shown.
const STEP_SECONDS: u64 = 30;
/// Codes before and after the present one that are taken, for clocks that are off.
const SKEW: u16 = 1;
/// Recovery codes at a time.
const RECOVERY_CODES: usize = 10;
/// Bytes of randomness in one: 120 bits, so that a plain hash of it can be kept
/// (ASVS 5.0, 6.5.2).
const RECOVERY_BYTES: usize = 15;
/// How long somebody may look for their device.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(300);
const CHALLENGE: &str = "second factor challenge";
const SECRET: &str = "second factor secret";

/// What somebody has shown so far who is asked for their second factor.
#[derive(Serialize, Deserialize)]
struct Challenge {
    user: UserId,
    access_version: i64,
    first: String,
    expires_at: i64,
}

/// A second factor that is still to be confirmed.
#[derive(Debug)]
pub struct Enrolment {
    /// For typing, in base 32.
    pub secret: String,
    /// For devices that take it.
    pub url: String,
    /// The same as a QR code: a PNG as a `data:` URL.
    pub qr_code: String,
}

/// Where somebody's second factor stands.
#[derive(Debug)]
pub struct SecondFactorState {
    /// It is asked for.
    pub enabled: bool,
    /// An administrator requires one.
    pub required: bool,
    /// Recovery codes that were not used.
    pub recovery_codes_left: i64,
}

impl Accounts {
    /// Where the caller's second factor stands.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn second_factor_state(
        &self,
        caller: &CurrentUser,
    ) -> Result<SecondFactorState, Error> {
        let user = self.user(caller.id).await?;
        Ok(SecondFactorState {
            enabled: user.second_factor,
            required: user.second_factor_required_at.is_some(),
            recovery_codes_left: self.store.recovery_codes_left(user.id).await?,
        })
    }

    /// Proposes a secret. Nothing is asked for until it is confirmed.
    ///
    /// # Errors
    /// [`Error::SecondFactorEnabled`]; [`Error::CurrentPasswordWrong`].
    pub async fn propose_second_factor(
        &self,
        caller: &CurrentUser,
        current_password: Option<String>,
        client: &Client,
    ) -> Result<Enrolment, Error> {
        let user = self.user(caller.id).await?;
        if user.has_password {
            let Some(password) = current_password else {
                let why = "is needed to enrol a second factor";
                return Err(Error::invalid("current_password", why));
            };
            self.prove_password(caller, password, Action::SecondFactorEnabled, client)
                .await?;
        }
        let secret: [u8; SECRET_BYTES] = rand::random();
        let sealed = self.seal.seal(SECRET, &URL_SAFE_NO_PAD.encode(secret))?;
        let proposed = self
            .store
            .propose_second_factor(user.id, &sealed, clock::now())
            .await?;
        if !proposed {
            return Err(Error::SecondFactorEnabled);
        }
        let totp = totp_of(&secret, user.email.as_str())?;
        let picture = totp
            .to_qr_png()
            .map_err(|error| Error::Internal(anyhow::anyhow!("QR code: {error}")))?;
        Ok(Enrolment {
            secret: Secret::from(secret.to_vec()).to_base32(),
            url: totp
                .to_url()
                .map_err(|error| Error::Internal(anyhow::anyhow!("{error}")))?,
            qr_code: format!("data:image/png;base64,{}", STANDARD.encode(picture)),
        })
    }

    /// Confirms the proposed secret by a code of it, and gives the recovery
    /// codes. From now on it is asked for.
    ///
    /// # Errors
    /// [`Error::CodeWrong`]
    pub async fn confirm_second_factor(
        &self,
        caller: &CurrentUser,
        code: &str,
        client: &Client,
    ) -> Result<Vec<String>, Error> {
        self.throttle.proof(caller.id)?;
        let factor = self.store.second_factor(caller.id).await?;
        let factor = factor
            .filter(|it| !it.confirmed)
            .ok_or(Error::NotFound("second factor to confirm"))?;
        let step = self.step_of(&factor, code)?.ok_or(Error::CodeWrong)?;
        let codes = recovery_codes();
        let hashes: Vec<String> = codes.iter().map(|it| hash_of(&typed(it))).collect();
        let event = client
            .did(Action::SecondFactorEnabled)
            .on(caller.id)
            .by(caller.id, Some(caller.credential));
        let confirmed = self
            .store
            .confirm_second_factor(caller.id, step, &hashes, &event)
            .await?;
        confirmed.then_some(codes).ok_or(Error::CodeWrong)
    }

    /// Turns the second factor off, which has to be shown for it.
    ///
    /// # Errors
    /// [`Error::CodeWrong`]; [`Error::Forbidden`] where an administrator requires one.
    pub async fn disable_second_factor(
        &self,
        caller: &CurrentUser,
        code: &str,
        client: &Client,
    ) -> Result<(), Error> {
        let user = self.user(caller.id).await?;
        if user.second_factor_required_at.is_some() {
            return Err(Error::Forbidden(
                "an administrator requires a second factor of you",
            ));
        }
        let event = client
            .did(Action::SecondFactorDisabled)
            .on(user.id)
            .by(user.id, Some(caller.credential));
        self.show_second_factor(&user, code, &event).await?;
        self.store.remove_second_factor(user.id, &event).await?;
        Ok(())
    }

    /// Makes new recovery codes; the former ones are of no use any more.
    ///
    /// # Errors
    /// [`Error::CodeWrong`]
    pub async fn new_recovery_codes(
        &self,
        caller: &CurrentUser,
        code: &str,
        client: &Client,
    ) -> Result<Vec<String>, Error> {
        let user = self.user(caller.id).await?;
        let event = client
            .did(Action::RecoveryCodesMade)
            .on(user.id)
            .by(user.id, Some(caller.credential));
        self.show_second_factor(&user, code, &event).await?;
        let codes = recovery_codes();
        let hashes: Vec<String> = codes.iter().map(|it| hash_of(&typed(it))).collect();
        self.store
            .replace_recovery_codes(user.id, &hashes, &event)
            .await?;
        Ok(codes)
    }

    /// What somebody answers with who has shown their first factor.
    pub(super) fn challenge(&self, user: &User, first: &str) -> Result<String, Error> {
        let challenge = Challenge {
            user: user.id,
            access_version: user.access_version,
            first: first.to_owned(),
            expires_at: clock::wall().plus(CHALLENGE_LIFE).0,
        };
        self.seal.seal(CHALLENGE, &challenge)
    }

    /// Signs in with the second factor, after the first.
    ///
    /// # Errors
    /// [`Error::CodeWrong`]; [`Error::BadCredentials`] where the challenge is of
    /// no use any more.
    pub async fn login_with_second_factor(
        &self,
        challenge: &str,
        code: &str,
        client: &Client,
    ) -> Result<SignedIn, Error> {
        self.throttle.address(client.origin())?;
        let shown: Challenge = self
            .seal
            .unseal(CHALLENGE, challenge)
            .ok_or(Error::ChallengeInvalid)?;
        let user = self.store.user(shown.user).await?.filter(User::may_sign_in);
        let user = user.ok_or(Error::ChallengeInvalid)?;
        let late = Timestamp(shown.expires_at) <= clock::wall();
        if late || user.access_version != shown.access_version || !user.second_factor {
            return Err(Error::ChallengeInvalid);
        }
        let event = client.did(Action::Login).on(user.id);
        self.show_second_factor(&user, code, &event).await?;
        let how = format!("{} and second factor", shown.first);
        self.sign_in(user, &how, client).await
    }

    /// Takes a code, for what `event` tells of.
    async fn show_second_factor(
        &self,
        user: &User,
        code: &str,
        event: &Event,
    ) -> Result<(), Error> {
        self.throttle.proof(user.id)?;
        let factor = self.store.second_factor(user.id).await?;
        let Some(factor) = factor.filter(|it| it.confirmed) else {
            return Err(Error::NotFound("second factor"));
        };
        let taken = match self.step_of(&factor, code)? {
            Some(step) => self.store.take_step(user.id, step).await?,
            None => {
                let mut used = event.clone().by(user.id, event.credential);
                used.action = Action::RecoveryCodeUsed;
                let hash = hash_of(&typed(code));
                self.store.take_recovery_code(user.id, &hash, &used).await?
            }
        };
        if taken {
            return Ok(());
        }
        let refused = event.clone().refused("wrong code of the second factor");
        self.store.audit(&refused).await?;
        Err(Error::CodeWrong)
    }

    /// The time step that a code is of, if it is one.
    fn step_of(&self, factor: &SecondFactor, code: &str) -> Result<Option<i64>, Error> {
        let secret: Option<String> = self.seal.unseal(SECRET, &factor.secret);
        let secret = secret.and_then(|it| URL_SAFE_NO_PAD.decode(it).ok());
        let Some(secret) = secret else {
            let fault = "a second factor was sealed with another key";
            return Err(Error::Internal(anyhow::anyhow!(fault)));
        };
        let seconds = u64::try_from(clock::wall().0 / 1_000_000).unwrap_or(0);
        let code: String = code.chars().filter(|it| !it.is_whitespace()).collect();
        let step = totp_of(&secret, "")?.check(&code, seconds);
        Ok(step.and_then(|it| i64::try_from(it).ok()))
    }
}

fn totp_of(secret: &[u8], account: &str) -> Result<Totp, Error> {
    Builder::new()
        .with_secret(secret.to_vec())
        .with_skew(SKEW)
        .with_step_duration(STEP_SECONDS)
        .with_issuer(Some(ISSUER))
        // A colon parts issuer and account, and is in no address that mail goes to.
        .with_account_name(account.replace(':', "_"))
        .build()
        .map_err(|error| Error::Internal(anyhow::anyhow!("TOTP: {error}")))
}

/// Codes such as `k3v7-…`: base 32 without what looks alike, in groups of four.
fn recovery_codes() -> Vec<String> {
    (0..RECOVERY_CODES)
        .map(|_| {
            let bytes: [u8; RECOVERY_BYTES] = rand::random();
            let text = Secret::from(bytes.to_vec()).to_base32().to_lowercase();
            let groups: Vec<&str> = (0..text.len())
                .step_by(4)
                .filter_map(|at| text.get(at..(at + 4).min(text.len())))
                .collect();
            groups.join("-")
        })
        .collect()
}

/// A recovery code as it is kept, however it was typed.
fn typed(code: &str) -> String {
    code.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|it| it.to_ascii_lowercase())
        .collect()
}
