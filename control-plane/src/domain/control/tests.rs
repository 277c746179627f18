use super::*;
use proptest::prelude::*;

const LIFE: Duration = Duration::from_secs(60);

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000)
}

fn lease(person: Person) -> Lease {
    Lease {
        holder: HolderId::new(),
        person,
        life: LIFE,
        latest: None,
    }
}

fn share() -> Person {
    Person::Share(ShareId::new())
}

fn request(timeout: Duration) -> Request {
    Request {
        id: HandoffId::new(),
        reason: "captcha".into(),
        instructions: "solve it".into(),
        timeout,
    }
}

fn driver_of(control: &Control) -> Driver {
    let hold = control.hold.as_ref().expect("somebody holds it");
    Driver {
        person: hold.person,
        holder: hold.holder,
    }
}

fn taken_by(person: Person) -> Control {
    let taken = Control::default().take(lease(person), false, at(0));
    taken.expect("it is free")
}

#[test]
fn a_hold_runs_out_unless_input_renews_it() {
    let control = taken_by(share());
    let driver = driver_of(&control);
    assert!(!control.clone().at(at(59)).is_automations());
    assert!(control.clone().at(at(60)).is_automations());
    assert!(!control.is_to_be_renewed(at(14)) && control.is_to_be_renewed(at(16)));
    let renewed = control.renew(driver, at(50)).expect("it is theirs");
    assert_eq!(renewed.runs_out_at(), Some(at(110)));
    assert_eq!(renewed.renew(driver, at(110)), Err(Refusal::NotHeld));
}

#[test]
fn a_share_s_hold_ends_with_the_share() {
    let mut lease = lease(share());
    lease.latest = Some(at(70));
    let control = Control::default().take(lease, false, at(0)).expect("free");
    assert_eq!(control.runs_out_at(), Some(at(60)));
    let control = control
        .clone()
        .renew(driver_of(&control), at(30))
        .expect("theirs");
    assert_eq!(control.runs_out_at(), Some(at(70)));
    assert!(!control.is_to_be_renewed(at(69)), "there is no more of it");
}

#[test]
fn the_owner_takes_from_anybody_and_a_share_from_nobody() {
    let (one, other) = (share(), share());
    let held = taken_by(one);
    let refused = held.clone().take(lease(other), true, at(1));
    assert_eq!(refused, Err(Refusal::Held));
    let owners = held.take(lease(Person::Owner), false, at(1)).expect("may");
    let refused = owners.clone().take(lease(one), true, at(2));
    assert_eq!(refused, Err(Refusal::Held));
    // Once it ran out, whoever comes first has it.
    let free = owners.at(at(100));
    assert!(free.take(lease(one), false, at(100)).is_ok());
}

#[test]
fn who_takes_again_goes_on_unless_they_want_the_others_out() {
    let control = taken_by(Person::Owner);
    let first = driver_of(&control);
    let again = control
        .take(lease(Person::Owner), false, at(10))
        .expect("may");
    assert!(again.is_held_by(first, at(69)));
    let anew = again.take(lease(Person::Owner), true, at(20)).expect("may");
    assert!(!anew.is_held_by(first, at(21)));
    let theirs = taken_by(share());
    let driver = driver_of(&theirs);
    let anew = theirs
        .take(lease(driver.person), true, at(20))
        .expect("may");
    assert!(anew.is_held_by(driver, at(21)));
}

#[test]
fn a_hold_is_its_holders_and_the_owners_to_give() {
    let (one, other) = (share(), share());
    let held = taken_by(one);
    assert_eq!(held.clone().give(other, None, at(1)), Err(Refusal::NotHeld));
    assert_eq!(held.clone().release(other), Err(Refusal::NotHeld));
    let given = held.clone().give(one, Some(lease(other)), at(1));
    assert_eq!(driver_of(&given.expect("theirs")).person, other);
    let given = held.clone().give(Person::Owner, None, at(1));
    assert!(given.expect("the owner may").is_automations());
    assert!(held.release(one).expect("theirs").is_automations());
    assert_eq!(Control::default().release(other), Ok(Control::default()));
    let refused = Control::default().give(one, Some(lease(other)), at(1));
    assert_eq!(refused, Err(Refusal::NotHeld));
}

#[test]
fn a_revoked_share_holds_nothing() {
    let id = ShareId::new();
    let held = taken_by(Person::Share(id));
    assert!(held.clone().without(ShareId::new()).hold.is_some());
    assert!(held.without(id).is_automations());
    let owners = taken_by(Person::Owner);
    assert_eq!(owners.clone().without(id), owners);
}

