//! Agents that do what ours does not: the control plane believes none of them more than
//! its certificate allows, and nobody else notices.

use std::time::{Duration, Instant};

use browserfleet_proto::agent::v1::from_agent::Body as Said;
use browserfleet_proto::agent::v1::to_agent::Body as Heard;
use browserfleet_proto::agent::v1::{Command, Hello, SessionEnded, Settled};
use browserfleet_proto::ids::{BootId, CommandId, SessionId};
use browserfleet_proto::limits;
use browserfleet_tests::api::{Caller, Reply, Session};
use browserfleet_tests::eventually;
use browserfleet_tests::scripted_agent::{Link, Machines, executed};
use browserfleet_tests::world::{Plan, World};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::Code;

/// A world whose machines are this test's, one session on each.
async fn world_of(machines: u32) -> (World, Machines) {
    let kit = Machines::new().unwrap();
    let world = Plan::default()
        .with("LOCAL_AGENT", kit.program().display())
        .with("POOL_WARM", machines)
        .with("POOL_MAX", machines)
        .with("SESSIONS_PER_INSTANCE", 1)
        .start()
        .await
        .unwrap();
    (world, kit)
}

/// A session that was opened over this link.
async fn opened_over(link: &mut Link, caller: &Caller) -> Session {
    let (session, opened) = tokio::join!(caller.open(json!({})), link.open());
    assert_eq!(opened.unwrap().session_id, session.id);
    session
}

fn executing(session: &Session, timeout_ms: u64) -> JoinHandle<Reply> {
    let session = session.clone();
    let parameters = json!({ "expression": "1", "timeout_ms": timeout_ms });
    tokio::spawn(async move { session.command("execute", parameters).await })
}

fn serving(link: Link, value: &'static str) -> JoinHandle<anyhow::Result<()>> {
    tokio::spawn(link.serve(value))
}

#[tokio::test]
async fn of_two_links_with_one_certificate_the_newer_stays() {
    let (world, mut machines) = world_of(1).await;
    let agent = machines.next().await.unwrap();
    let mut older = agent.link().await.unwrap();
    let alice = world.user("alice").await;
    let session = opened_over(&mut older, &alice).await;
    // Another process with the same key: it does not hold what the first one holds.
    let mut thief = agent.clone();
    thief.boot = BootId::new().to_string();
    let newer = thief.link().await.unwrap();
    assert_eq!(newer.welcome.kept_sessions, Vec::<String>::new());
    let last_word = older.end().await.unwrap();
    assert!(last_word.is_none_or(|it| it.code() == tonic::Code::Aborted));
    assert!(world.log().contains("a second link of the same agent"));
    assert_eq!(session.show().await["end_reason"], "agent_restarted");
    let serving = serving(newer, "2");
    let next = alice.open(json!({})).await;
    assert_eq!(next.value("1").await, 2);
    // What the older still has to say is not heard.
    drop(older);
    next.end().await.ok();
    world.stop().await;
    serving.await.unwrap().ok();
}

fn forged(command: &str, session: &str, epoch: u64) -> Said {
    let command = Command {
        command_id: command.into(),
        session_id: session.into(),
        epoch,
        ..Command::default()
    };
    executed(&command, "\"forged\"")
}

