//! The `ec2` provider against an AWS of the test's own: what it asks for is read
//! back, what AWS answers is told apart, and nothing is launched twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::config::Credentials;
use aws_sdk_ec2::types::{
    Filter, HttpTokensState, InstanceAttributeName as Attribute, InstanceMetadataEndpointState,
    InstanceMetadataTagsState, Tag, VolumeType,
};
use aws_sdk_ssm::types::{ParameterType, ResourceTypeForTagging};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use browserfleet_control_plane::config;
use browserfleet_control_plane::domain::machine::{Draft, Machine, MachineState, Market, Offering};
use browserfleet_control_plane::domain::offering::Shortage;
use browserfleet_control_plane::provider::ec2::{Ec2, Settings};
use browserfleet_control_plane::provider::user_data::{self, DEAD_MAN, SPARES, UserData, Values};
use browserfleet_control_plane::provider::{Fault, LaunchError, Provider};
use browserfleet_proto::ids::InstanceId;
use browserfleet_tests::aws::{Aws, Machine as Seen};
use browserfleet_tests::eventually;
use serde_json::json;

const DEPLOYMENT: &str = "0192f0c1-0000-7000-8000-000000000001";
/// How long what takes AWS a tenth of a second may take.
const SOON: Duration = Duration::from_secs(10);

/// An AWS, the provider, and clients of the test's own to look with.
struct Bench {
    aws: Aws,
    sdk: SdkConfig,
    provider: Ec2,
    ec2: aws_sdk_ec2::Client,
    ssm: aws_sdk_ssm::Client,
}

impl Bench {
    async fn new() -> Self {
        let aws = Aws::start().await.expect("AWS starts");
        // No agents: nobody is there whom they could join.
        aws.knobs(json!({ "agent": "none" })).await;
        let sdk = sdk(&aws, &aws.fact("endpoint")).await;
        Self {
            provider: Ec2::new(&sdk, settings(&aws)).expect("there is a region"),
            ec2: aws_sdk_ec2::Client::new(&sdk),
            ssm: aws_sdk_ssm::Client::new(&sdk),
            sdk,
            aws,
        }
    }

    /// From now on the provider is one whose operator decided otherwise.
    fn decide(&mut self, change: impl FnOnce(&mut config::Ec2)) {
        let mut settings = settings(&self.aws);
        change(&mut settings.pool);
        self.provider = Ec2::new(&self.sdk, settings).expect("there is a region");
    }

    fn offering(&self) -> Offering {
        self.provider.offerings().remove(0)
    }

    /// A launch of a new row, written out.
    fn request(&self) -> String {
        self.request_of(InstanceId::new(), 1, &self.offering())
    }

    fn request_of(&self, instance: InstanceId, attempt: i64, offering: &Offering) -> String {
        let draft = Draft {
            instance,
            attempt,
            deployment: DEPLOYMENT,
            generation: 4,
            image: &self.aws.fact("image"),
            offering,
        };
        self.provider.draft(&draft).expect("it can be written")
    }

    async fn launch(&self) -> Machine {
        let launched = self.provider.launch(&self.request()).await;
        launched.expect("it is accepted")
    }

    async fn refused(&self, request: &str) -> LaunchError {
        let launched = self.provider.launch(request).await;
        launched.expect_err("it is not accepted")
    }

    async fn shortage(&self, request: &str) -> Shortage {
        match self.refused(request).await {
            LaunchError::Refused { shortage, .. } => shortage,
            other => panic!("refused for sure, but it was {other:?}"),
        }
    }

    async fn state(&self, reference: &str) -> Option<MachineState> {
        let found = self.provider.find(&[reference.to_owned()]).await;
        found.expect("it is looked for").first().map(|it| it.state)
    }

    async fn is(&self, reference: &str, state: MachineState) {
        let so = || async { self.state(reference).await == Some(state) };
        eventually("the machine is in its state", SOON, so).await;
    }

    async fn listed(&self) -> BTreeSet<String> {
        let listed = self.provider.list(DEPLOYMENT).await;
        let listed = listed.expect("the list is whole");
        listed.into_iter().map(|it| it.reference).collect()
    }

    async fn parameters(&self) -> Vec<String> {
        self.aws.ledger().await.parameters
    }

    async fn calls(&self, action: &str) -> usize {
        self.aws.calls(action).await.len()
    }
}

