//! From a draft to a machine: what is written out, and what is sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aws_sdk_ec2::types::Image;

use super::answers::Failure;
use super::request::{Request, Root};
use super::{Ec2, machines, turn};
use crate::domain::machine::{Draft, Machine};
use crate::provider::{Error, Fault, LaunchError};

/// Images whose root volume is remembered: there are two while one takes the
/// other's place.
const IMAGES_MAX: usize = 16;

/// The root volumes that images come with. An image never changes it.
#[derive(Debug, Default)]
pub(super) struct Roots(Mutex<BTreeMap<String, Root>>);

impl Roots {
    fn known(&self, image: &str) -> Option<Root> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(image).cloned()
    }

    fn learn(&self, image: &str, root: Root) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= IMAGES_MAX {
            known.clear();
        }
        known.insert(image.to_owned(), root);
    }
}

impl Ec2 {
    /// Writes a request out.
    pub(super) fn write(&self, draft: &Draft<'_>) -> Result<String, Error> {
        let root = self.roots.known(draft.image);
        let request = Request::new(draft, &self.pool, &self.user_data, root);
        serde_json::to_string(&request).map_err(|error| Error {
            doing: "write a launch out",
            fault: Fault::Refused,
            reason: error.to_string(),
        })
    }

    /// Sends a request as it was written.
    pub(super) async fn send(&self, request: &str) -> Result<Machine, LaunchError> {
        // Another build may have sent it: whether a machine came of it, its tags
        // will say.
        let request: Request = serde_json::from_str(request)
            .map_err(|error| LaunchError::Unknown(format!("the request is unreadable: {error}")))?;
        let root = match &request.root {
            Some(root) => root.clone(),
            None => self.learn_root(&request.image).await.map_err(not_sent)?,
        };
        let turn = self.limits.run.turn().await;
        turn.map_err(|it| LaunchError::Throttled(it.to_string()))?;
        let sent = request.input(&root).send_with(&self.acts).await;
        let answer = sent.map_err(|it| Failure::of(&it).of_launch())?;
        // One was asked for. More than one would be found by their tags.
        let first = answer.instances().first();
        first.and_then(machines::machine).ok_or_else(|| {
            LaunchError::Unknown("the answer has no machine that can be told".into())
        })
    }

    /// The root volume of an image, asked for once.
    pub(super) async fn learn_root(&self, image: &str) -> Result<Root, Error> {
        const DOING: &str = "look at an image";
        if let Some(root) = self.roots.known(image) {
            return Ok(root);
        }
        turn(&self.limits.images, DOING).await?;
        let asked = self.looks.describe_images().image_ids(image).send().await;
        let answer = asked.map_err(|it| Failure::of(&it).of_call(DOING))?;
        let root = answer.images().first().and_then(root);
        let root = root.ok_or_else(|| Error {
            doing: DOING,
            fault: Fault::Refused,
            reason: format!("{image} has no root volume, or there is no such image"),
        })?;
        self.roots.learn(image, root.clone());
        Ok(root)
    }
}

/// `None`: its root is no volume, and cannot be encrypted.
fn root(image: &Image) -> Option<Root> {
    let device = image.root_device_name()?;
    let volumes = image.block_device_mappings().iter();
    let named = volumes.filter(|it| it.device_name() == Some(device));
    let gib = named.filter_map(|it| it.ebs()?.volume_size()).next()?;
    Some(Root {
        device: device.to_owned(),
        gib,
    })
}

/// The image was asked for and the launch was not sent. But it may have been
/// before, when the image was still there: so nothing is refused for sure.
fn not_sent(error: Error) -> LaunchError {
    match error.fault {
        Fault::Throttled => LaunchError::Throttled(error.to_string()),
        Fault::NotFound | Fault::NoCapacity | Fault::Refused | Fault::Unknown => {
            LaunchError::Unknown(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{BlockDeviceMapping, EbsBlockDevice};

    use super::*;

    fn volume(device: &str, gib: i32) -> BlockDeviceMapping {
        BlockDeviceMapping::builder()
            .device_name(device)
            .ebs(EbsBlockDevice::builder().volume_size(gib).build())
            .build()
    }

    #[test]
    fn the_root_volume_is_the_one_that_the_image_calls_so() {
        let image = Image::builder()
            .root_device_name("/dev/sda1")
            .block_device_mappings(volume("/dev/sdb", 100))
            .block_device_mappings(volume("/dev/sda1", 8));
        let expected = Root {
            device: "/dev/sda1".into(),
            gib: 8,
        };
        assert_eq!(root(&image.build()), Some(expected));
    }

    #[test]
    fn an_image_whose_root_is_no_volume_has_none() {
        let of_the_host = BlockDeviceMapping::builder()
            .device_name("/dev/sda1")
            .virtual_name("ephemeral0")
            .build();
        let image = Image::builder().root_device_name("/dev/sda1");
        assert_eq!(root(&image.clone().build()), None);
        assert_eq!(
            root(&image.block_device_mappings(of_the_host).build()),
            None
        );
        assert_eq!(root(&Image::builder().build()), None);
    }

    #[test]
    fn volumes_of_a_few_images_are_remembered() {
        let roots = Roots::default();
        for gib in 0..100 {
            let device = "/dev/xvda".into();
            roots.learn(&format!("ami-{gib}"), Root { device, gib });
        }
        assert_eq!(roots.known("ami-99").map(|it| it.gib), Some(99));
        assert!(roots.0.lock().unwrap().len() <= IMAGES_MAX);
    }
}