#[tokio::test]
async fn what_is_not_an_agents_to_report_is_dropped_and_then_its_link_is() {
    let (world, mut machines) = world_of(2).await;
    let (first, second) = (
        machines.next().await.unwrap(),
        machines.next().await.unwrap(),
    );
    let (mut honest, mut odd) = (first.link().await.unwrap(), second.link().await.unwrap());
    let alice = world.user("alice").await;
    // Whichever machine gets the session is the honest one.
    let (session, is_first) = tokio::join!(alice.open(json!({})), async {
        tokio::select! {
            opened = honest.open() => opened.is_ok(),
            opened = odd.open() => opened.is_err(),
        }
    });
    if !is_first {
        std::mem::swap(&mut honest, &mut odd);
    }
    let own = opened_over(&mut odd, &world.user("bob").await).await;
    let asked = executing(&session, 8_000);
    let command = honest.command().await.unwrap();
    // In the name of a session that it does hold.
    odd.report(forged(&command.command_id, &own.id, 1))
        .await
        .unwrap();
    let another_agents = forged(&command.command_id, &command.session_id, command.epoch);
    odd.report(another_agents).await.unwrap();
    let ended = SessionEnded {
        session_id: command.session_id.clone(),
        epoch: command.epoch,
        reason: "forged".into(),
        message: String::new(),
    };
    odd.report(Said::SessionEnded(ended)).await.unwrap();
    let former_epoch = forged(
        &CommandId::new().to_string(),
        &session.id,
        command.epoch - 1,
    );
    honest.report(former_epoch).await.unwrap();
    for _ in 0..200 {
        let unknown = forged(
            &CommandId::new().to_string(),
            &SessionId::new().to_string(),
            1,
        );
        if odd.report(unknown).await.is_err() {
            break;
        }
    }
    let last_word = odd.end().await.unwrap().unwrap();
    assert_eq!(
        last_word.code(),
        tonic::Code::PermissionDenied,
        "{last_word}"
    );
    honest.report(executed(&command, "\"real\"")).await.unwrap();
    let answered = asked.await.unwrap();
    assert_eq!(answered.ok()["value"], "real");
    let row = &session.commands().await[0];
    assert!(row["result"].to_string().contains("real"), "{row}");
    assert_eq!(session.show().await["status"], "live");
    assert!(world.log().contains("not this agent's to make"));
    let serving = serving(honest, "1");
    session.end().await.ok();
    world.stop().await;
    serving.await.unwrap().ok();
}

#[tokio::test]
async fn a_message_over_the_limit_ends_its_link_and_no_other() {
    let (world, mut machines) = world_of(2).await;
    let (first, second) = (
        machines.next().await.unwrap(),
        machines.next().await.unwrap(),
    );
    let mut large = first.link().await.unwrap();
    let other = second.link().await.unwrap();
    let message = Said::Settled(Settled {
        payload: vec![0; limits::LINK_MESSAGE_BYTES_MAX + 1].into(),
        ..Settled::default()
    });
    large.report(message).await.unwrap();
    let last_word = large.end().await.unwrap().unwrap();
    assert_eq!(
        last_word.code(),
        tonic::Code::ResourceExhausted,
        "{last_word}"
    );
    let started = Instant::now();
    let again = first.link().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    let serving = [serving(again, "1"), serving(other, "1")];
    // The largest message of the other direction: a whole body of text.
    let text = "x".repeat(limits::TEXT_BYTES_MAX);
    for name in ["alice", "bob"] {
        let session = world.user(name).await.open(json!({})).await;
        let reply = session.command("execute", json!({ "expression": text }));
        assert_eq!(reply.await.ok()["value"], 1);
    }
    world.stop().await;
    for serving in serving {
        serving.await.unwrap().ok();
    }
}

#[tokio::test]
async fn another_release_works_or_is_told_why_not() {
    let (world, mut machines) = world_of(1).await;
    let agent = machines.next().await.unwrap();
    for version in [0, browserfleet_proto::PROTOCOL_VERSION + 1] {
        let hello = Hello {
            protocol_version: version,
            ..agent.hello()
        };
        let refused = agent.link_after(hello).await.unwrap_err().to_string();
        assert!(refused.contains("protocol_version"), "{refused}");
        assert!(
            refused.contains("run the same release of both"),
            "{refused}"
        );
    }
    let newer = agent.link_of_a_newer_release().await.unwrap();
    let serving = serving(newer, "\"both\"");
    let session = world.user("alice").await.open(json!({})).await;
    assert_eq!(session.value("1").await, "both");
    session.end().await.ok();
    world.stop().await;
    serving.await.unwrap().ok();
}

