//! One round of bringing the pool to what is wanted: take or renew the lead, list
//! the machines, then the rows, then the links; decide; act. The machines come
//! first: one that is launched meanwhile then has its row already. A list that
//! failed ends the round, and nothing is concluded from it.
//!
//! The way of a healthy start and the way out of a crash are the same.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use browserfleet_proto::ids::{InstanceId, UserId};
use futures_util::stream::{self, StreamExt};
use sha2::{Digest, Sha256};

use super::Fleet;
use super::lead::RENEW_EVERY;
use crate::clock;
use crate::domain::instance::{Instance, Status};
use crate::domain::machine::{Draft, Machine, Market, Offering};
use crate::domain::offering::{self, Cooldowns, Exhausted};
use crate::domain::placement;
use crate::domain::pool::{self, Demand, Launches, Plan};
use crate::domain::reconcile::{self, END_ALARM, Next, Rules, Sightings, Step, View};
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::provider;
use crate::relay::Contact;
use crate::store::holders::Holder;
use crate::store::instances::{NewInstance, Unless, Wanted};
use crate::store::lead::LeadEpoch;
use crate::store::queue::Queued;
use crate::telemetry::metrics;

/// Steps of one round. The next round follows at once where there are more, with a
/// fresh look at everything.
const STEPS_PER_ROUND: usize = 64;
/// Steps at once: a call to a provider may take ten seconds, and the others must
/// not wait for it.
const STEPS_AT_ONCE: usize = 8;
/// How often a provider is asked what is wrong with its machines.
const TROUBLES_EVERY: Duration = Duration::from_secs(60);
/// How often is asked what instances are to be started from.
const IMAGE_EVERY: Duration = Duration::from_secs(5 * 60);
/// How often is looked for tokens that are left over. They run out by themselves;
/// what they take up is the account's quota of parameters.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Whose request it is that only shows how instances are made.
const ANYBODY: &str = "ins_00000000000000000000000000000000";
/// Why rows end whose machine went without us.
const MACHINE_GONE: &[&str] = &[
    "instance_lost",
    "instance_terminated",
    "terminated_at_start",
];
/// How long a start is taken to last where none was seen yet.
const BOOT_GUESS: Duration = Duration::from_secs(60);
/// How long a start of a process is taken to last where none was seen yet.
const BOOT_GUESS_OF_A_PROCESS: Duration = Duration::from_secs(1);

/// What the leader remembers between rounds. It may be lost: a new leader learns it
/// again, and is more careful until then.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) cooldowns: Cooldowns,
    pub(super) sightings: Sightings,
    /// Instances in each place, with those that are being launched there.
    places: BTreeMap<String, usize>,
    pub(super) surplus_since: Option<Timestamp>,
    /// Until when nothing is launched, since the provider asked for a pause.
    pub(super) paused_until: Option<Timestamp>,
    /// Until when no stopped machine is started: there was no room for one.
    pub(super) starts_paused_until: Option<Timestamp>,
    /// Pauses in a row.
    pub(super) pauses: u32,
    pub(super) held_back: Option<&'static str>,
    pub(super) alarm: Option<String>,
    /// How long nine in ten starts take.
    pub(super) boot: Option<Duration>,
    troubles: HashMap<String, String>,
    troubles_at: Option<Timestamp>,
    image_at: Option<Timestamp>,
    swept_at: Option<Timestamp>,
}

impl Memory {
    /// The offering that is tried next, and one more in its place.
    pub(super) fn choose(
        &mut self,
        offerings: Vec<Offering>,
        tried: &[Offering],
        now: Timestamp,
    ) -> Result<Offering, Exhausted> {
        let offerings = offering::spread(offerings, &self.places);
        let chosen = self.cooldowns.choose(&offerings, tried, now)?.clone();
        *self.places.entry(chosen.place.clone()).or_default() += 1;
        Ok(chosen)
    }
}

/// What a round did, and when the next one is due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Converged {
    /// Whether this replica led.
    pub led: bool,
    /// Steps that were done.
    pub steps: usize,
    /// Machines that were wanted.
    pub wanted: u32,
    /// Instances that began to end, or whose machine was found gone.
    pub ended: u32,
    /// Machines without a row that were ended.
    pub orphans: u32,
    /// Rows whose machine was gone.
    pub lost: u32,
    /// Links of instances that are over, which were cut.
    pub strange_links: u32,
    /// When something will be due next, without anything happening before.
    pub next: Option<Duration>,
}

