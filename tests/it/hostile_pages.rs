//! Pages that ask their user, grow without bound or leave things running, and text that
//! nobody types: a command has its answer by its deadline, and the session goes on.

use std::time::{Duration, Instant};

use browserfleet_tests::api::{Caller, Session};
use browserfleet_tests::eventually;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;

async fn on_the_site(caller: &Caller, site: &Site, browser: &str) -> Session {
    let session = caller.open(json!({ "browser": browser })).await;
    session.navigate(&site.url("/")).await.ok();
    session
}

/// Runs a script that may wait for a user who is not there.
async fn ask(session: &Session, script: &str) {
    let parameters = json!({ "expression": script, "timeout_ms": 1_500 });
    let reply = session.command("execute", parameters).await;
    assert!(
        reply.status == 200 || reply.code() == "command_timeout" || reply.code() == "script_error",
        "{script}: {reply:?}"
    );
    assert_eq!(session.value("1 + 1").await, 2, "{script}");
}

#[tokio::test]
async fn nothing_that_asks_its_user_holds_a_session_up() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    for browser in ["shell", "full"] {
        let session = on_the_site(&alice, &site, browser).await;
        for script in [
            "print()",
            "Notification.requestPermission()",
            "new Promise((done) => navigator.geolocation.getCurrentPosition(done, done)).then(String)",
            "navigator.mediaDevices.getUserMedia({ video: true }).catch(String)",
            "navigator.clipboard.readText().catch(String)",
            "navigator.credentials.get({ publicKey: { challenge: new Uint8Array(32) } }).catch(String)",
            "showOpenFilePicker().catch(String)",
            "document.documentElement.requestFullscreen().catch(String)",
            "location.href = 'mailto:a@example.com'; 1",
            "location.href = 'ssh://a@example.com'; 1",
            "open('tel:1'); 1",
        ] {
            ask(&session, script).await;
        }
        session
            .value(
                "document.body.innerHTML = '<input type=file id=file>\
                 <a id=mail href=\"mailto:a@example.com\">Mail</a>\
                 <a id=save download=a.txt href=\"data:text/plain,a\">Save</a>'; 1",
            )
            .await;
        for selector in ["#file", "#mail", "#save"] {
            let click = session.command("click", json!({ "selector": selector }));
            click.await.ok();
            assert_eq!(session.value("1 + 1").await, 2, "{selector}");
        }
        let asked = session.navigate(&site.url("/password")).await;
        assert!([200, 422].contains(&asked.status), "{asked:?}");
        assert_eq!(session.state().await.status, 200);
        session.end().await.ok();
    }
    world.stop().await;
}

#[tokio::test]
async fn a_picture_of_a_page_without_bounds_is_refused_in_time() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let session = on_the_site(&world.user("alice").await, &site, "shell").await;
    for (width, height) in [(30_000, 8_000), (100, 1_000_000), (16_000, 16_000)] {
        let grown = format!(
            "document.body.innerHTML = '<div style=\"width: {width}px; height: {height}px\"></div>'; 1"
        );
        session.value(&grown).await;
        let started = Instant::now();
        let parameters = json!({ "full_page": true });
        let refused = session.command("screenshot", parameters).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (422, "image_too_large"),
            "{width} x {height}"
        );
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    session.command("screenshot", json!({})).await.ok();
    session.end().await.ok();
    world.stop().await;
}

#[tokio::test]
async fn whatever_is_typed_or_sought_the_session_goes_on() {
    const CASES: usize = 40;
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let session = on_the_site(&world.user("alice").await, &site, "shell").await;
    let mut runner = TestRunner::default();
    // Any characters there are, and those that selectors are made of.
    let text = prop_oneof![
        any::<String>(),
        "[ #.:>~+*=()\\[\\]\"'\\\\a-z\u{202e}\u{0}\r\n\t]{0,40}",
        "(text|xpath|role|css)=[^a]{0,20}",
    ];
    for _ in 0..CASES {
        let text = text.new_tree(&mut runner).unwrap().current();
        let typed = json!({
            "selector": "#name", "text": text, "clear": true, "timeout_ms": 3_000,
        });
        let typed = session.command("type", typed).await;
        assert!([200, 422].contains(&typed.status), "{text:?}: {typed:?}");
        let sought = json!({ "selector": text, "timeout_ms": 100 });
        let sought = session.command("click", sought).await;
        assert!(
            [200, 422, 504].contains(&sought.status),
            "{text:?}: {sought:?}"
        );
        assert_eq!(session.value("1 + 1").await, 2, "{text:?}");
    }
    session.end().await.ok();
    world.stop().await;
}

#[tokio::test]
async fn what_a_page_left_running_is_gone_with_its_session() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    let session = on_the_site(&alice, &site, "full").await;
    let started = "(async () => {
        const spin = URL.createObjectURL(new Blob(['while (1);'], { type: 'text/javascript' }));
        new Worker(spin);
        await navigator.serviceWorker.register('/worker.js');
        const canvas = document.body.appendChild(document.createElement('canvas'));
        canvas.getContext('2d').fillRect(0, 0, 9, 9);
        const [near, far] = [new RTCPeerConnection(), new RTCPeerConnection()];
        for (const track of canvas.captureStream().getTracks()) near.addTrack(track);
        near.onicecandidate = (it) => far.addIceCandidate(it.candidate);
        far.onicecandidate = (it) => near.addIceCandidate(it.candidate);
        await near.setLocalDescription();
        await far.setRemoteDescription(near.localDescription);
        await far.setLocalDescription();
        await near.setRemoteDescription(far.localDescription);
        new MediaRecorder(canvas.captureStream()).start(100);
        const sound = new AudioContext().createOscillator();
        sound.start();
        const save = document.body.appendChild(document.createElement('a'));
        save.download = 'a.bin';
        save.href = '/silent';
        save.click();
        return 'running';
    })()";
    assert_eq!(session.value(started).await, "running");
    let before: Vec<i32> = world.browsers().iter().map(|it| it.id).collect();
    let asked = Instant::now();
    session.end().await.ok();
    eventually("its browser is gone", Duration::from_secs(5), || async {
        let now: Vec<i32> = world.browsers().iter().map(|it| it.id).collect();
        before.iter().any(|it| !now.contains(it))
    })
    .await;
    assert!(asked.elapsed() < Duration::from_secs(5));
    // Nothing of it is in the next one.
    let next = on_the_site(&alice, &site, "full").await;
    let left = "navigator.serviceWorker.getRegistrations().then((all) => all.length)";
    assert_eq!(next.value(left).await, 0);
    next.end().await.ok();
    world.stop().await;
}
