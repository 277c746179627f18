//! Which offering is tried next: markets and kinds in the operator's order, places
//! evenly, but for those that were refused a short while ago.

use std::collections::BTreeMap;
use std::time::Duration;

use super::machine::{Market, Offering};
use super::time::Timestamp;

/// How long what had no capacity or no address is left alone. Karpenter's figure
/// for the same.
const COOLDOWN: Duration = Duration::from_secs(3 * 60);
/// How long a market is left alone whose quota is used up: quotas are raised by
/// people.
const QUOTA_COOLDOWN: Duration = Duration::from_secs(10 * 60);
/// Refusals of one kind in different places after which the kind itself is short.
const PLACES_MAX: usize = 3;

/// What was short when an offering was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shortage {
    /// Machines of this kind in this place.
    Capacity,
    /// Addresses in this place.
    Addresses,
    /// The account's right to more of this market.
    Quota,
    /// Something that was made a moment ago and is not seen everywhere yet; the
    /// same offering may do later.
    NotYet,
    /// Nothing: the request itself is at fault, with every offering.
    Request,
}

/// What was refused, and until when it is left alone.
#[derive(Debug, Clone, Default)]
pub struct Cooldowns {
    offerings: BTreeMap<Offering, Timestamp>,
    places: BTreeMap<String, Timestamp>,
    markets: BTreeMap<Market, Timestamp>,
}

/// Every offering is left alone for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// When the first of them may be tried again; `None`: there are none, or this
    /// launch has tried them all.
    pub until: Option<Timestamp>,
}

impl Cooldowns {
    /// Notes a refusal.
    pub fn refused(&mut self, offering: &Offering, shortage: Shortage, now: Timestamp) {
        match shortage {
            Shortage::Capacity => {
                self.offerings.insert(offering.clone(), now.plus(COOLDOWN));
            }
            Shortage::Addresses => {
                self.places
                    .insert(offering.place.clone(), now.plus(COOLDOWN));
            }
            Shortage::Quota => {
                self.markets
                    .insert(offering.market, now.plus(QUOTA_COOLDOWN));
            }
            Shortage::NotYet | Shortage::Request => {}
        }
    }

    /// The first offering that is worth a try and that this launch has not tried.
    ///
    /// # Errors
    /// [`Exhausted`]
    pub fn choose<'a>(
        &self,
        offerings: &'a [Offering],
        tried: &[Offering],
        now: Timestamp,
    ) -> Result<&'a Offering, Exhausted> {
        let untried = || offerings.iter().filter(|it| !tried.contains(it));
        let first = untried().find(|it| self.until(it, now).is_none());
        first.ok_or_else(|| Exhausted {
            until: untried().filter_map(|it| self.until(it, now)).min(),
        })
    }

    /// Until when an offering is left alone; `None`: it is not.
    #[must_use]
    pub fn until(&self, offering: &Offering, now: Timestamp) -> Option<Timestamp> {
        let short_of_kind = || {
            let mut ends: Vec<Timestamp> = self
                .offerings
                .iter()
                .filter(|(it, end)| {
                    it.kind == offering.kind && it.market == offering.market && **end > now
                })
                .map(|(_, end)| *end)
                .collect();
            ends.sort_unstable();
            // As long as so many are refused, no other place is worth a call.
            (ends.len() >= PLACES_MAX).then(|| ends[ends.len() - PLACES_MAX])
        };
        [
            self.offerings.get(offering).copied(),
            self.places.get(&offering.place).copied(),
            self.markets.get(&offering.market).copied(),
            short_of_kind(),
        ]
        .into_iter()
        .flatten()
        .filter(|end| *end > now)
        .max()
    }
}