#[tokio::test]
async fn an_agent_that_stops_reading_is_busy_at_once() {
    let (world, mut machines) = world_of(2).await;
    let agent = machines.next().await.unwrap();
    let other = machines.next().await.unwrap();
    let mut deaf = agent.link().await.unwrap();
    let alice = world.user("alice").await;
    let session = opened_over(&mut deaf, &alice).await;
    let other = serving(other.link().await.unwrap(), "1");
    let neighbour = world.user("bob").await.open(json!({})).await;
    // A connection takes some two MiB before its reader has to.
    let expression = "x".repeat(64 * 1024);
    let parameters = json!({ "expression": expression, "timeout_ms": 5_000 });
    let mut asked = Vec::new();
    for _ in 0..limits::LINK_QUEUE_MAX + 64 {
        let (session, parameters) = (session.clone(), parameters.clone());
        asked.push(tokio::spawn(async move {
            let started = Instant::now();
            (
                session.command("execute", parameters).await,
                started.elapsed(),
            )
        }));
    }
    let mut busy = 0;
    assert_eq!(neighbour.value("1").await, 1);
    for asked in asked {
        let (reply, took) = asked.await.unwrap();
        match (reply.status, reply.text("code").as_str()) {
            (503, "agent_busy") => {
                // At once, and not at its deadline, however busy this machine is.
                assert!(took < Duration::from_secs(4), "{took:?}");
                busy += 1;
            }
            // Those that the queue took have their deadline: they were sent or not.
            (503, "not_sent") | (504, "outcome_unknown") => {}
            _ => panic!("{reply:?}"),
        }
    }
    assert!(busy > 0, "nothing was refused");
    drop(deaf);
    let ended = || async { session.show().await["status"] != "live" };
    let again = serving(agent.link().await.unwrap(), "1");
    eventually("the session is over", Duration::from_secs(5), ended).await;
    neighbour.end().await.ok();
    world.stop().await;
    for serving in [other, again] {
        serving.await.unwrap().ok();
    }
}

#[tokio::test]
async fn an_agent_is_drained_before_its_machine_ends() {
    let (mut world, mut machines) = world_of(1).await;
    let mut link = machines.next().await.unwrap().link().await.unwrap();
    let (status, heard) = tokio::join!(world.terminate(), async {
        loop {
            match link.hear().await.unwrap() {
                Some(Heard::Drain(drain)) => return drain.reason,
                Some(_) => {}
                None => panic!("the link ended before"),
            }
        }
    });
    assert!(status.success());
    assert_eq!(heard, "the instance is being ended");
    world.stop().await;
}

#[tokio::test]
async fn a_large_picture_holds_nobody_up() {
    let (world, mut machines) = world_of(2).await;
    let (first, second) = (
        machines.next().await.unwrap(),
        machines.next().await.unwrap(),
    );
    let mut link = first.link().await.unwrap();
    let alice = world.user("alice").await;
    let session = opened_over(&mut link, &alice).await;
    let other = serving(second.link().await.unwrap(), "1");
    let neighbour = world.user("bob").await.open(json!({})).await;
    let shot = {
        let session = session.clone();
        tokio::spawn(async move { session.command("screenshot", json!({})).await })
    };
    let command = link.command().await.unwrap();
    const PICTURE_BYTES: usize = 20 * 1024 * 1024;
    let (delivered, mut times) = tokio::join!(first.deliver(&command, PICTURE_BYTES), async {
        let mut times = Vec::new();
        for _ in 0..20 {
            let started = Instant::now();
            assert_eq!(neighbour.value("1").await, 1);
            times.push(started.elapsed());
        }
        times
    });
    times.sort_unstable();
    let median = times[times.len() / 2];
    delivered.unwrap();
    assert!(median < Duration::from_millis(200), "{times:?}");
    link.report(browserfleet_tests::scripted_agent::captured(&command))
        .await
        .unwrap();
    let reply = shot.await.unwrap().ok();
    let picture = reply["data"].as_str().unwrap();
    assert_eq!(picture.len(), PICTURE_BYTES.div_ceil(3) * 4);
    let serving = serving(link, "1");
    session.end().await.ok();
    neighbour.end().await.ok();
    world.stop().await;
    for serving in [serving, other] {
        serving.await.unwrap().ok();
    }
}

#[tokio::test]
async fn users_do_not_reach_the_agents_port_nor_agents_the_users() {
    let (world, mut kit) = world_of(1).await;
    let agent = kit.next().await.unwrap();
    let admin = world.administrator().await;
    // A user's token is no certificate.
    let refused = agent.link_without_a_certificate(admin.token()).await;
    let refused = refused.expect_err("nobody links without a certificate");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    // Neither the other way: on REST, who brings no token is nobody, whatever they are elsewhere.
    for path in ["/api/users/me", "/api/admin/users", "/api/sessions"] {
        let reply = world.nobody().with_token(&agent.instance).get(path).await;
        assert_eq!(reply.status, 401, "{path}");
    }
    drop(agent);
    world.stop().await;
}
