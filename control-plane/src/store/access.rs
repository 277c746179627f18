//! What ended lately, for every replica to know; and what administrators change.

use browserfleet_proto::ids::{ApiKeyId, LoginId, ShareId, UserId};

use super::{Error, Store, Transaction, audit, column, logins, mail_tokens, parsed};
use crate::domain::audit::{Credential, Event};
use crate::domain::time::Timestamp;
use crate::domain::user::{Quotas, Role};

/// What an administrator changes of somebody's access.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// They may not sign in any more.
    Disable,
    /// They may again.
    Enable,
    /// What they may do.
    Role(Role),
    /// How much they may have.
    Quotas(Quotas),
    /// Whether a second factor is required of them.
    RequireSecondFactor(bool),
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It was made.
    Done,
    /// There would be no administrator left.
    LastAdministrator,
    /// There is no such user.
    NoSuchUser,
}

/// Somebody whose access changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessOf {
    /// Who.
    pub user: UserId,
    /// Access of an older version is refused.
    pub version: i64,
    /// Whether they may not come in at all.
    pub barred: bool,
}

/// What ended since some time.
#[derive(Debug, Default)]
pub struct Endings {
    /// Logins.
    pub logins: Vec<LoginId>,
    /// Keys.
    pub keys: Vec<ApiKeyId>,
    /// Shares.
    pub shares: Vec<ShareId>,
    /// Users whose access changed.
    pub users: Vec<AccessOf>,
}

/// How long a credential is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Good {
    /// It has ended, or there is none.
    NoMore,
    /// Until then, if nobody ends it.
    Until(Timestamp),
    /// Until somebody ends it.
    Forever,
}

/// An administrator who can act.
const ANOTHER_ADMINISTRATOR: &str = "exists (select 1 from users other where other.role = 'admin' \
    and other.id <> users.id and other.disabled_at is null and other.email_verified_at is not null)";

