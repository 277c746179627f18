//! Access tokens: JWT (RFC 9068), HS256 with a key of our own that never leaves
//! the data folder. Every claim is required; what does not fit is nobody.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::CurrentUser;
use crate::clock;
use crate::domain::user::{Role, User};
use crate::error::Error;

/// Life of an access token.
pub(super) const ACCESS_TOKEN_LIFE: Duration = Duration::from_secs(600);
/// How far the clocks of two replicas may be apart.
const LEEWAY_SECONDS: u64 = 5;
const KEY_BYTES: usize = 32;
const ISSUER: &str = "browserfleet";
const AUDIENCE: &str = "browserfleet-api";
const TYPE: &str = "at+jwt";
const KEY_ID: &str = "1";

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    jti: String,
    role: Role,
    iat: i64,
    nbf: i64,
    exp: i64,
}

pub(super) struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    header: Header,
    validation: Validation,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    pub(super) fn open(file: &Path) -> anyhow::Result<Self> {
        let key = read_or_make(file)?;
        Ok(Self::new(&key))
    }

    fn new(key: &[u8]) -> Self {
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(KEY_ID.to_owned());
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.required_spec_claims =
            HashSet::from(["exp", "nbf", "aud", "iss", "sub"].map(str::to_owned));
        Self {
            encoding: EncodingKey::from_secret(key),
            decoding: DecodingKey::from_secret(key),
            header,
            validation,
        }
    }

    pub(super) fn issue(&self, user: &User) -> Result<String, Error> {
        let now = clock::wall().0 / 1_000_000;
        let life = i64::try_from(ACCESS_TOKEN_LIFE.as_secs()).unwrap_or(0);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.id.to_string(),
            jti: format!("{:032x}", rand::random::<u128>()),
            role: user.role,
            iat: now,
            nbf: now,
            exp: now + life,
        };
        jsonwebtoken::encode(&self.header, &claims, &self.encoding)
            .map_err(|error| Error::Internal(error.into()))
    }

    pub(super) fn read(&self, token: &str) -> Option<CurrentUser> {
        let token = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation).ok()?;
        if token.header.typ.as_deref() != Some(TYPE) || token.header.kid.as_deref() != Some(KEY_ID)
        {
            return None;
        }
        Some(CurrentUser {
            id: token.claims.sub.parse().ok()?,
            role: token.claims.role,
        })
    }
}

fn read_or_make(file: &Path) -> anyhow::Result<Vec<u8>> {
    if !file.exists() {
        let key: [u8; KEY_BYTES] = rand::random();
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .and_then(|mut it| it.write_all(&key))
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    let mode = fs::metadata(file)?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!(
            "{} can be read by others (mode {:o}); run: chmod 600 {}",
            file.display(),
            mode & 0o777,
            file.display()
        );
    }
    let key = fs::read(file).with_context(|| format!("could not read {}", file.display()))?;
    if key.len() < KEY_BYTES {
        bail!(
            "{} has {} bytes; it has to have at least {KEY_BYTES}",
            file.display(),
            key.len()
        );
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use browserfleet_proto::ids::UserId;

    fn user() -> User {
        User {
            id: UserId::new(),
            email: "ada@example.org".parse().expect("an address"),
            first_name: None,
            last_name: None,
            role: Role::User,
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            last_login_at: None,
            disabled_at: None,
        }
    }

    fn claims(shift: i64) -> serde_json::Value {
        let now = clock::wall().0 / 1_000_000 + shift;
        serde_json::json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": UserId::new().to_string(), "jti": "1",
            "role": "admin", "iat": now, "nbf": now, "exp": now + 600,
        })
    }

    fn signed(header: &Header, claims: &serde_json::Value, key: &[u8]) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(key)).expect("encodable")
    }

    #[test]
    fn a_token_of_ours_names_its_user() {
        let tokens = Tokens::new(&[7; KEY_BYTES]);
        let user = user();
        let token = tokens.issue(&user).expect("issued");
        let current = tokens.read(&token).expect("read");
        assert_eq!((current.id, current.role), (user.id, Role::User));
    }

    #[test]
    fn a_token_that_lacks_a_claim_or_is_of_another_time_is_nobodys() {
        let tokens = Tokens::new(&[7; KEY_BYTES]);
        let whole = claims(0);
        assert!(
            tokens
                .read(&signed(&tokens.header, &whole, &[7; KEY_BYTES]))
                .is_some()
        );
        for claim in ["iss", "aud", "sub", "nbf", "exp", "role", "jti"] {
            let mut lacking = whole.clone();
            lacking.as_object_mut().expect("an object").remove(claim);
            let token = signed(&tokens.header, &lacking, &[7; KEY_BYTES]);
            assert!(tokens.read(&token).is_none(), "{claim}");
        }
        for shift in [-606, 60] {
            let token = signed(&tokens.header, &claims(shift), &[7; KEY_BYTES]);
            assert!(tokens.read(&token).is_none(), "{shift} s");
        }
    }

    #[test]
    fn a_forged_token_is_nobodys() {
        let tokens = Tokens::new(&[7; KEY_BYTES]);
        let whole = claims(0);
        let good = signed(&tokens.header, &whole, &[7; KEY_BYTES]);
        let mut wrong_type = tokens.header.clone();
        wrong_type.typ = Some("JWT".into());
        let mut other_algorithm = tokens.header.clone();
        other_algorithm.alg = Algorithm::HS512;
        let mut traversal = tokens.header.clone();
        traversal.kid = Some("../../dev/null".into());
        let forged = [
            signed(&tokens.header, &whole, &[8; KEY_BYTES]),
            signed(&wrong_type, &whole, &[7; KEY_BYTES]),
            signed(&other_algorithm, &whole, &[7; KEY_BYTES]),
            signed(&traversal, &whole, &[7; KEY_BYTES]),
            good[..good.len() - 4].to_owned(),
            format!("{good}a"),
            format!(
                "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{}.",
                good.split('.').nth(1).expect("three parts")
            ),
            String::new(),
            "a.b.c".to_owned(),
        ];
        for token in forged {
            assert!(tokens.read(&token).is_none(), "{token}");
        }
    }
}
