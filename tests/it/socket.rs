//! `/ws`: who may open it, what is said on it, and when it is closed.

use std::time::{Duration, Instant};

use browserfleet_tests::api::Caller;
use browserfleet_tests::cdp::Cdp;
use browserfleet_tests::eventually;
use browserfleet_tests::site::Site;
use browserfleet_tests::socket::{Socket, schemas};
use browserfleet_tests::world::{Plan, World};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// Within this a revocation closes sockets, as is promised.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

async fn ticket(caller: &Caller, wish: Value) -> String {
    caller.post("/api/ws-ticket", wish).await.ok()["ticket"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn code(answer: &Value) -> &str {
    answer["payload"]["code"].as_str().unwrap_or("")
}

#[tokio::test]
async fn who_may_not_is_told_so_before_there_is_a_socket() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let refused = async |path: &str, token: Option<&str>, headers: &[(&'static str, &str)]| {
        let opened = Socket::try_open(&alice, path, token, Some(headers)).await;
        opened.err().expect("it is refused")
    };
    assert_eq!(refused("/ws", None, &[]).await, 401);
    assert_eq!(refused("/ws", Some("nonsense"), &[]).await, 401);
    assert_eq!(refused("/ws?ticket=tkt_nonsense", None, &[]).await, 401);
    assert_eq!(
        refused("/ws?token=abc", Some(alice.token()), &[]).await,
        422
    );
    let foreign = [("origin", "https://elsewhere.example")];
    assert_eq!(refused("/ws", Some(alice.token()), &foreign).await, 403);
    let cookie = format!("__Host-access={}", alice.token());
    assert_eq!(
        refused("/ws", None, &[("cookie", cookie.as_str())]).await,
        403
    );
    // Without a handshake it is an ordinary bad request.
    assert_eq!(alice.get("/ws").await.status, 400);

    // A ticket is good once, and no token is in any log.
    let once = ticket(&alice, json!({})).await;
    let mut socket = Socket::with_ticket(&alice, &once).await.ok().unwrap();
    assert_eq!(socket.ask("ping", None, json!({})).await["type"], "pong");
    assert_eq!(Socket::with_ticket(&alice, &once).await.err(), Some(401));
    assert!(!world.log().contains(&once));
    world.stop().await;
}

#[tokio::test]
async fn commands_go_many_at_once_and_are_answered_by_their_ids() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let id = Some(session.id.as_str());
    let mut socket = Socket::open(&alice).await;

    let went = socket
        .ask("navigate", id, json!({ "url": site.url("/") }))
        .await;
    assert_eq!(went["payload"]["status"], 200, "{went}");
    let mut asked = Vec::new();
    for number in 0..20 {
        let expression = json!({ "expression": format!("{number} + 1") });
        asked.push((number + 1, socket.begin("execute", id, expression).await));
    }
    for (value, name) in asked {
        let answer = socket.hear(|it| it["id"] == name.as_str()).await;
        assert_eq!(answer["payload"]["value"], value);
        assert_eq!(answer["session_id"], session.id);
    }
    // They reach the page in the order in which they were said.
    let mut order = Vec::new();
    for number in 0..40 {
        let expression = format!("(window.order ??= []).push({number})");
        let expression = json!({ "expression": expression });
        order.push(socket.begin("execute", id, expression).await);
    }
    for name in order {
        socket.hear(|it| it["id"] == name.as_str()).await;
    }
    let order = socket
        .ask("execute", id, json!({ "expression": "window.order" }))
        .await;
    assert_eq!(
        order["payload"]["value"],
        json!((0..40).collect::<Vec<_>>())
    );
    let picture = socket.ask("screenshot", id, json!({})).await;
    let data = picture["payload"]["data"].as_str().unwrap();
    assert!(data.starts_with("iVBOR"), "a PNG in base64");
    // The same as over REST, in the history too.
    let kinds: Vec<Value> = session
        .commands()
        .await
        .iter()
        .map(|it| it["type"].clone())
        .collect();
    assert_eq!((&kinds[0], kinds.len()), (&json!("screenshot"), 63));

    // What is wrong is named where the client wrote it.
    let bad = socket
        .ask("click", id, json!({ "selector": "", "x": 1 }))
        .await;
    assert_eq!(
        (code(&bad), &bad["payload"]["field"]),
        ("invalid", &json!("payload.selector"))
    );
    let bad = socket
        .ask(
            "click",
            id,
            json!({ "selector": "#nowhere", "timeout_ms": 50 }),
        )
        .await;
    assert_eq!(bad["payload"]["outcome"], "error", "{bad}");
    assert!(bad["payload"]["command_id"].is_string());
    let bad = socket.ask("fly", id, json!({})).await;
    assert_eq!(bad["payload"]["field"], "type");
    let bad = socket
        .ask(
            "execute",
            Some("ses_nonsense"),
            json!({ "expression": "1" }),
        )
        .await;
    assert_eq!(code(&bad), "not_found");
    world.stop().await;
}

#[tokio::test]
async fn a_command_is_cancelled_by_the_id_that_it_came_with() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let id = Some(session.id.as_str());
    let mut socket = Socket::open(&alice).await;
    let endless = json!({ "expression": "new Promise(() => {})", "timeout_ms": 60_000 });
    let endless = socket.begin("execute", id, endless).await;
    let behind = socket
        .begin("execute", id, json!({ "expression": "1" }))
        .await;
    let twice = json!({ "type": "execute", "id": endless, "session_id": session.id, "payload": { "expression": "1" } });
    socket.say(twice).await;
    let twice = socket.hear(|it| it["type"] == "error").await;
    assert_eq!(twice["payload"]["field"], "id");
    let said = socket.ask("cancel", None, json!({ "id": endless })).await;
    assert_eq!(said["type"], "cancelling");
    let cancelled = socket.hear(|it| it["id"] == endless.as_str()).await;
    assert_eq!(
        (code(&cancelled), &cancelled["payload"]["outcome"]),
        ("cancelled", &json!("cancelled"))
    );
    let behind = socket.hear(|it| it["id"] == behind.as_str()).await;
    assert_eq!(behind["payload"]["value"], 1);
    let said = socket.ask("cancel", None, json!({ "id": endless })).await;
    assert_eq!(code(&said), "not_found");
    world.stop().await;
}

