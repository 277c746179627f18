//! Live view and hands, with real Chrome.

use std::time::Duration;

use browserfleet_proto::frame::{Format, Header};
use browserfleet_tests::screen::{Came, Screen};
use browserfleet_tests::site::Site;
use browserfleet_tests::socket::Socket;
use browserfleet_tests::world::World;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// How soon a page shows what was done to it.
const SOON: Duration = Duration::from_secs(10);

/// What waits for nothing is done within this, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the middle of an element is, in the view.
async fn middle(hands: &mut Screen, selector: &str) -> (f64, f64) {
    let asked = format!(
        "(() => {{ const b = document.querySelector({selector:?}).getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] }})()"
    );
    let place = hands.value(&asked).await;
    (place[0].as_f64().unwrap(), place[1].as_f64().unwrap())
}

async fn becomes(hands: &mut Screen, expression: &str, value: Value) {
    let latest = Instant::now() + SOON;
    loop {
        let asked = json!({ "expression": expression });
        let now = hands.ask("execute", asked).await;
        // A tab that closes meanwhile has no value.
        if now["payload"]["value"] == value {
            return;
        }
        assert!(
            Instant::now() < latest,
            "{expression} is {now}, not {value}"
        );
        sleep(LOOK_EVERY).await;
    }
}

/// The newest picture once the page has come to rest: its width and height in pixels.
fn size_of_jpeg(picture: &[u8]) -> (usize, usize) {
    let mut at = 2;
    loop {
        let big = |at: usize| usize::from(picture[at]) << 8 | usize::from(picture[at + 1]);
        if matches!(picture[at + 1], 0xc0..=0xc2) {
            return (big(at + 7), big(at + 5));
        }
        at += 2 + big(at + 2);
    }
}

#[tokio::test]
async fn a_page_is_seen_at_once_and_whenever_it_changes() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();

    let mut first = Screen::open(&session, json!({ "max_width": 640 })).await;
    let (header, picture) = first.picture().await;
    assert_eq!(header.session.to_string(), session.id);
    assert_eq!((header.width, header.height), (1280.0, 720.0));
    assert_eq!(header.format, Some(Format::Jpeg));
    assert_eq!(size_of_jpeg(&picture), (640, 360));
    let (header, _) = first.at_rest().await.unwrap_or((header, picture));

    // Who joins a page that rests has its last picture at once.
    let joined = Instant::now();
    let mut second = Screen::open(&session, json!({ "max_width": 640 })).await;
    let (same, _) = second.picture().await;
    assert_eq!(same.sequence, header.sequence);
    assert!(joined.elapsed() < Duration::from_secs(1), "{joined:?}");

    // A change is seen by both, with the page's state at that time.
    session.value("scrollTo(0, 300)").await;
    for screen in [&mut first, &mut second] {
        let (changed, _) = screen.at_rest().await.unwrap();
        assert!(changed.sequence > header.sequence);
        assert_eq!(changed.scroll_y, 300.0);
        assert!(changed.captured_at_us > header.captured_at_us);
    }

    // Somebody wants more than the others: all see it sharper.
    let mut sharp = Screen::open(&session, json!({ "max_width": 1280, "format": "png" })).await;
    let (_, before) = sharp.picture().await;
    assert!(before.starts_with(b"\xff\xd8"), "what there is comes first");
    let (header, picture) = first.at_rest().await.unwrap();
    assert_eq!(header.format, Some(Format::Png));
    assert!(picture.starts_with(b"\x89PNG"));
    drop(sharp);

    // Nobody looks, and the page changes: who comes then does not see what was.
    for screen in [&mut first, &mut second] {
        screen.ask("unsubscribe_frames", json!({})).await;
        assert!(screen.at_rest().await.is_none());
    }
    session.value("scrollTo(0, 100)").await;
    let answer = first.ask("subscribe_frames", json!({})).await;
    assert_eq!(answer["type"], "subscribed_frames");
    let (header, picture) = first.picture().await;
    assert_eq!(header.scroll_y, 100.0);
    assert_eq!(size_of_jpeg(&picture), (1280, 720));

    // The session's end is the view's.
    session.end().await;
    let ended = async {
        loop {
            if let Came::Said(message) = first.next().await {
                return message;
            }
        }
    };
    let ended = timeout(SOON, ended).await.unwrap();
    assert_eq!(ended["type"], "frames.ended");
    world.stop().await;
}

