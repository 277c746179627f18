//! Instances. A state is changed by compare-and-set on where it may come from.

use std::collections::HashSet;
use std::time::Duration;

use browserfleet_proto::ids::{BootId, InstanceId, UserId};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;

use super::lead::LeadEpoch;
use super::{
    BATCH_MAX, Error, Store, column, json_of, json_or_default, parsed, parsed_or_null, places,
    time_or_null,
};
use crate::domain::health::Figures;
use crate::domain::instance::{
    Attempt, AttemptState, Instance, Parking, Restart, RestartMode, Since, Stage, Status,
};
use crate::domain::machine::Addresses;
use crate::domain::time::Timestamp;

const SELECT: &str = "select id, provider, region, reference, status, generation, attempt, attempt_state, \
    attempt_at, attempt_sends, offering, assigned_to_user_id, asked_for_at, epoch, sessions_max, \
    created_at, launched_at, token_at, enrolled_at, ready_at, seen_at, last_activity_at, \
    draining_reason, draining_at, drain_until, unhealthy_reason, unhealthy_at, missing_since, \
    end_asked_at, status_at, restart_mode, restart_at, restart_told_at, parking, \
    parking_at, power_asked_at, recycling_since, uses, \
    left_behind_at, error_code, error_message, instance_type, zone, image, public_dns, public_ip, \
    private_ip, \
    (select count(*) from sessions where instance_id = instances.id and status_rank < 4) as sessions \
    from instances";

/// An instance that is to be.
#[derive(Debug, Clone)]
pub struct NewInstance {
    /// Its id.
    pub id: InstanceId,
    /// `local`, `ec2`
    pub provider: &'static str,
    /// The provider's region.
    pub region: String,
    /// How many sessions it will take.
    pub sessions_max: u32,
    /// What it is made like.
    pub generation: i64,
    /// The kind of machine that is preferred.
    pub kind: Option<String>,
    /// Who asked for it, and how many they may hold; `None`: it is the pool's.
    pub holder: Option<(UserId, u32)>,
    /// Whether it is to be stopped once its agent has said a word.
    pub parks: bool,
    /// When.
    pub at: Timestamp,
}

/// Why an instance may not be wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is written down.
    Written,
    /// There are as many as there may be.
    Maximum,
    /// Its holder has as many as they may.
    Quota,
    /// Another replica leads.
    NoLead,
}

/// When an instance may be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unless {
    /// Whatever is on it.
    Nothing,
    /// Not if anybody holds it or has a session on it.
    Held,
    /// Not if there is a session on it, or was since then.
    UsedSince(Timestamp),
    /// Not if it has another status, or had another holder, since it was looked at.
    Moved(Status, i64),
}

/// What was heard of an instance.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Which.
    pub instance: InstanceId,
    /// When.
    pub at: Timestamp,
    /// What it said of its machine.
    pub figures: Figures,
}

/// A step of a machine's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootPhase {
    /// What was reached.
    pub name: String,
    /// How long after the machine's own start, in milliseconds.
    pub after_ms: u32,
}

/// What only somebody who looks at one instance wants to know.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// What its agent last said of its machine.
    pub figures: Option<Figures>,
    /// How its machine started.
    pub boot_phases: Vec<BootPhase>,
}

