//! A launch, written out before it is sent. It is kept in the row and sent as it
//! is, as often as it takes: EC2 refuses a token that comes with anything else
//! than before.
//!
//! One machine in one subnet for each request. A token counts in one zone only,
//! so that the same one elsewhere would make a second machine.

use std::collections::BTreeMap;

use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
    InstanceInterruptionBehavior, InstanceMarketOptionsRequest, InstanceMetadataEndpointState,
    InstanceMetadataOptionsRequest, InstanceMetadataTagsState,
    InstanceNetworkInterfaceSpecification, InstanceType, LaunchTemplateSpecification, MarketType,
    ResourceType, ShutdownBehavior, SpotInstanceType, SpotMarketOptions, Tag, TagSpecification,
    VolumeType,
};
use browserfleet_proto::ids::InstanceId;
use serde::{Deserialize, Serialize};

use crate::config::{Ec2 as Pool, LaunchTemplate, PublicAddress};
use crate::domain::machine::{Draft, Market};

/// How many routers an answer of the metadata service may pass: none.
const METADATA_HOPS: i32 = 1;
/// What carries tags from the first moment on.
const TAGGED: [ResourceType; 3] = [
    ResourceType::Instance,
    ResourceType::Volume,
    ResourceType::NetworkInterface,
];

/// A launch as its row keeps it. Fields may be added, never taken away: rows of an
/// older build are sent by a newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    /// The same as before: the same machine.
    pub token: String,
    pub image: String,
    /// The image's root volume, where it was known; it never changes.
    pub root: Option<Root>,
    pub kind: String,
    pub subnet: String,
    pub market: Market,
    pub security_groups: Vec<String>,
    pub instance_profile: String,
    pub public_address: bool,
    /// `None`: as large as the image's.
    pub volume_gib: Option<i32>,
    pub launch_template: Option<LaunchTemplate>,
    pub tags: BTreeMap<String, String>,
    /// In base64, as it is sent.
    pub user_data: String,
}

/// The root volume that an image comes with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Root {
    /// As the image calls it: `/dev/xvda`.
    pub device: String,
    pub gib: i32,
}

impl Request {
    /// Writes a launch out.
    pub fn new(draft: &Draft<'_>, pool: &Pool, user_data: &str, root: Option<Root>) -> Self {
        Self {
            token: token(draft.instance, draft.attempt),
            image: draft.image.to_owned(),
            root,
            kind: draft.offering.kind.clone(),
            subnet: draft.offering.place.clone(),
            market: draft.offering.market,
            security_groups: pool.security_groups.clone(),
            instance_profile: pool.instance_profile.clone(),
            public_address: pool.public_address == PublicAddress::On,
            volume_gib: pool.volume_gib,
            launch_template: pool.launch_template.clone(),
            tags: super::tags::of(draft, &pool.tags),
            user_data: user_data.to_owned(),
        }
    }

    /// As the SDK sends it. There is no key pair: nobody logs in.
    pub fn input(&self, root: &Root) -> RunInstancesInputBuilder {
        let tags: Vec<Tag> = self
            .tags
            .iter()
            .map(|(key, value)| Tag::builder().key(key).value(value).build())
            .collect();
        let tagged = TAGGED.map(|kind| {
            TagSpecification::builder()
                .resource_type(kind)
                .set_tags(Some(tags.clone()))
                .build()
        });
        RunInstancesInputBuilder::default()
            .client_token(&self.token)
            .min_count(1)
            .max_count(1)
            .image_id(&self.image)
            .instance_type(InstanceType::from(self.kind.as_str()))
            .set_launch_template(self.launch_template.as_ref().map(template))
            .iam_instance_profile(
                IamInstanceProfileSpecification::builder()
                    .name(&self.instance_profile)
                    .build(),
            )
            .network_interfaces(self.interface())
            .block_device_mappings(self.volume(root))
            .metadata_options(metadata())
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .set_instance_market_options((self.market == Market::Spot).then(spot))
            .set_tag_specifications(Some(tagged.into()))
            .user_data(&self.user_data)
    }

