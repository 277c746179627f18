//! Who drives a session: its automation, or one person at a time.

use std::time::{Duration, Instant};

use browserfleet_tests::api::{Caller, Reply, Session};
use browserfleet_tests::eventually;
use browserfleet_tests::world::{PASSWORD, Plan, World};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::replicas::pair_of;

const SOON: Duration = Duration::from_secs(5);

async fn post(session: &Session, what: &str, body: Value) -> Reply {
    let path = format!("/api/sessions/{}/{what}", session.id);
    session.caller.post(&path, body).await
}

async fn get(session: &Session, what: &str) -> Reply {
    let path = format!("/api/sessions/{}/{what}", session.id);
    session.caller.get(&path).await
}

async fn take(session: &Session) -> Value {
    post(session, "control", json!({ "action": "take" }))
        .await
        .ok()
}

async fn release(session: &Session) -> Value {
    post(session, "control", json!({ "action": "release" }))
        .await
        .ok()
}

/// Runs a command beside the test.
fn begin(session: &Session, expression: &str, timeout_ms: u64) -> tokio::task::JoinHandle<Reply> {
    let (session, body) = (
        session.clone(),
        json!({ "expression": expression, "timeout_ms": timeout_ms }),
    );
    tokio::spawn(async move { session.command("execute", body).await })
}

async fn history_of(session: &Session) -> Vec<(String, String)> {
    let commands = session.commands().await;
    let word = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    commands
        .iter()
        .map(|it| (word(&it["status"]), word(&it["error"]["code"])))
        .collect()
}

#[tokio::test]
async fn while_a_person_drives_commands_are_refused_and_what_was_under_way_finishes() {
    let world = World::new().await.unwrap();
    let session = world.user("alice").await.open(json!({})).await;
    assert_eq!(session.show().await["control"]["held_by"], "automation");
    let slow = "new Promise((done) => setTimeout(() => done('done'), 1000))";
    let under_way = begin(&session, slow, 10_000);
    eventually("it is under way", SOON, || async {
        session.commands().await.len() == 1
    })
    .await;
    let control = take(&session).await;
    assert_eq!(
        (&control["held_by"], &control["person"]),
        (&json!("person"), &json!("owner"))
    );
    assert!(control["holder_id"].as_str().unwrap().starts_with("ctl_"));
    let refused = session
        .command("execute", json!({ "expression": "1" }))
        .await;
    assert_eq!(
        (refused.status, refused.code()),
        (423, "control_held".into())
    );
    assert_eq!(refused.json()["retryable"], true);
    assert_eq!(session.state().await.status, 423);
    assert_eq!(under_way.await.unwrap().ok()["value"], "done");
    assert_eq!(
        session.show().await["control"],
        get(&session, "control").await.ok()
    );
    // Whoever takes it again goes on; who wants their other pages out says so.
    let again = take(&session).await;
    assert_eq!(again["holder_id"], control["holder_id"]);
    let forced = json!({ "action": "take", "force": true });
    let forced = post(&session, "control", forced).await.ok();
    assert_ne!(forced["holder_id"], control["holder_id"]);
    assert_eq!(release(&session).await["held_by"], "automation");
    assert_eq!(session.value("1 + 1").await, 2);
    assert_eq!(
        session.commands().await.len(),
        2,
        "what was refused is no command"
    );
    world.stop().await;
}

#[tokio::test]
async fn held_commands_run_in_order_once_the_person_is_done() {
    let world = World::new().await.unwrap();
    let session = world
        .user("alice")
        .await
        .open(json!({ "while_controlled": "hold" }))
        .await;
    assert_eq!(session.show().await["while_controlled"], "hold");
    session.value("window.seen = []").await;
    take(&session).await;
    let mut held = Vec::new();
    for number in 0..8 {
        held.push(begin(&session, &format!("seen.push({number})"), 20_000));
        eventually("it waits", SOON, || async {
            session.commands().await.len() == 2 + number
        })
        .await;
    }
    assert!(held.iter().all(|it| !it.is_finished()));
    release(&session).await;
    let last = session.value("seen.join()").await;
    for command in held {
        command.await.unwrap().ok();
    }
    assert_eq!(last, "0,1,2,3,4,5,6,7", "what comes later goes later");
    world.stop().await;
}