impl Store {
    /// Writes the intent of an instance, if there are fewer than `max` and its
    /// holder has fewer than they may. With a lead: only while that holds.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn want_instance(
        &self,
        instance: &NewInstance,
        max: u32,
        lead: Option<LeadEpoch>,
    ) -> Result<Wanted, Error> {
        let mut transaction = self.write.begin().await?;
        // Counting and inserting are one: all who do it queue up at this row.
        sqlx::query("update deployment set one = 1 where one = 1")
            .execute(&mut *transaction)
            .await?;
        if let Some(epoch) = lead {
            let sql = format!("select 1 as one where {}", self.leads(epoch));
            let leads = sqlx::query(sqlx::AssertSqlSafe(sql))
                .fetch_optional(&mut *transaction)
                .await?;
            if leads.is_none() {
                return Ok(Wanted::NoLead);
            }
        }
        let count = |row: &AnyRow| column::<i64>(row, "count");
        let there = sqlx::query(
            "select count(*) as count from instances \
             where status in ('provisioning', 'running', 'stopping') or left_behind_at is not null",
        )
        .fetch_one(&mut *transaction)
        .await?;
        if count(&there)? >= i64::from(max) {
            return Ok(Wanted::Maximum);
        }
        if let Some((user, most)) = instance.holder {
            let held = sqlx::query(
                "select count(*) as count from instances where assigned_to_user_id = $1 \
                 and status in ('provisioning', 'running', 'stopping')",
            )
            .bind(user.to_string())
            .fetch_one(&mut *transaction)
            .await?;
            if count(&held)? >= i64::from(most) {
                return Ok(Wanted::Quota);
            }
        }
        let holder = instance.holder.map(|(user, _)| user.to_string());
        let held_at = instance.holder.map(|_| instance.at.0);
        sqlx::query(
            "insert into instances (id, provider, region, status, epoch, sessions_max, \
             generation, instance_type, assigned_to_user_id, assigned_at, asked_for_at, uses, \
             created_at, last_activity_at, status_at, attempt_at, parking, parking_at) \
             values ($1, $2, $3, 'provisioning', $4, $5, $6, $7, $8, $9, $9, $4, $10, $10, $10, \
             $10, $11, $12)",
        )
        .bind(instance.id.to_string())
        .bind(instance.provider)
        .bind(instance.region.as_str())
        .bind(i64::from(instance.holder.is_some()))
        .bind(i64::from(instance.sessions_max))
        .bind(instance.generation)
        .bind(instance.kind.as_deref())
        .bind(holder)
        .bind(held_at)
        .bind(instance.at.0)
        .bind(instance.parks.then_some(Stage::Wanted.as_str()))
        .bind(instance.parks.then_some(instance.at.0))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Wanted::Written)
    }

    /// Notes that its agent has a certificate.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn enrolled(
        &self,
        id: InstanceId,
        serial: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        sqlx::query(
            "update instances set certificate_serial = $2, enrolled_at = coalesce(enrolled_at, $3) \
             where id = $1",
        )
        .bind(id.to_string())
        .bind(serial)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Notes that an agent's life has a link. A restart that was asked for is over
    /// where it is a new life. Gives whether it is.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn came_up(
        &self,
        id: InstanceId,
        boot: BootId,
        phases: &[BootPhase],
        now: Timestamp,
    ) -> Result<bool, Error> {
        let phases = json_of(&phases, "boot_phases")?;
        let new = sqlx::query(
            "update instances set boot_id = $2, boot_phases = $3, seen_at = $4, \
             restart_mode = null, restart_at = null, restart_told_at = null \
             where id = $1 and (boot_id is null or boot_id <> $2)",
        )
        .bind(id.to_string())
        .bind(boot.to_string())
        .bind(phases)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(new.rows_affected() == 1)
    }

    /// Notes the first word of an instance's agent: it runs. `false`: it did, or is
    /// not to run any more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn ready(&self, id: InstanceId, now: Timestamp) -> Result<bool, Error> {
        let ready = sqlx::query(
            "update instances set status = 'running', status_at = $2, ready_at = $2, \
             seen_at = $2, last_activity_at = $2 where id = $1 and status = 'provisioning' \
             and draining_at is null and (parking is null or parking = 'starting')",
        )
        .bind(id.to_string())
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(ready.rows_affected() == 1)
    }

    /// Notes what was heard, of many at once.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn note_seen(&self, seen: &[Seen]) -> Result<(), Error> {
        for batch in seen.chunks(BATCH_MAX) {
            let mut transaction = self.write.begin().await?;
            for it in batch {
                sqlx::query("update instances set seen_at = $2, figures = $3 where id = $1")
                    .bind(it.instance.to_string())
                    .bind(it.at.0)
                    .bind(json_of(&it.figures, "figures")?)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Takes no new sessions on an instance; it ends with its last one, or at
    /// `until`. `false`: it ends anyway, or drains already at least as soon.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn drain_instance(
        &self,
        id: InstanceId,
        reason: &str,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let drained = sqlx::query(
            "update instances set draining_reason = coalesce(draining_reason, $2), \
             draining_at = coalesce(draining_at, $4), drain_until = $3 \
             where id = $1 and status in ('provisioning', 'running') and (draining_at is null or \
             ($3 is not null and (drain_until is null or drain_until > $3)))",
        )
        .bind(id.to_string())
        .bind(reason)
        .bind(until.map(|it| it.0))
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(drained.rows_affected() == 1)
    }

    /// Begins to end an instance. `false`: it ends already, or there is what `unless`
    /// says. Of this and a lease that are written at once, one finds the other.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn end_instance(
        &self,
        id: InstanceId,
        reason: &str,
        unless: Unless,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let unused = "not exists (select 1 from sessions \
             where instance_id = instances.id and status_rank < 4)";
        let (condition, since) = match unless {
            Unless::Nothing => ("$4 = $4".to_owned(), 0),
            Unless::Held => (
                format!("assigned_to_user_id is null and {unused} and $4 = $4"),
                0,
            ),
            Unless::UsedSince(since) => (format!("last_activity_at <= $4 and {unused}"), since.0),
            Unless::Moved(status, epoch) => (
                format!("status = '{}' and epoch = $4", status.as_str()),
                epoch,
            ),
        };
        let sql = format!(
            "update instances set status = 'stopping', status_at = $3, \
             error_code = coalesce(error_code, draining_reason, $2) \
             where id = $1 and status in ('provisioning', 'running') and {condition}"
        );
        let ended = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.to_string())
            .bind(reason)
            .bind(now.0)
            .bind(since)
            .execute(&self.write)
            .await?;
        Ok(ended.rows_affected() == 1)
    }

    /// Notes that a machine's end was asked for.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn end_asked(&self, id: InstanceId, now: Timestamp) -> Result<(), Error> {
        sqlx::query("update instances set end_asked_at = $2 where id = $1")
            .bind(id.to_string())
            .bind(now.0)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Notes that an instance's machine is gone. `false`: that is known.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn instance_gone(
        &self,
        id: InstanceId,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let gone = sqlx::query(
            "update instances set status = 'terminated', status_at = $3, terminated_at = $3, \
             left_behind_at = null, error_code = coalesce(error_code, $2) \
             where id = $1 and status <> 'terminated'",
        )
        .bind(id.to_string())
        .bind(reason)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(gone.rows_affected() == 1)
    }

    /// Adds words to the reason of an instance's end.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn explain_end(&self, id: InstanceId, message: &str) -> Result<(), Error> {
        sqlx::query("update instances set error_message = $2 where id = $1")
            .bind(id.to_string())
            .bind(message)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Notes what is wrong with an instance, or that nothing is.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn note_health(
        &self,
        id: InstanceId,
        unhealthy: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Error> {
        sqlx::query(
            "update instances set \
             unhealthy_at = case when unhealthy_reason = $2 then unhealthy_at else $3 end, \
             unhealthy_reason = $2 where id = $1 and status = 'running'",
        )
        .bind(id.to_string())
        .bind(unhealthy)
        .bind(unhealthy.map(|_| now.0))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Asks for a restart. `false`: it does not run, or one is under way.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn ask_restart(
        &self,
        id: InstanceId,
        mode: RestartMode,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let asked = sqlx::query(
            "update instances set restart_mode = $2, restart_at = $3, restart_told_at = null \
             where id = $1 and status = 'running' and restart_at is null and draining_at is null",
        )
        .bind(id.to_string())
        .bind(mode.as_str())
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(asked.rows_affected() == 1)
    }

    /// Notes that the machine or its agent was told to start anew.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn restart_told(&self, id: InstanceId, now: Timestamp) -> Result<(), Error> {
        sqlx::query(
            "update instances set restart_told_at = $2 where id = $1 and restart_at is not null",
        )
        .bind(id.to_string())
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Begins to make an idle instance clean for the next holder. `false`: it is in
    /// use again, or is no more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn begin_recycling(
        &self,
        id: InstanceId,
        unused_since: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let begun = sqlx::query(
            "update instances set recycling_since = $3 \
             where id = $1 and status = 'running' and assigned_to_user_id is not null \
             and recycling_since is null and draining_at is null and last_activity_at <= $2 \
             and not exists (select 1 from sessions \
                             where instance_id = instances.id and status_rank < 4)",
        )
        .bind(id.to_string())
        .bind(unused_since.0)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(begun.rows_affected() == 1)
    }

    /// Makes a clean instance nobody's. `false`: it was not being made clean under
    /// this epoch.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn recycled(
        &self,
        id: InstanceId,
        epoch: i64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let recycled = sqlx::query(
            "update instances set assigned_to_user_id = null, asked_for_at = null, \
             recycling_since = null, epoch = epoch + 1, last_activity_at = $3 \
             where id = $1 and epoch = $2 and status = 'running' and recycling_since is not null",
        )
        .bind(id.to_string())
        .bind(epoch)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(recycled.rows_affected() == 1)
    }

    /// An instance.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, Error> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} where id = $1")))
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(instance_of).transpose()
    }

    /// What else is known of an instance.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn instance_details(&self, id: InstanceId) -> Result<Details, Error> {
        let row = sqlx::query("select figures, boot_phases from instances where id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        let Some(row) = row else {
            return Ok(Details::default());
        };
        Ok(Details {
            figures: json_or_default(&row, "figures")?,
            boot_phases: json_or_default(&row, "boot_phases")?,
        })
    }

    /// All instances that are not terminated.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn instances(&self) -> Result<Vec<Instance>, Error> {
        self.instances_where("status <> 'terminated' order by id")
            .await
    }

    /// Those of one holder, or of everybody: what is there, and what ended since.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn instances_of(
        &self,
        holder: Option<UserId>,
        ended_since: Timestamp,
        before: Option<InstanceId>,
        limit: u32,
    ) -> Result<Vec<Instance>, Error> {
        // `~` sorts after every id.
        let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
        let whose = if holder.is_some() {
            "assigned_to_user_id = $1"
        } else {
            "$1 = $1"
        };
        let sql = format!(
            "{SELECT} where {whose} and id < $3 \
             and (status <> 'terminated' or terminated_at >= $2) order by id desc limit $4"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(holder.map_or_else(String::new, |it| it.to_string()))
            .bind(ended_since.0)
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(&self.read)
            .await?
            .iter()
            .map(instance_of)
            .collect()
    }

    /// Which of these have a row that is over.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn ended_among(&self, ids: &[InstanceId]) -> Result<HashSet<InstanceId>, Error> {
        let mut ended = HashSet::new();
        for batch in ids.chunks(BATCH_MAX) {
            let sql = format!(
                "select id from instances where status = 'terminated' and id in ({})",
                places(batch.len())
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for id in batch {
                query = query.bind(id.to_string());
            }
            for row in query.fetch_all(&self.read).await? {
                ended.insert(parsed(&row, "id")?);
            }
        }
        Ok(ended)
    }

    async fn instances_where(&self, condition: &str) -> Result<Vec<Instance>, Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} where {condition}")))
            .fetch_all(&self.read)
            .await?
            .iter()
            .map(instance_of)
            .collect()
    }
}