#[test]
fn a_handoff_parks_the_automation_until_a_person_answers() {
    let asked = Control::default().ask(request(LIFE), at(0)).expect("free");
    assert!(!asked.is_automations());
    let twice = asked.clone().ask(request(LIFE), at(1));
    assert_eq!(twice, Err(Refusal::HandoffOpen));
    let one = share();
    let held = asked.take(lease(one), false, at(1)).expect("free");
    let refused = held.clone().answer(share(), Answer::Completed, None, at(2));
    assert_eq!(refused, Err(Refusal::Held));
    for (by, answer, stage) in [
        (one, Answer::Completed, Stage::Completed),
        (Person::Owner, Answer::Declined, Stage::Declined),
    ] {
        let note = Some("done".to_owned());
        let answered = held.clone().answer(by, answer, note.clone(), at(2));
        let answered = answered.expect("they may");
        assert!(answered.is_automations());
        let handoff = answered.handoff.clone().expect("it is known");
        assert_eq!((handoff.stage, handoff.note), (stage, note));
        assert_eq!(handoff.answered_by, Some(by));
        let late = answered.answer(by, answer, None, at(3));
        assert_eq!(late, Err(Refusal::NoHandoff));
    }
}

#[test]
fn a_handoff_that_nobody_answers_takes_control_from_nobody() {
    let asked = Control::default().ask(request(LIFE), at(0)).expect("free");
    let held = asked
        .clone()
        .take(lease(share()), false, at(30))
        .expect("free");
    assert_eq!(held.runs_out_at(), Some(at(60)));
    let expired = held.at(at(60));
    assert_eq!(
        expired.handoff.as_ref().map(|it| it.stage),
        Some(Stage::Expired)
    );
    assert!(!expired.is_automations(), "somebody works");
    assert!(expired.at(at(90)).is_automations());
    let over = asked.over(at(5));
    assert_eq!(over.handoff.map(|it| it.ended_at), Some(Some(at(5))));
}

#[test]
fn a_clock_that_is_ahead_sees_the_same() {
    let control = taken_by(share())
        .ask(request(LIFE), at(0))
        .expect("nothing is open");
    let ahead = control.clone().ahead(1_000_000);
    assert_eq!(ahead.runs_out_at(), Some(at(61)));
    assert_eq!(ahead.ahead(-1_000_000), control);
    let text = serde_json::to_string(&control).expect("written");
    let read: Control = serde_json::from_str(&text).expect("read");
    assert_eq!(read, control);
}

#[derive(Debug, Clone)]
enum Step {
    Take(usize, bool),
    Give(usize, Option<usize>),
    Release(usize),
    Renew(usize),
    Ask,
    Answer(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..3usize;
    prop_oneof![
        3 => (who.clone(), any::<bool>()).prop_map(|(who, anew)| Step::Take(who, anew)),
        1 => (who.clone(), proptest::option::of(who.clone()))
            .prop_map(|(by, to)| Step::Give(by, to)),
        1 => who.clone().prop_map(Step::Release),
        2 => who.clone().prop_map(Step::Renew),
        1 => Just(Step::Ask),
        1 => who.prop_map(Step::Answer),
    ]
}

proptest! {
    /// Whatever is done by whomever and when: of all the names that were ever given, one
    /// at the most drives; nobody loses control but to its end, the owner or themselves;
    /// and the automation drives if and only if nobody else does and nothing is asked.
    #[test]
    fn one_at_a_time_drives(steps in proptest::collection::vec((step(), 0..40i64), 1..60)) {
        let people = [Person::Owner, share(), share()];
        let mut control = Control::default();
        let mut drivers: Vec<Driver> = Vec::new();
        let mut now = at(0);
        for (step, pause) in steps {
            now = now.plus(Duration::from_secs(pause.unsigned_abs()));
            control = control.at(now);
            let before = control.clone();
            let by = match &step {
                Step::Take(who, _) | Step::Give(who, _) | Step::Release(who)
                | Step::Renew(who) | Step::Answer(who) => Some(people[*who]),
                Step::Ask => None,
            };
            let done = match step {
                Step::Take(who, anew) => control.clone().take(lease(people[who]), anew, now),
                Step::Give(who, to) => {
                    control.clone().give(people[who], to.map(|it| lease(people[it])), now)
                }
                Step::Release(who) => control.clone().release(people[who]),
                Step::Renew(who) => match drivers.last() {
                    Some(last) => control.clone().renew(
                        Driver { person: people[who], holder: last.holder },
                        now,
                    ),
                    None => continue,
                },
                Step::Ask => control.clone().ask(request(LIFE), now),
                Step::Answer(who) => {
                    control.clone().answer(people[who], Answer::Completed, None, now)
                }
            };
            if let Ok(next) = done {
                control = next;
            }
            if control.hold.is_some() {
                let driver = driver_of(&control);
                if !drivers.contains(&driver) {
                    drivers.push(driver);
                }
            }
            let driving = drivers.iter().filter(|it| control.is_held_by(**it, now)).count();
            prop_assert_eq!(driving, usize::from(control.hold.is_some()));
            if let Some(hold) = &before.hold {
                let lost = control.hold.as_ref().map(|it| it.holder) != Some(hold.holder);
                prop_assert!(!lost || by == Some(Person::Owner) || by == Some(hold.person));
            }
            prop_assert_eq!(
                control.is_automations(),
                control.hold.is_none() && control.open_handoff().is_none()
            );
            prop_assert!(control.runs_out_at().is_none_or(|it| it > now));
            if let (Some(then), Some(new)) = (&before.handoff, &control.handoff)
                && then.id == new.id && then.stage != Stage::Open
            {
                prop_assert_eq!(then, new, "an end is an end");
            }
        }
    }
}
