//! The one-time token of an EC2 instance: an SSM parameter, named by the instance's
//! id, that its own role alone can read. It is written after the machine was launched,
//! so it may not be there yet.

use std::ops::RangeInclusive;
use std::time::Duration;

use aws_config::imds::Client as MetadataClient;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::retry::RetryConfig;
use aws_sdk_ssm::config::timeout::TimeoutConfig;
use aws_sdk_ssm::config::{BehaviorVersion, Config, Region};
use aws_sdk_ssm::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Ec2;

/// How long one try of a call may take. The SDK sets none by itself, and a connection
/// that is half open would hold the start of the machine for ever.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a call may take with what comes before it: the role's credentials, from
/// the metadata service.
const CALL: Duration = Duration::from_secs(10);
/// How long to wait before the next look, at random: machines that were launched
/// together do not look together.
const LOOK_AFTER_MS: RangeInclusive<u64> = 1_000..=10_000;

/// The parameter, and the client for it. Dropped once the agent has joined: it holds
/// connections, and all root certificates.
#[derive(Debug)]
pub struct Parameter {
    client: Client,
    name: String,
    look_after_ms: RangeInclusive<u64>,
}

/// Why there is no token.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    /// It is not there yet, as far as anybody may know: to a role that may read its own
    /// parameter alone, one that is not there may be one that is denied.
    NotYet,
    /// Something failed.
    Failed(String),
}

impl Parameter {
    /// The parameter of this instance.
    #[must_use]
    pub fn of(ec2: &Ec2, metadata: Option<&str>, region: String, instance: &str) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(ATTEMPT)
            .read_timeout(ATTEMPT)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(CALL)
            .build();
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(region))
            .credentials_provider(role(metadata))
            .timeout_config(timeouts)
            // The next look is the next try.
            .retry_config(RetryConfig::disabled());
        config.set_endpoint_url(ec2.endpoint.clone());
        Self {
            client: Client::from_conf(config.build()),
            name: format!("{}{instance}", ec2.token_parameters),
            look_after_ms: LOOK_AFTER_MS,
        }
    }

    /// The token, once it is there; at the latest until then.
    ///
    /// # Errors
    /// Why it never came, for the log.
    pub async fn token(&self, latest: Instant) -> Result<String, String> {
        let mut told = None;
        loop {
            let missing = match self.look().await {
                Ok(token) => return Ok(token),
                Err(missing) => missing,
            };
            let wait = Duration::from_millis(rand::random_range(self.look_after_ms.clone()));
            if Instant::now() + wait > latest {
                let why = match missing {
                    Missing::NotYet => "it is not there, or not ours to read".to_owned(),
                    Missing::Failed(reason) => reason,
                };
                return Err(format!("no token in the parameter {}: {why}", self.name));
            }
            // Said when it changes, not at every look.
            if told.as_ref() != Some(&missing) {
                match &missing {
                    Missing::NotYet => tracing::info!(name = self.name, "no token yet"),
                    Missing::Failed(reason) => {
                        tracing::warn!(name = self.name, reason, "could not look for the token");
                    }
                }
                told = Some(missing);
            }
            sleep(wait).await;
        }
    }

    async fn look(&self) -> Result<String, Missing> {
        let call = self
            .client
            .get_parameter()
            .name(&self.name)
            .with_decryption(true)
            .send();
        let output = timeout(CALL, call)
            .await
            .map_err(|_| Missing::Failed("no answer in time".into()))?
            .map_err(|error| missing(&error))?;
        let token = output.parameter.and_then(|it| it.value).unwrap_or_default();
        match token.trim() {
            "" => Err(Missing::NotYet),
            token => Ok(token.to_owned()),
        }
    }

    /// Deletes it: the token was used. The control plane deletes it too.
    pub async fn delete(self) {
        let call = self.client.delete_parameter().name(&self.name).send();
        let reason = match timeout(CALL, call).await {
            Ok(Ok(_)) => return tracing::info!(name = self.name, "the token is deleted"),
            Ok(Err(error)) => DisplayErrorContext(error).to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(name = self.name, reason, "could not delete the used token");
    }
}

