//! What a machine carries from its first moment: whose it is, which row it is for
//! and by which attempt it was made. No names of people. Nothing is tagged later,
//! so that a machine without tags is none of ours.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::Tag;
use browserfleet_proto::ids::InstanceId;

use crate::domain::machine::Draft;

/// Which database the row is in; what machines are listed by.
pub(super) const DEPLOYMENT: &str = "browserfleet:deployment";
const POOL: &str = "browserfleet:pool";
const ROW: &str = "browserfleet:row";
const GENERATION: &str = "browserfleet:generation";
const ATTEMPT: &str = "browserfleet:attempt";
/// What consoles show.
const NAME: &str = "Name";
/// There is one pool.
const THE_POOL: &str = "default";

/// The tags of a launch. The operator's `Name` goes before ours.
pub(super) fn of(draft: &Draft<'_>, operators: &[(String, String)]) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::from([(NAME.into(), format!("browserfleet-{THE_POOL}"))]);
    tags.extend(operators.iter().cloned());
    tags.extend([
        (DEPLOYMENT.into(), draft.deployment.to_owned()),
        (POOL.into(), THE_POOL.to_owned()),
        (ROW.into(), draft.instance.to_string()),
        (GENERATION.into(), draft.generation.to_string()),
        (ATTEMPT.into(), draft.attempt.to_string()),
    ]);
    tags
}

/// The row that a machine says it was made for.
pub(super) fn row(tags: &[Tag]) -> Option<InstanceId> {
    value(tags, ROW)?.parse().ok()
}

/// The attempt that it says it was made by; 0, which none is, where it says none.
pub(super) fn attempt(tags: &[Tag]) -> i64 {
    value(tags, ATTEMPT)
        .and_then(|it| it.parse().ok())
        .unwrap_or_default()
}

fn value<'a>(tags: &'a [Tag], key: &str) -> Option<&'a str> {
    tags.iter().find(|it| it.key() == Some(key))?.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::machine::{Market, Offering};

    fn tagged(operators: &[(String, String)]) -> (InstanceId, BTreeMap<String, String>) {
        let instance = InstanceId::new();
        let offering = Offering {
            kind: "m7i.large".into(),
            place: "subnet-1".into(),
            market: Market::OnDemand,
        };
        let draft = Draft {
            instance,
            attempt: 3,
            deployment: "dep",
            generation: 7,
            image: "ami-1",
            offering: &offering,
        };
        (instance, of(&draft, operators))
    }

    #[test]
    fn what_was_tagged_is_read_again() {
        let (instance, tags) = tagged(&[("team".into(), "web".into())]);
        assert_eq!(tags["Name"], "browserfleet-default");
        assert_eq!(tags["team"], "web");
        assert_eq!(tags[GENERATION], "7");
        let tags: Vec<Tag> = tags
            .into_iter()
            .map(|(key, value)| Tag::builder().key(key).value(value).build())
            .collect();
        assert_eq!(row(&tags), Some(instance));
        assert_eq!(attempt(&tags), 3);
    }

    #[test]
    fn an_operator_may_name_machines_but_not_take_them_away() {
        let (_, tags) = tagged(&[
            ("Name".into(), "browsers".into()),
            (DEPLOYMENT.into(), "another".into()),
        ]);
        assert_eq!(tags["Name"], "browsers");
        assert_eq!(tags[DEPLOYMENT], "dep");
    }

    #[test]
    fn tags_that_somebody_wrote_by_hand_are_nobodys_row() {
        let tags = [
            Tag::builder().key(ROW).value("web-7").build(),
            Tag::builder().key(ATTEMPT).value("first").build(),
        ];
        assert_eq!(row(&tags), None);
        assert_eq!(attempt(&tags), 0);
    }
}
