//! EC2's description of a machine, as ours.

use aws_sdk_ec2::types::{Instance, InstanceStateName, InstanceStatus, SummaryStatus};

use super::tags;
use crate::domain::machine::{Addresses, Machine, MachineState, Trouble};
use crate::domain::time::Timestamp;

/// A check of EC2's failed: the host, its network, its disk, or the machine's
/// answer to any of them.
const CHECK_FAILED: &str = "status_check_failed";
/// EC2 is going to stop it, end it or start it anew.
const EVENT: &str = "scheduled_event";
/// How the descriptions of events begin that are over. They stay for a week.
const OVER: [&str; 2] = ["[Completed]", "[Canceled]"];

/// `None`: it lacks what every machine has.
pub(super) fn machine(it: &Instance) -> Option<Machine> {
    let launched = it.launch_time()?;
    let microseconds = launched.as_nanos() / 1_000;
    Some(Machine {
        reference: it.instance_id()?.to_owned(),
        instance: tags::row(it.tags()),
        attempt: tags::attempt(it.tags()),
        state: state(it.state()?.name()?)?,
        launched_at: Timestamp(i64::try_from(microseconds).ok()?),
        reason: reason(it),
        addresses: Addresses {
            public_dns: text(it.public_dns_name()),
            public_ip: text(it.public_ip_address()),
            private_ip: text(it.private_ip_address()),
        },
        kind: it.instance_type()?.as_str().to_owned(),
        zone: text(it.placement().and_then(|it| it.availability_zone())).unwrap_or_default(),
    })
}

/// `None`: a state that nobody knew when this was written.
fn state(name: &InstanceStateName) -> Option<MachineState> {
    Some(match name {
        InstanceStateName::Pending => MachineState::Pending,
        InstanceStateName::Running => MachineState::Running,
        InstanceStateName::Stopping | InstanceStateName::Stopped => MachineState::Stopped,
        InstanceStateName::ShuttingDown => MachineState::ShuttingDown,
        InstanceStateName::Terminated => MachineState::Terminated,
        _ => return None,
    })
}

fn reason(it: &Instance) -> Option<String> {
    let reason = it.state_reason();
    let code = text(reason.and_then(|it| it.code()));
    let message = text(reason.and_then(|it| it.message()));
    match (code, message) {
        // Most messages begin with their code.
        (Some(code), Some(message)) if message.starts_with(&code) => Some(message),
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (code, message) => code
            .or(message)
            .or_else(|| text(it.state_transition_reason())),
    }
}

/// EC2 writes nothing where it has nothing.
fn text(given: Option<&str>) -> Option<String> {
    given.filter(|it| !it.is_empty()).map(ToOwned::to_owned)
}