/// What the machine may do, by its role; never by what is in the environment or in a
/// file.
fn role(metadata: Option<&str>) -> ImdsCredentialsProvider {
    let mut client = MetadataClient::builder()
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(ATTEMPT);
    if let Some(endpoint) = metadata {
        client = match client.clone().endpoint(endpoint) {
            Ok(client) => client,
            // It was read before, by our own client.
            Err(_) => client,
        };
    }
    ImdsCredentialsProvider::builder()
        .imds_client(client.build())
        .build()
}

fn missing<E, R>(error: &SdkError<E, R>) -> Missing
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    match error.code() {
        Some("ParameterNotFound" | "AccessDeniedException") => Missing::NotYet,
        Some(code) => Missing::Failed(match error.message() {
            Some(message) => format!("{code}: {message}"),
            None => code.to_owned(),
        }),
        None => Missing::Failed(DisplayErrorContext(error).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::scene::{Answer, Scene};

    const ROLE: &str = "/latest/meta-data/iam/security-credentials/";
    const CREDENTIALS: &str = r#"{"Code": "Success", "AccessKeyId": "A", "SecretAccessKey": "s", "Token": "t", "Expiration": "2126-03-01T12:00:00Z"}"#;

    async fn scene() -> Scene {
        let scene = Scene::start().await;
        scene.set(ROLE, Answer::ok("agent"));
        scene.set(&format!("{ROLE}agent"), Answer::ok(CREDENTIALS));
        let extended = "/latest/meta-data/iam/security-credentials-extended/";
        scene.set(extended, Answer::ok("agent"));
        scene.set(&format!("{extended}agent"), Answer::ok(CREDENTIALS));
        scene
    }

    fn parameter(scene: &Scene) -> Parameter {
        let ec2 = Ec2 {
            token_parameters: "/fleet/enrol/".into(),
            region: None,
            endpoint: Some(scene.endpoint()),
        };
        let region = "eu-central-1".to_owned();
        let mut parameter = Parameter::of(&ec2, Some(&scene.endpoint()), region, "i-0123");
        parameter.look_after_ms = 1..=50;
        parameter
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn error(code: &str) -> Answer {
        Answer::error(400, &format!(r#"{{"__type": "{code}"}}"#))
    }

    fn value(token: &str) -> Answer {
        Answer::ok(&format!(r#"{{"Parameter": {{"Value": "{token}"}}}}"#))
    }

    #[tokio::test]
    async fn a_token_that_is_late_or_denied_at_first_is_waited_for_and_deleted_once_used() {
        let scene = scene().await;
        let parameter = parameter(&scene);
        assert_eq!(parameter.name, "/fleet/enrol/i-0123");
        for code in ["ParameterNotFound", "AccessDeniedException"] {
            scene.set("GetParameter", error(code));
            assert_eq!(parameter.look().await, Err(Missing::NotYet));
        }
        let waiting = parameter.token(soon());
        let written = async {
            sleep(Duration::from_millis(100)).await;
            scene.set("GetParameter", value("secret"));
        };
        let (token, ()) = tokio::join!(waiting, written);
        assert_eq!(token.as_deref(), Ok("secret"));
        scene.set("DeleteParameter", Answer::ok("{}"));
        parameter.delete().await;
        let asked = scene.asked();
        let (first, last) = (asked.first().unwrap(), asked.last().unwrap());
        assert_eq!(first.0, "GetParameter");
        assert!(first.1.contains(r#""WithDecryption":true"#), "{}", first.1);
        assert_eq!(last.0, "DeleteParameter");
        assert!(last.1.contains("/fleet/enrol/i-0123"), "{}", last.1);
    }

    #[tokio::test]
    async fn what_failed_last_is_said_when_the_time_is_over() {
        let scene = scene().await;
        let parameter = parameter(&scene);
        scene.set("GetParameter", error("ThrottlingException"));
        let latest = Instant::now() + Duration::from_millis(300);
        let why = parameter.token(latest).await.unwrap_err();
        assert!(
            why.contains("/fleet/enrol/i-0123") && why.contains("Throttling"),
            "{why}"
        );
        assert!(scene.asked().len() > 1);
    }

    #[tokio::test]
    async fn a_call_that_is_never_answered_ends_by_its_deadline() {
        let scene = scene().await;
        let parameter = parameter(&scene);
        scene.set("GetParameter", Answer::never());
        let asked = Instant::now();
        assert!(matches!(parameter.look().await, Err(Missing::Failed(_))));
        assert!(asked.elapsed() < CALL);
    }
}
