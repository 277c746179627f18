//! What EC2 says of a spot machine's near future: that it may be taken back, and that
//! it is. The metadata service has no event for either; EC2's own advice is to look
//! every 5 s.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::agent::v1::Notice;
use browserfleet_proto::agent::v1::from_agent::Body;
use browserfleet_proto::agent::v1::notice::Kind;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{MissedTickBehavior, interval};

use super::metadata::{Error, Metadata};
use crate::clock;
use crate::link::outbox::Outbox;

/// How often it is looked at. A notice comes two minutes ahead.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks until the machine is taken back, and says each notice once.
pub async fn watch(mut metadata: Metadata, outbox: Arc<Outbox>) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::default();
    let mut silent = false;
    while !told.all() {
        looks.tick().await;
        match look(&mut metadata).await {
            Ok(seen) => {
                if std::mem::take(&mut silent) {
                    tracing::info!("the metadata service answers again");
                }
                for notice in told.news(&seen, clock::wall()) {
                    tracing::warn!(kind = ?notice.kind(), seconds_left = notice.seconds_left, "a notice of EC2");
                    outbox.keep(Body::Notice(notice));
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut silent, true) {
                    tracing::warn!(%error, "no notice of EC2 would be seen; looking on");
                }
            }
        }
    }
}

/// What there is to see, as JSON.
#[derive(Debug, Default)]
struct Seen {
    rebalance: Option<String>,
    interruption: Option<String>,
}

async fn look(metadata: &mut Metadata) -> Result<Seen, Error> {
    Ok(Seen {
        interruption: metadata.interruption().await?,
        rebalance: metadata.rebalance().await?,
    })
}

/// What was said already.
#[derive(Debug, Default)]
struct Told {
    rebalance: bool,
    interruption: bool,
}

impl Told {
    /// Whether there is nothing more to say: a machine that is taken back has no other
    /// future.
    fn all(&self) -> bool {
        self.interruption
    }

    fn news(&mut self, seen: &Seen, wall: Duration) -> Vec<Notice> {
        let mut news = Vec::new();
        if seen.rebalance.is_some() && !std::mem::replace(&mut self.rebalance, true) {
            news.push(notice(Kind::Rebalance, 0));
        }
        if let Some(action) = &seen.interruption
            && !std::mem::replace(&mut self.interruption, true)
        {
            news.push(notice(Kind::Interruption, seconds_left(action, wall)));
        }
        news
    }
}

fn notice(kind: Kind, seconds_left: u32) -> Notice {
    Notice {
        kind: kind.into(),
        seconds_left,
    }
}

/// What `spot/instance-action` says. Terminated, stopped or hibernated is the same to
/// a session.
#[derive(Debug, Deserialize)]
struct Action {
    time: String,
}

/// 0: it is not said. One that has passed is not said as 0: it is now.
fn seconds_left(action: &str, wall: Duration) -> u32 {
    let at = serde_json::from_str::<Action>(action)
        .ok()
        .and_then(|it| OffsetDateTime::parse(&it.time, &Rfc3339).ok());
    let Some(at) = at else { return 0 };
    let left = i128::from(at.unix_timestamp()) - i128::from(wall.as_secs());
    u32::try_from(left.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::scene::{Answer, Scene};
    use proptest::prelude::*;
    use tokio::time::timeout;

    /// 2026-03-01T12:00:00Z
    const NOON: Duration = Duration::from_secs(1_772_366_400);
    const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";
    const INTERRUPTION: &str = "/latest/meta-data/spot/instance-action";

    #[test]
    fn what_is_left_counts_from_the_notices_time() {
        let at = |time: &str| format!(r#"{{"action": "terminate", "time": "{time}"}}"#);
        assert_eq!(seconds_left(&at("2026-03-01T12:02:00Z"), NOON), 120);
        assert_eq!(seconds_left(&at("2026-03-01T11:59:00Z"), NOON), 1);
        assert_eq!(seconds_left(&at("9999-12-31T23:59:59Z"), NOON), u32::MAX);
        for strange in ["", "{}", "<html>", &at("soon")] {
            assert_eq!(seconds_left(strange, NOON), 0);
        }
    }

    proptest! {
        #[test]
        fn each_notice_is_told_once(looks in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..20)) {
            let mut told = Told::default();
            let mut all = Vec::new();
            let (mut rebalance, mut interruption) = (false, false);
            for (first, second) in looks {
                let seen = Seen {
                    rebalance: first.then(String::new),
                    interruption: second.then(String::new),
                };
                all.extend(told.news(&seen, NOON));
                rebalance |= first;
                interruption |= second;
            }
            let of = |kind: Kind| all.iter().filter(|it| it.kind() == kind).count();
            prop_assert_eq!(of(Kind::Rebalance), usize::from(rebalance));
            prop_assert_eq!(of(Kind::Interruption), usize::from(interruption));
            prop_assert_eq!(told.all(), interruption);
        }
    }

    #[tokio::test]
    async fn a_service_that_refuses_for_a_while_hides_nothing_for_good() {
        let scene = Scene::start().await;
        scene.set("/latest/api/token", Answer::status(401));
        let mut metadata = Metadata::at(Some(&scene.endpoint())).unwrap();
        assert!(look(&mut metadata).await.is_err());
        scene.unset("/latest/api/token");
        scene.set(
            REBALANCE,
            Answer::ok(r#"{"noticeTime": "2026-03-01T12:00:00Z"}"#),
        );
        scene.set(INTERRUPTION, Answer::ok("{}"));
        let outbox = Arc::new(Outbox::default());
        let watching = watch(metadata, Arc::clone(&outbox));
        timeout(LOOK_EVERY, watching).await.unwrap();
        let kinds: Vec<i32> = outbox
            .after(0, usize::MAX)
            .into_iter()
            .filter_map(|it| match it.body {
                Some(Body::Notice(notice)) => Some(notice.kind),
                _ => None,
            })
            .collect();
        assert_eq!(kinds, [Kind::Rebalance as i32, Kind::Interruption as i32]);
    }
}
