//! The agent's real program on a machine of its own: a folder, an environment, and a
//! power switch that leaves a note.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::scene::{Answer, Scene};

/// EC2's id of the machine.
pub const MACHINE: &str = "i-0123456789abcdef0";
/// How long the agent may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
const ROLE: &str = "/latest/meta-data/iam/security-credentials";
const CREDENTIALS: &str = r#"{"Code": "Success", "AccessKeyId": "A", "SecretAccessKey": "s", "Token": "t", "Expiration": "2126-03-01T12:00:00Z"}"#;

/// A machine.
pub struct Machine {
    folder: TempDir,
    environment: BTreeMap<String, String>,
}

impl Machine {
    /// Beside its control plane.
    pub fn local(control_plane: std::net::SocketAddr) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let off = folder.path().join("power-off");
        let note = folder.path().join("off");
        std::fs::write(&off, format!("#!/bin/sh\necho off > {}\n", note.display())).unwrap();
        std::fs::set_permissions(&off, PermissionsExt::from_mode(0o755)).unwrap();
        let mut machine = Self {
            folder,
            environment: BTreeMap::new(),
        };
        machine.set("CONTROL_PLANE", &format!("https://{control_plane}"));
        machine.set("DATA_DIR", &machine.data().to_string_lossy());
        machine.set("CA_FILE", &machine.file("ca.pem").to_string_lossy());
        machine.set("POWER_OFF", &off.to_string_lossy());
        machine.set("SPARES", "0");
        machine
    }

    /// In a cloud that this scene plays.
    pub fn ec2(control_plane: std::net::SocketAddr, cloud: &Scene) -> Self {
        let mut machine = Self::local(control_plane);
        machine.set("MACHINE", "ec2");
        machine.set("TOKEN_PARAMETERS", "/fleet/enrol/");
        let aws = [
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.endpoint()),
            ("AWS_ENDPOINT_URL", cloud.endpoint()),
        ];
        for (key, value) in aws {
            machine.environment.insert(key.to_owned(), value);
        }
        machine
    }

    pub fn set(&mut self, key: &str, value: &str) {
        let key = format!("BROWSERFLEET_{key}");
        self.environment.insert(key, value.to_owned());
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.file("data")
    }

    /// Whether somebody ended the machine.
    pub fn is_off(&self) -> bool {
        self.file("off").exists()
    }

    /// Starts the agent, with this on standard input, if anything.
    pub async fn start(&self, input: Option<&str>) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_browserfleet-agent"));
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().unwrap();
        if let Some(input) = input {
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(input.as_bytes()).await.unwrap();
        }
        Agent { child }
    }
}

/// The agent's process.
pub struct Agent {
    pub child: Child,
}

impl Agent {
    pub fn id(&self) -> i32 {
        i32::try_from(self.child.id().unwrap()).unwrap()
    }

    /// Its exit code, and what it said.
    pub async fn ends(self) -> (Option<i32>, String) {
        let output = timeout(ENDS_WITHIN, self.child.wait_with_output()).await;
        let output = output.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    }
}

/// A cloud that knows one machine, and has this token for it.
pub async fn cloud(token: &str) -> Scene {
    let cloud = Scene::start().await;
    cloud.set("/latest/meta-data/instance-id", Answer::ok(MACHINE));
    let region = "/latest/meta-data/placement/region";
    cloud.set(region, Answer::ok("eu-central-1"));
    for role in [format!("{ROLE}/"), format!("{ROLE}-extended/")] {
        cloud.set(&role, Answer::ok("agent"));
        cloud.set(&format!("{role}agent"), Answer::ok(CREDENTIALS));
    }
    let parameter = format!(r#"{{"Parameter": {{"Value": "{token}"}}}}"#);
    cloud.set("GetParameter", Answer::ok(&parameter));
    cloud.set("DeleteParameter", Answer::ok("{}"));
    cloud
}