    fn interface(&self) -> InstanceNetworkInterfaceSpecification {
        InstanceNetworkInterfaceSpecification::builder()
            .device_index(0)
            .subnet_id(&self.subnet)
            .set_groups(Some(self.security_groups.clone()))
            .associate_public_ip_address(self.public_address)
            .delete_on_termination(true)
            .build()
    }

    fn volume(&self, root: &Root) -> BlockDeviceMapping {
        let volume = EbsBlockDevice::builder()
            .encrypted(true)
            .volume_type(VolumeType::Gp3)
            .volume_size(self.volume_gib.unwrap_or(root.gib))
            .delete_on_termination(true)
            .build();
        BlockDeviceMapping::builder()
            .device_name(&root.device)
            .ebs(volume)
            .build()
    }
}

/// At most 64 characters, says EC2: 3 and 32 and 1, and at most 20 for a number.
fn token(instance: InstanceId, attempt: i64) -> String {
    let id = instance.to_string();
    let bare = id.strip_prefix(InstanceId::PREFIX).unwrap_or(&id);
    format!("bf-{bare}-{attempt}")
}

fn template(template: &LaunchTemplate) -> LaunchTemplateSpecification {
    let specification =
        LaunchTemplateSpecification::builder().version(template.version.to_string());
    if template.is_id() {
        specification.launch_template_id(&template.name).build()
    } else {
        specification.launch_template_name(&template.name).build()
    }
}

/// The metadata service answers whoever holds a token of its own, on the machine
/// itself. Who does not get there at all is the packet filter's business.
fn metadata() -> InstanceMetadataOptionsRequest {
    InstanceMetadataOptionsRequest::builder()
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .http_tokens(HttpTokensState::Required)
        .http_put_response_hop_limit(METADATA_HOPS)
        .instance_metadata_tags(InstanceMetadataTagsState::Disabled)
        .build()
}

