//! Many at once: agents that come back together, users who want the same instance, and
//! an agent that is not wanted any more.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use browserfleet_agent::Backoff;
use browserfleet_tests::api::Caller;
use browserfleet_tests::eventually;
use browserfleet_tests::scripted_agent::{Machines, Roster, ScriptedAgent};
use browserfleet_tests::world::{PASSWORD, Plan, World};
use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::replicas::{Pair, pair_of};

/// How long a start, an end or a handover may take.
const SOON: Duration = Duration::from_secs(15);

/// Held by tests that take all of a machine: two of them at once measure each other.
static WHOLE_MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Users who want the one instance, and how many requests they make at once.
const USERS: usize = 10;
const ASKING: usize = 50;
/// How long they go on with it.
const ROUNDS_LAST: Duration = Duration::from_secs(30);

struct Race {
    pair: Pair,
    users: Vec<Caller>,
}

impl Race {
    fn count(&self, of: &str) -> String {
        let sql = format!("select count(*) from {of}");
        self.pair.postgres.query("fleet", &sql).unwrap()
    }

    /// All ask for the one instance at once, at both control planes. Gives who got it.
    async fn once(&self) -> (Caller, String) {
        let free = "instances where status = 'running' and assigned_to_user_id is null \
            and recycling_since is null";
        eventually("the instance is free", SOON, || async {
            self.count(free) == "1"
        })
        .await;
        let asked = (0..ASKING).map(|number| {
            let user = &self.users[number % USERS];
            let world = &self.pair.worlds[number / USERS % 2];
            let caller = world.nobody().with_token(user.token());
            async move { (user, caller.post("/api/sessions", json!({})).await) }
        });
        let replies = join_all(asked).await;
        let holding = "sessions where status_rank between 1 and 3";
        eventually("one holds it", SOON, || async {
            self.count("sessions where status_rank = 2") == "1"
        })
        .await;
        assert_eq!(self.count(holding), "1");
        let sql = "select id from sessions where status_rank = 2";
        let winner = self.pair.postgres.query("fleet", sql).unwrap();
        let mut holder = None;
        for (user, reply) in &replies {
            let (id, waits) = match reply.status {
                201 => (reply.text("id"), false),
                202 => (reply.text("ticket"), true),
                // Said at once: there is none, or they have one.
                503 | 429 => continue,
                _ => panic!("{reply:?}"),
            };
            if id == winner {
                holder = Some((*user).clone());
            } else {
                assert!(waits, "{id} was told that it is live, and {winner} is");
                end(user, &id).await;
            }
        }
        assert_eq!(self.count(holding), "1", "nobody else got it meanwhile");
        let holder = holder.expect("somebody asked for what is live");
        (holder, winner)
    }
}

async fn end(caller: &Caller, session: &str) {
    let path = format!("/api/sessions/{session}");
    caller.delete(&path).await.ok();
}

#[tokio::test]
async fn of_fifty_who_ask_two_control_planes_at_once_one_gets_the_instance() {
    let _alone = WHOLE_MACHINE.lock().await;
    let kit = Machines::new().unwrap();
    let plan = Plan::default()
        .with("LOCAL_AGENT", kit.program().display())
        .with("POOL_WARM", 1)
        .with("POOL_MAX", 1)
        .with("POOL_IDLE_MS", 0)
        .with("POOL_REUSE", "proven-clean")
        .with("SESSIONS_PER_INSTANCE", 1);
    let pair = pair_of(plan).await;
    let crew = kit.work();
    let mut users = Vec::new();
    for number in 0..USERS {
        users.push(pair.worlds[0].user(&format!("user{number}")).await);
    }
    let race = Race { pair, users };
    let started = Instant::now();
    let mut rounds = 0;
    while started.elapsed() < ROUNDS_LAST {
        let (holder, session) = race.once().await;
        end(&holder, &session).await;
        rounds += 1;
    }
    // The one who knows best: its agent never held two, and no lease is older than the
    // one before. A machine that is busy with all of this may be taken for a sick one and
    // replaced; nobody gets two for it.
    let rosters = crew.rosters();
    let mut leases = 0;
    for roster in rosters.values() {
        assert!(roster.held_most() <= 1);
        let opened = roster.opened();
        assert!(
            opened.is_sorted_by(|one, next| one.1 < next.1),
            "{opened:?}"
        );
        leases += opened.len();
    }
    assert!(leases >= rounds);
    println!("{rounds} rounds of {ASKING}, {leases} leases");
    let Race { pair, .. } = race;
    for world in pair.worlds {
        world.stop().await;
    }
}

/// Agents that are back within [`BACK_WITHIN`], of all.
const AGENTS: usize = 500;
const BACK_PART: f64 = 0.95;
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// How much busier than the mean the busiest second may be.
const PEAK_MAX: f64 = 3.0;
/// How long the control plane is away.
const AWAY: Duration = Duration::from_secs(15);
/// How often somebody signs in meanwhile.
const SIGN_IN_EVERY: Duration = Duration::from_secs(1);
/// How long signing in may take meanwhile: far less than a client waits, and more than a
/// busy machine needs for a password.
const SIGN_IN_MAX: Duration = Duration::from_secs(5);

/// When agents were welcomed.
type Arrivals = Arc<Mutex<Vec<Instant>>>;

/// Lives as our agent does, which dials again after its own waits.
async fn live(agent: ScriptedAgent, arrivals: Arrivals) {
    let mut backoff = Backoff::default();
    loop {
        let dialed = Instant::now();
        let mut held = Duration::ZERO;
        if let Ok(link) = agent.link().await {
            arrivals.lock().unwrap().push(Instant::now());
            drop(link.serve_noting("1", &Roster::default()).await);
            held = dialed.elapsed();
        }
        sleep(backoff.after(held, rand::random(), None)).await;
    }
}