#[tokio::test]
async fn a_page_that_comes_to_rest_is_seen_as_it_is_however_slow_its_viewer() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    let mut slow = Screen::open(&session, json!({ "max_fps": 2, "max_width": 320 })).await;
    let (first, _) = slow.picture().await;
    // A hundred frames within two seconds, of which the last one counts.
    let scroll = "(() => { let n = 0; const go = () => { scrollTo(0, ++n * 10); if (n < 100) requestAnimationFrame(go) }; go() })()";
    let began = Instant::now();
    session.value(scroll).await;
    let mut seen = 0;
    let last = loop {
        let (header, _) = slow.picture().await;
        seen += 1;
        if header.scroll_y == 1000.0 {
            break header;
        }
        assert!(began.elapsed() < SOON, "the last picture does not come");
    };
    assert!(seen <= 12, "{seen} pictures in {:?}", began.elapsed());
    assert!(last.sequence > first.sequence);
    world.stop().await;
}

#[tokio::test]
async fn hands_do_what_a_person_does_in_their_order() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    let mut person = Screen::open(&session, json!({})).await;
    person.take().await;
    let count = middle(&mut person, "#count").await;
    let name = middle(&mut person, "#name").await;
    let greet = middle(&mut person, "#greet").await;

    // Clicks and keys go by different ways to a page, and yet in one order.
    person.click(count.0, count.1).await;
    let text = "The quick brown fox jumps over the lazy dog ".repeat(4);
    person.click(name.0, name.1).await;
    for character in text.trim_end().chars() {
        person.press(character).await;
    }
    person.click(greet.0, greet.1).await;
    becomes(
        &mut person,
        "document.querySelector('#total').value",
        "1".into(),
    )
    .await;
    let greeting = format!("Hello, {}", text.trim_end());
    let greeted = "document.querySelector('#greeting').textContent";
    becomes(&mut person, greeted, greeting.into()).await;

    let area = middle(&mut person, "#area").await;
    person.click(area.0, area.1).await;

    // An input method shows what it may change yet, and then decides.
    let composing = |text: &str| {
        let end = text.encode_utf16().count();
        json!({ "kind": "composition", "text": text, "selectionStart": end, "selectionEnd": end })
    };
    person
        .value("(() => { window.ends = 0; document.querySelector('#area').addEventListener('compositionend', () => ends++) })()")
        .await;
    person.act(composing("に")).await;
    person.act(composing("にほ")).await;
    person
        .act(json!({ "kind": "insert_text", "text": "日本" }))
        .await;
    let area_is = "document.querySelector('#area').value";
    becomes(&mut person, area_is, "日本".into()).await;
    assert_eq!(person.value("ends").await, 1);
    person
        .act(json!({ "kind": "insert_text", "text": " pasted\nin two lines" }))
        .await;
    becomes(&mut person, area_is, "日本 pasted\nin two lines".into()).await;

    // What is selected can be had.
    let select_all = json!({
        "kind": "key", "type": "rawKeyDown", "key": "a", "code": "KeyA",
        "windowsVirtualKeyCode": 65, "modifiers": 2, "commands": ["selectAll"],
    });
    person.act(select_all).await;
    let copied = person.ask("input", json!({ "kind": "copy" })).await;
    assert_eq!(copied["type"], "input_answered", "{copied}");
    assert_eq!(copied["payload"]["text"], "日本 pasted\nin two lines");

    // The wheel, and fingers.
    let wheel = json!({ "kind": "mouse", "type": "mouseWheel", "x": 600, "y": 400, "deltaX": 0, "deltaY": 240 });
    person.act(wheel).await;
    becomes(&mut person, "scrollY > 200", true.into()).await;
    person
        .value("(() => { window.touched = []; for (const kind of ['touchstart', 'touchmove', 'touchend']) addEventListener(kind, (it) => touched.push(kind + it.touches.length)); })()")
        .await;
    for (what, x) in [("touchStart", 900), ("touchMove", 920)] {
        person
            .act(json!({ "kind": "touch", "type": what, "touchPoints": [{ "x": x, "y": 300, "id": 1 }] }))
            .await;
    }
    person
        .act(json!({ "kind": "touch", "type": "touchEnd" }))
        .await;
    let touched = json!(["touchstart1", "touchmove1", "touchend0"]);
    becomes(&mut person, "touched", touched).await;

    // The pointer looks as the page says.
    person.value("scrollTo(0, 0)").await;
    let link = middle(&mut person, "a[href='/second']").await;
    person
        .act(json!({ "kind": "mouse", "type": "mouseMoved", "x": link.0, "y": link.1 }))
        .await;
    loop {
        if let Came::Frame(Header { cursor, .. }, _) = person.next().await
            && cursor.name() == "pointer"
        {
            break;
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn what_is_no_input_is_refused_and_the_page_is_as_it_was() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    let mut person = Screen::open(&session, json!({})).await;
    person.take().await;
    for (input, field) in [
        (
            json!({ "kind": "mouse", "type": "mouseMoved", "x": 1e9, "y": 0 }),
            "payload.x",
        ),
        (
            json!({ "kind": "key", "type": "keyDown", "modifiers": 99 }),
            "payload.modifiers",
        ),
        (
            json!({ "kind": "navigate", "url": "nonsense" }),
            "payload.url",
        ),
    ] {
        let answer = person.ask("input", input).await;
        assert_eq!(answer["payload"]["status"], 422, "{answer}");
        assert_eq!(answer["payload"]["field"], field, "{answer}");
    }
    for (input, code) in [
        (json!({ "kind": "evaluate", "expression": "1" }), 422),
        (
            json!({ "kind": "navigate", "url": "file:///etc/passwd" }),
            403,
        ),
    ] {
        let answer = person.ask("input", input).await;
        assert_eq!(answer["payload"]["status"], code, "{answer}");
    }
    for wish in [
        json!({ "max_fps": 0 }),
        json!({ "max_fps": 61 }),
        json!({ "quality": 101 }),
        json!({ "format": "gif" }),
        json!({ "max_width": 1 }),
    ] {
        let answer = person.ask("subscribe_frames", wish).await;
        assert_eq!(answer["payload"]["status"], 422, "{answer}");
    }
    assert_eq!(person.value("document.title").await, "A small page");
    world.stop().await;
}

#[tokio::test]
async fn who_may_only_look_does_nothing_and_goes_on_looking() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    let mut owner = Screen::not_subscribed(&alice, &session.id).await;
    owner.take().await;
    let count = middle(&mut owner, "#count").await;
    let wish = json!({ "session_id": session.id, "right": "view" });
    let ticket = alice.post("/api/ws-ticket", wish).await.text("ticket");
    let socket = Socket::with_ticket(&alice, &ticket).await.unwrap();
    let mut viewer = Screen::of(socket, &session.id);
    let answer = viewer.ask("subscribe_frames", json!({})).await;
    assert_eq!(answer["type"], "subscribed_frames", "{answer}");
    viewer.picture().await;
    for input in [
        json!({ "kind": "mouse", "type": "mousePressed", "x": count.0, "y": count.1, "button": "left" }),
        json!({ "kind": "mouse", "type": "mouseReleased", "x": count.0, "y": count.1, "button": "left" }),
        json!({ "kind": "insert_text", "text": "x" }),
        json!({ "kind": "navigate", "url": site.url("/second") }),
        json!({ "kind": "copy" }),
    ] {
        let answer = viewer.ask("input", input).await;
        assert_eq!(answer["payload"]["code"], "forbidden", "{answer}");
    }
    owner.value("scrollTo(0, 300)").await;
    while viewer.picture().await.0.scroll_y != 300.0 {}
    let untouched = "document.title + document.querySelector('#total').value";
    assert_eq!(owner.value(untouched).await, "A small page0");
    world.stop().await;
}