async fn sdk(aws: &Aws, endpoint: &str) -> SdkConfig {
    let (access, secret) = (aws.fact("access_key"), aws.fact("secret_key"));
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(aws.fact("region")))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new(access, secret, None, None, "the test"))
        .load()
        .await
}

fn settings(aws: &Aws) -> Settings {
    Settings {
        pool: config::Ec2 {
            region: None,
            image: aws.fact("image"),
            kinds: vec!["c7i.large".into(), "m7i.large".into()],
            subnets: aws.subnets(),
            security_groups: vec![aws.fact("security_group")],
            instance_profile: aws.fact("instance_profile"),
            market: config::MarketOrder::OnDemand,
            public_address: config::PublicAddress::Off,
            volume_gib: Some(20),
            tags: vec![("team".into(), "web".into())],
            launch_template: None,
            rescue_document: aws.fact("rescue_document"),
            agent_program: None,
        },
        deployment: DEPLOYMENT.into(),
        user_data: user_data(),
        page: Some(5),
    }
}

fn user_data() -> UserData {
    let values = Values {
        control_plane: "https://127.0.0.1:8081",
        authority: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        deployment: DEPLOYMENT,
        sessions_max: 8,
        spares: SPARES,
        dead_man: DEAD_MAN,
        agent_program: None,
    };
    user_data::render(&values).expect("it fits")
}

fn tag<'a>(tags: &'a [Tag], key: &str) -> &'a str {
    let found = tags.iter().find(|it| it.key() == Some(key));
    found.and_then(Tag::value).unwrap_or_default()
}

#[tokio::test]
async fn a_machine_is_launched_as_it_was_written() {
    let bench = Bench::new().await;
    let row = InstanceId::new();
    let request = bench.request_of(row, 3, &bench.offering());
    let machine = bench.provider.launch(&request).await.expect("accepted");
    assert_eq!(machine.instance, Some(row));
    assert_eq!(machine.attempt, 3);
    assert_eq!(machine.kind, "c7i.large");
    assert!(!machine.zone.is_empty());

    let asked = bench.ec2.describe_instances();
    let asked = asked.instance_ids(&machine.reference).send().await;
    let answer = asked.expect("it is described");
    let it = &answer.reservations()[0].instances()[0];
    let bare = row.to_string();
    let bare = bare.strip_prefix("ins_").expect("it is an instance's id");
    assert_eq!(it.client_token(), Some(format!("bf-{bare}-3").as_str()));
    assert_eq!(it.image_id(), Some(bench.aws.fact("image").as_str()));
    assert_eq!(it.subnet_id(), Some(bench.offering().place.as_str()));
    assert_eq!(it.key_name(), None);
    assert_eq!(it.public_ip_address(), None);
    assert_eq!(it.instance_lifecycle(), None);
    let profile = it.iam_instance_profile().and_then(|it| it.arn());
    assert!(profile.is_some_and(|it| it.ends_with("/browserfleet-agent")));
    let group = it.network_interfaces()[0].groups()[0].group_id();
    assert_eq!(group, Some(bench.aws.fact("security_group").as_str()));
    let metadata = it.metadata_options().expect("it has some");
    assert_eq!(metadata.http_tokens(), Some(&HttpTokensState::Required));
    assert_eq!(metadata.http_put_response_hop_limit(), Some(1));
    let (endpoint, tags) = (metadata.http_endpoint(), metadata.instance_metadata_tags());
    assert_eq!(endpoint, Some(&InstanceMetadataEndpointState::Enabled));
    assert_eq!(tags, Some(&InstanceMetadataTagsState::Disabled));

    let root = &it.block_device_mappings()[0];
    assert_eq!(root.device_name(), it.root_device_name());
    let root = root.ebs().expect("it is a volume");
    assert_eq!(root.delete_on_termination(), Some(true));
    let volumes = bench.ec2.describe_volumes();
    let volumes = volumes.volume_ids(root.volume_id().unwrap_or_default());
    let volumes = volumes.send().await.expect("it is described");
    let volume = &volumes.volumes()[0];
    assert_eq!(volume.encrypted(), Some(true));
    assert_eq!(volume.size(), Some(20));
    assert_eq!(volume.volume_type(), Some(&VolumeType::Gp3));

    let ours = [
        ("Name", "browserfleet-default"),
        ("team", "web"),
        ("browserfleet:deployment", DEPLOYMENT),
        ("browserfleet:pool", "default"),
        ("browserfleet:row", &row.to_string()),
        ("browserfleet:generation", "4"),
        ("browserfleet:attempt", "3"),
    ];
    // moto forgets the tags of interfaces; what was asked for was kept.
    let seen = bench.aws.machine(&machine.reference).await;
    let of_interface = &seen.report["tagged"]["network-interface"];
    for (key, value) in ours {
        assert_eq!(tag(it.tags(), key), value, "of the machine");
        assert_eq!(tag(volume.tags(), key), value, "of the volume");
        assert_eq!(of_interface[key], value, "of the network interface");
    }

    let asked = bench.ec2.describe_instance_attribute();
    let asked = asked.instance_id(&machine.reference);
    let shutdown = asked
        .clone()
        .attribute(Attribute::InstanceInitiatedShutdownBehavior);
    let shutdown = shutdown.send().await.expect("it is told");
    let shutdown = shutdown.instance_initiated_shutdown_behavior();
    assert_eq!(shutdown.and_then(|it| it.value()), Some("terminate"));
    let data = asked.attribute(Attribute::UserData);
    let data = data.send().await.expect("it is told");
    let data = data.user_data().and_then(|it| it.value());
    let data = STANDARD.decode(data.unwrap_or_default());
    assert_eq!(data.expect("it is base64"), user_data().as_bytes());
    bench.aws.stop().await;
}

