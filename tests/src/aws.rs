//! An AWS of the test's own: `tests/services/aws`, a process of Python that ends with
//! the value that stands for it, and all machines that it simulates with it.
//!
//! ```text
//! test ── rules, knobs, verbs ──▶ moto with faults ◀── EC2, SSM ── control plane
//!                                    │ runs machines                    ▲
//!                                    └──▶ agent, as its unit says ──────┘ link
//! ```

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::eventually;
use crate::processes;
use crate::services::python_of;
use crate::world::{Plan, World, program};

/// How long it may take to start; measured: under 2 s.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long it may take to end with its machines.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// How often an end is looked for where nothing can be awaited.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long one of its doors may take to open.
const DOOR_DEADLINE: Duration = Duration::from_secs(30);
/// What AWS says of what a policy does not permit.
const FORBIDDEN: &[&str] = &["UnauthorizedOperation", "AccessDeniedException"];
/// What machines are asked for where a test does not say.
pub const INSTANCE_TYPES: &str = "c7i.large,m7i.large";

/// A running AWS.
#[derive(Debug)]
pub struct Aws {
    child: Child,
    /// Its end is the process's.
    stdin: Option<ChildStdin>,
    folder: TempDir,
    http: reqwest::Client,
    facts: Value,
    /// The port that agents of this test dial, kept for its control plane.
    agents_port: u16,
}

/// A machine, as this AWS reports it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// `i-…`.
    pub id: String,
    /// EC2's word, or `vanished`.
    pub state: String,
    /// Why it is in this state, where somebody said; `Client.InternalError` and so on.
    pub reason: String,
    /// The row that launched it, from its tags; empty where nobody said.
    pub row: String,
    /// The attempt of that row.
    pub attempt: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its type.
    pub instance_type: String,
    /// Its subnet.
    pub subnet: String,
    /// Its image.
    pub image: String,
    /// `on-demand` or `spot`.
    pub market: String,
    /// What is inside: `off`, `booting`, `up` or `crashed`.
    pub guest: String,
    /// Where its metadata service is, for `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    pub metadata_endpoint: String,
    /// The parameter that its one-time token is put in; empty where its user-data
    /// names none.
    pub token_parameter: String,
    /// The process of its agent.
    pub agent_process: Option<i32>,
    /// Everything that is reported of it.
    pub report: Value,
}

/// A call that AWS got.
#[derive(Debug, Clone)]
pub struct Call {
    /// Grows by one.
    pub number: u64,
    /// Since this AWS began.
    pub at: Duration,
    /// `RunInstances` and so on.
    pub action: String,
    /// `ok`, a code, or what was done to the answer with that in parentheses.
    pub result: String,
    /// `control-plane`, the id of a machine, or `test`.
    pub caller: String,
    /// Everything that was logged of it.
    pub report: Value,
}

/// What has to come out even when a test is over.
#[derive(Debug)]
pub struct Ledger {
    /// Machines that cost money and belong to a row.
    pub alive: Vec<Machine>,
    /// Rows and attempts that more than one machine was launched for.
    pub launched_twice: Vec<(String, String)>,
    /// One-time tokens that are still there.
    pub parameters: Vec<String>,
    /// What was asked for and this AWS cannot play.
    pub holes: Vec<String>,
}

impl Aws {
    /// Starts one whose machines run the agent that was built along with this test.
    ///
    /// # Errors
    /// Where it is not installed or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let python = python_of("aws")?;
        let folder = TempDir::new()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("services/aws/serve.py");
        let errors = std::fs::File::create(folder.path().join("errors"))?;
        let mut child = Command::new(python)
            .arg("-B")
            .arg(script)
            .arg("--agent")
            .arg(program("browserfleet-agent")?)
            .arg("--folder")
            .arg(folder.path().join("machines"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("could not start Python")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = timeout(START_DEADLINE, lines.next_line()).await??;
        let said = || std::fs::read_to_string(folder.path().join("errors")).unwrap_or_default();
        let facts = first.with_context(|| format!("it ended at once: {}", said()))?;
        Ok(Self {
            facts: serde_json::from_str(&facts)?,
            child,
            stdin,
            http: reqwest::Client::builder().timeout(DOOR_DEADLINE).build()?,
            agents_port: free_port()?,
            folder,
        })
    }

    /// One of the things that it has: `endpoint`, `region`, `image`, `next_image`,
    /// `image_parameter`, `security_group`, `instance_profile`, `rescue_document` …
    #[must_use]
    pub fn fact(&self, name: &str) -> String {
        self.facts[name].as_str().unwrap_or_default().to_owned()
    }

    /// Its subnets; each is in another zone.
    #[must_use]
    pub fn subnets(&self) -> Vec<String> {
        let subnets = self.facts["subnets"].as_array().into_iter().flatten();
        subnets
            .filter_map(|it| it.as_str().map(ToOwned::to_owned))
            .collect()
    }

    /// Variables that the AWS SDK of the control plane looks at.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.fact("endpoint")),
            ("AWS_REGION", self.fact("region")),
            ("AWS_ACCESS_KEY_ID", self.fact("access_key")),
            ("AWS_SECRET_ACCESS_KEY", self.fact("secret_key")),
            // Its credentials are those above; nobody has to look for others.
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// Settings of a control plane that makes its instances here.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let port = self.agents_port;
        vec![
            ("PROVIDER", "ec2".to_owned()),
            ("EC2_REGION", self.fact("region")),
            ("EC2_IMAGE", self.fact("image")),
            ("EC2_INSTANCE_TYPES", INSTANCE_TYPES.to_owned()),
            ("EC2_SUBNETS", self.subnets().join(",")),
            ("EC2_SECURITY_GROUPS", self.fact("security_group")),
            ("EC2_INSTANCE_PROFILE", self.fact("instance_profile")),
            ("EC2_MARKET", "on-demand".to_owned()),
            ("AGENT_LISTEN", format!("127.0.0.1:{port}")),
            ("AGENT_ADDRESS", format!("https://127.0.0.1:{port}")),
        ]
    }

