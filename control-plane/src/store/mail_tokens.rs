//! What a mail carries. Of one purpose only the newest counts, and only once.

use browserfleet_proto::ids::{LoginId, UserId};

use super::{Error, Store, Transaction, audit, column, logins, parsed, parsed_or_null};
use crate::domain::audit::Event;
use crate::domain::time::Timestamp;
use crate::domain::user::Email;

/// What a token proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// That the address of a new account is its owner's.
    Verification,
    /// That the new address of an account is its owner's.
    EmailChange,
    /// That whoever sets a new password reads the account's mail.
    Reset,
    /// That an administrator wants this address to register.
    Invitation,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Verification => "verification",
            Self::EmailChange => "email_change",
            Self::Reset => "reset",
            Self::Invitation => "invitation",
        }
    }
}

/// A token that is to be sent.
#[derive(Debug)]
pub struct NewMailToken<'a> {
    /// Its hash.
    pub hash: &'a str,
    /// What it proves.
    pub purpose: Purpose,
    /// To whose account; an invitation is to none.
    pub user: Option<UserId>,
    /// The address that it is sent to.
    pub email: &'a Email,
    /// When.
    pub at: Timestamp,
    /// Until when it counts.
    pub expires_at: Timestamp,
}

impl Store {
    /// Keeps a token; those before it of the same purpose count no more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn issue_mail_token(
        &self,
        token: &NewMailToken<'_>,
        event: Option<&Event>,
    ) -> Result<(), Error> {
        let mut transaction = self.write.begin().await?;
        let user = token.user.map(|it| it.to_string());
        sqlx::query("delete from mail_tokens where purpose = $1 and (email = $2 or user_id = $3)")
            .bind(token.purpose.as_str())
            .bind(token.email.as_str())
            .bind(user.as_deref())
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "insert into mail_tokens (hash, purpose, user_id, email, created_at, expires_at) \
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(token.hash)
        .bind(token.purpose.as_str())
        .bind(user.as_deref())
        .bind(token.email.as_str())
        .bind(token.at.0)
        .bind(token.expires_at.0)
        .execute(&mut *transaction)
        .await?;
        if let Some(event) = event {
            audit::write(&mut transaction, event).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The address that a token was sent to, if it counts. It is not used up.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn mail_token(
        &self,
        hash: &str,
        purpose: Purpose,
        now: Timestamp,
    ) -> Result<Option<Email>, Error> {
        let row = sqlx::query(
            "select email from mail_tokens where hash = $1 and purpose = $2 and expires_at > $3",
        )
        .bind(hash)
        .bind(purpose.as_str())
        .bind(now.0)
        .fetch_optional(&self.read)
        .await?;
        row.map(|row| parsed(&row, "email")).transpose()
    }

    /// Whether somebody of this address is invited.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn is_invited(&self, email: &Email, now: Timestamp) -> Result<bool, Error> {
        let row = sqlx::query(
            "select hash from mail_tokens where purpose = 'invitation' and email = $1 \
             and expires_at > $2",
        )
        .bind(email.as_str())
        .bind(now.0)
        .fetch_optional(&self.read)
        .await?;
        Ok(row.is_some())
    }

    /// Uses up a token, and notes that its address is its account's: the one it
    /// has, or the one it was to get. `None`: the token does not count, or the
    /// address has another account by now.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn verify_address(
        &self,
        hash: &str,
        event: impl Fn(Purpose, UserId) -> Event,
    ) -> Result<Option<UserId>, Error> {
        let now = event(Purpose::Verification, UserId::new()).at;
        let mut transaction = self.write.begin().await?;
        for purpose in [Purpose::Verification, Purpose::EmailChange] {
            let Some((Some(user), email)) = take(&mut transaction, hash, purpose, now).await?
            else {
                continue;
            };
            let condition = match purpose {
                // Not an address that the account no longer has.
                Purpose::Verification => "email = $2",
                _ => "not exists (select 1 from users other where other.email = $2)",
            };
            let verified = sqlx::query(sqlx::AssertSqlSafe(format!(
                "update users set email = $2, email_verified_at = $3, updated_at = $3 \
                 where id = $1 and deleted_at is null and {condition}"
            )))
            .bind(user.to_string())
            .bind(email.as_str())
            .bind(now.0)
            .execute(&mut *transaction)
            .await?;
            if verified.rows_affected() == 0 {
                return Ok(None);
            }
            // What was sent to the former address is of no use any more.
            take_back(&mut transaction, user).await?;
            audit::write(&mut transaction, &event(purpose, user)).await?;
            transaction.commit().await?;
            return Ok(Some(user));
        }
        Ok(None)
    }

    /// Uses up a token and sets a new password; all logins end. Gives the user
    /// and the logins. `None`: the token does not count.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn reset_password(
        &self,
        hash: &str,
        password_hash: &str,
        event: impl Fn(UserId) -> Event,
    ) -> Result<Option<(UserId, Vec<LoginId>)>, Error> {
        let now = event(UserId::new()).at;
        let mut transaction = self.write.begin().await?;
        let taken = take(&mut transaction, hash, Purpose::Reset, now).await?;
        let Some((Some(user), email)) = taken else {
            return Ok(None);
        };
        // Whoever reads the address's mail has proven it, too.
        let set = sqlx::query(
            "update users set password_hash = $2, updated_at = $3, \
             email_verified_at = coalesce(email_verified_at, $3) \
             where id = $1 and email = $4 and disabled_at is null",
        )
        .bind(user.to_string())
        .bind(password_hash)
        .bind(now.0)
        .bind(email.as_str())
        .execute(&mut *transaction)
        .await?;
        if set.rows_affected() == 0 {
            return Ok(None);
        }
        take_back(&mut transaction, user).await?;
        let ended = logins::end_all(&mut transaction, user, None, "password_reset", now).await?;
        audit::write(&mut transaction, &event(user)).await?;
        transaction.commit().await?;
        Ok(Some((user, ended)))
    }

    /// Removes tokens that count no more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn purge_mail_tokens(&self, now: Timestamp) -> Result<(), Error> {
        sqlx::query("delete from mail_tokens where expires_at <= $1")
            .bind(now.0)
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

/// Nothing that was sent for this account counts any more. Goes with whatever ends
/// all of its logins: whoever had one of those may have had it sent.
pub(super) async fn take_back(
    transaction: &mut Transaction<'_>,
    user: UserId,
) -> Result<(), Error> {
    sqlx::query("delete from mail_tokens where user_id = $1")
        .bind(user.to_string())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Uses a token up.
pub(super) async fn take(
    transaction: &mut Transaction<'_>,
    hash: &str,
    purpose: Purpose,
    now: Timestamp,
) -> Result<Option<(Option<UserId>, Email)>, Error> {
    let row = sqlx::query(
        "delete from mail_tokens where hash = $1 and purpose = $2 \
         returning user_id, email, expires_at",
    )
    .bind(hash)
    .bind(purpose.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if column::<i64>(&row, "expires_at")? <= now.0 {
        return Ok(None);
    }
    Ok(Some((
        parsed_or_null(&row, "user_id")?,
        parsed(&row, "email")?,
    )))
}