impl Store {
    /// How long a login, a key or a share is good.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn good(&self, credential: Credential) -> Result<Good, Error> {
        let (sql, id) = match credential {
            Credential::Login(id) => (
                "select expires_at from login_sessions where id = $1 and ended_at is null",
                id.to_string(),
            ),
            Credential::Key(id) => (
                "select expires_at from api_keys where id = $1 and revoked_at is null",
                id.to_string(),
            ),
            Credential::Share(id) => (
                "select expires_at from shares where id = $1 and revoked_at is null and exists \
                 (select 1 from sessions where id = shares.session_id and status_rank < 4)",
                id.to_string(),
            ),
        };
        let row = sqlx::query(sql).bind(id).fetch_optional(&self.read).await?;
        let Some(row) = row else {
            return Ok(Good::NoMore);
        };
        let end: Option<i64> = column(&row, "expires_at")?;
        Ok(end.map_or(Good::Forever, |at| Good::Until(Timestamp(at))))
    }

    /// What ended since then.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn endings(&self, since: Timestamp) -> Result<Endings, Error> {
        let logins = sqlx::query("select id from login_sessions where ended_at >= $1")
            .bind(since.0)
            .fetch_all(&self.read)
            .await?;
        let keys = sqlx::query("select id from api_keys where revoked_at >= $1")
            .bind(since.0)
            .fetch_all(&self.read)
            .await?;
        let shares = sqlx::query("select id from shares where revoked_at >= $1")
            .bind(since.0)
            .fetch_all(&self.read)
            .await?;
        let users = sqlx::query(
            "select id, access_version, disabled_at from users where access_changed_at >= $1",
        )
        .bind(since.0)
        .fetch_all(&self.read)
        .await?;
        Ok(Endings {
            logins: logins
                .iter()
                .map(|row| parsed(row, "id"))
                .collect::<Result<_, _>>()?,
            keys: keys
                .iter()
                .map(|row| parsed(row, "id"))
                .collect::<Result<_, _>>()?,
            shares: shares
                .iter()
                .map(|row| parsed(row, "id"))
                .collect::<Result<_, _>>()?,
            users: users
                .iter()
                .map(|row| {
                    Ok(AccessOf {
                        user: parsed(row, "id")?,
                        version: column(row, "access_version")?,
                        barred: column::<Option<i64>>(row, "disabled_at")?.is_some(),
                    })
                })
                .collect::<Result<_, Error>>()?,
        })
    }

    /// Changes what somebody may do or have; with [`Change::Disable`] their
    /// logins end. The last administrator stays one.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn change_access(
        &self,
        user: UserId,
        change: Change,
        event: &Event,
    ) -> Result<Changed, Error> {
        let mut transaction = self.write.begin().await?;
        one_at_a_time(&mut transaction).await?;
        let set = match change {
            Change::Disable => "disabled_at = coalesce(disabled_at, $2)",
            Change::Enable => "disabled_at = null",
            Change::Role(Role::Admin) => "role = 'admin'",
            Change::Role(Role::User) => "role = 'user'",
            Change::Quotas(_) => {
                "sessions_max = $3, instances_max = $4, commands_per_minute_max = $5"
            }
            Change::RequireSecondFactor(true) => {
                "second_factor_required_at = coalesce(second_factor_required_at, $2)"
            }
            Change::RequireSecondFactor(false) => "second_factor_required_at = null",
        };
        let guard = match change {
            Change::Disable | Change::Role(Role::User) => {
                format!("(role <> 'admin' or {ANOTHER_ADMINISTRATOR})")
            }
            _ => "1 = 1".to_owned(),
        };
        let quotas = match change {
            Change::Quotas(quotas) => quotas,
            _ => Quotas::default(),
        };
        let changed = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update users set {set}, updated_at = $2, access_version = access_version + 1, \
             access_changed_at = $2 \
             where id = $1 and deleted_at is null and {guard} \
             and coalesce($3, $4, $5, 0) >= 0"
        )))
        .bind(user.to_string())
        .bind(event.at.0)
        .bind(quotas.sessions.map(i64::from))
        .bind(quotas.instances.map(i64::from))
        .bind(quotas.commands_per_minute.map(i64::from))
        .execute(&mut *transaction)
        .await?;
        if changed.rows_affected() == 0 {
            return Ok(match self.user(user).await? {
                Some(_) => Changed::LastAdministrator,
                None => Changed::NoSuchUser,
            });
        }
        if matches!(change, Change::Disable) {
            mail_tokens::take_back(&mut transaction, user).await?;
            logins::end_all(&mut transaction, user, None, "user_disabled", event.at).await?;
        }
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(Changed::Done)
    }

    /// Takes a user's account from them: what is personal of it is gone, what it
    /// may do too; its sessions are still to be ended, see [`Store::departed`].
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn delete_user(&self, user: UserId, event: &Event) -> Result<Changed, Error> {
        let mut transaction = self.write.begin().await?;
        one_at_a_time(&mut transaction).await?;
        let id = user.to_string();
        let deleted = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update users set email = $3, password_hash = '', first_name = null, \
             last_name = null, settings = '{{}}', last_login_at = null, role = 'user', \
             updated_at = $2, disabled_at = $2, deleted_at = $2, \
             access_version = access_version + 1, access_changed_at = $2 \
             where id = $1 and deleted_at is null \
             and (role <> 'admin' or {ANOTHER_ADMINISTRATOR})"
        )))
        .bind(&id)
        .bind(event.at.0)
        .bind(format!("{id}@deleted.invalid"))
        .execute(&mut *transaction)
        .await?;
        if deleted.rows_affected() == 0 {
            return Ok(match self.user(user).await? {
                Some(_) => Changed::LastAdministrator,
                None => Changed::NoSuchUser,
            });
        }
        for statement in [
            "delete from refresh_tokens where login_session_id in \
             (select id from login_sessions where user_id = $1)",
            "delete from login_sessions where user_id = $1",
            "delete from api_keys where user_id = $1",
            "delete from identities where user_id = $1",
            "delete from recovery_codes where user_id = $1",
            "delete from second_factors where user_id = $1",
            "delete from mail_tokens where user_id = $1",
            "delete from ws_tickets where user_id = $1",
            "delete from shares where user_id = $1",
            "delete from idempotency_keys where user_id = $1",
            "update audit_events set address = null, user_agent = null, detail = null \
             where actor_user_id = $1 or subject_user_id = $1",
        ] {
            sqlx::query(statement)
                .bind(&id)
                .execute(&mut *transaction)
                .await?;
        }
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(Changed::Done)
    }

    /// Users who left and whose history is still there.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn departed(&self) -> Result<Vec<UserId>, Error> {
        let rows =
            sqlx::query("select id from users where deleted_at is not null and erased_at is null")
                .fetch_all(&self.read)
                .await?;
        rows.iter().map(|row| parsed(row, "id")).collect()
    }

    /// Removes the history of a user who left, once nothing of theirs lives.
    /// `false`: something does.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn erase_history(&self, user: UserId, now: Timestamp) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let id = user.to_string();
        let erased = sqlx::query(
            "update users set erased_at = $2 where id = $1 and deleted_at is not null \
             and not exists (select 1 from sessions where user_id = $1 and status_rank < 4)",
        )
        .bind(&id)
        .bind(now.0)
        .execute(&mut *transaction)
        .await?;
        if erased.rows_affected() == 0 {
            return Ok(false);
        }
        for statement in [
            "delete from commands where session_id in (select id from sessions where user_id = $1)",
            "delete from session_metadata where session_id in \
             (select id from sessions where user_id = $1)",
            "delete from session_control where session_id in \
             (select id from sessions where user_id = $1)",
            "delete from sessions where user_id = $1",
            "delete from idempotency_keys where user_id = $1",
        ] {
            sqlx::query(statement)
                .bind(&id)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

/// Two administrators who disable each other at once queue up here.
async fn one_at_a_time(transaction: &mut Transaction<'_>) -> Result<(), Error> {
    sqlx::query("update first_administrator set one = one")
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
