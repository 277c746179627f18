//! Getting a machine for a row. The request is written before it is sent, and sent
//! as it was written until it is known what became of it; only a definite refusal
//! is followed by another one.

use std::time::Duration;

use browserfleet_proto::ids::InstanceId;

use super::Fleet;
use super::converge::{Lost, Memory, failed};
use crate::clock;
use crate::domain::instance::Instance;
use crate::domain::machine::{Draft, Machine, Offering};
use crate::domain::offering::{Exhausted, Shortage};
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::provider::LaunchError;
use crate::store::launches::{Failure, NewRequest, Sent};

/// First pause after the provider asked for one; doubles up to [`PAUSE_MAX`], full
/// jitter, and is one for all launches.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long something that was made a moment ago, such as an instance profile, may
/// take to be seen everywhere.
const NOT_YET_LASTS: Duration = Duration::from_secs(2 * 60);
/// Longest reason that a row keeps, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// What comes after an answer.
enum After {
    /// Another offering may do.
    Again,
    /// Nothing more now; whether the row has moved.
    Rest(bool),
}

impl Fleet {
    /// Writes the next request of a row and sends it, until one is not refused.
    pub(super) async fn request(&self, row: &Instance, lost: Lost<'_>) -> Result<bool, Error> {
        if self.is_paused() {
            return Ok(false);
        }
        let mut tried = self.store.tried_offerings(row.id).await?;
        let mut attempt = row.attempt.number;
        loop {
            let Some(lead) = self.lead.hold(&self.store).await? else {
                return Ok(false);
            };
            let now = clock::now();
            let pool = self.pool();
            let Some(image) = pool.image.clone() else {
                return Ok(false);
            };
            let mut offerings = preferring(row.kind.as_deref(), row.asked_for, pool.offerings);
            if row.is_parked() {
                offerings.retain(|it| it.market.can_stop());
            }
            let chosen = self.memory().choose(offerings, &tried, now);
            let offering = match chosen {
                Ok(offering) => offering,
                Err(exhausted) => {
                    self.give_up_for_now(row, attempt, exhausted, lost).await?;
                    return Ok(true);
                }
            };
            let draft = Draft {
                instance: row.id,
                attempt: attempt + 1,
                deployment: &self.deployment,
                generation: row.generation.max(pool.generation),
                image: &image,
                offering: &offering,
            };
            let text = self.provider.draft(&draft).map_err(failed)?;
            let request = NewRequest {
                instance: row.id,
                after: attempt,
                text: &text,
                offering: &offering,
                image: &image,
                at: now,
            };
            if !self.store.write_request(&request, lead).await? {
                return Ok(false);
            }
            attempt += 1;
            tracing::debug!(instance.id = %row.id, attempt, "launch request written");
            match self.try_once(row, attempt, &text, &offering).await? {
                After::Again => tried.push(offering),
                After::Rest(moved) => return Ok(moved),
            }
        }
    }

    /// Sends the request that a row has (again).
    pub(super) async fn send(&self, row: &Instance, attempt: i64) -> Result<bool, Error> {
        if self.is_paused() {
            return Ok(false);
        }
        let Some(text) = self.store.request_of(row.id, attempt).await? else {
            return Ok(false);
        };
        let Some(offering) = row.offering.clone() else {
            return Ok(false);
        };
        // Where another offering may do, the next round asks for it.
        match self.try_once(row, attempt, &text, &offering).await? {
            After::Again => Ok(true),
            After::Rest(moved) => Ok(moved),
        }
    }