#[tokio::test]
async fn what_happens_in_a_session_is_told_to_who_watches_it() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({ "dialogs": "report" })).await;
    let id = Some(session.id.as_str());
    let mut socket = Socket::open(&alice).await;
    let standing = socket.ask("subscribe", id, json!({})).await;
    assert_eq!(standing["payload"]["status"], "live");
    session.navigate(&site.url("/")).await.ok();
    let started = socket.hear_type("command.started").await;
    let navigated = socket.hear_type("page.navigated").await;
    assert_eq!(navigated["payload"]["url"], site.url("/"));
    socket.hear_type("page.loaded").await;
    let finished = socket.hear_type("command.finished").await;
    assert_eq!(
        started["payload"]["command_id"],
        finished["payload"]["command_id"]
    );
    assert_eq!(finished["payload"]["status"], "ok");

    session
        .value("console.warn('mind', 7); setTimeout(() => { throw new Error('lost') })")
        .await;
    let line = socket.hear_type("console").await;
    assert_eq!(
        (&line["payload"]["level"], &line["payload"]["text"]),
        (&json!("warn"), &json!("mind 7"))
    );
    let line = socket.hear_type("console").await;
    assert_eq!(line["payload"]["level"], "exception");
    assert!(
        line["payload"]["text"].as_str().unwrap().contains("lost"),
        "{line}"
    );
    session
        .value("fetch('http://127.0.0.1:1/nothing').catch(() => 0)")
        .await;
    let failed = socket.hear_type("request.failed").await;
    assert_eq!(failed["payload"]["url"], "http://127.0.0.1:1/nothing");

    session.value("open('about:blank'); 1").await;
    let opened = socket.hear_type("tab.opened").await;
    assert_eq!(opened["payload"]["tabs"].as_array().unwrap().len(), 2);
    session.value("close()").await;
    socket.hear_type("tab.closed").await;
    session
        .command(
            "execute",
            json!({ "expression": "setTimeout(() => alert('hi'))" }),
        )
        .await;
    let dialog = socket.hear_type("dialog.opened").await;
    assert_eq!(
        (&dialog["payload"]["message"], &dialog["payload"]["waits"]),
        (&json!("hi"), &json!(true))
    );
    socket.ask("dialog", id, json!({ "accept": true })).await;
    socket.hear_type("dialog.closed").await;

    session.end().await.ok();
    let over = socket
        .hear(|it| it["type"] == "session.status" && it["payload"]["status"] == "ended")
        .await;
    assert_eq!(over["payload"]["end_reason"], "ended");
    // Who comes later is told how it stands, and that is all.
    let mut later = Socket::open(&alice).await;
    later.ask("subscribe", id, json!({})).await;
    let over = later.hear_type("session.status").await;
    assert_eq!(over["payload"]["status"], "ended");
    world.stop().await;
}