#[tokio::test]
async fn an_address_for_everybody_and_the_spot_market_are_asked_for_only_where_wanted() {
    let mut bench = Bench::new().await;
    bench.decide(|pool| {
        pool.public_address = config::PublicAddress::On;
        pool.market = config::MarketOrder::SpotFirst;
        pool.volume_gib = None;
    });
    let offerings = bench.provider.offerings();
    assert_eq!(offerings.len(), 12);
    assert!(offerings[..6].iter().all(|it| it.market == Market::Spot));
    assert!(
        offerings[6..]
            .iter()
            .all(|it| it.market == Market::OnDemand)
    );
    for offering in [&offerings[0], &offerings[6]] {
        let request = bench.request_of(InstanceId::new(), 1, offering);
        let machine = bench.provider.launch(&request).await.expect("accepted");
        let seen = bench.aws.machine(&machine.reference).await;
        assert_eq!(seen.market, offering.market.as_str());
        bench.is(&machine.reference, MachineState::Running).await;
        let found = bench.provider.find(&[machine.reference]).await.unwrap();
        assert!(found[0].addresses.public_ip.is_some());
        assert!(found[0].addresses.private_ip.is_some());
    }
    bench.aws.stop().await;
}

#[tokio::test]
async fn one_request_is_one_machine_however_often_it_is_sent() {
    let bench = Bench::new().await;
    let request = bench.request();
    let first = bench.provider.launch(&request).await.expect("accepted");
    for _ in 0..3 {
        let again = bench.provider.launch(&request).await.expect("accepted");
        assert_eq!(again.reference, first.reference);
    }
    assert_eq!(bench.aws.machines().await.len(), 1);
    // Three of four launches need the request alone; the first, the image's device.
    assert_eq!(bench.calls("RunInstances").await, 4);
    assert_eq!(bench.calls("DescribeImages").await, 1);
    bench.aws.stop().await;
}

#[tokio::test]
async fn after_an_answer_that_was_lost_the_same_request_finds_the_machine() {
    let bench = Bench::new().await;
    for fault in [
        json!({ "lost": true }),
        json!({ "gateway": 502 }),
        json!({ "truncated": true }),
        json!({ "drop": true }),
        json!({ "error": "InternalError" }),
        json!({ "error": "Unavailable" }),
    ] {
        let request = bench.request();
        let before = bench.aws.machines().await.len();
        let rule = json!({ "action": "RunInstances", "times": 1, "do": fault });
        bench.aws.rules(json!([rule])).await;
        let error = bench.refused(&request).await;
        assert!(
            matches!(error, LaunchError::Unknown(_)),
            "{fault}: {error:?}"
        );
        let machine = bench.provider.launch(&request).await.expect("accepted");
        assert_eq!(bench.aws.machines().await.len(), before + 1, "{fault}");
        assert!(machine.state.is_there());
    }
    bench.aws.stop().await;
}