#[tokio::test]
async fn the_view_follows_the_active_tab_and_hands_choose_it() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({ "dialogs": "report" })).await;
    session.navigate(&site.url("/")).await.ok();
    session.value("scrollTo(0, 111)").await;
    let mut person = Screen::open(&session, json!({})).await;
    // Pictures come to one socket and hands are on another, so that none is passed over.
    let mut hands = Screen::not_subscribed(&alice, &session.id).await;
    hands.take().await;
    let shows = async |person: &mut Screen, scroll: f32| {
        let shown = async {
            loop {
                if person.picture().await.0.scroll_y == scroll {
                    return;
                }
            }
        };
        timeout(SOON, shown).await.expect("the view follows");
    };
    shows(&mut person, 111.0).await;
    let title = async |hands: &mut Screen, title: &str| {
        becomes(hands, "document.title", title.into()).await;
    };
    let first = hands.command("state", json!({})).await["tabs"][0]["id"].clone();

    let url = site.url("/second");
    hands.act(json!({ "kind": "new_tab", "url": url })).await;
    title(&mut hands, "Second").await;
    shows(&mut person, 0.0).await;
    hands
        .act(json!({ "kind": "activate_tab", "tabId": first }))
        .await;
    title(&mut hands, "A small page").await;
    shows(&mut person, 111.0).await;
    let second = hands.command("state", json!({})).await["tabs"][1]["id"].clone();
    assert_eq!(
        hands.command("state", json!({})).await["tabs"][0]["active"],
        true,
        "tabs keep their places"
    );
    hands
        .act(json!({ "kind": "activate_tab", "tabId": second }))
        .await;
    title(&mut hands, "Second").await;
    hands
        .act(json!({ "kind": "close_tab", "tabId": second }))
        .await;
    title(&mut hands, "A small page").await;
    shows(&mut person, 111.0).await;

    // The way back and forth.
    hands.act(json!({ "kind": "navigate", "url": url })).await;
    title(&mut hands, "Second").await;
    hands.act(json!({ "kind": "back" })).await;
    title(&mut hands, "A small page").await;
    hands.act(json!({ "kind": "forward" })).await;
    title(&mut hands, "Second").await;
    hands.value("document.title = 'Changed'").await;
    hands.act(json!({ "kind": "reload" })).await;
    title(&mut hands, "Second").await;
    hands.act(json!({ "kind": "back" })).await;
    title(&mut hands, "A small page").await;

    // A dialog holds the page, and not whoever answers it.
    hands.value("scrollTo(0, 0)").await;
    let alert = middle(&mut hands, "#alert").await;
    hands.click(alert.0, alert.1).await;
    // Who comes while it is open learns of it.
    let latest = Instant::now() + SOON;
    loop {
        let standing = hands.ask("subscribe", json!({})).await;
        let dialog = &standing["payload"]["dialog"];
        if dialog["message"] == "Boo" {
            break;
        }
        assert!(dialog.is_null() && Instant::now() < latest, "{standing}");
        sleep(LOOK_EVERY).await;
    }
    hands
        .act(json!({ "kind": "answer_dialog", "accept": true }))
        .await;
    until_told(&mut hands, "dialog.closed").await;
    title(&mut hands, "After").await;
    world.stop().await;
}

