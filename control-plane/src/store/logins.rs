//! Logins and their families of refresh tokens.

use browserfleet_proto::ids::{LoginId, UserId};
use sqlx::any::AnyRow;

use super::{Error, Store, Transaction, audit, column, parsed};
use crate::domain::audit::Event;
use crate::domain::login::Login;
use crate::domain::time::Timestamp;

const COLUMNS: &str = "login_sessions.id, user_id, login_sessions.generation, repeated_at, \
    created_at, last_activity_at, expires_at, address, user_agent, ended_at";

/// A refresh token that is presented, and where it stands in its family.
#[derive(Debug)]
pub struct Family {
    /// The login that it belongs to.
    pub login: Login,
    /// Its own generation.
    pub presented: i64,
    /// The hash of the newest of the family.
    pub newest: String,
}

impl Store {
    /// Begins a login with its first refresh token, if its user may sign in.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn begin_login(
        &self,
        login: &Login,
        refresh_hash: &str,
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let signed_in = sqlx::query(
            "update users set last_login_at = $2 where id = $1 and disabled_at is null \
             and email_verified_at is not null",
        )
        .bind(login.user.to_string())
        .bind(login.created_at.0)
        .execute(&mut *transaction)
        .await?;
        if signed_in.rows_affected() == 0 {
            return Ok(false);
        }
        insert(&mut transaction, login, refresh_hash).await?;
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The family of a refresh token.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn refresh_family(&self, hash: &str) -> Result<Option<Family>, Error> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS}, presented.generation as presented, newest.hash as newest \
             from refresh_tokens presented \
             join login_sessions on login_sessions.id = presented.login_session_id \
             join refresh_tokens newest on newest.login_session_id = login_sessions.id \
             and newest.generation = login_sessions.generation \
             where presented.hash = $1"
        )))
        .bind(hash)
        .fetch_optional(&self.write)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Family {
            login: login_of(&row)?,
            presented: column(&row, "presented")?,
            newest: column(&row, "newest")?,
        }))
    }

    /// Gives the newest token's successor. `false`: it was not the newest any more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn rotate_refresh(
        &self,
        login: LoginId,
        newest: i64,
        next_hash: &str,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let rotated = sqlx::query(
            "update login_sessions set generation = $2 + 1, repeated_at = null, \
             last_activity_at = $3, expires_at = $4 \
             where id = $1 and generation = $2 and ended_at is null and expires_at > $3",
        )
        .bind(login.to_string())
        .bind(newest)
        .bind(now.0)
        .bind(expires_at.0)
        .execute(&mut *transaction)
        .await?;
        if rotated.rows_affected() == 0 {
            return Ok(false);
        }
        insert_token(&mut transaction, login, newest + 1, next_hash).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Notes that the token before the newest was taken once more. `false`: it
    /// had been, or is not the one before the newest any more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn repeat_refresh(
        &self,
        login: LoginId,
        newest: i64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let repeated = sqlx::query(
            "update login_sessions set repeated_at = $3 where id = $1 and generation = $2 \
             and repeated_at is null and ended_at is null and expires_at > $3",
        )
        .bind(login.to_string())
        .bind(newest)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(repeated.rows_affected() == 1)
    }

    /// Ends a login. `false`: it had ended.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn end_login(
        &self,
        login: LoginId,
        reason: &str,
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let ended = end_one(&mut transaction, login, reason, event.at).await?;
        if ended {
            audit::write(&mut transaction, event).await?;
            transaction.commit().await?;
        }
        Ok(ended)
    }

    /// Ends the logins of a user, but not `keep`, and gives their ids.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn end_logins(
        &self,
        user: UserId,
        keep: Option<LoginId>,
        reason: &str,
        event: &Event,
    ) -> Result<Vec<LoginId>, Error> {
        let mut transaction = self.write.begin().await?;
        let ended = end_all(&mut transaction, user, keep, reason, event.at).await?;
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(ended)
    }

    /// A user's logins that have not ended, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn logins_of(&self, user: UserId, now: Timestamp) -> Result<Vec<Login>, Error> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from login_sessions where user_id = $1 and ended_at is null \
             and expires_at > $2 order by id desc"
        )))
        .bind(user.to_string())
        .bind(now.0)
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(login_of).collect()
    }

    /// Whether a user signed in from this address since then.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn signed_in_from(
        &self,
        user: UserId,
        address: &str,
        since: Timestamp,
    ) -> Result<bool, Error> {
        let row = sqlx::query(
            "select id from login_sessions where user_id = $1 and address = $2 \
             and created_at > $3 limit 1",
        )
        .bind(user.to_string())
        .bind(address)
        .bind(since.0)
        .fetch_optional(&self.read)
        .await?;
        Ok(row.is_some())
    }

    /// Removes logins that ended, or expired, before this time.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn purge_logins(&self, before: Timestamp) -> Result<(), Error> {
        let mut transaction = self.write.begin().await?;
        sqlx::query(
            "delete from refresh_tokens where login_session_id in \
             (select id from login_sessions where ended_at < $1 or expires_at < $1)",
        )
        .bind(before.0)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("delete from login_sessions where ended_at < $1 or expires_at < $1")
            .bind(before.0)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}