/// Since when something is so that has a reason, where it is.
fn since_of(row: &AnyRow, reason: &'static str, at: &'static str) -> Result<Option<Since>, Error> {
    let reason: Option<String> = column(row, reason)?;
    let at = time_or_null(row, at)?;
    Ok(reason.zip(at).map(|(reason, at)| Since { reason, at }))
}

fn parking_of(row: &AnyRow) -> Result<Option<Parking>, Error> {
    let stage: Option<String> = column(row, "parking")?;
    let Some((stage, at)) = stage.zip(time_or_null(row, "parking_at")?) else {
        return Ok(None);
    };
    Ok(Some(Parking {
        stage: Stage::from_text(&stage).ok_or(Error::Corrupt { column: "parking" })?,
        at,
        told_at: time_or_null(row, "power_asked_at")?,
    }))
}

fn restart_of(row: &AnyRow) -> Result<Option<Restart>, Error> {
    let mode: Option<String> = column(row, "restart_mode")?;
    let Some((mode, at)) = mode.zip(time_or_null(row, "restart_at")?) else {
        return Ok(None);
    };
    Ok(Some(Restart {
        mode: RestartMode::from_text(&mode).ok_or(Error::Corrupt {
            column: "restart_mode",
        })?,
        at,
        told_at: time_or_null(row, "restart_told_at")?,
    }))
}