/// The events' numbers after `from`, up to the command that the text names.
async fn numbers_until(socket: &mut Socket, marker: &str) -> Vec<u64> {
    socket
        .hear(|it| it["type"] == "console" && it["payload"]["text"] == marker)
        .await;
    let mut numbers: Vec<u64> = socket.heard().filter_map(|it| it["seq"].as_u64()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn who_comes_back_misses_nothing_or_is_told_that_they_did() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let id = Some(session.id.as_str());
    let mut first = Socket::open(&alice).await;
    first.ask("subscribe", id, json!({})).await;
    session.value("console.log('one')").await;
    let seen = first.hear(|it| it["payload"]["text"] == "one").await["seq"]
        .as_u64()
        .unwrap();
    drop(first);
    // Nobody watches meanwhile.
    for number in 0..10 {
        session.value(&format!("console.log({number})")).await;
    }
    session.value("console.log('two')").await;
    let mut second = Socket::open(&alice).await;
    second
        .ask("subscribe", id, json!({ "after_seq": seen }))
        .await;
    let numbers = numbers_until(&mut second, "two").await;
    assert_eq!(
        numbers.first(),
        Some(&(seen + 1)),
        "nothing between is missing"
    );
    assert!(
        numbers.windows(2).all(|it| it[1] == it[0] + 1),
        "{numbers:?}"
    );

    // More than is kept: two events for each command.
    for _ in 0..600 {
        session.value("1").await;
    }
    let mut third = Socket::open(&alice).await;
    third
        .ask("subscribe", id, json!({ "after_seq": seen }))
        .await;
    let resync = third.hear_type("resync").await;
    let goes_on = resync["payload"]["seq"].as_u64().unwrap();
    session.value("console.log('three')").await;
    let numbers = numbers_until(&mut third, "three").await;
    assert_eq!(numbers.first(), Some(&(goes_on + 1)));
    assert!(numbers.windows(2).all(|it| it[1] == it[0] + 1));
    world.stop().await;
}

#[tokio::test]
async fn a_session_that_waits_is_watched_until_it_is_there() {
    let world = Plan::default().with("POOL_WARM", 0).start().await.unwrap();
    let alice = world.administrator().await;
    let mut socket = Socket::open(&alice).await;
    socket.ask("subscribe_instances", None, json!({})).await;
    let opened = alice.post("/api/sessions", json!({})).await;
    assert_eq!(opened.status, 202);
    let id = opened.json()["ticket"].as_str().unwrap().to_owned();
    socket.ask("subscribe", Some(&id), json!({})).await;
    // How it stands is told a few times a second: it may have been in between for less.
    socket
        .hear(|it| it["type"] == "instance.status" && it["payload"]["status"] == "running")
        .await;
    socket
        .hear(|it| it["type"] == "session.status" && it["payload"]["status"] == "live")
        .await;
    world.stop().await;
}

#[tokio::test]
async fn somebody_elses_session_is_not_there() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let bob = world.user("bob").await;
    let session = alice.open(json!({})).await;
    let id = Some(session.id.as_str());
    let mut socket = Socket::open(&bob).await;
    for (kind, payload) in [
        ("subscribe", json!({})),
        ("execute", json!({ "expression": "1" })),
        ("state", json!({})),
    ] {
        let answer = socket.ask(kind, id, payload).await;
        assert_eq!(code(&answer), "not_found", "{kind}");
    }
    let view = ticket(&alice, json!({ "session_id": session.id, "right": "view" })).await;
    let mut viewer = Socket::with_ticket(&alice, &view).await.ok().unwrap();
    assert_eq!(
        viewer.ask("subscribe", id, json!({})).await["type"],
        "subscribed"
    );
    let refused = viewer
        .ask(
            "execute",
            id,
            json!({ "expression": "document.title = 'x'" }),
        )
        .await;
    assert_eq!(code(&refused), "forbidden");
    let refused = viewer.ask("subscribe_instances", None, json!({})).await;
    assert_eq!(code(&refused), "forbidden");
    assert_eq!(session.value("document.title").await, "");
    world.stop().await;
}

