//! Access tokens: JWT (RFC 9068), HS256 with keys of our own. Every claim is
//! required; what does not fit is nobody. The newest key signs; one before it may
//! still verify. From the same keys come refresh tokens after the first: who has
//! one cannot make the next, and who lost an answer can be given it again.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use browserfleet_proto::ids::LoginId;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::CurrentUser;
use super::secrets::{self, hash_of};
use crate::clock;
use crate::domain::audit::Credential;
use crate::domain::time::Timestamp;
use crate::domain::user::{Role, User};
use crate::error::Error;

/// Life of an access token.
pub(super) const ACCESS_TOKEN_LIFE: Duration = Duration::from_secs(600);
/// How far the clocks of two replicas may be apart.
const LEEWAY_SECONDS: u64 = 5;
const ISSUER: &str = "browserfleet";
const AUDIENCE: &str = "browserfleet-api";
const TYPE: &str = "at+jwt";
/// What every refresh token starts with.
pub(super) const REFRESH_PREFIX: &str = "bfr_";
/// Hexadecimal digits of a key's id.
const KEY_ID_LENGTH: usize = 16;

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    jti: String,
    /// The login that it was given to.
    sid: String,
    /// The user's access version.
    ver: i64,
    role: Role,
    /// Whether it is good for enrolling a second factor only.
    enrol: bool,
    iat: i64,
    nbf: i64,
    exp: i64,
}

struct Key {
    id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    successor: hmac::Key,
}

pub(super) struct Tokens {
    /// The first one signs.
    keys: Vec<Key>,
    validation: Validation,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// With the keys of these files; without any, with one of `folder`, which is
    /// made at the first start.
    pub(super) fn open(folder: &Path, files: &[PathBuf]) -> anyhow::Result<Self> {
        let keys = if files.is_empty() {
            vec![secrets::read_or_make(&folder.join("access-token.key"))?]
        } else {
            files
                .iter()
                .map(|file| secrets::read_key(file))
                .collect::<Result<_, _>>()
                .context("BROWSERFLEET_SIGNING_KEYS")?
        };
        Ok(Self::new(keys.iter().map(Vec::as_slice)))
    }

    fn new<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let keys = keys
            .into_iter()
            .map(|key| Key {
                id: key_id(key),
                encoding: EncodingKey::from_secret(key),
                decoding: DecodingKey::from_secret(key),
                successor: hmac::Key::new(hmac::HMAC_SHA256, key),
            })
            .collect();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.required_spec_claims =
            HashSet::from(["exp", "nbf", "aud", "iss", "sub"].map(str::to_owned));
        Self { keys, validation }
    }

    pub(super) fn issue(&self, user: &User, login: LoginId) -> Result<String, Error> {
        let now = clock::wall().0 / 1_000_000;
        let life = i64::try_from(ACCESS_TOKEN_LIFE.as_secs()).unwrap_or(0);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.id.to_string(),
            jti: format!("{:032x}", rand::random::<u128>()),
            sid: login.to_string(),
            ver: user.access_version,
            role: user.role,
            enrol: user.has_to_enrol(),
            iat: now,
            nbf: now,
            exp: now + life,
        };
        let [key, ..] = &self.keys[..] else {
            return Err(Error::Internal(anyhow::anyhow!("there is no signing key")));
        };
        jsonwebtoken::encode(&header_of(&key.id), &claims, &key.encoding)
            .map_err(|error| Error::Internal(error.into()))
    }

    pub(super) fn read(&self, token: &str) -> Option<CurrentUser> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.typ.as_deref() != Some(TYPE) {
            return None;
        }
        let key = self
            .keys
            .iter()
            .find(|it| Some(it.id.as_str()) == header.kid.as_deref())?;
        let token = jsonwebtoken::decode::<Claims>(token, &key.decoding, &self.validation).ok()?;
        Some(CurrentUser {
            id: token.claims.sub.parse().ok()?,
            role: token.claims.role,
            credential: Credential::Login(token.claims.sid.parse().ok()?),
            scopes: None,
            has_to_enrol: token.claims.enrol,
            access_version: token.claims.ver,
            good_until: Some(Timestamp(token.claims.exp.saturating_mul(1_000_000))),
        })
    }

    /// What follows this refresh token: always the same.
    pub(super) fn successor(&self, refresh: &str) -> Option<String> {
        self.keys.first().map(|key| successor(key, refresh))
    }

    /// What followed this refresh token, if it is the one of this hash.
    pub(super) fn successor_of_hash(&self, refresh: &str, hash: &str) -> Option<String> {
        self.keys
            .iter()
            .map(|key| successor(key, refresh))
            .find(|next| hash_of(next) == hash)
    }
}

