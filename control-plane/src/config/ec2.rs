//! Machines of Amazon's: of which kind, where, and what they are started with.
//! Credentials and addresses of AWS are not among it; its SDK finds them by its
//! own variables.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{PREFIX, Settings};

/// Tags that EC2 takes are 50; six are ours.
const TAGS_MAX: usize = 44;
/// Characters of a tag's key and of its value that EC2 takes.
const TAG_KEY_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;
/// The most GiB that a volume of type gp3 has.
const VOLUME_GIB_MAX: u32 = 16_384;
/// Ways to have a machine that are worth a try, one after another.
const KINDS_MAX: usize = 20;
const SUBNETS_MAX: usize = 20;
/// Security groups that EC2 takes for one network interface.
const SECURITY_GROUPS_MAX: usize = 16;
/// Hexadecimal digits of a SHA-256.
const SHA256_DIGITS: usize = 64;
const RESCUE_DOCUMENT: &str = "browserfleet-rescue";

/// The machines that are had of EC2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ec2 {
    /// `None`: the one that the SDK finds.
    pub region: Option<String>,
    /// An image's id, or the name of the parameter that holds it.
    pub image: String,
    /// Instance types, the best first.
    pub kinds: Vec<String>,
    /// The best first.
    pub subnets: Vec<String>,
    /// Of each machine's one network interface.
    pub security_groups: Vec<String>,
    /// The name of the profile whose role machines have.
    pub instance_profile: String,
    /// On which markets, and in which order.
    pub market: MarketOrder,
    /// Whether machines have an address for everybody.
    pub public_address: PublicAddress,
    /// The root volume's; `None`: as large as the image's.
    pub volume_gib: Option<i32>,
    /// What machines carry besides our own.
    pub tags: Vec<(String, String)>,
    /// What is added to a launch besides what is said here.
    pub launch_template: Option<LaunchTemplate>,
    /// The document of Run Command that restarts agents and reads their journals.
    pub rescue_document: String,
    /// Where machines get the agent's program; `None`: the image has it.
    pub agent_program: Option<AgentProgram>,
}

/// On which markets machines are had, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarketOrder {
    /// Those that stay.
    OnDemand,
    /// Those that may be taken back.
    Spot,
    /// Spot wherever there is any, else on demand.
    SpotFirst,
}

impl FromStr for MarketOrder {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "on-demand" => Ok(Self::OnDemand),
            "spot" => Ok(Self::Spot),
            "spot-first" => Ok(Self::SpotFirst),
            _ => Err("`on-demand`, `spot` or `spot-first`"),
        }
    }
}

/// Whether machines have an address for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicAddress {
    /// They reach the control plane without a NAT.
    On,
    /// Nobody outside their network can address them.
    Off,
}

impl FromStr for PublicAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err("`on` or `off`"),
        }
    }
}

/// A launch template in one version. Rows keep it as it is written here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchTemplate {
    /// Or its id.
    pub name: String,
    /// A number, so that it says the same tomorrow.
    pub version: u32,
}

impl LaunchTemplate {
    /// Whether it is named by its id.
    #[must_use]
    pub fn is_id(&self) -> bool {
        self.name.starts_with("lt-")
    }
}

impl FromStr for LaunchTemplate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, version) = text
            .rsplit_once(':')
            .ok_or("an id or a name, a colon and a version, like browsers:3")?;
        let version: u32 = version.parse().map_err(|_| {
            "the version has to be a number: `$Latest` may be another one when a launch is repeated"
        })?;
        if name.is_empty() || version == 0 {
            return Err("an id or a name, a colon and a version, like browsers:3");
        }
        Ok(Self {
            name: name.to_owned(),
            version,
        })
    }
}

/// Where machines get the agent's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentProgram {
    /// An https address.
    pub url: String,
    /// What is run is what has this hash, in hexadecimal digits.
    pub sha256: String,
}

/// A text that EC2 would know what to do with: a prefix, and characters of its
/// ids and names.
struct Named {
    prefix: &'static str,
    example: &'static str,
    also: &'static str,
}

impl Named {
    fn fits(&self, text: &str) -> bool {
        text.strip_prefix(self.prefix).is_some_and(|rest| {
            !rest.is_empty()
                && rest
                    .chars()
                    .all(|it| it.is_ascii_alphanumeric() || self.also.contains(it))
        })
    }
}

