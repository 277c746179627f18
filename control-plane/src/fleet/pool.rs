//! What is wanted of the pool: the operator's settings, and over them what the
//! administrators want otherwise.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Fleet;
use crate::clock;
use crate::domain::instance::Status;
use crate::domain::machine::{Market, Offering};
use crate::domain::pool::{Reuse, Target};
use crate::error::Error;
use crate::store::pool::{History, PoolRow};

/// Instances at the most, whoever wants them.
const MAX_MAX: u32 = 10_000;
/// Minutes that an instance may be wanted to be kept idle: a day.
const IDLE_MINUTES_MAX: u32 = 24 * 60;
/// The part of its certificate's life that a stopped machine is kept: started at
/// its end, its agent has as long again to renew it.
const STOPPED_AGE_PART: u32 = 2;
/// Kinds or places in one list.
const NAMES_MAX: usize = 50;
/// Longest name of a kind or place, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The operator's.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Instances that are ready and nobody's.
    pub warm: u32,
    /// Instances that are stopped and can be started again.
    pub stopped: u32,
    /// Instances at the most.
    pub max: u32,
    /// Sessions on one instance.
    pub sessions_per_instance: u32,
    /// How long a user keeps an instance without a session.
    pub idle: Duration,
    /// What becomes of an instance that somebody held.
    pub reuse: Reuse,
    /// Instances of one user, where no quota of theirs says otherwise.
    pub instances_per_user: u32,
    /// How long a machine may take until its agent says that it lives.
    pub boot: Duration,
}

/// On which markets machines are had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MarketPolicy {
    /// Until they are given back.
    OnDemand,
    /// Cheaper, until they are taken back.
    Spot,
    /// Cheaper where that is to be had.
    SpotFirst,
}

impl MarketPolicy {
    fn markets(self) -> &'static [Market] {
        match self {
            Self::OnDemand => &[Market::OnDemand],
            Self::Spot => &[Market::Spot],
            Self::SpotFirst => &[Market::Spot, Market::OnDemand],
        }
    }
}

/// What the administrators want otherwise than the settings say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// Instances that are ready and nobody's.
    pub warm: Option<u32>,
    /// Instances that are stopped and can be started again.
    pub stopped: Option<u32>,
    /// Instances at the most.
    pub max: Option<u32>,
    /// How long an instance is kept idle.
    pub idle_minutes: Option<u32>,
    /// Kinds of machines, best first.
    pub instance_types: Option<Vec<String>>,
    /// Where, best first.
    pub subnets: Option<Vec<String>>,
    /// On which market.
    pub market: Option<MarketPolicy>,
}

/// The pool as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Instances that are ready and nobody's.
    pub warm: u32,
    /// Instances that are stopped and can be started again.
    pub stopped: u32,
    /// Instances at the most.
    pub max: u32,
    /// How long an instance is kept idle.
    pub idle: Duration,
    /// Sessions on one instance.
    pub sessions_per_instance: u32,
    /// What becomes of an instance that somebody held.
    pub reuse: Reuse,
    /// The ways to have a machine, best first.
    pub offerings: Vec<Offering>,
    /// What instances are made like now.
    pub generation: i64,
    /// What they are started from, once that is known.
    pub image: Option<String>,
    /// Grows with each change by an administrator.
    pub version: i64,
    /// What the administrators want otherwise.
    pub overrides: Overrides,
}

impl Pool {
    pub(super) fn new(settings: &Settings, offered: &[Offering], row: &PoolRow<Overrides>) -> Self {
        let overrides = &row.overrides;
        let max = overrides.max.unwrap_or(settings.max);
        let minutes = |it: u32| Duration::from_secs(u64::from(it) * 60);
        Self {
            warm: overrides.warm.unwrap_or(settings.warm).min(max),
            stopped: overrides.stopped.unwrap_or(settings.stopped).min(max),
            max,
            idle: overrides.idle_minutes.map_or(settings.idle, minutes),
            sessions_per_instance: settings.sessions_per_instance,
            reuse: settings.reuse,
            offerings: offerings(offered, overrides),
            generation: row.generation,
            image: row.image.clone(),
            version: row.version,
            overrides: overrides.clone(),
        }
    }

    /// What the planner goes by. Agents renew their certificate, which lives this
    /// long, only while they run.
    #[must_use]
    pub fn target(&self, certificate_life: Duration) -> Target {
        let can_stop = self.offerings.iter().any(|it| it.market.can_stop());
        Target {
            warm: self.warm,
            stopped: if can_stop { self.stopped } else { 0 },
            stopped_age: certificate_life / STOPPED_AGE_PART,
            max: self.max,
            idle: self.idle,
            generation: self.generation,
        }
    }

    /// The kinds of machines that it has, best first.
    #[must_use]
    pub fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = Vec::new();
        for offering in &self.offerings {
            if !kinds.contains(&offering.kind.as_str()) {
                kinds.push(&offering.kind);
            }
        }
        kinds
    }
}

/// The provider's offerings, with what is wanted otherwise in place of its own.
fn offerings(offered: &[Offering], overrides: &Overrides) -> Vec<Offering> {
    fn distinct<T: PartialEq + Clone>(all: impl Iterator<Item = T>) -> Vec<T> {
        let mut distinct = Vec::new();
        for it in all {
            if !distinct.contains(&it) {
                distinct.push(it);
            }
        }
        distinct
    }
    let kinds = overrides
        .instance_types
        .clone()
        .unwrap_or_else(|| distinct(offered.iter().map(|it| it.kind.clone())));
    let places = overrides
        .subnets
        .clone()
        .unwrap_or_else(|| distinct(offered.iter().map(|it| it.place.clone())));
    let markets = overrides.market.map_or_else(
        || distinct(offered.iter().map(|it| it.market)),
        |it| it.markets().to_vec(),
    );
    let mut all = Vec::new();
    for market in markets {
        for kind in &kinds {
            for place in &places {
                all.push(Offering {
                    kind: kind.clone(),
                    place: place.clone(),
                    market,
                });
            }
        }
    }
    all
}