    async fn try_once(
        &self,
        row: &Instance,
        attempt: i64,
        text: &str,
        offering: &Offering,
    ) -> Result<After, Error> {
        let Some(lead) = self.lead.hold(&self.store).await? else {
            return Ok(After::Rest(false));
        };
        let now = clock::now();
        let Some(sent) = self.store.sending(row.id, attempt, now, lead).await? else {
            return Ok(After::Rest(false));
        };
        tracing::debug!(instance.id = %row.id, attempt, "launch request goes out");
        let answer = self.provider.launch(text).await;
        let now = clock::now();
        match answer {
            Ok(machine) => {
                self.memory().pauses = 0;
                let adopted = self.adopt(row, attempt, &machine).await?;
                Ok(After::Rest(adopted))
            }
            Err(LaunchError::Refused {
                shortage,
                code,
                message,
            }) => {
                tracing::warn!(instance.id = %row.id, code, kind = offering.kind, place = offering.place, market = offering.market.as_str(), "a launch was refused");
                let words = cut(format!("{code}: {message}"));
                self.memory().cooldowns.refused(offering, shortage, now);
                self.refused(row, &sent, offering, shortage, &words).await
            }
            Err(LaunchError::Throttled(reason)) => {
                self.pause(&reason, now);
                Ok(After::Rest(false))
            }
            Err(LaunchError::Unknown(reason)) => {
                tracing::warn!(instance.id = %row.id, reason, "it is not known what became of a launch; the same will be asked again");
                Ok(After::Rest(false))
            }
            Err(LaunchError::Spent) => {
                let failure = Failure {
                    code: "terminated_at_start",
                    words: "the machine that was made for it is gone",
                    left_behind: false,
                };
                let failed = self.fail(row.id, attempt, &failure).await?;
                Ok(After::Rest(failed))
            }
            Err(LaunchError::Mismatch(reason)) => {
                tracing::error!(instance.id = %row.id, reason, "the provider remembers another request for this instance");
                // What the other one made may show itself meanwhile.
                if now.since(row.attempt.at) < self.provider.lag() {
                    return Ok(After::Rest(false));
                }
                let failure = Failure {
                    code: "request_mismatch",
                    words: &cut(reason),
                    left_behind: true,
                };
                let failed = self.fail(row.id, attempt, &failure).await?;
                Ok(After::Rest(failed))
            }
        }
    }

    /// A request was refused for sure. Where that is not news, somebody else has gone on
    /// from there.
    async fn refused(
        &self,
        row: &Instance,
        sent: &Sent,
        offering: &Offering,
        shortage: Shortage,
        words: &str,
    ) -> Result<After, Error> {
        let now = clock::now();
        let another_may_do = matches!(
            shortage,
            Shortage::Capacity | Shortage::Addresses | Shortage::Quota
        );
        // Who may not ask, or has a wrong clock, is told so before anybody looks what
        // the same request made when it was sent before.
        if !another_may_do && sent.send > 1 {
            return self.refused_unseen(row, sent, shortage, words).await;
        }
        let tried = another_may_do.then_some(offering);
        if !self.store.refused(sent, tried, words, now).await? {
            return Ok(After::Rest(false));
        }
        if another_may_do {
            return Ok(After::Again);
        }
        if shortage == Shortage::NotYet && now.since(row.created_at) < NOT_YET_LASTS {
            return Ok(After::Rest(false));
        }
        let failure = Failure {
            code: "launch_refused",
            words,
            left_behind: false,
        };
        let failed = self.fail(row.id, sent.attempt, &failure).await?;
        Ok(After::Rest(failed))
    }

    /// A request was refused without a look at its token, and what became of it before
    /// is not known: its machine, if there is one, is looked for.
    async fn refused_unseen(
        &self,
        row: &Instance,
        sent: &Sent,
        shortage: Shortage,
        words: &str,
    ) -> Result<After, Error> {
        if shortage == Shortage::NotYet {
            // The same is asked again, until it is known or given up.
            return Ok(After::Rest(false));
        }
        let failure = Failure {
            code: "launch_refused",
            words,
            left_behind: true,
        };
        let failed = self.fail(row.id, sent.attempt, &failure).await?;
        Ok(After::Rest(failed))
    }