#[tokio::test]
async fn sockets_close_when_what_they_were_opened_with_ends() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let bob = world.user("bob").await;
    let key = alice
        .post(
            "/api/keys",
            json!({ "name": "a", "scopes": ["sessions:read", "sessions:write"] }),
        )
        .await;
    let key = key.ok();
    let keyed = alice.with_token(key["secret"].as_str().or(key["key"].as_str()).unwrap());
    let mut by_key = Socket::open(&keyed).await;
    let mut by_token = Socket::open(&bob).await;
    let by_ticket = ticket(&bob, json!({})).await;
    let mut by_ticket = Socket::with_ticket(&bob, &by_ticket).await.ok().unwrap();

    let began = Instant::now();
    alice
        .delete(&format!("/api/keys/{}", key["id"].as_str().unwrap()))
        .await;
    assert_eq!(by_key.closed().await, Some(4401));
    assert!(began.elapsed() < REVOKED_WITHIN, "{:?}", began.elapsed());

    let began = Instant::now();
    bob.post("/api/auth/logout", json!({})).await;
    assert_eq!(by_token.closed().await, Some(4401));
    assert_eq!(by_ticket.closed().await, Some(4401));
    assert!(began.elapsed() < REVOKED_WITHIN, "{:?}", began.elapsed());

    let carol = world.user("carol").await;
    let mut socket = Socket::open(&carol).await;
    let me = carol.get("/api/users/me").await.ok();
    let path = format!("/api/admin/users/{}", me["id"].as_str().unwrap());
    let began = Instant::now();
    alice.patch(&path, json!({ "disabled": true })).await.ok();
    assert_eq!(socket.closed().await, Some(4401));
    assert!(began.elapsed() < REVOKED_WITHIN, "{:?}", began.elapsed());
    world.stop().await;
}

#[tokio::test]
async fn a_newer_token_keeps_a_socket_and_somebody_elses_does_not() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let bob = world.user("bob").await;
    let mut socket = Socket::open(&alice).await;
    let renewed = socket
        .ask("authenticate", None, json!({ "token": alice.token() }))
        .await;
    assert_eq!(renewed["type"], "authenticated");
    let refused = socket
        .ask("authenticate", None, json!({ "token": bob.token() }))
        .await;
    assert_eq!(code(&refused), "forbidden");
    let refused = socket
        .ask("authenticate", None, json!({ "token": "nonsense" }))
        .await;
    assert_eq!(code(&refused), "unauthenticated");
    world.stop().await;
}