    /// A plan of a world that makes its instances here.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for (key, value) in self.settings() {
            plan = plan.with(key, value);
        }
        for (name, value) in self.variables() {
            plan = plan.with_variable(name, value);
        }
        plan
    }

    /// Changes how it behaves where no rule says otherwise; `cloud.py` has the names.
    ///
    /// # Panics
    /// Where there is no such knob.
    pub async fn knobs(&self, knobs: Value) {
        self.post("knobs", knobs).await;
    }

    /// The faults from now on, in place of those before; `rules.py` says how they are
    /// written.
    ///
    /// # Panics
    /// On a rule that says something that nobody understands.
    pub async fn rules(&self, rules: Value) {
        self.post("rules", rules).await;
    }

    /// How often each rule was applied.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn applied(&self) -> Vec<u64> {
        let rules = self.look("rules").await;
        let rules = rules.as_array().into_iter().flatten();
        rules
            .map(|it| it["applied"].as_u64().unwrap_or_default())
            .collect()
    }

    /// The calls after the one with this number, oldest first.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn calls_after(&self, number: u64) -> Vec<Call> {
        let calls = self.look(&format!("calls?after={number}")).await;
        calls
            .as_array()
            .into_iter()
            .flatten()
            .map(Call::from)
            .collect()
    }

    /// All calls of one action, oldest first.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn calls(&self, action: &str) -> Vec<Call> {
        let mut calls = self.calls_after(0).await;
        calls.retain(|it| it.action == action);
        calls
    }

    /// All machines that ever were, oldest first.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn machines(&self) -> Vec<Machine> {
        let machines = self.look("machines").await;
        machines
            .as_array()
            .into_iter()
            .flatten()
            .map(Machine::from)
            .collect()
    }

    /// Those that cost money.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn alive(&self) -> Vec<Machine> {
        let mut machines = self.machines().await;
        machines.retain(Machine::is_alive);
        machines
    }

    /// One machine.
    ///
    /// # Panics
    /// Where there is none with this id.
    pub async fn machine(&self, id: &str) -> Machine {
        let machines = self.machines().await;
        let found = machines.into_iter().find(|it| it.id == id);
        found.unwrap_or_else(|| panic!("there is no machine {id}"))
    }

    /// A machine that somebody launches past the control plane: `tags`, `type`,
    /// `subnet`, `image`, `age_ms`, `agent` (`none` where nothing is said).
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn launch(&self, given: Value) -> Machine {
        Machine::from(&self.post("machines", given).await)
    }

    /// Something happens to a machine; `control.py` has the verbs.
    ///
    /// # Panics
    /// Where there is no such verb or machine.
    pub async fn verb(&self, id: &str, verb: &str, given: Value) -> Machine {
        Machine::from(&self.post(&format!("machines/{id}/{verb}"), given).await)
    }

    /// Somebody ends it at the console.
    ///
    /// # Panics
    /// Where there is no such machine.
    pub async fn terminate(&self, id: &str) {
        self.verb(id, "terminate", json!({})).await;
    }

    /// Somebody stops it at the console.
    ///
    /// # Panics
    /// Where there is no such machine.
    pub async fn stop_machine(&self, id: &str) {
        self.verb(id, "stop", json!({})).await;
    }

    /// Its status checks fail from now on.
    ///
    /// # Panics
    /// Where there is no such machine.
    pub async fn impair(&self, id: &str) {
        self.verb(id, "impair", json!({ "which": ["instance"] }))
            .await;
    }

    /// Listings leave it out; until `show` where there is no duration.
    ///
    /// # Panics
    /// Where there is no such machine.
    pub async fn hide(&self, id: &str, for_how_long: Option<Duration>) {
        let ms = for_how_long.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
        self.verb(id, "hide", json!({ "for_ms": ms })).await;
    }

    /// Listings have it again.
    ///
    /// # Panics
    /// Where there is no such machine.
    pub async fn show(&self, id: &str) {
        self.verb(id, "show", json!({})).await;
    }

    /// Spot capacity is taken back after this time, and the machine is told now.
    ///
    /// # Panics
    /// Where there is no such machine.
    pub async fn notice(&self, id: &str, after: Duration) {
        let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.verb(id, "notice", json!({ "in_ms": ms })).await;
    }

    /// It looks so much older than it is.
    ///
    /// # Panics
    /// Where there is no such machine.
    pub async fn age(&self, id: &str, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.verb(id, "age", json!({ "ms": ms })).await;
    }

    /// What its agent wrote so far.
    ///
    /// # Panics
    /// Where there is no such machine.
    pub async fn journal(&self, id: &str) -> String {
        let lines = self.look(&format!("machines/{id}/journal")).await;
        let lines = lines.as_array().into_iter().flatten();
        lines
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The one-time token of a machine, for a test that plays its agent; taken with the
    /// test's hands, past the log of calls.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn token(&self, machine: &Machine) -> Option<String> {
        let asked = json!({ "name": machine.token_parameter });
        let found = self.post("parameters", asked).await;
        found["value"].as_str().map(ToOwned::to_owned)
    }

    /// Puts another value into a parameter: another image, say.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn put_parameter(&self, name: &str, value: &str) {
        self.post("parameters", json!({ "name": name, "value": value }))
            .await;
    }

    /// The policies of `deploy/iam` hold from now on, for this deployment.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn enforce_policies(&self, deployment: &str) {
        self.knobs(json!({ "permissions": { "deployment": deployment } }))
            .await;
    }

    /// A world that follows this plan, for whose deployment the policies of `deploy/iam`
    /// hold as soon as it is known.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start_permitted(&self, plan: Plan) -> World {
        let world = plan.start().await;
        let world = world.unwrap_or_else(|error| panic!("{error:#}"));
        self.enforce_policies(&world.deployment()).await;
        world
    }

    /// Nothing that the control plane asked for was forbidden. Agents may be told so: a
    /// parameter that is not there yet has no tag that would permit it.
    ///
    /// # Panics
    /// On a call that the policies do not permit.
    pub async fn assert_permitted(&self) {
        let mut refused = self.calls_after(0).await;
        refused.retain(|it| it.caller == "control-plane" && FORBIDDEN.contains(&&*it.result));
        assert!(refused.is_empty(), "{refused:#?}");
    }

    /// What has to come out even.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn ledger(&self) -> Ledger {
        let machines = self.machines().await;
        let mut launches: BTreeMap<(String, String), usize> = BTreeMap::new();
        for it in machines.iter().filter(|it| !it.row.is_empty()) {
            *launches
                .entry((it.row.clone(), it.attempt.clone()))
                .or_default() += 1;
        }
        let parameters = self.look("parameters").await;
        let names = parameters.as_array().into_iter().flatten();
        Ledger {
            alive: machines
                .into_iter()
                .filter(|it| it.is_alive() && !it.row.is_empty())
                .collect(),
            launched_twice: launches
                .into_iter()
                .filter(|(_, count)| *count > 1)
                .map(|(key, _)| key)
                .collect(),
            parameters: names
                .filter_map(|it| it["name"].as_str())
                .filter(|it| it.contains("/enrol/"))
                .map(ToOwned::to_owned)
                .collect(),
            holes: serde_json::from_value(self.look("holes").await).unwrap_or_default(),
        }
    }

    /// Waits until the machines alive are one for each of these rows, no attempt of any
    /// row launched twice, and no token is left.
    ///
    /// # Panics
    /// With the ledger, where that does not come within `within`.
    pub async fn assert_balanced(&self, rows: &[&str], within: Duration) {
        let latest = Instant::now() + within;
        let mut expected: Vec<&str> = rows.to_vec();
        expected.sort_unstable();
        loop {
            let ledger = self.ledger().await;
            assert_eq!(ledger.holes, Vec::<String>::new());
            assert_eq!(ledger.launched_twice, Vec::new(), "{ledger:#?}");
            let mut alive: Vec<&str> = ledger.alive.iter().map(|it| it.row.as_str()).collect();
            alive.sort_unstable();
            if alive == expected && ledger.parameters.is_empty() {
                return;
            }
            let late = Instant::now() >= latest;
            assert!(
                !late,
                "expected {expected:?} within {within:?}: {ledger:#?}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends it, and looks at what is left: nothing may be.
    ///
    /// # Panics
    /// On a process that is left, or on something that it could not play.
    pub async fn stop(mut self) {
        let holes = self.look("holes").await;
        self.stdin = None;
        let ended = timeout(END_DEADLINE, self.child.wait()).await;
        assert!(matches!(ended, Ok(Ok(_))), "it does not end: {ended:?}");
        assert_eq!(holes, json!([]));
        let folder = self.folder.path().to_string_lossy().into_owned();
        eventually("no machine is left", END_DEADLINE, || async {
            !processes::all()
                .iter()
                .any(|it| it.command.contains(&folder))
        })
        .await;
    }

    async fn look(&self, door: &str) -> Value {
        let url = format!("{}/_test/{door}", self.fact("endpoint"));
        self.answer(self.http.get(url), door).await
    }

    async fn post(&self, door: &str, given: Value) -> Value {
        let url = format!("{}/_test/{door}", self.fact("endpoint"));
        self.answer(self.http.post(url).json(&given), door).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder, door: &str) -> Value {
        let answer = request.send().await.expect("it answers");
        let status = answer.status();
        let text = answer.text().await.expect("it answers");
        assert!(status.is_success(), "{door}: {status}: {text}");
        serde_json::from_str(&text).expect("it answers with JSON")
    }
}

impl Machine {
    /// Whether it costs money.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(
            self.state.as_str(),
            "pending" | "running" | "stopping" | "stopped"
        )
    }
}