/// Waits until the session's watchers are told of this.
async fn until_told(screen: &mut Screen, kind: &str) {
    loop {
        if let Came::Said(message) = screen.next().await
            && message["type"] == kind
        {
            return;
        }
    }
}

/// Waits until they are told of such tabs.
async fn until_tabs(screen: &mut Screen, so: impl Fn(&Value) -> bool) {
    loop {
        if let Came::Said(message) = screen.next().await
            && so(&message["payload"]["tabs"])
        {
            return;
        }
    }
}

#[tokio::test]
async fn a_stuck_page_takes_no_input_and_holds_nobody() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    let first = session.state().await.ok()["tabs"][0]["id"].clone();
    let mut person = Screen::open(&session, json!({})).await;
    person.take().await;
    person.ask("subscribe", json!({})).await;
    let busy = site.url("/busy");
    person.act(json!({ "kind": "new_tab", "url": busy })).await;
    until_tabs(&mut person, |tabs| tabs[1]["url"] == busy).await;
    for _ in 0..500 {
        person.press('x').await;
    }
    // The way out waits for nothing.
    let began = Instant::now();
    person
        .act(json!({ "kind": "activate_tab", "tabId": first }))
        .await;
    until_tabs(&mut person, |tabs| tabs[0]["active"] == true).await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    let (x, y) = middle(&mut person, "#count").await;
    let clicked = "document.querySelector('#total').value";
    person.click(x, y).await;
    becomes(&mut person, clicked, "1".into()).await;
    world.stop().await;
}