/// The pool, how it is, and how it went of late.
#[derive(Debug, Clone)]
pub struct PoolReport {
    /// As it is wanted.
    pub pool: Pool,
    /// Instances by what they are: ready, coming, held, stopping, failed.
    pub counts: PoolCounts,
    /// How it went of late.
    pub history: History,
    /// Why fewer are launched than are wanted.
    pub held_back: Option<&'static str>,
    /// What a person should look at.
    pub alarm: Option<String>,
    /// Sessions that wait.
    pub waiting: usize,
}

/// Instances by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PoolCounts {
    /// Running, healthy, nobody's.
    pub ready: usize,
    /// On their way, nobody's.
    pub coming: usize,
    /// Stopped until they are needed, or on their way to be.
    pub stopped: usize,
    /// Somebody's.
    pub held: usize,
    /// Running and out of use: unhealthy, draining, restarting, being made clean.
    pub out_of_use: usize,
    /// Being ended.
    pub stopping: usize,
    /// Failed, with a machine that may be left behind.
    pub left_behind: usize,
}

impl Fleet {
    /// The pool, and how it is.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn pool_report(&self) -> Result<PoolReport, Error> {
        self.read_pool().await?;
        let pool = self.pool();
        let rows = self.store.instances().await?;
        let mut counts = PoolCounts::default();
        for row in rows.iter().filter(|it| it.counts()) {
            let place = match row.status {
                Status::Stopping => &mut counts.stopping,
                Status::Error | Status::Terminated => &mut counts.left_behind,
                _ if row.assigned_to.is_some() => &mut counts.held,
                Status::Provisioning if row.is_parked() => &mut counts.stopped,
                Status::Provisioning => &mut counts.coming,
                Status::Running if row.takes_work() => &mut counts.ready,
                Status::Running => &mut counts.out_of_use,
            };
            *place += 1;
        }
        let history = self
            .store
            .pool_history(pool.generation, clock::now())
            .await?;
        let (held_back, alarm) = {
            let memory = self.memory();
            (memory.held_back, memory.alarm.clone())
        };
        Ok(PoolReport {
            pool,
            counts,
            history,
            held_back,
            alarm,
            waiting: self.store.queue().await?.len(),
        })
    }

    /// Replaces what the administrators want, if the pool is of the version
    /// `expected`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field, [`Error::PreconditionFailed`]
    pub async fn change_pool(
        &self,
        overrides: &Overrides,
        expected: Option<i64>,
    ) -> Result<(), Error> {
        self.check(overrides)?;
        let replaced = self
            .store
            .replace_pool(overrides, expected, clock::now())
            .await?;
        if !replaced {
            return Err(Error::PreconditionFailed);
        }
        self.read_pool().await?;
        self.wake();
        Ok(())
    }

    fn check(&self, overrides: &Overrides) -> Result<(), Error> {
        let max = overrides.max.unwrap_or(self.settings.max);
        if !(1..=MAX_MAX).contains(&max) {
            return Err(Error::invalid("max", format!("has to be 1 to {MAX_MAX}")));
        }
        if overrides.warm.is_some_and(|warm| warm > max) {
            return Err(Error::invalid(
                "warm",
                format!("is more than the maximum, {max}"),
            ));
        }
        if let Some(stopped) = overrides.stopped {
            if self.provider.lag().is_zero() {
                let name = self.provider.name();
                let cannot = format!("the provider `{name}` cannot stop and start an instance");
                return Err(Error::invalid("stopped", cannot));
            }
            if stopped > max {
                let more = format!("is more than the maximum, {max}");
                return Err(Error::invalid("stopped", more));
            }
        }
        if overrides
            .idle_minutes
            .is_some_and(|it| it > IDLE_MINUTES_MAX)
        {
            return Err(Error::invalid(
                "idle_minutes",
                format!("has to be 0 to {IDLE_MINUTES_MAX}"),
            ));
        }
        let of_machines = [
            ("instance_types", &overrides.instance_types),
            ("subnets", &overrides.subnets),
        ];
        for (field, names) in of_machines {
            let Some(names) = names else { continue };
            self.has_kinds(field)?;
            if names.is_empty() || names.len() > NAMES_MAX {
                return Err(Error::invalid(
                    field,
                    format!("has to have 1 to {NAMES_MAX} names"),
                ));
            }
            let clean = |name: &&String| {
                (1..=NAME_BYTES_MAX).contains(&name.len())
                    && name
                        .bytes()
                        .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-' | b'_'))
            };
            if let Some(odd) = names.iter().find(|it| !clean(it)) {
                return Err(Error::invalid(field, format!("`{odd}` is not a name")));
            }
        }
        if overrides.market.is_some() {
            self.has_kinds("market")?;
        }
        Ok(())
    }

    fn has_kinds(&self, field: &'static str) -> Result<(), Error> {
        if self.provider.lag().is_zero() {
            return Err(Error::invalid(
                field,
                format!("the provider `{}` has none to choose", self.provider.name()),
            ));
        }
        Ok(())
    }

    /// Reads anew what is wanted.
    pub(super) async fn read_pool(&self) -> Result<(), Error> {
        let row = self.store.pool().await?;
        let pool = Pool::new(&self.settings, &self.provider.offerings(), &row);
        self.pool.send_if_modified(|current| {
            let changed = *current != pool;
            *current = pool;
            changed
        });
        Ok(())
    }
}