#[tokio::test]
async fn who_does_not_answer_in_time_has_not_answered() {
    let bench = Bench::new().await;
    let request = bench.request();
    let rule = json!({ "action": "RunInstances", "times": 1, "do": { "late_ms": 14_000 } });
    bench.aws.rules(json!([rule])).await;
    // The image is asked for before the clock runs.
    bench.provider.image().await.expect("it is there");
    let began = Instant::now();
    let error = bench.refused(&request).await;
    assert!(matches!(error, LaunchError::Unknown(_)), "{error:?}");
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(9) && took < Duration::from_secs(12),
        "{took:?}"
    );
    let machine = bench.provider.launch(&request).await.expect("accepted");
    assert_eq!(bench.aws.machines().await.len(), 1);
    assert_eq!(bench.aws.machines().await[0].id, machine.reference);
    bench.aws.stop().await;
}

#[tokio::test]
async fn where_nobody_listens_nothing_is_known() {
    let aws = Aws::start().await.expect("AWS starts");
    let nobody = sdk(&aws, "http://127.0.0.1:1").await;
    let provider = Ec2::new(&nobody, settings(&aws)).expect("there is a region");
    let listed = provider.list(DEPLOYMENT).await.expect_err("nobody answers");
    assert_eq!(listed.fault, Fault::Unknown);
    let ended = provider.terminate("i-0123456789abcdef0").await;
    assert_eq!(ended.expect_err("nobody answers").fault, Fault::Unknown);
    aws.stop().await;
}

#[tokio::test]
async fn a_token_with_another_request_and_a_token_that_is_spent_are_told_apart() {
    let bench = Bench::new().await;
    let row = InstanceId::new();
    let offerings = bench.provider.offerings();
    let request = bench.request_of(row, 1, &offerings[0]);
    let machine = bench.provider.launch(&request).await.expect("accepted");
    // The same place, so the same zone; another kind.
    let other = bench.request_of(row, 1, &offerings[3]);
    let error = bench.refused(&other).await;
    assert!(matches!(error, LaunchError::Mismatch(_)), "{error:?}");

    bench
        .provider
        .terminate(&machine.reference)
        .await
        .expect("it is ended");
    bench.is(&machine.reference, MachineState::Terminated).await;
    assert_eq!(bench.refused(&request).await, LaunchError::Spent);
    assert_eq!(bench.aws.machines().await.len(), 1);
    bench.aws.stop().await;
}

#[tokio::test]
async fn a_refusal_says_what_was_short() {
    let bench = Bench::new().await;
    for (code, shortage) in [
        ("InsufficientInstanceCapacity", Shortage::Capacity),
        ("InsufficientHostCapacity", Shortage::Capacity),
        ("Unsupported", Shortage::Capacity),
        ("InsufficientFreeAddressesInSubnet", Shortage::Addresses),
        ("VcpuLimitExceeded", Shortage::Quota),
        ("MaxSpotInstanceCountExceeded", Shortage::Quota),
        ("UnauthorizedOperation", Shortage::Request),
        ("InvalidAMIID.NotFound", Shortage::Request),
    ] {
        let rule = json!({ "action": "RunInstances", "do": { "error": code } });
        bench.aws.rules(json!([rule])).await;
        assert_eq!(bench.shortage(&bench.request()).await, shortage, "{code}");
    }
    let rule = json!({ "action": "RunInstances", "do": { "error": "RequestLimitExceeded" } });
    bench.aws.rules(json!([rule])).await;
    let error = bench.refused(&bench.request()).await;
    assert!(matches!(error, LaunchError::Throttled(_)), "{error:?}");
    assert!(bench.aws.machines().await.is_empty());
    bench.aws.stop().await;
}

#[tokio::test]
async fn what_only_this_request_asks_for_in_vain_is_told_too() {
    let mut bench = Bench::new().await;
    bench.decide(|pool| pool.instance_profile = "not-made-yet".into());
    assert_eq!(bench.shortage(&bench.request()).await, Shortage::NotYet);
    bench.decide(|_| {});
    let nowhere = Offering {
        place: "subnet-00000000000000000".into(),
        ..bench.offering()
    };
    let request = bench.request_of(InstanceId::new(), 1, &nowhere);
    assert_eq!(bench.shortage(&request).await, Shortage::Addresses);
    let unheard = Offering {
        kind: "m1000.huge".into(),
        ..bench.offering()
    };
    let request = bench.request_of(InstanceId::new(), 1, &unheard);
    assert_eq!(bench.shortage(&request).await, Shortage::Request);
    let error = bench.refused("{}").await;
    assert!(matches!(error, LaunchError::Unknown(_)), "{error:?}");
    bench.aws.stop().await;
}