impl From<&Value> for Machine {
    fn from(report: &Value) -> Self {
        let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
        let process = report["agent_process"].as_i64();
        Self {
            id: text("id"),
            state: text("state"),
            reason: text("reason"),
            row: text("row"),
            attempt: text("attempt"),
            tags: serde_json::from_value(report["tags"].clone()).unwrap_or_default(),
            instance_type: text("type"),
            subnet: text("subnet"),
            image: text("image"),
            market: text("market"),
            guest: text("guest"),
            metadata_endpoint: text("metadata_endpoint"),
            token_parameter: text("token_parameter"),
            agent_process: process.and_then(|it| i32::try_from(it).ok()),
            report: report.clone(),
        }
    }
}

impl From<&Value> for Call {
    fn from(report: &Value) -> Self {
        let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
        Self {
            number: report["number"].as_u64().unwrap_or_default(),
            at: Duration::from_secs_f64(report["at_ms"].as_f64().unwrap_or_default() / 1000.0),
            action: text("action"),
            result: text("result"),
            caller: text("caller"),
            report: report.clone(),
        }
    }
}

impl Drop for Aws {
    /// Machines end with it: it is given the time to end them.
    fn drop(&mut self) {
        self.stdin = None;
        let latest = Instant::now() + END_DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < latest {
            std::thread::sleep(LOOK_EVERY);
        }
        if std::thread::panicking() {
            let said = std::fs::read_to_string(self.folder.path().join("errors"));
            eprintln!("AWS said: {}", said.unwrap_or_default());
        }
    }
}