#[tokio::test]
async fn what_no_client_says_closes_its_own_socket_with_the_reason() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let mut socket = Socket::open(&alice).await;
    socket.send(Message::text("{ nonsense")).await;
    assert_eq!(code(&socket.hear_type("error").await), "bad_request");
    socket
        .send(Message::text("x".repeat(1024 * 1024 + 1)))
        .await;
    assert_eq!(socket.closed().await, Some(1009));

    let mut socket = Socket::open(&alice).await;
    socket.send(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(socket.closed().await, Some(1003));

    let mut socket = Socket::open(&alice).await;
    for _ in 0..1_000 {
        socket.send(Message::Ping(Vec::new().into())).await;
    }
    assert_eq!(socket.closed().await, Some(1008));

    // Frames as no library writes them: bad UTF-8, unmasked, a reserved opcode.
    for (frame, expected) in [
        (&[0x81_u8, 0x82, 0, 0, 0, 0, 0xff, 0xfe][..], 1007),
        (&[0x81, 0x02, b'h', b'i'], 1002),
        (&[0x83, 0x80, 0, 0, 0, 0], 1002),
    ] {
        let stream = Socket::open(&alice).await.into_stream();
        let tokio_tungstenite::MaybeTlsStream::Plain(mut stream) = stream.into_inner() else {
            panic!("it is plain");
        };
        stream.write_all(frame).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        read.expect("it is closed").unwrap();
        let closed = u16::from_be_bytes([answer[2], answer[3]]);
        assert_eq!((answer[0], closed), (0x88, expected), "{frame:?}");
    }
    world.stop().await;
}

/// What a client offers that would send little which becomes much (RFC 7692).
const DEFLATE: &str = "permessage-deflate; client_max_window_bits";
/// A text of two bytes, masked with zeros, which says of itself that it is compressed:
/// its bit RSV1 is set.
const COMPRESSED: [u8; 8] = [0xc1, 0x82, 0, 0, 0, 0, b'h', b'i'];
/// How soon a socket is closed on which that was said, on a busy machine.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn compression_is_not_agreed_on_and_closes_the_socket_that_uses_it() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let mut socket = Socket::open(&alice).await;
    let mut tunnel = Cdp::browser(&alice, &session.id).await;
    let base = alice.base().replacen("http", "ws", 1);
    let door = format!("/devtools/browser/{}", session.id);
    for path in ["/ws", &door] {
        let mut request = format!("{base}{path}").into_client_request().unwrap();
        let bearer = format!("Bearer {}", alice.token());
        for (name, value) in [
            ("authorization", bearer.as_str()),
            ("sec-websocket-extensions", DEFLATE),
        ] {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers_mut().insert(name, value);
        }
        let (mut stream, response) = connect_async(request).await.unwrap();
        let agreed = response.headers().get("sec-websocket-extensions");
        assert_eq!(agreed, None, "{path}");
        stream.get_mut().write_all(&COMPRESSED).await.unwrap();
        let closed = timeout(CLOSED_WITHIN, async {
            loop {
                match stream.next().await {
                    Some(Ok(Message::Close(frame))) => return frame.map(|it| it.code.into()),
                    Some(Ok(_)) => {}
                    other => panic!("{path}: {other:?}"),
                }
            }
        });
        let code: Option<u16> = closed.await.expect("it is closed");
        assert_eq!(code, Some(1002), "{path}");
    }
    assert_eq!(socket.ask("ping", None, json!({})).await["type"], "pong");
    tunnel.ask(None, "Browser.getVersion", json!({})).await;
    world.stop().await;
}