fn attempt_of(row: &AnyRow) -> Result<Attempt, Error> {
    let state: String = column(row, "attempt_state")?;
    Ok(Attempt {
        number: column(row, "attempt")?,
        state: AttemptState::from_text(&state).ok_or(Error::Corrupt {
            column: "attempt_state",
        })?,
        at: Timestamp(column(row, "attempt_at")?),
        sends: column(row, "attempt_sends")?,
    })
}

fn instance_of(row: &AnyRow) -> Result<Instance, Error> {
    let status: String = column(row, "status")?;
    Ok(Instance {
        id: parsed(row, "id")?,
        provider: column(row, "provider")?,
        region: column(row, "region")?,
        reference: column(row, "reference")?,
        status: Status::from_text(&status).ok_or(Error::Corrupt { column: "status" })?,
        generation: column(row, "generation")?,
        attempt: attempt_of(row)?,
        offering: json_or_default(row, "offering")?,
        assigned_to: parsed_or_null(row, "assigned_to_user_id")?,
        asked_for: time_or_null(row, "asked_for_at")?.is_some(),
        epoch: column(row, "epoch")?,
        sessions_max: column(row, "sessions_max")?,
        sessions: column(row, "sessions")?,
        created_at: Timestamp(column(row, "created_at")?),
        launched_at: time_or_null(row, "launched_at")?,
        token_at: time_or_null(row, "token_at")?,
        enrolled_at: time_or_null(row, "enrolled_at")?,
        ready_at: time_or_null(row, "ready_at")?,
        seen_at: time_or_null(row, "seen_at")?,
        last_activity_at: Timestamp(column(row, "last_activity_at")?),
        draining: since_of(row, "draining_reason", "draining_at")?,
        drain_until: time_or_null(row, "drain_until")?,
        unhealthy: since_of(row, "unhealthy_reason", "unhealthy_at")?,
        missing_since: time_or_null(row, "missing_since")?,
        end_asked_at: time_or_null(row, "end_asked_at")?,
        status_at: Timestamp(column(row, "status_at")?),
        restart: restart_of(row)?,
        parking: parking_of(row)?,
        recycling_since: time_or_null(row, "recycling_since")?,
        uses: column(row, "uses")?,
        left_behind: time_or_null(row, "left_behind_at")?.is_some(),
        error_code: column(row, "error_code")?,
        error_message: column(row, "error_message")?,
        kind: column(row, "instance_type")?,
        zone: column(row, "zone")?,
        image: column(row, "image")?,
        addresses: Addresses {
            public_dns: column(row, "public_dns")?,
            public_ip: column(row, "public_ip")?,
            private_ip: column(row, "private_ip")?,
        },
    })
}

/// How long ago a time is, in whole microseconds; the beginning of time at most.
pub(crate) fn before(now: Timestamp, ago: Duration) -> Timestamp {
    let ago = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
    Timestamp(now.0.saturating_sub(ago))
}