    /// Writes down the machine that a request made.
    pub(super) async fn adopt(
        &self,
        row: &Instance,
        attempt: i64,
        machine: &Machine,
    ) -> Result<bool, Error> {
        if self.store.accepted(row.id, attempt, machine).await? {
            tracing::info!(instance.id = %row.id, reference = machine.reference, kind = machine.kind, zone = machine.zone, "instance launched");
            return Ok(true);
        }
        // The row names another machine; this one is nobody's.
        tracing::error!(instance.id = %row.id, reference = machine.reference, "a second machine of one instance; ending it");
        self.provider
            .terminate(&machine.reference)
            .await
            .map_err(failed)?;
        Ok(false)
    }

    /// No offering is left to try: the row fails, and nothing is launched until one is.
    async fn give_up_for_now(
        &self,
        row: &Instance,
        attempt: i64,
        exhausted: Exhausted,
        lost: Lost<'_>,
    ) -> Result<(), Error> {
        let words = row
            .error_message
            .clone()
            .unwrap_or_else(|| "no kind of machine is to be had anywhere just now".into());
        tracing::warn!(instance.id = %row.id, until = exhausted.until.map(|it| it.to_string()), "no machine is to be had");
        let failure = Failure {
            code: "no_capacity",
            words: &words,
            left_behind: false,
        };
        if self.fail(row.id, attempt, &failure).await? {
            lost(row.id, "no_capacity".into());
        }
        Ok(())
    }

    async fn fail(
        &self,
        id: InstanceId,
        attempt: i64,
        failure: &Failure<'_>,
    ) -> Result<bool, Error> {
        let now = clock::now();
        let failed = self.store.launch_failed(id, attempt, failure, now).await?;
        if failed {
            tracing::error!(instance.id = %id, code = failure.code, words = failure.words, "an instance could not be launched");
        }
        Ok(failed)
    }

    /// Until when nothing is to be had; `None`: something may be.
    pub(super) fn exhausted_until(
        &self,
        memory: &Memory,
        offerings: &[Offering],
        now: Timestamp,
    ) -> Option<Timestamp> {
        match memory.cooldowns.choose(offerings, &[], now) {
            Ok(_) => memory.paused_until.filter(|until| *until > now),
            Err(exhausted) => exhausted.until,
        }
    }

    fn is_paused(&self) -> bool {
        let now = clock::now();
        self.memory().paused_until.is_some_and(|until| until > now)
    }

    fn pause(&self, reason: &str, now: Timestamp) {
        let mut memory = self.memory();
        let longest = PAUSE_MIN
            .saturating_mul(2_u32.saturating_pow(memory.pauses))
            .min(PAUSE_MAX);
        memory.pauses = memory.pauses.saturating_add(1);
        let pause = longest.mul_f64(rand::random());
        memory.paused_until = Some(now.plus(pause));
        tracing::warn!(
            reason,
            pause_ms = pause.as_millis(),
            "the provider asks for a pause; launching nothing meanwhile"
        );
    }

    /// Makes the token with which an instance's agent joins, once, and hands it over.
    pub(super) async fn hand_token(&self, row: &Instance) -> Result<bool, Error> {
        let Some(reference) = &row.reference else {
            return Ok(false);
        };
        let token = self.join_token(row.id).await?;
        match self.provider.hand_token(reference, &token).await {
            Ok(()) => {
                self.store.token_handed(row.id, clock::now()).await?;
                tracing::debug!(instance.id = %row.id, "token handed over");
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(instance.id = %row.id, %error, "could not hand a token over yet");
                Ok(false)
            }
        }
    }
}

/// What its holder prefers comes first where they asked for the instance.
fn preferring(kind: Option<&str>, asked_for: bool, offerings: Vec<Offering>) -> Vec<Offering> {
    let Some(kind) = kind.filter(|_| asked_for) else {
        return offerings;
    };
    let (mut preferred, others): (Vec<_>, Vec<_>) =
        offerings.into_iter().partition(|it| it.kind == kind);
    preferred.extend(others);
    preferred
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}