fn successor(key: &Key, refresh: &str) -> String {
    let tag = hmac::sign(
        &key.successor,
        format!("refresh token after {refresh}").as_bytes(),
    );
    format!("{REFRESH_PREFIX}{}", URL_SAFE_NO_PAD.encode(tag))
}

fn key_id(key: &[u8]) -> String {
    // Of a hash of the key's hash, so that it tells nothing of the key.
    let mut id = hash_of(&hash_of(&URL_SAFE_NO_PAD.encode(key)));
    id.truncate(KEY_ID_LENGTH);
    id
}

fn header_of(key_id: &str) -> Header {
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(key_id.to_owned());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use crate::domain::user::Quotas;
    use browserfleet_proto::ids::UserId;

    const KEY: &[u8] = &[7; 32];

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
            email_verified_at: Some(Timestamp(0)),
            has_password: true,
            second_factor: false,
            second_factor_required_at: None,
            access_version: 3,
            quotas: Quotas::default(),
        }
    }

    fn claims(shift: i64) -> serde_json::Value {
        let now = clock::wall().0 / 1_000_000 + shift;
        serde_json::json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": UserId::new().to_string(), "jti": "1",
            "sid": LoginId::new().to_string(), "ver": 1, "enrol": false,
            "role": "admin", "iat": now, "nbf": now, "exp": now + 600,
        })
    }

    fn signed(header: &Header, claims: &serde_json::Value, key: &[u8]) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(key)).expect("encodable")
    }

    #[test]
    fn a_token_of_ours_names_its_user() {
        let tokens = Tokens::new([KEY]);
        let (user, login) = (user(), LoginId::new());
        let token = tokens.issue(&user, login).expect("issued");
        let current = tokens.read(&token).expect("read");
        assert_eq!((current.id, current.role), (user.id, Role::User));
        assert_eq!(current.credential, Credential::Login(login));
        assert_eq!(current.access_version, 3);
    }

    #[test]
    fn keys_overlap_while_they_are_changed() {
        let (user, login) = (user(), LoginId::new());
        let former = Tokens::new([KEY]);
        let both = Tokens::new([&[8; 32], KEY]);
        let latter = Tokens::new([&[8; 32][..]]);
        let (old, new) = (former.issue(&user, login), both.issue(&user, login));
        let (old, new) = (old.expect("issued"), new.expect("issued"));
        assert!(both.read(&old).is_some() && both.read(&new).is_some());
        assert!(latter.read(&old).is_none() && latter.read(&new).is_some());
        let next = former.successor("bfr_x").expect("one");
        assert_eq!(both.successor_of_hash("bfr_x", &hash_of(&next)), Some(next));
        assert_eq!(latter.successor_of_hash("bfr_x", &hash_of("bfr_y")), None);
    }

    #[test]
    fn a_token_that_lacks_a_claim_or_is_of_another_time_is_nobodys() {
        let tokens = Tokens::new([KEY]);
        let header = header_of(&key_id(KEY));
        let whole = claims(0);
        assert!(tokens.read(&signed(&header, &whole, KEY)).is_some());
        for claim in [
            "iss", "aud", "sub", "nbf", "exp", "role", "jti", "sid", "ver", "enrol",
        ] {
            let mut lacking = whole.clone();
            lacking.as_object_mut().expect("an object").remove(claim);
            let token = signed(&header, &lacking, KEY);
            assert!(tokens.read(&token).is_none(), "{claim}");
        }
        for shift in [-606, 60] {
            let token = signed(&header, &claims(shift), KEY);
            assert!(tokens.read(&token).is_none(), "{shift} s");
        }
    }

    #[test]
    fn a_forged_token_is_nobodys() {
        let tokens = Tokens::new([KEY]);
        let header = header_of(&key_id(KEY));
        let whole = claims(0);
        let good = signed(&header, &whole, KEY);
        let mut wrong_type = header.clone();
        wrong_type.typ = Some("JWT".into());
        let mut other_algorithm = header.clone();
        other_algorithm.alg = Algorithm::HS512;
        let mut traversal = header.clone();
        traversal.kid = Some("../../dev/null".into());
        let mut keyless = header.clone();
        keyless.kid = None;
        let forged = [
            signed(&header, &whole, &[8; 32]),
            signed(&wrong_type, &whole, KEY),
            signed(&other_algorithm, &whole, KEY),
            signed(&traversal, &whole, KEY),
            signed(&keyless, &whole, KEY),
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