#[tokio::test]
async fn an_image_that_went_after_its_launch_was_sent_refuses_nothing() {
    let bench = Bench::new().await;
    // Written by a process that had not looked at the image.
    let request = bench.request();
    let rule = json!({ "action": "DescribeImages", "do": { "error": "InvalidAMIID.NotFound" } });
    bench.aws.rules(json!([rule])).await;
    let error = bench.refused(&request).await;
    assert!(matches!(error, LaunchError::Unknown(_)), "{error:?}");
    bench.aws.rules(json!([])).await;
    bench.provider.launch(&request).await.expect("accepted");
    bench.aws.stop().await;
}

#[tokio::test]
async fn an_image_is_named_by_its_id_or_by_a_parameter() {
    let mut bench = Bench::new().await;
    bench.decide(|pool| pool.image = "/browserfleet/test/image".into());
    let image = bench.provider.image().await.expect("it is found");
    assert_eq!(image, bench.aws.fact("image"));
    let next = bench.aws.fact("next_image");
    bench
        .aws
        .put_parameter("/browserfleet/test/image", &next)
        .await;
    assert_eq!(bench.provider.image().await.expect("it is found"), next);
    bench
        .aws
        .put_parameter("/browserfleet/test/image", "debian")
        .await;
    let error = bench.provider.image().await.expect_err("no image's id");
    assert_eq!(error.fault, Fault::Refused);
    bench.decide(|pool| pool.image = "/nobody/made/this".into());
    let error = bench.provider.image().await.expect_err("no such parameter");
    assert_eq!(error.fault, Fault::NotFound);
    bench.aws.stop().await;
}

#[tokio::test]
async fn a_list_has_all_pages_or_is_none() {
    let bench = Bench::new().await;
    let mut ours = BTreeSet::new();
    for place in 0..11 {
        let tags = json!({ "browserfleet:deployment": DEPLOYMENT, "place": place.to_string() });
        ours.insert(bench.aws.launch(json!({ "tags": tags })).await.id);
    }
    let others = json!({ "browserfleet:deployment": "0192f0c1-0000-7000-8000-000000000002" });
    bench.aws.launch(json!({ "tags": others })).await;
    bench.aws.launch(json!({ "tags": {} })).await;
    assert_eq!(bench.listed().await, ours);
    assert_eq!(bench.calls("DescribeInstances").await, 3);

    for (page, fault) in [
        ("2", json!({ "error": "InternalError" })),
        ("3", json!({ "error": "RequestLimitExceeded" })),
        ("3", json!({ "truncated": true })),
    ] {
        let rule = json!({ "action": "DescribeInstances", "when": { "page": page }, "do": fault });
        bench.aws.rules(json!([rule])).await;
        let error = bench
            .provider
            .list(DEPLOYMENT)
            .await
            .expect_err("not whole");
        assert!(
            matches!(error.fault, Fault::Unknown | Fault::Throttled),
            "{error:?}"
        );
    }
    bench.aws.stop().await;
}

#[tokio::test]
async fn a_list_has_what_is_not_gone_as_ec2_shows_it() {
    let bench = Bench::new().await;
    let machine = bench.launch().await;
    assert_eq!(machine.state, MachineState::Pending);
    bench.is(&machine.reference, MachineState::Running).await;
    bench.aws.hide(&machine.reference, None).await;
    assert!(bench.listed().await.is_empty());
    assert_eq!(bench.state(&machine.reference).await, None);
    bench.aws.show(&machine.reference).await;
    assert_eq!(bench.listed().await.len(), 1);

    bench.aws.knobs(json!({ "shutting_down_ms": 1_500 })).await;
    bench.aws.terminate(&machine.reference).await;
    assert_eq!(bench.listed().await.len(), 1);
    assert_eq!(
        bench.state(&machine.reference).await,
        Some(MachineState::ShuttingDown)
    );
    bench.is(&machine.reference, MachineState::Terminated).await;
    assert!(bench.listed().await.is_empty());
    // Asked for by name, it says why.
    let unknown = "i-00000000000000000".to_owned();
    let found = bench.provider.find(&[unknown, machine.reference]).await;
    let found = found.expect("one that is not known spoils nothing");
    assert_eq!(found.len(), 1);
    let reason = found[0].reason.as_deref().unwrap_or_default();
    assert!(
        reason.starts_with("Client.UserInitiatedShutdown"),
        "{reason}"
    );
    assert!(bench.provider.find(&[]).await.expect("nobody").is_empty());
    bench.aws.stop().await;
}