/// All agents of a pool that is as large, with their links.
async fn many(world: &World, kit: &mut Machines, arrivals: &Arrivals) -> JoinSet<()> {
    let mut agents = JoinSet::new();
    for _ in 0..AGENTS {
        let invitation = kit.invitation().await.unwrap();
        let arrivals = Arc::clone(arrivals);
        agents.spawn(async move {
            let agent = ScriptedAgent::join(invitation).await.unwrap();
            live(agent, arrivals).await;
        });
    }
    let admin = world.administrator().await;
    eventually("all are ready", Duration::from_secs(60), || async {
        let pool = admin.get("/api/ec2/pool").await.ok();
        pool["instances"]["ready"] == AGENTS
    })
    .await;
    agents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_agents_come_back_apart_and_soon_and_users_sign_in_meanwhile() {
    let _alone = WHOLE_MACHINE.lock().await;
    let mut kit = Machines::new().unwrap();
    let mut world = Plan::default()
        .with("LOCAL_AGENT", kit.program().display())
        .with("POOL_WARM", AGENTS)
        .with("POOL_MAX", AGENTS)
        .with(
            "LOG",
            "warn,browserfleet=warn,browserfleet_control_plane::app=info",
        )
        .start()
        .await
        .unwrap();
    let arrivals = Arrivals::default();
    let started = Instant::now();
    let agents = many(&world, &mut kit, &arrivals).await;
    println!("{AGENTS} agents joined within {:?}", started.elapsed());
    let users = ["a", "b", "c", "d", "e", "f"].map(|name| format!("{name}@example.com"));
    for user in &users {
        world.register(user, PASSWORD).await;
    }

    world.kill().await;
    sleep(AWAY).await;
    arrivals.lock().unwrap().clear();
    world.start_again().await;
    let back = Instant::now();
    let mut slowest = Duration::ZERO;
    let enough = (AGENTS as f64 * BACK_PART) as usize;
    let mut enough_after = None;
    // In turns: nobody may try too often.
    for user in users.iter().cycle() {
        if arrivals.lock().unwrap().len() == AGENTS || back.elapsed() > BACK_WITHIN {
            break;
        }
        let asked = Instant::now();
        let signed_in = world.nobody().sign_in(user, PASSWORD).await;
        assert!(signed_in.is_ok(), "{signed_in:?}");
        slowest = slowest.max(asked.elapsed());
        if arrivals.lock().unwrap().len() >= enough {
            enough_after.get_or_insert(back.elapsed());
        }
        sleep(SIGN_IN_EVERY).await;
    }
    let arrived = arrivals.lock().unwrap().clone();
    assert!(arrived.len() >= enough, "{} came back", arrived.len());
    let first = *arrived.iter().min().unwrap();
    let took = arrived.iter().max().unwrap().duration_since(first);
    let mut seconds = vec![0_usize; took.as_secs() as usize + 1];
    for arrival in &arrived {
        seconds[arrival.duration_since(first).as_secs() as usize] += 1;
    }
    let mean = arrived.len() as f64 / took.as_secs_f64().max(1.0);
    let peak = seconds.iter().copied().max().unwrap_or_default() as f64 / mean;
    println!(
        "{} of {AGENTS} back within {:?}, {enough} of them within {enough_after:?}; by second: \
         {seconds:?}; the busiest {peak:.2} times the mean; signing in took {slowest:?} at the most",
        arrived.len(),
        back.elapsed()
    );
    assert!(peak <= PEAK_MAX, "{peak:.2}: {seconds:?}");
    assert!(slowest < SIGN_IN_MAX, "{slowest:?}");
    // Nobody was taken for lost meanwhile.
    let admin = world.administrator().await;
    let pool = admin.get("/api/ec2/pool").await.ok();
    assert_eq!(pool["instances"]["stopping"], 0, "{pool}");
    drop(agents);
    world.stop().await;
}

#[tokio::test]
async fn an_agent_whose_instance_is_deleted_is_cut_off_and_refused_for_good() {
    let mut kit = Machines::new().unwrap();
    let world = Plan::default()
        .with("LOCAL_AGENT", kit.program().display())
        .with("POOL_WARM", 0)
        .start()
        .await
        .unwrap();
    let alice = world.user("alice").await;
    let wanted = alice.post("/api/ec2/instances", json!({})).await.ok();
    let agent = kit.next().await.unwrap();
    assert_eq!(wanted["id"], agent.instance.as_str());
    let mut link = agent.link().await.unwrap();
    // One connection, which was made while it was welcome.
    let renewing = agent.renewed().await;
    assert!(renewing.is_ok(), "{renewing:?}");
    let path = format!("/api/ec2/instances/{}", agent.instance);
    let asked = Instant::now();
    alice.delete(&path).await.ok();
    let ended = timeout(Duration::from_secs(5), link.end()).await;
    let last_word = ended.expect("it is cut within 5 s").unwrap();
    println!("cut off after {:?}: {last_word:?}", asked.elapsed());
    let refused = agent.link().await.unwrap_err().to_string();
    assert!(refused.contains("instance_ended"), "{refused}");
    assert!(refused.contains("permanent: true"), "{refused}");
    let refused = agent.renewed().await.unwrap_err();
    let status = refused.downcast_ref::<tonic::Status>();
    let code = status.map(tonic::Status::code);
    assert_eq!(code, Some(tonic::Code::PermissionDenied), "{refused}");
    world.stop().await;
}