pub(super) async fn insert(
    transaction: &mut Transaction<'_>,
    login: &Login,
    refresh_hash: &str,
) -> Result<(), Error> {
    sqlx::query(
        "insert into login_sessions (id, user_id, generation, created_at, last_activity_at, \
         expires_at, address, user_agent) values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(login.id.to_string())
    .bind(login.user.to_string())
    .bind(login.generation)
    .bind(login.created_at.0)
    .bind(login.last_activity_at.0)
    .bind(login.expires_at.0)
    .bind(login.address.as_deref())
    .bind(login.user_agent.as_deref())
    .execute(&mut **transaction)
    .await?;
    insert_token(transaction, login.id, login.generation, refresh_hash).await
}

async fn insert_token(
    transaction: &mut Transaction<'_>,
    login: LoginId,
    generation: i64,
    hash: &str,
) -> Result<(), Error> {
    sqlx::query(
        "insert into refresh_tokens (hash, login_session_id, generation) values ($1, $2, $3)",
    )
    .bind(hash)
    .bind(login.to_string())
    .bind(generation)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn end_one(
    transaction: &mut Transaction<'_>,
    login: LoginId,
    reason: &str,
    at: Timestamp,
) -> Result<bool, Error> {
    let ended = sqlx::query(
        "update login_sessions set ended_at = $2, end_reason = $3 \
         where id = $1 and ended_at is null",
    )
    .bind(login.to_string())
    .bind(at.0)
    .bind(reason)
    .execute(&mut **transaction)
    .await?;
    Ok(ended.rows_affected() == 1)
}

pub(super) async fn end_all(
    transaction: &mut Transaction<'_>,
    user: UserId,
    keep: Option<LoginId>,
    reason: &str,
    at: Timestamp,
) -> Result<Vec<LoginId>, Error> {
    let rows = sqlx::query(
        "update login_sessions set ended_at = $2, end_reason = $3 \
         where user_id = $1 and ended_at is null and id <> $4 returning id",
    )
    .bind(user.to_string())
    .bind(at.0)
    .bind(reason)
    .bind(keep.map_or_else(String::new, |it| it.to_string()))
    .fetch_all(&mut **transaction)
    .await?;
    rows.iter().map(|row| parsed(row, "id")).collect()
}

fn login_of(row: &AnyRow) -> Result<Login, Error> {
    Ok(Login {
        id: parsed(row, "id")?,
        user: parsed(row, "user_id")?,
        generation: column(row, "generation")?,
        repeated: column::<Option<i64>>(row, "repeated_at")?.is_some(),
        created_at: Timestamp(column(row, "created_at")?),
        last_activity_at: Timestamp(column(row, "last_activity_at")?),
        expires_at: Timestamp(column(row, "expires_at")?),
        address: column(row, "address")?,
        user_agent: column(row, "user_agent")?,
        ended_at: column::<Option<i64>>(row, "ended_at")?.map(Timestamp),
    })
}