#[tokio::test]
async fn a_machine_that_died_as_it_started_says_why() {
    let bench = Bench::new().await;
    let rule =
        json!({ "action": "RunInstances", "do": { "dies": { "code": "Client.InternalError" } } });
    bench.aws.rules(json!([rule])).await;
    let machine = bench.launch().await;
    bench.is(&machine.reference, MachineState::Terminated).await;
    let found = bench.provider.find(&[machine.reference]).await.unwrap();
    let reason = found[0].reason.as_deref().unwrap_or_default();
    assert!(reason.starts_with("Client.InternalError"), "{reason}");
    bench.aws.stop().await;
}

#[tokio::test]
async fn trouble_is_told_of_those_that_have_it() {
    let bench = Bench::new().await;
    let mut machines = Vec::new();
    for _ in 0..3 {
        machines.push(bench.aws.launch(json!({})).await);
    }
    let ids: Vec<String> = machines.iter().map(|it| it.id.clone()).collect();
    let running = || async {
        let machines = bench.aws.machines().await;
        machines.iter().all(|it| it.state == "running")
    };
    eventually("they run", SOON, running).await;
    assert!(
        bench
            .provider
            .troubles(&ids)
            .await
            .expect("told")
            .is_empty()
    );
    bench.aws.impair(&ids[0]).await;
    bench.aws.verb(&ids[1], "event", json!({})).await;
    let mut asked = ids.clone();
    asked.insert(1, "i-00000000000000000".into());
    let troubles = bench.provider.troubles(&asked).await.expect("told");
    let mut told: Vec<(String, String)> = troubles
        .into_iter()
        .map(|it| (it.reference, it.reason))
        .collect();
    let mut expected = vec![
        (ids[0].clone(), "status_check_failed".to_owned()),
        (ids[1].clone(), "scheduled_event".to_owned()),
    ];
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    let over = json!({ "description": "[Completed] The instance is running on degraded hardware" });
    bench.aws.verb(&ids[1], "event", over).await;
    assert_eq!(bench.provider.troubles(&ids).await.expect("told").len(), 1);
    assert!(bench.provider.troubles(&[]).await.expect("told").is_empty());
    bench.aws.stop().await;
}

#[tokio::test]
async fn a_machine_is_ended_once_and_for_all() {
    let bench = Bench::new().await;
    let machine = bench.launch().await;
    for _ in 0..2 {
        bench
            .provider
            .terminate(&machine.reference)
            .await
            .expect("ended");
    }
    bench.is(&machine.reference, MachineState::Terminated).await;
    bench
        .provider
        .terminate(&machine.reference)
        .await
        .expect("it is gone");
    let unknown = "i-00000000000000000";
    bench
        .provider
        .terminate(unknown)
        .await
        .expect("it never was");

    let kept = bench.launch().await;
    bench.aws.verb(&kept.reference, "protect", json!({})).await;
    let error = bench.provider.terminate(&kept.reference).await;
    let error = error.expect_err("somebody protected it");
    assert_eq!(error.fault, Fault::Refused);
    assert!(error.reason.contains("OperationNotPermitted"), "{error}");
    bench.aws.stop().await;
}

#[tokio::test]
async fn a_machine_is_stopped_started_and_rebooted() {
    let bench = Bench::new().await;
    let machine = bench.launch().await;
    let name = machine.reference.as_str();
    bench.is(name, MachineState::Running).await;
    let boots = |it: Seen| it.report["boots"].as_u64().unwrap_or_default();
    let booted = |least: u64| {
        let aws = &bench.aws;
        move || async move { boots(aws.machine(name).await) >= least }
    };
    eventually("it booted", SOON, booted(1)).await;
    bench.provider.reboot(name).await.expect("rebooted");
    eventually("it booted again", SOON, booted(2)).await;
    bench.provider.stop(name).await.expect("stopped");
    let stopped = || async { bench.aws.machine(name).await.state == "stopped" };
    eventually("it is stopped", SOON, stopped).await;
    assert_eq!(bench.state(name).await, Some(MachineState::Stopped));
    let error = bench
        .provider
        .reboot(name)
        .await
        .expect_err("it does not run");
    assert_eq!(error.fault, Fault::Refused);
    bench.provider.start(name).await.expect("started");
    bench.is(name, MachineState::Running).await;
    let error = bench.provider.reboot("i-00000000000000000").await;
    assert_eq!(error.expect_err("nobody").fault, Fault::NotFound);
    bench.aws.stop().await;
}

