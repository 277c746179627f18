//! The request for an instance's machine: written, sent, and what became of it.
//! Each is one statement that names the attempt, so that whoever comes late, or
//! leads no more, changes nothing.

use browserfleet_proto::ids::InstanceId;

use super::lead::LeadEpoch;
use super::{Error, Store, column, json_of, json_or_default};
use crate::domain::machine::{Machine, Offering};
use crate::domain::time::Timestamp;

/// A request that is to be written.
#[derive(Debug)]
pub struct NewRequest<'a> {
    /// The row that it is for.
    pub instance: InstanceId,
    /// The attempt before, which was refused or never was.
    pub after: i64,
    /// As it will be sent.
    pub text: &'a str,
    /// How the machine is to be had.
    pub offering: &'a Offering,
    /// What it is started from.
    pub image: &'a str,
    /// When.
    pub at: Timestamp,
}

/// A request on its way, and for which time: what is answered to an earlier one does
/// not count any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The row that it is for.
    pub instance: InstanceId,
    /// Which attempt.
    pub attempt: i64,
    /// Counts from 1.
    pub send: i64,
}

/// Why an instance got no machine.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// In a word.
    pub code: &'a str,
    /// For people.
    pub words: &'a str,
    /// Whether a machine may be there all the same.
    pub left_behind: bool,
}

impl Store {
    /// Writes the next request of an instance. `false`: it has one, or is not to be
    /// launched any more, or somebody else leads.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn write_request(
        &self,
        request: &NewRequest<'_>,
        lead: LeadEpoch,
    ) -> Result<bool, Error> {
        let sql = format!(
            "update instances set attempt = attempt + 1, attempt_state = 'unsent', \
             attempt_at = $6, attempt_sends = 0, request = $3, offering = $4, image = $5, \
             instance_type = $7 \
             where id = $1 and attempt = $2 and attempt_state in ('wanted', 'refused') \
             and status = 'provisioning' and {}",
            self.leads(lead)
        );
        let written = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(request.instance.to_string())
            .bind(request.after)
            .bind(request.text)
            .bind(json_of(request.offering, "offering")?)
            .bind(request.image)
            .bind(request.at.0)
            .bind(request.offering.kind.as_str())
            .execute(&self.write)
            .await?;
        Ok(written.rows_affected() == 1)
    }

    /// The request of an instance's newest attempt, as it is to be sent.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn request_of(&self, id: InstanceId, attempt: i64) -> Result<Option<String>, Error> {
        let row = sqlx::query("select request from instances where id = $1 and attempt = $2")
            .bind(id.to_string())
            .bind(attempt)
            .fetch_optional(&self.read)
            .await?;
        row.map_or(Ok(None), |row| column(&row, "request"))
    }

    /// The offerings that refused an instance already.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn tried_offerings(&self, id: InstanceId) -> Result<Vec<Offering>, Error> {
        let row = sqlx::query("select tried from instances where id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.map_or(Ok(Vec::new()), |row| json_or_default(&row, "tried"))
    }

    /// Notes that the request is being sent, before it is. `None`: it may not be: the
    /// instance is not wanted any more, or somebody else leads.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn sending(
        &self,
        id: InstanceId,
        attempt: i64,
        now: Timestamp,
        lead: LeadEpoch,
    ) -> Result<Option<Sent>, Error> {
        let sql = format!(
            "update instances set attempt_state = 'sent', attempt_at = case \
             when attempt_state = 'unsent' then $3 else attempt_at end, \
             attempt_sends = attempt_sends + 1 \
             where id = $1 and attempt = $2 and attempt_state in ('unsent', 'sent') \
             and status = 'provisioning' and {} returning attempt_sends",
            self.leads(lead)
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.to_string())
            .bind(attempt)
            .bind(now.0)
            .fetch_optional(&self.write)
            .await?;
        let sent = |row| {
            Ok(Sent {
                instance: id,
                attempt,
                send: column(&row, "attempt_sends")?,
            })
        };
        row.map(sent).transpose()
    }

    /// Notes the machine that the request made, wherever the row is by now: what is
    /// there has a name by which it can be ended. `false`: the row names another.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn accepted(
        &self,
        id: InstanceId,
        attempt: i64,
        machine: &Machine,
    ) -> Result<bool, Error> {
        let accepted = sqlx::query(
            "update instances set attempt_state = 'accepted', reference = $3, launched_at = $4 \
             where id = $1 and attempt = $2 and (reference is null or reference = $3)",
        )
        .bind(id.to_string())
        .bind(attempt)
        .bind(machine.reference.as_str())
        .bind(machine.launched_at.0)
        .execute(&self.write)
        .await?;
        if accepted.rows_affected() == 1 {
            self.note_machine(id, machine).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Notes where a machine is reached, and of which kind it is.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn note_machine(&self, id: InstanceId, machine: &Machine) -> Result<(), Error> {
        sqlx::query(
            "update instances set instance_type = $2, zone = $3, public_dns = $4, \
             public_ip = $5, private_ip = $6, missing_since = null where id = $1",
        )
        .bind(id.to_string())
        .bind(machine.kind.as_str())
        .bind(machine.zone.as_str())
        .bind(machine.addresses.public_dns.as_deref())
        .bind(machine.addresses.public_ip.as_deref())
        .bind(machine.addresses.private_ip.as_deref())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Notes that the request was refused for sure. The next attempt does not try
    /// `offering`, where one is given. `false`: it was sent again since, and what
    /// became of that is not known.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn refused(
        &self,
        sent: &Sent,
        offering: Option<&Offering>,
        message: &str,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut tried = self.tried_offerings(sent.instance).await?;
        tried.extend(offering.cloned());
        let refused = sqlx::query(
            "update instances set attempt_state = 'refused', attempt_at = $4, tried = $5, \
             error_message = $6 where id = $1 and attempt = $2 and attempt_sends = $3 \
             and attempt_state = 'sent'",
        )
        .bind(sent.instance.to_string())
        .bind(sent.attempt)
        .bind(sent.send)
        .bind(now.0)
        .bind(json_of(&tried, "tried")?)
        .bind(message)
        .execute(&self.write)
        .await?;
        Ok(refused.rows_affected() == 1)
    }

    /// Notes that an attempt came to nothing and is followed by no other, and whether a
    /// machine may be left behind. `false`: it made a machine after all, another is
    /// under way, or the instance is over.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn launch_failed(
        &self,
        id: InstanceId,
        attempt: i64,
        failure: &Failure<'_>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let failed = sqlx::query(
            "update instances set status = 'error', status_at = $3, error_code = $4, \
             error_message = $5, left_behind_at = $6 \
             where id = $1 and attempt = $2 and attempt_state <> 'accepted' \
             and status in ('provisioning', 'stopping')",
        )
        .bind(id.to_string())
        .bind(attempt)
        .bind(now.0)
        .bind(failure.code)
        .bind(failure.words)
        .bind(failure.left_behind.then_some(now.0))
        .execute(&self.write)
        .await?;
        Ok(failed.rows_affected() == 1)
    }

    /// Notes that the provider does not show a machine, or does again.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn note_missing(
        &self,
        id: InstanceId,
        since: Option<Timestamp>,
    ) -> Result<(), Error> {
        sqlx::query("update instances set missing_since = $2 where id = $1")
            .bind(id.to_string())
            .bind(since.map(|it| it.0))
            .execute(&self.write)
            .await?;
        Ok(())
    }
}