#[tokio::test]
async fn a_held_command_ends_by_its_deadline_and_with_its_session() {
    let world = World::new().await.unwrap();
    let session = world
        .user("alice")
        .await
        .open(json!({ "while_controlled": "hold" }))
        .await;
    take(&session).await;
    let started = Instant::now();
    let late = begin(&session, "window.late = 1", 500).await.unwrap();
    assert_eq!((late.status, late.code()), (423, "control_held".into()));
    assert!((500..2_500).contains(&started.elapsed().as_millis()));
    let not_sent = ("not_sent".to_owned(), "control_held".to_owned());
    assert_eq!(history_of(&session).await, std::slice::from_ref(&not_sent));
    let waiting = begin(&session, "1", 60_000);
    eventually("it waits", SOON, || async {
        session.commands().await.len() == 2
    })
    .await;
    session.end().await.ok();
    assert_eq!(waiting.await.unwrap().code(), "session_gone");
    assert_eq!(history_of(&session).await[0].0, "not_sent");
    let ended = session.show().await;
    assert_eq!(ended["control"]["held_by"], "automation");
    let refused = post(&session, "control", json!({ "action": "take" })).await;
    assert_eq!(refused.code(), "session_gone");
    world.stop().await;
}

#[tokio::test]
async fn a_hold_that_nobody_renews_ends_by_itself() {
    let world = World::new().await.unwrap();
    let session = world
        .user("alice")
        .await
        .open(json!({ "while_controlled": "hold" }))
        .await;
    let brief = json!({ "action": "take", "expires_in_ms": 1_000 });
    post(&session, "control", brief).await.ok();
    let started = Instant::now();
    assert_eq!(session.value("1 + 1").await, 2);
    let waited = started.elapsed().as_millis();
    assert!((500..2_000).contains(&waited), "{waited} ms");
    assert_eq!(session.show().await["control"]["held_by"], "automation");
    for odd in [0, 999, 3_600_001] {
        let odd = json!({ "action": "take", "expires_in_ms": odd });
        let refused = post(&session, "control", odd).await;
        assert_eq!(refused.text("field"), "expires_in_ms");
    }
    for odd in [
        json!({}),
        json!({ "action": "steal" }),
        json!({ "action": "give" }),
        json!({ "action": "give", "to": "somebody" }),
        json!({ "action": "release", "to": "owner" }),
    ] {
        let refused = post(&session, "control", odd.clone()).await;
        assert_eq!(refused.status, 422, "{odd}: {refused:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_handoff_parks_the_automation_until_a_person_answers() {
    let world = World::new().await.unwrap();
    let alice = world.user("alice").await;
    let key = json!({ "name": "k", "scopes": ["sessions:read", "sessions:write"] });
    let key = alice.post("/api/keys", key).await.ok();
    let program = alice.with_token(key["key"].as_str().unwrap());
    let session = program.open(json!({})).await;
    let mine = Session {
        caller: alice.clone(),
        id: session.id.clone(),
    };
    assert_eq!(get(&session, "handoff").await.status, 404);
    let answer = |outcome: &str| json!({ "outcome": outcome, "note": "it was a bridge" });
    let none = post(&mine, "handoff/answer", answer("completed")).await;
    assert_eq!((none.status, none.code()), (409, "handoff_not_open".into()));
    let asked =
        json!({ "reason": "captcha", "instructions": "find the bridges", "timeout_ms": 60_000 });
    let handoff = post(&session, "handoff", asked.clone()).await;
    assert_eq!(
        (handoff.status, handoff.text("status")),
        (202, "open".into())
    );
    let twice = post(&session, "handoff", asked).await;
    assert_eq!((twice.status, twice.code()), (409, "handoff_open".into()));
    let parked = session.state().await;
    assert_eq!((parked.status, parked.code()), (423, "control_held".into()));
    assert_eq!(session.show().await["handoff"]["reason"], "captcha");
    // A program does not answer for a person.
    let refused = post(&session, "handoff/answer", answer("completed")).await;
    assert_eq!(refused.status, 403);
    take(&mine).await;
    let waiting = {
        let session = session.clone();
        tokio::spawn(async move { get(&session, "handoff?wait_ms=20000").await.ok() })
    };
    let answered = post(&mine, "handoff/answer", answer("completed"))
        .await
        .ok();
    assert_eq!(answered["status"], "completed");
    assert_eq!(waiting.await.unwrap(), answered);
    assert_eq!(answered["note"], "it was a bridge");
    assert_eq!(session.value("1 + 1").await, 2, "control went back");
    // Who wants to waits at once.
    let waiting = {
        let session = session.clone();
        tokio::spawn(async move {
            let asked = json!({ "reason": "again", "wait_ms": 20_000 });
            post(&session, "handoff", asked).await
        })
    };
    eventually("it is asked", SOON, || async {
        mine.show().await["handoff"]["status"] == "open"
    })
    .await;
    post(&mine, "handoff/answer", answer("declined")).await.ok();
    let declined = waiting.await.unwrap();
    assert_eq!(
        (declined.status, declined.text("status")),
        (200, "declined".into())
    );
    // Nobody answers.
    let asked = json!({ "reason": "nobody", "timeout_ms": 1_000, "wait_ms": 20_000 });
    let expired = post(&session, "handoff", asked).await;
    assert_eq!(
        (expired.status, expired.text("status")),
        (200, "expired".into())
    );
    assert_eq!(session.value("1 + 1").await, 2);
    let lines = world
        .administrator()
        .await
        .get("/api/admin/audit?limit=100")
        .await
        .ok();
    for action in ["handoff.requested", "handoff.answered", "control.taken"] {
        let line = lines["data"]
            .as_array()
            .unwrap()
            .iter()
            .find(|it| it["action"] == action);
        assert!(line.is_some(), "{action}: {lines}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_share_opens_one_session_and_ends_when_its_owner_wants() {
    let world = World::new().await.unwrap();
    let session = world.user("alice").await.open(json!({})).await;
    let wish = json!({ "right": "drive", "name": "Bob", "expires_in_ms": 60_000 });
    let share = post(&session, "shares", wish).await.ok();
    let token = share["token"].as_str().unwrap();
    let url = share["url"].as_str().unwrap();
    assert!(
        url.ends_with(&format!("/live/{}#share={token}", session.id)),
        "{url}"
    );
    let listed = get(&session, "shares").await.ok();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!(listed["data"][0]["name"], "Bob");
    assert_eq!(listed["data"][0]["last_used_at"], Value::Null);
    assert!(!listed.to_string().contains(token), "it is shown once");
    let nobody = world.nobody();
    let redeem = |token: &str| {
        let (nobody, body) = (nobody.clone(), json!({ "token": token }));
        async move { nobody.post("/api/shares/redeem", body).await }
    };
    let redeemed = redeem(token).await.ok();
    assert_eq!(redeemed["session_id"], session.id.as_str());
    assert_eq!(redeemed["right"], "drive");
    assert!(redeemed["ticket"].as_str().unwrap().starts_with("tkt_"));
    assert_ne!(
        get(&session, "shares").await.ok()["data"][0]["last_used_at"],
        Value::Null
    );
    // Neither opens anything but a socket.
    for secret in [token, redeemed["ticket"].as_str().unwrap()] {
        let there = nobody.with_token(secret).get("/api/sessions").await;
        assert_eq!(there.status, 401);
    }
    // Given, it is the share's; revoked, it is the automation's again.
    let id = share["id"].as_str().unwrap();
    let give = json!({ "action": "give", "to": id });
    let given = post(&session, "control", give.clone()).await.ok();
    assert_eq!(given["person"], id);
    assert_eq!(session.state().await.status, 423);
    let path = format!("/api/sessions/{}/shares/{id}", session.id);
    assert_eq!(session.caller.delete(&path).await.status, 204);
    assert_eq!(session.value("1 + 1").await, 2);
    let revoked = redeem(token).await;
    let wrong = redeem("share_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").await;
    let without_id = |it: &Reply| {
        let mut it = it.json();
        it["request_id"] = Value::Null;
        it
    };
    assert_eq!(
        (revoked.status, without_id(&revoked)),
        (404, without_id(&wrong))
    );
    assert_eq!(post(&session, "control", give).await.status, 404);
    assert_eq!(session.caller.delete(&path).await.status, 404);
    // A share that only sees drives nothing, and one ends by itself or with its session.
    let view = post(&session, "shares", json!({ "right": "view" }))
        .await
        .ok();
    let give = json!({ "action": "give", "to": view["id"] });
    assert_eq!(post(&session, "control", give).await.status, 403);
    let brief = json!({ "right": "drive", "expires_in_ms": 1_000 });
    let brief = post(&session, "shares", brief).await.ok();
    let give = json!({ "action": "give", "to": brief["id"], "expires_in_ms": 600_000 });
    post(&session, "control", give).await.ok();
    eventually("the share's hold ends with it", SOON, || async {
        session.state().await.status == 200
    })
    .await;
    assert_eq!(redeem(brief["token"].as_str().unwrap()).await.status, 404);
    for odd in [
        json!({ "right": "own" }),
        json!({}),
        json!({ "right": "view", "expires_in_ms": 1 }),
    ] {
        assert_eq!(post(&session, "shares", odd).await.status, 422);
    }
    let view_token = view["token"].as_str().unwrap();
    redeem(view_token).await.ok();
    session.end().await.ok();
    assert_eq!(redeem(view_token).await.status, 404);
    let refused = post(&session, "shares", json!({ "right": "view" })).await;
    assert_eq!(refused.code(), "session_gone");
    let lines = world
        .administrator()
        .await
        .get("/api/admin/audit?limit=100")
        .await
        .ok();
    for action in [
        "share.created",
        "share.used",
        "share.revoked",
        "control.given",
    ] {
        let line = lines["data"]
            .as_array()
            .unwrap()
            .iter()
            .find(|it| it["action"] == action);
        assert!(line.is_some(), "{action}: {lines}");
    }
    assert!(!lines.to_string().contains(token));
    world.stop().await;
}

#[tokio::test]
async fn a_person_still_drives_after_a_power_cut() {
    // No other agent is being started when the power goes.
    let mut world = Plan::default().with("POOL_MAX", 1).start().await.unwrap();
    let session = world.user("alice").await.open(json!({})).await;
    let control = take(&session).await;
    let asked = json!({ "reason": "stay", "timeout_ms": 600_000 });
    post(&session, "handoff", asked).await.ok();
    world.kill().await;
    world.start_again().await;
    // As soon as a command finds its session again, it finds the person.
    let began = Instant::now();
    loop {
        let reply = session.state().await;
        if reply.status == 423 {
            break;
        }
        assert_ne!(reply.status, 200, "a command passed by the person");
        assert!(began.elapsed() < Duration::from_secs(15), "{reply:?}");
        sleep(Duration::from_millis(5)).await;
    }
    let after = get(&session, "control").await.ok();
    assert_eq!(after["holder_id"], control["holder_id"]);
    let answer = json!({ "outcome": "completed" });
    post(&session, "handoff/answer", answer).await.ok();
    assert_eq!(session.value("1 + 1").await, 2);
    world.stop().await;
}

#[tokio::test]
async fn control_that_is_taken_at_one_replica_holds_at_the_other() {
    let pair = pair_of(Plan::default().with("POOL_WARM", 1)).await;
    let [one, other] = &pair.worlds;
    one.register("ada@example.com", PASSWORD).await;
    let ada = one
        .nobody()
        .sign_in("ada@example.com", PASSWORD)
        .await
        .unwrap();
    let here = ada.open(json!({})).await;
    let at = |world: &World| Session {
        caller: Caller::nobody(&world.api).with_token(ada.token()),
        id: here.id.clone(),
    };
    // The one that has the link performs; the other is only asked.
    let mut performs = at(one);
    let mut asks = at(other);
    if performs.state().await.status != 200 {
        std::mem::swap(&mut performs, &mut asks);
    }
    assert_eq!(performs.value("1 + 1").await, 2);
    let taken = take(&asks).await;
    eventually(
        "the automation is parked",
        Duration::from_secs(2),
        || async { performs.state().await.status == 423 },
    )
    .await;
    assert_eq!(
        get(&performs, "control").await.ok()["holder_id"],
        taken["holder_id"]
    );
    release(&performs).await;
    assert_eq!(get(&asks, "control").await.ok()["held_by"], "automation");
    assert_eq!(performs.value("1 + 1").await, 2);
    // Of many who take it at once, one after another does, and the last one holds it.
    let takes = (0..20).map(|number| {
        let session = if number % 2 == 0 { &asks } else { &performs };
        let body = json!({ "action": "take", "force": true });
        async move { post(session, "control", body).await.ok()["holder_id"].clone() }
    });
    let mut holders = futures_util::future::join_all(takes).await;
    let held = get(&asks, "control").await.ok()["holder_id"].clone();
    assert!(holders.contains(&held));
    holders.sort_by_key(ToString::to_string);
    holders.dedup();
    assert_eq!(holders.len(), 20);
    eventually("both say the same", Duration::from_secs(2), || async {
        get(&performs, "control").await.ok()["holder_id"] == held
    })
    .await;
    // A handoff that is answered elsewhere is heard of here.
    release(&asks).await;
    let waiting = {
        let session = performs.clone();
        tokio::spawn(async move {
            let asked = json!({ "reason": "elsewhere", "wait_ms": 20_000 });
            post(&session, "handoff", asked).await.ok()
        })
    };
    eventually("it is asked", SOON, || async {
        get(&asks, "handoff").await.text("status") == "open"
    })
    .await;
    post(&asks, "handoff/answer", json!({ "outcome": "completed" }))
        .await
        .ok();
    assert_eq!(waiting.await.unwrap()["status"], "completed");
    let deleted = ada
        .call(Method::DELETE, &format!("/api/sessions/{}", here.id), None)
        .await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    for world in pair.worlds {
        world.stop().await;
    }
}