/// Whether there are rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounds {
    /// One after another.
    Go,
    /// No more: the machines end with this process.
    Over,
}

/// Is told of each instance that is lost to its sessions, and why.
pub type Lost<'a> = &'a (dyn Fn(InstanceId, String) + Sync);

impl Fleet {
    /// One round. `lost` is told of instances whose sessions are over.
    ///
    /// # Errors
    /// Where the database or the provider fails; what was done is done.
    pub async fn converge(&self, lost: Lost<'_>) -> Result<Converged, Error> {
        let rounds = self.rounds.lock().await;
        match *rounds {
            Rounds::Go => self.round(lost).await,
            Rounds::Over => Ok(Converged::default()),
        }
    }

    async fn round(&self, lost: Lost<'_>) -> Result<Converged, Error> {
        self.read_pool().await?;
        let Some(lead) = self.lead.hold(&self.store).await? else {
            let linked = self.relay.linked();
            let rows = self.store.instances().await?;
            // For those who wait here, and are told for how long and why.
            self.plan(&rows, clock::now()).await?;
            return Ok(Converged {
                strange_links: self.cut_strange_links(&linked, &rows),
                next: Some(RENEW_EVERY),
                ..Converged::default()
            });
        };
        let mut done = Converged {
            led: true,
            next: Some(RENEW_EVERY),
            ..Converged::default()
        };
        self.learn_image().await?;
        let listed = self.provider.list(&self.deployment).await;
        let mut machines = listed.map_err(failed)?;
        let linked = self.relay.linked();
        let rows = self.store.instances().await?;
        self.find_unlisted(&rows, &mut machines).await?;
        self.judge_health(&rows, lead).await?;
        self.memory().places = places_of(&rows);
        done.strange_links = self.cut_strange_links(&linked, &rows);

        let matched = reconcile::matched(&machines, &rows);
        let now = clock::now();
        let mut steps = self
            .steps_of(&rows, &matched.of_rows, now, &mut done)
            .await?;
        // Ends before beginnings: they free what the beginnings may need.
        steps.sort_by_key(|(_, step)| urgency(step));
        if steps.len() > STEPS_PER_ROUND {
            steps.truncate(STEPS_PER_ROUND);
            done.next = Some(Duration::ZERO);
        }
        metrics::instances(rows.iter().map(|row| row.status.as_str()));
        let count = |so: &dyn Fn(&Step) -> bool| {
            let steps = steps.iter().filter(|(_, step)| so(step));
            u32::try_from(steps.count()).unwrap_or(u32::MAX)
        };
        done.ended = count(&|step| matches!(step, Step::End(_) | Step::Release));
        done.lost =
            count(&|step| matches!(step, Step::End(reason) if MACHINE_GONE.contains(reason)));
        let takes: Vec<_> = steps
            .into_iter()
            .map(|(row, step)| self.take_step(row, step, lead, lost))
            .collect();
        let quiet = takes.is_empty();
        let progress = stream::iter(takes)
            .buffer_unordered(STEPS_AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        for moved in progress {
            if moved? {
                done.steps += 1;
            }
        }
        if done.steps > 0 {
            // Most steps are followed by another.
            done.next = Some(Duration::ZERO);
        }
        if self.lead.hold(&self.store).await? != Some(lead) {
            return Ok(done);
        }
        self.end_strangers(&matched, machines.len(), &mut done)
            .await?;
        self.sweep_tokens(&rows).await;
        // What a round without a step has read is as good as new.
        let rows = if quiet {
            rows
        } else {
            self.store.instances().await?
        };
        self.size(&rows, lead, lost, &mut done).await?;
        Ok(done)
    }

    /// Machines that rows name and that no list shows (any more) are asked for by name.
    async fn find_unlisted(
        &self,
        rows: &[Instance],
        machines: &mut Vec<Machine>,
    ) -> Result<(), Error> {
        let listed: HashSet<&str> = machines.iter().map(|it| it.reference.as_str()).collect();
        let unlisted: Vec<String> = rows
            .iter()
            .filter_map(|row| row.reference.clone())
            .filter(|reference| !listed.contains(reference.as_str()))
            .collect();
        if unlisted.is_empty() {
            return Ok(());
        }
        let found = self.provider.find(&unlisted).await.map_err(failed)?;
        machines.extend(found);
        Ok(())
    }

    async fn steps_of<'a>(
        &self,
        rows: &'a [Instance],
        machines: &HashMap<InstanceId, &Machine>,
        now: Timestamp,
        done: &mut Converged,
    ) -> Result<Vec<(&'a Instance, Step)>, Error> {
        let mut steps = Vec::new();
        let pool = self.pool();
        // Only those who leave one idle are asked for what they have patience for.
        let idle = rows.iter().filter(|it| it.sessions == 0);
        let holders: Vec<UserId> = idle.filter_map(|it| it.assigned_to).collect();
        let holders = self.store.holders(&holders).await?;
        for row in rows {
            let holder = row.assigned_to.and_then(|id| holders.get(&id));
            let patience = holder.map_or(pool.idle, |it| {
                // As the pool has it, or shorter where they want it ended sooner.
                it.settings.ec2_preferences.patience(pool.idle)
            });
            let view = View {
                row,
                machine: machines.get(&row.id).copied(),
                silence: self.silence(row, now),
                patience,
            };
            let Next { step, due } = reconcile::next(&view, self.rules(), now);
            if let Some(step) = step {
                steps.push((row, step));
            } else if let Some(due) = due {
                note(done, due.since(now));
            }
        }
        Ok(steps)
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            lag: self.provider.lag(),
            boot: self.settings.boot,
        }
    }

    /// How long an instance's agent was silent, as this replica or another heard it;
    /// `None`: its link is here, and up.
    pub(super) fn silence(&self, row: &Instance, now: Timestamp) -> Option<Duration> {
        match self.relay.contact(row.id) {
            Contact::Up => None,
            Contact::Silent(here) => {
                let elsewhere = row.seen_at.map(|at| now.since(at));
                Some(elsewhere.map_or(here, |it| it.min(here)))
            }
        }
    }

    /// Notes what is wrong with instances, or is not any more.
    async fn judge_health(&self, rows: &[Instance], lead: LeadEpoch) -> Result<(), Error> {
        let now = clock::now();
        let asked = self.memory().troubles_at;
        if asked.is_none_or(|at| now.since(at) >= TROUBLES_EVERY) {
            let running = rows.iter().filter(|it| it.status == Status::Running);
            let references: Vec<String> = running.filter_map(|it| it.reference.clone()).collect();
            let troubles = match self.provider.troubles(&references).await {
                Ok(troubles) => troubles,
                Err(error) => {
                    tracing::warn!(%error, "could not ask what is wrong with machines");
                    Vec::new()
                }
            };
            let mut memory = self.memory();
            memory.troubles = troubles
                .into_iter()
                .map(|it| (it.reference, it.reason))
                .collect();
            memory.troubles_at = Some(now);
        }
        for row in rows.iter().filter(|it| it.status == Status::Running) {
            // What is being started anew is silent for a while.
            if row.restart.is_some() {
                continue;
            }
            let trouble = {
                let memory = self.memory();
                let reference = row.reference.as_deref().unwrap_or_default();
                memory.troubles.get(reference).cloned()
            };
            let judged = self.judge(row, trouble.as_deref(), now);
            let known = row.unhealthy.as_ref().map(|it| it.reason.as_str());
            if judged.as_deref() != known {
                if self.lead.hold(&self.store).await? != Some(lead) {
                    return Ok(());
                }
                match &judged {
                    Some(reason) => {
                        tracing::warn!(instance.id = %row.id, reason, "instance unhealthy");
                    }
                    None => tracing::info!(instance.id = %row.id, "instance healthy again"),
                }
                self.store
                    .note_health(row.id, judged.as_deref(), now)
                    .await?;
                self.room_changed();
            }
        }
        Ok(())
    }

    /// Cuts the links of instances that are over. The links were looked at before the
    /// rows: what had one then and has no row now is not to run any more.
    fn cut_strange_links(&self, linked: &[InstanceId], rows: &[Instance]) -> u32 {
        let known: HashSet<InstanceId> = rows.iter().map(|it| it.id).collect();
        let mut cut = 0;
        for instance in linked.iter().filter(|it| !known.contains(it)) {
            tracing::warn!(instance.id = %instance, "a link of an instance that is over; cutting it");
            self.relay.cut(*instance);
            cut += 1;
        }
        cut
    }

    async fn end_strangers(
        &self,
        matched: &reconcile::Matched<'_>,
        machines: usize,
        done: &mut Converged,
    ) -> Result<(), Error> {
        let named: Vec<InstanceId> = matched
            .strange
            .iter()
            .filter_map(|it| it.instance)
            .collect();
        let ended = self.store.ended_among(&named).await?;
        let now = clock::now();
        let strangers = {
            let mut memory = self.memory();
            let rules = self.rules();
            let strangers = memory
                .sightings
                .judge(matched, &ended, machines, rules, now);
            let alarm = strangers.mismatch.map(|count| {
                format!(
                    "{count} machines carry this deployment's name and have no row here; none of \
                     them is ended: is this the database that made them?"
                )
            });
            if alarm.is_some() && memory.alarm != alarm {
                tracing::error!(
                    machines = strangers.mismatch,
                    "fleet_mismatch: machines without rows; is this the database that made them?"
                );
            }
            memory.alarm = alarm;
            strangers
        };
        for reference in &strangers.orphans {
            match matched
                .second
                .iter()
                .find(|(_, it)| it.reference == *reference)
            {
                Some((row, _)) => {
                    tracing::error!(instance.id = %row, reference, "a second machine of one instance; ending it");
                }
                None => tracing::warn!(reference, "a machine without an instance; ending it"),
            }
            self.end_machine(reference).await;
            done.orphans += 1;
        }
        if let Some(due) = strangers.due {
            note(done, due.since(now));
        }
        Ok(())
    }

    /// Takes away tokens that lie ready for machines that need none any more: whoever
    /// was to do it may have died between two steps.
    async fn sweep_tokens(&self, rows: &[Instance]) {
        let now = clock::now();
        let swept = self.memory().swept_at;
        if swept.is_some_and(|at| now.since(at) < SWEEP_EVERY) {
            return;
        }
        self.memory().swept_at = Some(now);
        let lying = match self.provider.tokens().await {
            Ok(lying) => lying,
            Err(error) => {
                tracing::warn!(%error, "could not look for tokens that are left over");
                return;
            }
        };
        let needed: HashSet<&str> = rows
            .iter()
            .filter(|it| it.status == Status::Provisioning && it.enrolled_at.is_none())
            .filter_map(|it| it.reference.as_deref())
            .collect();
        for reference in lying.iter().filter(|it| !needed.contains(it.as_str())) {
            match self.provider.take_token(reference).await {
                Ok(()) => tracing::info!(reference, "a token that was left over is gone"),
                Err(error) => {
                    tracing::warn!(reference, %error, "could not take a token away yet");
                }
            }
        }
    }

    /// Ends a machine that no row looks after.
    async fn end_machine(&self, reference: &str) {
        if let Err(error) = self.provider.terminate(reference).await {
            tracing::warn!(reference, %error, "could not end a machine");
        }
    }

    /// Wants more instances, or fewer.
    async fn size(
        &self,
        rows: &[Instance],
        lead: LeadEpoch,
        lost: Lost<'_>,
        done: &mut Converged,
    ) -> Result<(), Error> {
        let now = clock::now();
        let pool = self.pool();
        let plan = self.plan(rows, now).await?;
        for (id, reason) in &plan.retire {
            // Between the look and now somebody may have got it: then it stays. A sick one
            // is of no use to its holder either.
            let unless = match *reason {
                "unhealthy" => Unless::UsedSince(now),
                _ => Unless::Held,
            };
            if self.store.end_instance(*id, reason, unless, now).await? {
                tracing::info!(instance.id = %id, reason, "instance retired");
                lost(*id, (*reason).to_owned());
                done.next = Some(Duration::ZERO);
            }
        }
        for id in &plan.wake {
            if self.store.unpark(*id, now, lead).await? {
                tracing::info!(instance.id = %id, "stopped instance wanted back");
                done.next = Some(Duration::ZERO);
            }
        }
        for number in 0..plan.launch + plan.park {
            let instance = NewInstance {
                id: InstanceId::new(),
                provider: self.provider.name(),
                region: self.provider.region().to_owned(),
                sessions_max: pool.sessions_per_instance,
                generation: pool.generation,
                kind: None,
                holder: None,
                parks: number >= plan.launch,
                at: now,
            };
            let wanted = self
                .store
                .want_instance(&instance, pool.max, Some(lead))
                .await?;
            if wanted != Wanted::Written {
                break;
            }
            tracing::info!(instance.id = %instance.id, "instance wanted");
            done.wanted += 1;
            done.next = Some(Duration::ZERO);
        }
        if let Some(due) = plan.due {
            note(done, due.since(now));
        }
        Ok(())
    }

    async fn plan(&self, rows: &[Instance], now: Timestamp) -> Result<Plan, Error> {
        let pool = self.pool();
        let queue = self.store.queue().await?;
        let waiting = self.waiting(&queue).await?;
        let history = self.store.pool_history(pool.generation, now).await?;
        let guess = if self.rules().lag.is_zero() {
            BOOT_GUESS_OF_A_PROCESS
        } else {
            BOOT_GUESS
        };
        let boot = history.boot(0.9);
        let demand = Demand {
            waiting: placement::instances_needed(&waiting, rows, pool.sessions_per_instance),
            arrivals_per_second: history.arrivals_per_second,
            boot: boot.unwrap_or(guess),
        };
        let mut memory = self.memory();
        memory.boot = boot;
        let launches = Launches {
            failures_in_a_row: history.failures_in_a_row,
            failed_at: history.failed_at,
            exhausted_until: self.exhausted_until(&memory, &pool.offerings, now),
            starts_paused_until: memory.starts_paused_until,
            replaced: history.replaced,
            generation_proven: history.generation_proven,
        };
        let plan = pool::plan(
            rows,
            &pool.target(self.authorities.certificate_life()),
            &demand,
            &launches,
            memory.surplus_since,
            now,
        );
        memory.surplus_since = plan.surplus_since;
        if memory.held_back != plan.held_back
            && let Some(reason) = plan.held_back
        {
            tracing::warn!(
                reason,
                failures = launches.failures_in_a_row,
                last = history.failure,
                "fewer instances are launched than are wanted"
            );
        }
        memory.held_back = plan.held_back;
        Ok(plan)
    }

    /// Those that wait, with what their users may have and prefer.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn waiting(&self, queue: &[Queued]) -> Result<Vec<placement::Waiting>, Error> {
        let users: HashSet<UserId> = queue.iter().map(|it| it.user).collect();
        let users: Vec<UserId> = users.into_iter().collect();
        let users = self.store.holders(&users).await?;
        let waiting = queue.iter().map(|queued| {
            let user = users.get(&queued.user);
            placement::Waiting {
                session: queued.session,
                user: queued.user,
                since: queued.since,
                served_at: user.and_then(|it| it.served_at),
                instances_max: self.instances_max(user),
                kind: user.and_then(|it| it.settings.ec2_preferences.instance_type.clone()),
            }
        });
        Ok(waiting.collect())
    }

    /// How many instances a user may hold, and the kind that they prefer.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn limits_of(&self, user: UserId) -> Result<(u32, Option<String>), Error> {
        let holder = self.store.holders(&[user]).await?.remove(&user);
        let most = self.instances_max(holder.as_ref());
        Ok((
            most,
            holder.and_then(|it| it.settings.ec2_preferences.instance_type),
        ))
    }

    fn instances_max(&self, holder: Option<&Holder>) -> u32 {
        let theirs = holder.and_then(|it| it.instances_max);
        theirs.unwrap_or(self.settings.instances_per_user)
    }

    async fn learn_image(&self) -> Result<(), Error> {
        let now = clock::now();
        let asked = self.memory().image_at;
        if asked.is_some_and(|at| now.since(at) < IMAGE_EVERY) {
            return Ok(());
        }
        let image = match self.provider.image().await {
            Ok(image) => image,
            // What is known goes on; without it nothing can be launched.
            Err(error) if self.pool().image.is_some() => {
                tracing::warn!(%error, "could not ask for the image; the last one is used");
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        let making = self.making(&image)?;
        let generation = self.store.note_making(&image, &making, now).await?;
        self.memory().image_at = Some(now);
        let pool = self.pool();
        if pool.image.as_deref() != Some(&image) || pool.generation != generation {
            tracing::info!(image, generation, "instances are started from this now");
            self.read_pool().await?;
        }
        Ok(())
    }

    /// All that goes into an instance but its own names and where it is, as a hash:
    /// what its machine is told at its start, its role, its disk.
    fn making(&self, image: &str) -> Result<String, Error> {
        let offering = Offering {
            kind: String::new(),
            place: String::new(),
            market: Market::OnDemand,
        };
        let anybody = Draft {
            instance: ANYBODY.parse().expect("an id"),
            attempt: 0,
            deployment: &self.deployment,
            generation: 0,
            image,
            offering: &offering,
        };
        let draft = self.provider.draft(&anybody).map_err(failed)?;
        let digest = Sha256::digest(draft);
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Stops for good: lets another replica lead, and ends machines that do not
    /// outlive this process.
    ///
    /// # Errors
    /// Where the database or the provider fails.
    pub async fn close(&self, lost: Lost<'_>) -> Result<(), Error> {
        if self.provider.outlives_us() {
            self.lead.give_back(&self.store).await;
            return Ok(());
        }
        // A round that is under way may be launching what nobody would end any more.
        *self.rounds.lock().await = Rounds::Over;
        let rows = self.store.instances().await?;
        let ends = rows.iter().map(|row| self.end_with_us(row, lost));
        for ended in futures_util::future::join_all(ends).await {
            ended?;
        }
        // Whatever else there is of ours.
        let machines = self.provider.list(&self.deployment).await.map_err(failed)?;
        let ends = machines.iter().map(|it| self.end_machine(&it.reference));
        futures_util::future::join_all(ends).await;
        self.lead.give_back(&self.store).await;
        Ok(())
    }

    async fn end_with_us(&self, row: &Instance, lost: Lost<'_>) -> Result<(), Error> {
        self.drain_agent(row.id);
        // Nobody is given anything any more: its machine may end before its row does, and
        // its agent is never refused.
        if let Some(reference) = &row.reference {
            self.provider.terminate(reference).await.map_err(failed)?;
        }
        lost(row.id, "shutdown".into());
        self.relay.cut(row.id);
        let now = clock::now();
        if self.store.instance_gone(row.id, "shutdown", now).await? {
            tracing::info!(instance.id = %row.id, reason = "shutdown", "instance terminated");
        }
        Ok(())
    }

    /// Whether a machine takes longer to end than it may.
    pub(super) fn is_overdue(row: &Instance, now: Timestamp) -> bool {
        row.status == Status::Stopping && now.since(row.status_at) >= END_ALARM
    }
}

/// Instances that there are, or may be, by the place that they were asked for in.
fn places_of(rows: &[Instance]) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    let there = rows.iter().filter(|it| it.counts());
    for offering in there.filter_map(|it| it.offering.as_ref()) {
        *places.entry(offering.place.clone()).or_default() += 1;
    }
    places
}

/// Ends come first, what only writes comes before what calls, launches come last.
fn urgency(step: &Step) -> u8 {
    match step {
        Step::End(_) | Step::Gone(_) | Step::Release => 0,
        Step::Adopt(_) | Step::Note(_) | Step::Missing(_) | Step::Stopped => 1,
        Step::Terminate => 2,
        Step::HandToken | Step::Restart(_) | Step::Stop | Step::Start => 3,
        Step::Send => 4,
        Step::Request => 5,
    }
}

pub(super) fn failed(error: provider::Error) -> Error {
    Error::Internal(error.into())
}

fn note(done: &mut Converged, wait: Duration) {
    done.next = Some(done.next.map_or(wait, |next| next.min(wait)));
}