#[tokio::test]
async fn a_flood_is_refused_and_then_closed_and_nobody_else_feels_it() {
    let world = Plan::default()
        .with("METRICS_LISTEN", "127.0.0.1:0")
        .start()
        .await
        .unwrap();
    let alice = world.administrator().await;
    let bob = world.user("bob").await;
    let session = alice.open(json!({})).await;
    let mut stream = Socket::open(&alice).await.into_stream();
    let message =
        json!({ "type": "execute", "session_id": session.id, "payload": { "expression": "1" } });
    let flood = tokio::spawn(async move {
        for _ in 0..10_000 {
            if stream
                .send(Message::text(message.to_string()))
                .await
                .is_err()
            {
                break;
            }
        }
        let mut closed = None;
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Close(Some(frame)) = message {
                closed = Some(u16::from(frame.code));
            }
        }
        closed
    });
    let mut socket = Socket::open(&bob).await;
    for _ in 0..20 {
        let asked = Instant::now();
        socket.ask("ping", None, json!({})).await;
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "{:?}",
            asked.elapsed()
        );
    }
    let closed = timeout(Duration::from_secs(30), flood)
        .await
        .expect("it ends")
        .unwrap();
    assert!(matches!(closed, Some(1008) | None), "{closed:?}");
    let metrics = world.metrics().await;
    let refused: f64 = metrics
        .series()
        .filter(|it| it.starts_with("browserfleet_socket_messages_refused_total"))
        .filter_map(|it| metrics.value(it))
        .sum();
    assert!(refused > 100.0, "{refused}");
    assert_eq!(session.value("1").await, 1);
    world.stop().await;
}

async fn open_sockets(world: &World) -> f64 {
    let metrics = world.metrics().await;
    let name = metrics
        .series()
        .find(|it| it.starts_with("browserfleet_sockets{") || *it == "browserfleet_sockets");
    name.and_then(|it| metrics.value(it)).unwrap_or(0.0)
}

#[tokio::test]
async fn who_leaves_leaves_nothing() {
    let world = Plan::default()
        .with("METRICS_LISTEN", "127.0.0.1:0")
        .start()
        .await
        .unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    for _ in 0..100 {
        let mut socket = Socket::open(&alice).await;
        let message = json!({ "expression": "new Promise(it => setTimeout(it, 5))" });
        socket
            .begin("subscribe", Some(&session.id), json!({}))
            .await;
        socket.begin("execute", Some(&session.id), message).await;
    }
    eventually("all sockets are gone", Duration::from_secs(10), || async {
        open_sockets(&world).await == 0.0
    })
    .await;
    eventually(
        "every command has its outcome",
        Duration::from_secs(20),
        || async {
            let commands = session.commands().await;
            commands.len() == 100 && commands.iter().all(|it| it["status"] == "ok")
        },
    )
    .await;
    world.stop().await;
}

#[tokio::test]
async fn sockets_whose_peers_vanish_are_gone_within_a_minute() {
    let world = Plan::default()
        .with("METRICS_LISTEN", "127.0.0.1:0")
        .start()
        .await
        .unwrap();
    let alice = world.administrator().await;
    let mut vanished: Vec<TcpStream> = Vec::new();
    for _ in 0..100 {
        let stream = Socket::open(&alice).await.into_stream();
        let tokio_tungstenite::MaybeTlsStream::Plain(stream) = stream.into_inner() else {
            panic!("it is plain");
        };
        // Nobody answers its pings any more.
        vanished.push(stream);
    }
    assert!(open_sockets(&world).await >= 100.0);
    eventually("they are gone", Duration::from_secs(60), || async {
        open_sockets(&world).await == 0.0
    })
    .await;
    drop(vanished);
    world.stop().await;
}

#[tokio::test]
async fn a_stop_tells_sockets_to_connect_again() {
    let mut world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let mut socket = Socket::open(&alice).await;
    let (closed, status) = tokio::join!(socket.closed(), world.terminate());
    assert_eq!(closed, Some(1012));
    assert!(status.success(), "{status}");
    world.stop().await;
}

#[tokio::test]
async fn every_message_of_the_document_is_one_that_is_taken() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let document = alice.get("/asyncapi.json").await.ok();
    let mut socket = Socket::open(&alice).await;
    let said = schemas(&document, "say").unwrap();
    assert!(said.len() >= 15, "{}", said.len());
    for kind in said.keys() {
        let answer = socket.ask(kind, None, json!({ "no_such_field": 1 })).await;
        assert_ne!(answer["payload"]["field"], "type", "{kind}: {answer}");
    }
    world.stop().await;
}
