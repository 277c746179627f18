//! How often somebody may try. Guessing is slowed by the address that guesses
//! and by the account that is guessed at; but nobody can lock another out, since
//! what one address uses up another has still, and an address that an account
//! was used from is not held up by strangers who guess at it from elsewhere.
//!
//! In memory, so that a flood costs no statement; each replica counts for itself.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use browserfleet_proto::ids::UserId;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::error::Error;

/// So many at once, and then one in each period.
#[derive(Debug, Clone, Copy)]
struct Rate {
    at_once: NonZeroU32,
    period: Duration,
}

const fn rate(at_once: u32, period: Duration) -> Rate {
    Rate {
        at_once: NonZeroU32::new(at_once).expect("more than none"),
        period,
    }
}

/// One address at one account: a person who mistypes, not one who guesses.
const GUESSES: Rate = rate(10, Duration::from_secs(30));
/// One address at all accounts: an office behind one address, not a list of
/// stolen passwords.
const ADDRESS: Rate = rate(100, Duration::from_secs(1));
/// All addresses at one account (NIST SP 800-63B-4, 3.2.2: 100 at most in a row).
const ACCOUNT: Rate = rate(100, Duration::from_secs(36));
/// Codes of a second factor, and the current password of somebody who is signed in.
const PROOFS: Rate = rate(10, Duration::from_secs(120));
/// Mails to one address.
const MAILS: Rate = rate(5, Duration::from_secs(120));
/// Lines in the audit about one address that is being held up.
const NOTICES: Rate = rate(1, Duration::from_secs(60));

type Limiter<K> = DefaultKeyedRateLimiter<K>;

/// An address that counts as one: an IPv6 subscriber has a whole /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// An account that is tried, whether there is one or not: SHA-256 of its address,
/// so that a long one takes no more room.
pub(super) type Account = String;

#[derive(Debug)]
pub(super) struct Throttle {
    guesses: Limiter<(Origin, Account)>,
    addresses: Limiter<Origin>,
    accounts: Limiter<Account>,
    proofs: Limiter<UserId>,
    mails: Limiter<Account>,
    notices: Limiter<Origin>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self {
            guesses: limiter(GUESSES),
            addresses: limiter(ADDRESS),
            accounts: limiter(ACCOUNT),
            proofs: limiter(PROOFS),
            mails: limiter(MAILS),
            notices: limiter(NOTICES),
        }
    }

    /// Somebody tries something without being signed in.
    pub(super) fn address(&self, origin: Origin) -> Result<(), Error> {
        check(&self.addresses, &origin)
    }

    /// Somebody tries a password.
    pub(super) fn guess(&self, origin: Origin, account: &Account) -> Result<(), Error> {
        // Who is held up at one account does not use up what others behind the
        // same address have.
        check(&self.guesses, &(origin, account.clone()))?;
        self.address(origin)
    }

    /// Whether strangers have tried this account too often. The wait is for
    /// addresses that it is not known to be used from.
    pub(super) fn account(&self, account: &Account) -> Result<(), Error> {
        check(&self.accounts, account)
    }

    /// Somebody who is known proves once more who they are.
    pub(super) fn proof(&self, user: UserId) -> Result<(), Error> {
        check(&self.proofs, &user)
    }

    /// Whether one more mail goes to this address.
    pub(super) fn may_mail(&self, account: &Account) -> bool {
        check(&self.mails, account).is_ok()
    }

    /// Whether it is worth a line that this address is held up.
    pub(super) fn is_news(&self, origin: Origin) -> bool {
        check(&self.notices, &origin).is_ok()
    }

    /// Forgets those who have not tried for long.
    pub(super) fn tidy(&self) {
        tidy(&self.guesses);
        tidy(&self.addresses);
        tidy(&self.accounts);
        tidy(&self.proofs);
        tidy(&self.mails);
        tidy(&self.notices);
    }
}

fn limiter<K: Hash + Eq + Clone>(rate: Rate) -> Limiter<K> {
    let quota = Quota::with_period(rate.period)
        .unwrap_or(Quota::per_second(NonZeroU32::MIN))
        .allow_burst(rate.at_once);
    RateLimiter::keyed(quota)
}

fn check<K: Hash + Eq + Clone>(limiter: &Limiter<K>, key: &K) -> Result<(), Error> {
    limiter
        .check_key(key)
        .map_err(|until| Error::TooManyAttempts {
            retry_after: until.wait_time_from(DefaultClock::default().now()),
        })
}

fn tidy<K: Hash + Eq + Clone>(limiter: &Limiter<K>) {
    limiter.retain_recent();
    limiter.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::from(text.parse::<IpAddr>().expect("an address"))
    }

    #[test]
    fn what_one_address_uses_up_another_has_still() {
        let throttle = Throttle::new();
        let account: Account = "ada".into();
        let taken = (0..100)
            .filter(|_| throttle.guess(origin("192.0.2.1"), &account).is_ok())
            .count();
        assert_eq!(taken, 10);
        assert!(throttle.guess(origin("192.0.2.2"), &account).is_ok());
        assert!(throttle.guess(origin("192.0.2.1"), &"bob".into()).is_ok());
    }

    #[test]
    fn a_whole_network_of_one_subscriber_is_one() {
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
    }
}