impl Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it has to be like {}", self.example)
    }
}

const IMAGE: Named = Named {
    prefix: "ami-",
    example: "ami-0123456789abcdef0, or the name of a parameter, like /aws/service/…",
    also: "",
};
const PARAMETER: Named = Named {
    prefix: "/",
    example: "/browserfleet/image",
    also: "/._-",
};
const KIND: Named = Named {
    prefix: "",
    example: "m7i.large",
    also: ".-",
};
const SUBNET: Named = Named {
    prefix: "subnet-",
    example: "subnet-0123456789abcdef0",
    also: "",
};
const SECURITY_GROUP: Named = Named {
    prefix: "sg-",
    example: "sg-0123456789abcdef0",
    also: "",
};
const PROFILE: Named = Named {
    prefix: "",
    example: "browserfleet-agent; not an ARN",
    also: "+=,.@_-",
};
const REGION: Named = Named {
    prefix: "",
    example: "eu-central-1",
    also: "-",
};

impl Settings<'_> {
    pub(super) fn ec2(&mut self) -> Ec2 {
        Ec2 {
            region: self.text("EC2_REGION").inspect(|it| {
                self.check("EC2_REGION", it, &REGION);
            }),
            image: self.image(),
            kinds: self.names("EC2_INSTANCE_TYPES", &KIND, KINDS_MAX),
            subnets: self.names("EC2_SUBNETS", &SUBNET, SUBNETS_MAX),
            security_groups: self.names(
                "EC2_SECURITY_GROUPS",
                &SECURITY_GROUP,
                SECURITY_GROUPS_MAX,
            ),
            instance_profile: self.needed("EC2_INSTANCE_PROFILE", &PROFILE),
            market: self.or("EC2_MARKET", MarketOrder::OnDemand),
            public_address: self.or("EC2_PUBLIC_ADDRESS", PublicAddress::Off),
            volume_gib: self.volume(),
            tags: self.tags(),
            launch_template: self.launch_template(),
            rescue_document: self
                .text("EC2_RESCUE_DOCUMENT")
                .unwrap_or(RESCUE_DOCUMENT.into()),
            agent_program: self.agent_program(),
        }
    }

    fn image(&mut self) -> String {
        let text = self.text("EC2_IMAGE").unwrap_or_default();
        if !PARAMETER.fits(&text) {
            self.check("EC2_IMAGE", &text, &IMAGE);
        }
        text
    }

    fn needed(&mut self, key: &str, named: &Named) -> String {
        let text = self.text(key).unwrap_or_default();
        self.check(key, &text, named);
        text
    }

    fn check(&mut self, key: &str, text: &str, named: &Named) {
        if text.is_empty() {
            self.faults
                .push(format!("{PREFIX}{key} is missing; {named}"));
        } else if !named.fits(text) {
            self.faults
                .push(format!("{PREFIX}{key} has `{text}`; {named}"));
        }
    }

    /// At least one, and none twice: the second would be tried in vain.
    fn names(&mut self, key: &str, named: &Named, most: usize) -> Vec<String> {
        let names: Vec<String> = self.list(key);
        if names.is_empty() {
            self.check(key, "", named);
        }
        if names.len() > most {
            self.faults.push(format!(
                "{PREFIX}{key} names {}; at most {most} are taken",
                names.len()
            ));
        }
        for (place, name) in names.iter().enumerate() {
            self.check(key, name, named);
            if names[..place].contains(name) {
                self.faults
                    .push(format!("{PREFIX}{key} names `{name}` twice"));
            }
        }
        names
    }

    fn volume(&mut self) -> Option<i32> {
        self.text("EC2_VOLUME_GIB")?;
        let gib = self.number("EC2_VOLUME_GIB", 1, 1, VOLUME_GIB_MAX);
        i32::try_from(gib).ok()
    }

    fn tags(&mut self) -> Vec<(String, String)> {
        let items: Vec<String> = self.list("EC2_TAGS");
        let mut tags: Vec<(String, String)> = Vec::new();
        for item in &items {
            let Some((key, value)) = item.split_once('=') else {
                self.fault_of_tags(item, "a key, `=` and a value");
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            let ours = key.starts_with("aws:") || key.starts_with("browserfleet:");
            if key.is_empty() || key.chars().count() > TAG_KEY_MAX {
                self.fault_of_tags(item, "keys have 1 to 128 characters");
            } else if value.chars().count() > TAG_VALUE_MAX {
                self.fault_of_tags(item, "values have at most 256 characters");
            } else if ours {
                self.fault_of_tags(item, "keys with `aws:` and `browserfleet:` are taken");
            } else if tags.iter().any(|it| it.0 == key) {
                self.fault_of_tags(item, "this key is there already");
            }
            tags.push((key.to_owned(), value.to_owned()));
        }
        if tags.len() > TAGS_MAX {
            self.faults.push(format!(
                "{PREFIX}EC2_TAGS has {}; at most {TAGS_MAX} are taken",
                tags.len()
            ));
        }
        tags
    }

    fn fault_of_tags(&mut self, item: &str, expected: &str) {
        self.faults
            .push(format!("{PREFIX}EC2_TAGS has `{item}`: {expected}"));
    }

    fn launch_template(&mut self) -> Option<LaunchTemplate> {
        let text = self.text("EC2_LAUNCH_TEMPLATE")?;
        text.parse()
            .inspect_err(|fault| {
                self.faults
                    .push(format!("{PREFIX}EC2_LAUNCH_TEMPLATE is `{text}`: {fault}"));
            })
            .ok()
    }

    fn agent_program(&mut self) -> Option<AgentProgram> {
        match (self.text("EC2_AGENT_URL"), self.text("EC2_AGENT_SHA256")) {
            (None, None) => None,
            (Some(_), Some(sha256)) => {
                let url = self.web_address("EC2_AGENT_URL", None);
                let digits = sha256.chars().all(|it| it.is_ascii_hexdigit());
                if !digits || sha256.len() != SHA256_DIGITS {
                    self.faults.push(format!(
                        "{PREFIX}EC2_AGENT_SHA256 is `{sha256}`; it has to be {SHA256_DIGITS} \
                         hexadecimal digits"
                    ));
                }
                Some(AgentProgram {
                    url,
                    sha256: sha256.to_ascii_lowercase(),
                })
            }
            _ => {
                self.faults.push(format!(
                    "{PREFIX}EC2_AGENT_URL and {PREFIX}EC2_AGENT_SHA256 go together; one of them \
                     is missing"
                ));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Provider};
    use super::*;

    /// The least that `ec2` asks for.
    const LEAST: &[(&str, &str)] = &[
        ("PROVIDER", "ec2"),
        ("AGENT_ADDRESS", "https://fleet.example.com:8081"),
        ("EC2_IMAGE", "/browserfleet/image"),
        ("EC2_INSTANCE_TYPES", "m7i.large, c7i-flex.xlarge"),
        ("EC2_SUBNETS", "subnet-0a1, subnet-0b2"),
        ("EC2_SECURITY_GROUPS", "sg-01"),
        ("EC2_INSTANCE_PROFILE", "browserfleet-agent"),
    ];

    fn read(more: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let read = Config::from_lookup(|key| {
            let mut pairs = more.iter().chain(LEAST);
            let found = pairs.find(|(name, _)| key == format!("{PREFIX}{name}"));
            found.map(|(_, value)| (*value).to_owned())
        });
        read.map_err(|faults| faults.lines().to_vec())
    }

    fn ec2(more: &[(&str, &str)]) -> Ec2 {
        match read(more).expect("it is in order").provider {
            Provider::Ec2(ec2) => *ec2,
            Provider::Local => panic!("it says ec2"),
        }
    }

    #[test]
    fn what_is_not_said_is_the_careful_way() {
        let it = ec2(&[]);
        assert_eq!(it.market, MarketOrder::OnDemand);
        assert_eq!(it.public_address, PublicAddress::Off);
        assert_eq!(it.kinds, ["m7i.large", "c7i-flex.xlarge"]);
        assert_eq!(it.volume_gib, None);
        assert_eq!(it.rescue_document, "browserfleet-rescue");
    }

    #[test]
    fn all_that_can_be_said_is_read() {
        let it = ec2(&[
            ("EC2_REGION", "eu-central-1"),
            ("EC2_IMAGE", "ami-0a1b2c"),
            ("EC2_MARKET", "spot-first"),
            ("EC2_PUBLIC_ADDRESS", "on"),
            ("EC2_VOLUME_GIB", "30"),
            ("EC2_TAGS", "team=web, cost centre = a=b,empty="),
            ("EC2_LAUNCH_TEMPLATE", "lt-0a1b:12"),
            ("EC2_AGENT_URL", "https://example.com/agent"),
            ("EC2_AGENT_SHA256", &"Ab".repeat(32)),
        ]);
        assert_eq!(it.region.as_deref(), Some("eu-central-1"));
        assert_eq!(it.market, MarketOrder::SpotFirst);
        assert_eq!(it.volume_gib, Some(30));
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            it.tags,
            [
                pair("team", "web"),
                pair("cost centre", "a=b"),
                pair("empty", "")
            ]
        );
        let template = it.launch_template.expect("one is named");
        assert!(template.is_id());
        assert_eq!(template.version, 12);
        assert_eq!(
            it.agent_program.expect("one is named").sha256,
            "ab".repeat(32)
        );
    }

    #[test]
    fn each_fault_names_its_key() {
        let table = [
            ("EC2_REGION", "eu central"),
            ("EC2_IMAGE", ""),
            ("EC2_IMAGE", "ubuntu"),
            ("EC2_IMAGE", "/a parameter"),
            ("EC2_INSTANCE_TYPES", ""),
            ("EC2_INSTANCE_TYPES", "m7i.large,m7i.large"),
            ("EC2_SUBNETS", "vpc-1"),
            ("EC2_SECURITY_GROUPS", "default"),
            ("EC2_INSTANCE_PROFILE", "arn:aws:iam::1:instance-profile/a"),
            ("EC2_MARKET", "cheap"),
            ("EC2_PUBLIC_ADDRESS", "yes"),
            ("EC2_VOLUME_GIB", "0"),
            ("EC2_VOLUME_GIB", "16385"),
            ("EC2_TAGS", "team"),
            ("EC2_TAGS", "=web"),
            ("EC2_TAGS", "aws:team=web"),
            ("EC2_TAGS", "browserfleet:row=1"),
            ("EC2_TAGS", "a=1,a=2"),
            ("EC2_LAUNCH_TEMPLATE", "browsers"),
            ("EC2_LAUNCH_TEMPLATE", "browsers:$Latest"),
            ("EC2_LAUNCH_TEMPLATE", "browsers:0"),
            ("EC2_AGENT_URL", "https://example.com/agent"),
            ("EC2_AGENT_SHA256", "ab"),
            ("AGENT_ADDRESS", "http://fleet.example.com"),
            ("AGENT_ADDRESS", "https://fleet.example.com/agents"),
        ];
        for (key, value) in table {
            let faults = read(&[(key, value)]).map(|_| ()).expect_err(value);
            assert_eq!(faults.len(), 1, "{key}={value}: {faults:?}");
            assert!(faults[0].contains(key), "{key}={value}: {faults:?}");
        }
    }

    #[test]
    fn spot_machines_are_not_kept_stopped() {
        let stopped = ("POOL_STOPPED", "1");
        let faults = read(&[stopped, ("EC2_MARKET", "spot")]).map(|_| ());
        let faults = faults.expect_err("it cannot be done");
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("POOL_STOPPED"), "{faults:?}");
        for market in ["on-demand", "spot-first"] {
            read(&[stopped, ("EC2_MARKET", market)]).expect(market);
        }
    }

    #[test]
    fn machines_elsewhere_cannot_dial_this_one() {
        for listen in ["127.0.0.1:8081", "[::1]:8081", "0.0.0.0:8081"] {
            let said_nothing = [("AGENT_ADDRESS", ""), ("AGENT_LISTEN", listen)];
            let faults = read(&said_nothing).map(|_| ()).expect_err(listen);
            assert!(faults[0].contains("AGENT_ADDRESS"), "{faults:?}");
        }
        let said = read(&[("AGENT_ADDRESS", "https://127.0.0.1:8081/")]);
        let config = said.expect("what is said counts");
        assert_eq!(
            config.agents.dialed.as_deref(),
            Some("https://127.0.0.1:8081")
        );
        read(&[("AGENT_ADDRESS", ""), ("AGENT_LISTEN", "10.0.0.4:8081")]).expect("they can");
    }

    #[test]
    fn what_ec2_needs_is_not_asked_of_others() {
        let local = Config::from_lookup(|key| {
            (key == format!("{PREFIX}EC2_IMAGE")).then(|| "nonsense".to_owned())
        });
        assert!(matches!(
            local.expect("nothing is asked").provider,
            Provider::Local
        ));
    }
}