/// Puts places with the fewest instances first, within each kind and market: what ends
/// a zone then ends its share only. Among those with as many the operator's order
/// stays.
#[must_use]
pub fn spread(mut offerings: Vec<Offering>, there: &BTreeMap<String, usize>) -> Vec<Offering> {
    let alike =
        |one: &Offering, next: &Offering| one.market == next.market && one.kind == next.kind;
    for of_kind in offerings.chunk_by_mut(alike) {
        of_kind.sort_by_key(|it| there.get(&it.place).copied().unwrap_or(0));
    }
    offerings
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offering(kind: &str, place: &str, market: Market) -> Offering {
        Offering {
            kind: kind.into(),
            place: place.into(),
            market,
        }
    }

    fn all() -> Vec<Offering> {
        let mut all = Vec::new();
        for market in [Market::Spot, Market::OnDemand] {
            for kind in ["m", "c"] {
                for place in ["a", "b", "d", "e"] {
                    all.push(offering(kind, place, market));
                }
            }
        }
        all
    }

    const NOW: Timestamp = Timestamp(1_000_000_000);

    #[test]
    fn no_capacity_in_one_place_leads_to_the_next() {
        let all = all();
        let mut cooldowns = Cooldowns::default();
        cooldowns.refused(&all[0], Shortage::Capacity, NOW);
        assert_eq!(cooldowns.choose(&all, &[], NOW), Ok(&all[1]));
        let later = NOW.plus(COOLDOWN);
        assert_eq!(cooldowns.choose(&all, &[], later), Ok(&all[0]));
    }

    #[test]
    fn a_kind_that_three_places_lack_is_not_asked_for_in_a_fourth() {
        let all = all();
        let mut cooldowns = Cooldowns::default();
        for refused in &all[..3] {
            cooldowns.refused(refused, Shortage::Capacity, NOW);
        }
        assert_eq!(cooldowns.choose(&all, &[], NOW), Ok(&all[4]));
    }

    #[test]
    fn a_full_subnet_is_full_for_every_kind() {
        let all = all();
        let mut cooldowns = Cooldowns::default();
        cooldowns.refused(&all[0], Shortage::Addresses, NOW);
        assert!(cooldowns.until(&all[4], NOW).is_some());
        assert!(cooldowns.until(&all[1], NOW).is_none());
    }

    #[test]
    fn a_quota_is_not_got_round_by_another_zone() {
        let all = all();
        let mut cooldowns = Cooldowns::default();
        cooldowns.refused(&all[0], Shortage::Quota, NOW);
        assert_eq!(cooldowns.choose(&all, &[], NOW), Ok(&all[8]));
        let spot_only = &all[..8];
        let until = Some(NOW.plus(QUOTA_COOLDOWN));
        assert_eq!(
            cooldowns.choose(spot_only, &[], NOW),
            Err(Exhausted { until })
        );
    }

    #[test]
    fn places_are_taken_evenly_and_kinds_and_markets_in_their_order() {
        let mut there: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..12 {
            let spread = spread(all(), &there);
            let order = |it: &Offering| (it.market, it.kind.clone());
            let spread_order: Vec<_> = spread.iter().map(order).collect();
            assert_eq!(spread_order, all().iter().map(order).collect::<Vec<_>>());
            *there.entry(spread[0].place.clone()).or_default() += 1;
        }
        assert_eq!(there.into_values().collect::<Vec<_>>(), [3, 3, 3, 3]);
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_not_left_alone_and_was_not_tried(
            refusals in proptest::collection::vec((0..16usize, 0..5u8, 0..400u64), 0..40),
            tried in proptest::collection::vec(0..16usize, 0..16),
            after in 0..900u64,
        ) {
            let all = all();
            let mut cooldowns = Cooldowns::default();
            for (which, shortage, at) in refusals {
                let shortage = [Shortage::Capacity, Shortage::Addresses, Shortage::Quota, Shortage::NotYet, Shortage::Request][usize::from(shortage)];
                cooldowns.refused(&all[which], shortage, NOW.plus(Duration::from_secs(at)));
            }
            let now = NOW.plus(Duration::from_secs(after));
            let tried: Vec<Offering> = tried.iter().map(|it| all[*it].clone()).collect();
            match cooldowns.choose(&all, &tried, now) {
                Ok(chosen) => {
                    prop_assert!(!tried.contains(chosen));
                    prop_assert!(cooldowns.until(chosen, now).is_none());
                }
                // At the time that it names, one may be tried.
                Err(Exhausted { until: Some(until) }) => {
                    prop_assert!(until > now);
                    prop_assert!(cooldowns.choose(&all, &tried, until).is_ok());
                }
                Err(Exhausted { until: None }) => prop_assert!(all.iter().all(|it| tried.contains(it))),
            }
        }
    }
}