#[tokio::test]
async fn a_token_lies_under_the_machines_name_until_it_is_taken() {
    let bench = Bench::new().await;
    let name = "i-0123456789abcdef0";
    bench
        .provider
        .hand_token(name, "first")
        .await
        .expect("handed");
    // Handed out anew: the new one counts.
    bench
        .provider
        .hand_token(name, "second")
        .await
        .expect("handed");
    let path = format!("/browserfleet/{DEPLOYMENT}/enrol/{name}");
    assert_eq!(bench.parameters().await, [path.as_str()]);
    let asked = bench.ssm.get_parameter().name(&path).with_decryption(true);
    let answer = asked.send().await.expect("it is there");
    let parameter = answer.parameter().expect("it is there");
    assert_eq!(parameter.value(), Some("second"));
    assert_eq!(parameter.r#type(), Some(&ParameterType::SecureString));
    let tags = bench
        .ssm
        .list_tags_for_resource()
        .resource_type(ResourceTypeForTagging::Parameter)
        .resource_id(&path)
        .send()
        .await
        .expect("they are told");
    assert_eq!(tags.tag_list()[0].key(), "InstanceId");
    assert_eq!(tags.tag_list()[0].value(), name);

    assert_eq!(bench.provider.tokens().await.expect("listed"), [name]);
    bench.provider.take_token(name).await.expect("taken");
    bench.provider.take_token(name).await.expect("it is gone");
    assert!(bench.provider.tokens().await.expect("listed").is_empty());
    assert!(bench.parameters().await.is_empty());
    bench.aws.stop().await;
}

#[tokio::test]
async fn tokens_are_listed_to_the_last_page_and_without_those_of_others() {
    let bench = Bench::new().await;
    let names: BTreeSet<String> = (0..23).map(|it| format!("i-{it:017x}")).collect();
    for name in &names {
        let path = format!("/browserfleet/{DEPLOYMENT}/enrol/{name}");
        bench.aws.put_parameter(&path, "token").await;
    }
    bench
        .aws
        .put_parameter("/browserfleet/other/enrol/i-1", "token")
        .await;
    let listed = bench.provider.tokens().await.expect("listed");
    assert_eq!(listed.len(), names.len());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
    assert_eq!(bench.calls("GetParametersByPath").await, 3);
    bench.aws.stop().await;
}

#[tokio::test]
async fn a_token_that_ssm_does_not_take_is_not_handed() {
    let bench = Bench::new().await;
    for (code, fault) in [
        ("ThrottlingException", Fault::Throttled),
        ("AccessDeniedException", Fault::Refused),
        ("InternalServerError", Fault::Unknown),
    ] {
        let rule = json!({ "action": "PutParameter", "times": 1, "do": { "error": code } });
        bench.aws.rules(json!([rule])).await;
        let error = bench.provider.hand_token("i-1", "token").await;
        assert_eq!(error.expect_err(code).fault, fault, "{code}");
    }
    assert!(bench.parameters().await.is_empty());
    bench.aws.stop().await;
}

#[tokio::test]
async fn an_agent_is_reached_past_itself() {
    let bench = Bench::new().await;
    bench.aws.knobs(json!({ "invocation_lag_ms": 400 })).await;
    let machine = bench.launch().await;
    let name = machine.reference.as_str();
    let up = || async { bench.aws.machine(name).await.guest == "up" };
    eventually("it is up", SOON, up).await;
    bench.provider.restart_agent(name).await.expect("restarted");
    let sent = &bench.aws.calls("SendCommand").await[0];
    assert_eq!(sent.report["document"], "browserfleet-rescue");
    let error = bench.provider.restart_agent("i-00000000000000000").await;
    assert_eq!(error.expect_err("nobody").fault, Fault::NotFound);

    // Where Run Command is of no use, the console has something.
    let rule = json!({ "action": "SendCommand", "do": { "error": "InvalidInstanceId" } });
    bench.aws.rules(json!([rule])).await;
    let journal = bench.provider.journal(name).await.expect("there is one");
    assert!(!journal.is_empty());
    assert_eq!(bench.calls("GetConsoleOutput").await, 1);
    bench.aws.stop().await;
}

#[tokio::test]
async fn our_pace_is_half_of_what_aws_takes() {
    let bench = Bench::new().await;
    bench.aws.knobs(json!({ "throttle": true })).await;
    bench.provider.image().await.expect("it is there");
    let began = Instant::now();
    let requests: Vec<String> = (0..6).map(|_| bench.request()).collect();
    let launches = requests.iter().map(|it| bench.provider.launch(it));
    for launched in futures_util::future::join_all(launches).await {
        launched.expect("nobody is throttled");
    }
    // Two at once, then one a second.
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    // What ends machines does not wait for what makes them.
    let began = Instant::now();
    for machine in bench.aws.machines().await {
        bench.provider.terminate(&machine.id).await.expect("ended");
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    let calls = bench.aws.calls_after(0).await;
    assert!(calls.iter().all(|it| it.result == "ok"), "{calls:?}");
    bench.aws.stop().await;
}

#[tokio::test]
async fn a_launch_template_adds_to_a_launch_and_takes_nothing_from_it() {
    let mut bench = Bench::new().await;
    bench.decide(|pool| {
        pool.launch_template = Some(config::LaunchTemplate {
            name: "browsers".into(),
            version: 1,
        });
    });
    let data = aws_sdk_ec2::types::RequestLaunchTemplateData::builder()
        .instance_type("t3.micro".into())
        .build();
    let made = bench.ec2.create_launch_template();
    let made = made
        .launch_template_name("browsers")
        .launch_template_data(data);
    made.send().await.expect("it is made");
    let machine = bench.launch().await;
    assert_eq!(machine.kind, "c7i.large");
    let of_template = Filter::builder()
        .name("tag-key")
        .values("aws:ec2launchtemplate:version")
        .build();
    let described = bench.ec2.describe_instances().filters(of_template);
    let described = described.send().await.expect("they are described");
    assert_eq!(described.reservations().len(), 1);
    bench.aws.stop().await;
}

#[tokio::test]
async fn the_policy_of_the_control_plane_is_enough() {
    let mut bench = Bench::new().await;
    bench.decide(|pool| pool.image = "/browserfleet/test/image".into());
    bench.aws.enforce_policies(DEPLOYMENT).await;
    bench.provider.image().await.expect("it is found");
    let machine = bench.launch().await;
    let name = machine.reference.as_str();
    bench.is(name, MachineState::Running).await;
    assert_eq!(bench.listed().await.len(), 1);
    let named = [name.to_owned()];
    bench.provider.troubles(&named).await.expect("told");
    bench
        .provider
        .hand_token(name, "token")
        .await
        .expect("handed");
    let again = bench.provider.hand_token(name, "another").await;
    again.expect("handed anew");
    assert_eq!(bench.provider.tokens().await.expect("listed"), [name]);
    bench.provider.take_token(name).await.expect("taken");
    let up = || async { bench.aws.machine(name).await.guest == "up" };
    eventually("it is up", SOON, up).await;
    bench.provider.restart_agent(name).await.expect("restarted");
    bench.provider.journal(name).await.expect("there is one");
    bench.provider.reboot(name).await.expect("rebooted");
    bench.provider.stop(name).await.expect("stopped");
    let stopped = || async { bench.aws.machine(name).await.state == "stopped" };
    eventually("it is stopped", SOON, stopped).await;
    bench.provider.start(name).await.expect("started");
    bench.provider.terminate(name).await.expect("ended");
    let calls = bench.aws.calls_after(0).await;
    let actions: BTreeSet<&str> = calls.iter().map(|it| it.action.as_str()).collect();
    assert!(actions.contains("GetConsoleOutput"), "{actions:?}");

    // And not too much: what is another deployment's stays as it is.
    let tags = json!({ "browserfleet:deployment": "0192f0c1-0000-7000-8000-000000000002" });
    let others = bench.aws.launch(json!({ "tags": tags })).await;
    let error = bench.provider.terminate(&others.id).await;
    assert_eq!(error.expect_err("not ours").fault, Fault::Refused);
    bench.aws.stop().await;
}