/// A port that nobody listens on now. Agents are told it before anybody listens.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_told_what_to_do_and_tells_what_it_did() {
        let aws = Aws::start().await.expect("it starts");
        assert_eq!(aws.subnets().len(), 3);
        aws.knobs(json!({ "shutting_down_ms": 0 })).await;
        aws.rules(json!([{ "do": { "error": "InternalError" }, "times": 1 }]))
            .await;
        assert_eq!(aws.applied().await, [0]);

        let tags = json!({ "browserfleet:row": "ins_1", "browserfleet:attempt": "1" });
        let machine = aws.launch(json!({ "tags": tags })).await;
        assert_eq!(machine.row, "ins_1");
        let ready = || async { aws.machine(&machine.id).await.guest == "up" };
        eventually("it is up", END_DEADLINE, ready).await;
        aws.assert_balanced(&["ins_1"], END_DEADLINE).await;

        aws.put_parameter("/browserfleet/x/enrol/i-1", "secret")
            .await;
        assert_eq!(aws.ledger().await.parameters.len(), 1);
        let twice = aws.launch(json!({ "tags": tags })).await;
        let ledger = aws.ledger().await;
        assert_eq!(ledger.launched_twice, [("ins_1".into(), "1".into())]);
        for it in [machine, twice] {
            aws.terminate(&it.id).await;
            let ended = || async { aws.machine(&it.id).await.state == "terminated" };
            eventually("it ends", END_DEADLINE, ended).await;
        }
        assert!(aws.alive().await.is_empty() && aws.calls_after(0).await.is_empty());
        aws.stop().await;
    }
}