/// Asked for once, and gone when it is taken back: a stopped machine would cost,
/// and come back with a user's traces.
fn spot() -> InstanceMarketOptionsRequest {
    let options = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .build();
    InstanceMarketOptionsRequest::builder()
        .market_type(MarketType::Spot)
        .spot_options(options)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MarketOrder;
    use crate::domain::machine::Offering;

    fn pool() -> Pool {
        Pool {
            region: None,
            image: "ami-1".into(),
            kinds: vec!["m7i.large".into()],
            subnets: vec!["subnet-1".into()],
            security_groups: vec!["sg-1".into(), "sg-2".into()],
            instance_profile: "browserfleet-agent".into(),
            market: MarketOrder::OnDemand,
            public_address: PublicAddress::Off,
            volume_gib: Some(20),
            tags: vec![("team".into(), "web".into())],
            launch_template: None,
            rescue_document: "browserfleet-rescue".into(),
            agent_program: None,
        }
    }

    fn request(pool: &Pool, market: Market) -> Request {
        let offering = Offering {
            kind: "m7i.large".into(),
            place: "subnet-1".into(),
            market,
        };
        let draft = Draft {
            instance: "ins_0192f0c100007000800000000000000a".parse().unwrap(),
            attempt: 2,
            deployment: "dep",
            generation: 1,
            image: "ami-1",
            offering: &offering,
        };
        Request::new(&draft, pool, "I2Nsb3Vk", Some(root()))
    }

    fn root() -> Root {
        Root {
            device: "/dev/xvda".into(),
            gib: 8,
        }
    }

    #[test]
    fn a_token_names_a_row_and_an_attempt_in_64_characters() {
        let it = request(&pool(), Market::OnDemand);
        assert_eq!(it.token, "bf-0192f0c100007000800000000000000a-2");
        assert!(token(InstanceId::new(), i64::MAX).len() <= 64);
    }

    #[test]
    fn what_was_written_out_is_read_back_and_written_the_same() {
        let it = request(&pool(), Market::Spot);
        let text = serde_json::to_string(&it).unwrap();
        let again: Request = serde_json::from_str(&text).unwrap();
        assert_eq!(again, it);
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
        assert_eq!(
            format!("{:?}", again.input(&root())),
            format!("{:?}", it.input(&root()))
        );
    }

    /// What rows of the first build have in them, which later ones have to read.
    #[test]
    fn a_request_of_the_first_build_is_still_a_request() {
        let text = r#"{"token":"bf-0192f0c100007000800000000000000a-2","image":"ami-1",
            "root":{"device":"/dev/xvda","gib":8},"kind":"m7i.large","subnet":"subnet-1","market":"on-demand",
            "security_groups":["sg-1","sg-2"],"instance_profile":"browserfleet-agent",
            "public_address":false,"volume_gib":20,"launch_template":null,
            "tags":{"Name":"browserfleet-default","browserfleet:attempt":"2",
                "browserfleet:deployment":"dep","browserfleet:generation":"1",
                "browserfleet:pool":"default",
                "browserfleet:row":"ins_0192f0c100007000800000000000000a","team":"web"},
            "user_data":"I2Nsb3Vk"}"#;
        let it: Request = serde_json::from_str(text).unwrap();
        assert_eq!(it, request(&pool(), Market::OnDemand));
    }

    #[test]
    fn subnet_and_groups_are_said_once_and_in_the_interface() {
        let input = request(&pool(), Market::OnDemand).input(&root());
        assert_eq!(input.get_subnet_id(), &None);
        assert_eq!(input.get_security_group_ids(), &None);
        assert_eq!(input.get_key_name(), &None);
        let interfaces = input.get_network_interfaces().as_deref().unwrap();
        assert_eq!(interfaces.len(), 1);
        assert_eq!(interfaces[0].subnet_id(), Some("subnet-1"));
        assert_eq!(interfaces[0].groups(), ["sg-1", "sg-2"]);
        assert_eq!(interfaces[0].associate_public_ip_address(), Some(false));
    }

    #[test]
    fn a_volume_is_as_large_as_said_or_as_the_images() {
        let mut pool = pool();
        for (said, expected) in [(Some(20), 20), (None, 8)] {
            pool.volume_gib = said;
            let input = request(&pool, Market::OnDemand).input(&root());
            let volumes = input.get_block_device_mappings().as_deref().unwrap();
            let volume = volumes[0].ebs().unwrap();
            assert_eq!(volume.volume_size(), Some(expected));
            assert_eq!(volume.encrypted(), Some(true));
        }
    }

    #[test]
    fn only_spot_machines_are_asked_for_on_the_spot_market() {
        let on_demand = request(&pool(), Market::OnDemand).input(&root());
        assert_eq!(on_demand.get_instance_market_options(), &None);
        let spot = request(&pool(), Market::Spot).input(&root());
        let options = spot.get_instance_market_options().as_ref().unwrap();
        assert_eq!(options.market_type(), Some(&MarketType::Spot));
        let options = options.spot_options().unwrap();
        assert_eq!(
            options.spot_instance_type(),
            Some(&SpotInstanceType::OneTime)
        );
        assert_eq!(
            options.instance_interruption_behavior(),
            Some(&InstanceInterruptionBehavior::Terminate)
        );
    }

    #[test]
    fn a_template_is_named_with_its_version() {
        let mut pool = pool();
        for (name, by_id) in [("lt-0a1b", true), ("browsers", false)] {
            pool.launch_template = Some(LaunchTemplate {
                name: name.into(),
                version: 7,
            });
            let input = request(&pool, Market::OnDemand).input(&root());
            let template = input.get_launch_template().as_ref().unwrap();
            assert_eq!(template.version(), Some("7"));
            assert_eq!(template.launch_template_id().is_some(), by_id);
            assert_eq!(template.launch_template_name().is_some(), !by_id);
        }
    }
}