/// What is wrong with a machine; the worst, where it is several things.
pub(super) fn trouble(it: &InstanceStatus) -> Option<Trouble> {
    let checks = [
        it.system_status().and_then(|it| it.status()),
        it.instance_status().and_then(|it| it.status()),
        it.attached_ebs_status().and_then(|it| it.status()),
    ];
    let impaired = checks.contains(&Some(&SummaryStatus::Impaired));
    let comes = it.events().iter().any(|event| {
        let description = event.description().unwrap_or_default();
        !OVER.iter().any(|it| description.starts_with(it))
    });
    let reason = match (impaired, comes) {
        (true, _) => CHECK_FAILED,
        (false, true) => EVENT,
        (false, false) => return None,
    };
    Some(Trouble {
        reference: it.instance_id()?.to_owned(),
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::primitives::DateTime;
    use aws_sdk_ec2::types::{
        InstanceState, InstanceStatusEvent, InstanceStatusSummary, InstanceType, StateReason, Tag,
    };
    use browserfleet_proto::ids::InstanceId;

    use super::*;

    fn instance(name: InstanceStateName) -> aws_sdk_ec2::types::builders::InstanceBuilder {
        Instance::builder()
            .instance_id("i-1")
            .launch_time(DateTime::from_secs_and_nanos(10, 5_000))
            .instance_type(InstanceType::from("m7i.large"))
            .state(InstanceState::builder().name(name).build())
    }

    #[test]
    fn a_described_machine_is_ours_by_its_tags() {
        let row = InstanceId::new();
        let tag = |key: &str, value: String| Tag::builder().key(key).value(value).build();
        let it = instance(InstanceStateName::Running)
            .tags(tag("browserfleet:row", row.to_string()))
            .tags(tag("browserfleet:attempt", "2".into()))
            .public_dns_name("")
            .private_ip_address("10.0.0.9")
            .build();
        let machine = machine(&it).expect("it is whole");
        assert_eq!(machine.instance, Some(row));
        assert_eq!(machine.attempt, 2);
        assert_eq!(machine.launched_at, Timestamp(10_000_005));
        assert_eq!(machine.addresses.public_dns, None);
        assert_eq!(machine.addresses.private_ip.as_deref(), Some("10.0.0.9"));
        assert_eq!(machine.reason, None);
    }

    #[test]
    fn every_state_that_ec2_has_is_one_of_ours() {
        let table = [
            (InstanceStateName::Pending, MachineState::Pending),
            (InstanceStateName::Running, MachineState::Running),
            (InstanceStateName::Stopping, MachineState::Stopped),
            (InstanceStateName::Stopped, MachineState::Stopped),
            (InstanceStateName::ShuttingDown, MachineState::ShuttingDown),
            (InstanceStateName::Terminated, MachineState::Terminated),
        ];
        assert_eq!(table.len(), InstanceStateName::values().len());
        for (name, expected) in table {
            let it = machine(&instance(name).build()).expect("it is whole");
            assert_eq!(it.state, expected);
        }
        let unheard = instance(InstanceStateName::from("dreaming")).build();
        assert_eq!(machine(&unheard), None);
    }

    #[test]
    fn a_machine_without_an_id_a_state_or_a_time_is_none() {
        assert_eq!(machine(&Instance::builder().build()), None);
        let timeless = Instance::builder().instance_id("i-1").build();
        assert_eq!(machine(&timeless), None);
    }

    #[test]
    fn why_a_machine_died_is_said_once() {
        let died = |code: &str, message: &str| {
            let reason = StateReason::builder().code(code).message(message).build();
            let it = instance(InstanceStateName::Terminated).state_reason(reason);
            machine(&it.build()).and_then(|it| it.reason)
        };
        assert_eq!(
            died(
                "Client.InternalError",
                "Client.InternalError: Client error on launch"
            )
            .as_deref(),
            Some("Client.InternalError: Client error on launch")
        );
        assert_eq!(
            died("Server.SpotInstanceTermination", "taken back").as_deref(),
            Some("Server.SpotInstanceTermination: taken back")
        );
        assert_eq!(died("", ""), None);
    }

    fn status(system: SummaryStatus, own: SummaryStatus, event: Option<&str>) -> InstanceStatus {
        let summary = |it| InstanceStatusSummary::builder().status(it).build();
        let events = event.map(|it| vec![InstanceStatusEvent::builder().description(it).build()]);
        InstanceStatus::builder()
            .instance_id("i-1")
            .system_status(summary(system))
            .instance_status(summary(own))
            .set_events(events)
            .build()
    }

    #[test]
    fn trouble_is_an_impaired_check_or_an_event_to_come() {
        use SummaryStatus::{Impaired, Initializing, InsufficientData, Ok};
        let table = [
            (Ok, Ok, None, None),
            (Initializing, InsufficientData, None, None),
            (Impaired, Ok, None, Some(CHECK_FAILED)),
            (Ok, Impaired, None, Some(CHECK_FAILED)),
            (Ok, Ok, Some("The host is degraded"), Some(EVENT)),
            (Ok, Ok, Some("[Completed] The host is degraded"), None),
            (Ok, Ok, Some("[Canceled] A reboot"), None),
            (
                Impaired,
                Ok,
                Some("The host is degraded"),
                Some(CHECK_FAILED),
            ),
        ];
        for (system, own, event, expected) in table {
            let found = trouble(&status(system.clone(), own.clone(), event));
            assert_eq!(
                found.map(|it| it.reason).as_deref(),
                expected,
                "{system:?} {own:?} {event:?}"
            );
        }
    }
}
