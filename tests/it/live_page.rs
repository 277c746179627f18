//! The live page, in a real browser: a person sees and drives another browser with it.
//! Their hands are those of a live view themselves, so that what the page gets is what a
//! browser gives it.

use std::time::Duration;

use browserfleet_tests::api::{Caller, Session};
use browserfleet_tests::screen::Screen;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::{PASSWORD, Plan, World};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How soon the page shows what happened.
const SOON: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const EMAIL: &str = "ada@example.com";
/// CDP's modifiers.
const CTRL: u32 = 2;
const SHIFT: u32 = 8;

/// A browser in which the live page of another one is open, and a person before it.
struct Person {
    session: Session,
    hands: Screen,
}

impl Person {
    async fn before(session: Session) -> Self {
        let mut hands = Screen::not_subscribed(&session.caller, &session.id).await;
        hands.take().await;
        Self { session, hands }
    }

    /// Signs in, and opens the page.
    async fn signed_in(world: &World, caller: &Caller, watched: &str) -> Self {
        let session = caller.open(json!({})).await;
        session.navigate(&format!("{}/", world.api)).await.ok();
        for (name, text) in [("email", EMAIL), ("password", PASSWORD)] {
            let field = json!({ "selector": format!("input[name={name}]"), "text": text });
            session.command("type", field).await.ok();
        }
        let submit = json!({ "selector": "form button" });
        session.command("click", submit).await.ok();
        let mut person = Self::before(session).await;
        person.reads("#says", "Signed in").await;
        person.open(&format!("{}/live/{watched}", world.api)).await;
        person
    }

    /// Opens a link, as somebody whom nobody knows.
    async fn with_link(caller: &Caller, url: &str) -> Self {
        let mut person = Self::before(caller.open(json!({})).await).await;
        person.open(url).await;
        person
    }

    async fn open(&mut self, url: &str) {
        let answer = self.hands.ask("navigate", json!({ "url": url })).await;
        assert_eq!(answer["type"], "reply", "{answer}");
    }

    /// Waits until a script of the page gives what passes.
    async fn comes_to(&mut self, expression: &str, passes: impl Fn(&Value) -> bool) {
        let asked = json!({ "expression": expression });
        let latest = Instant::now() + SOON;
        loop {
            // While the page loads there is none.
            let answer = self.hands.ask("execute", asked.clone()).await;
            let now = &answer["payload"]["value"];
            if passes(now) {
                return;
            }
            assert!(Instant::now() < latest, "{expression} gives {now}");
            sleep(LOOK_EVERY).await;
        }
    }

    async fn becomes(&mut self, expression: &str, value: impl Into<Value>) {
        let value = value.into();
        self.comes_to(expression, |now| *now == value).await;
    }

    /// Waits until an element of the page has this text.
    async fn reads(&mut self, selector: &str, text: &str) {
        let asked = format!("document.querySelector({selector:?})?.textContent");
        let reads = |now: &Value| now.as_str().is_some_and(|it| it.contains(text));
        self.comes_to(&asked, reads).await;
    }

    async fn is_live(&mut self) {
        self.reads("#connection-says", "Live").await;
        let shown =
            "document.querySelector('#says').hidden && !document.querySelector('#screen').hidden";
        self.becomes(shown, true).await;
    }

    /// Clicks an element of the page.
    async fn click(&mut self, selector: &str) {
        let (x, y) = self.middle(selector).await;
        self.hands.click(x, y).await;
    }

    async fn middle(&mut self, selector: &str) -> (f64, f64) {
        let asked = middle_of(selector);
        place(&self.hands.value(&asked).await)
    }

    /// Where a place of the watched page is shown.
    async fn shown_at(&mut self, (x, y): (f64, f64)) -> (f64, f64) {
        let asked = format!(
            "(() => {{ const b = document.querySelector('#screen').getBoundingClientRect(); return [b.x + {x} * b.width / 1280, b.y + {y} * b.height / 720] }})()"
        );
        place(&self.hands.value(&asked).await)
    }

    /// Clicks a place of the watched page.
    async fn click_through(&mut self, at: (f64, f64)) {
        let (x, y) = self.shown_at(at).await;
        self.hands.click(x, y).await;
    }

    async fn write(&mut self, text: &str) {
        for character in text.chars() {
            self.hands.press(character).await;
        }
    }
}

fn middle_of(selector: &str) -> String {
    format!(
        "(() => {{ const b = document.querySelector({selector:?}).getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] }})()"
    )
}

fn place(value: &Value) -> (f64, f64) {
    (value[0].as_f64().unwrap(), value[1].as_f64().unwrap())
}

async fn in_the_view(session: &Session, selector: &str) -> (f64, f64) {
    place(&session.value(&middle_of(selector)).await)
}

async fn ada(world: &World) -> Caller {
    world.register(EMAIL, PASSWORD).await;
    world.nobody().sign_in(EMAIL, PASSWORD).await.unwrap()
}

const TABS: &str = "document.querySelectorAll('.tab').length";
const ACTIVE: &str = "document.querySelector('.tab.active .title').textContent";
const ADDRESS: &str = "document.querySelector('#url').value";

#[tokio::test]
async fn a_person_drives_another_browser_through_the_page() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let ada = ada(&world).await;
    let watched = ada.open(json!({ "dialogs": "report" })).await;
    watched.navigate(&site.url("/")).await.ok();
    let name = in_the_view(&watched, "#name").await;
    let greet = in_the_view(&watched, "#greet").await;
    let count = in_the_view(&watched, "#count").await;
    let area = in_the_view(&watched, "#area").await;

    let mut person = Person::signed_in(&world, &ada, &watched.id).await;
    person.is_live().await;
    person.becomes(ACTIVE, "A small page").await;
    person.becomes(ADDRESS, site.url("/")).await;
    person.reads("#driver-says", "The automation drives").await;
    person
        .becomes("document.querySelector('#url').disabled", true)
        .await;
    // Whoever does not drive does nothing.
    person.click_through(count).await;

    person.click("#take").await;
    person.reads("#driver-says", "You drive").await;
    assert_eq!(watched.state().await.code(), "control_held");

    // Mouse and keys, in their order.
    person.click_through(count).await;
    person.click_through(name).await;
    person.write("Ada L").await;
    person.hands.stroke("Backspace", "Backspace", 8, 0).await;
    // The clipboard, to there and back.
    person.click_through(area).await;
    let paste = "(() => { const data = new DataTransfer(); data.setData('text/plain', 'pasted\\r\\ntext'); \
         document.querySelector('#keys').dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })); return data.types.length })()";
    assert_eq!(person.hands.value(paste).await, 1);
    person.hands.stroke("a", "KeyA", 65, CTRL).await;
    person.hands.value("(() => { navigator.clipboard.write = async ([it]) => { window.copied = await (await it.getType('text/plain')).text() } })()").await;
    person.hands.stroke("c", "KeyC", 67, CTRL).await;
    person.becomes("window.copied", "pasted\ntext").await;
    person.click_through(greet).await;
    // The wheel, and fingers.
    let (x, y) = person.shown_at((900.0, 500.0)).await;
    let wheel = json!({ "kind": "mouse", "type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": 240 });
    person.hands.act(wheel).await;
    for (what, points) in [
        ("touchStart", json!([{ "x": x, "y": y, "id": 1 }])),
        ("touchEnd", json!([])),
    ] {
        person
            .hands
            .act(json!({ "kind": "touch", "type": what, "touchPoints": points }))
            .await;
    }

    // Given back, it is as the person left it.
    person.click("#release").await;
    person.reads("#driver-says", "The automation drives").await;
    let state = "[document.querySelector('#total').value, document.querySelector('#greeting').textContent, document.querySelector('#area').value, scrollY > 100]";
    assert_eq!(
        watched.value(state).await,
        json!(["1", "Hello, Ada ", "pasted\ntext", true])
    );
    watched.value("scrollTo(0, 0)").await;
    let alert = in_the_view(&watched, "#alert").await;
    let name = in_the_view(&watched, "#name").await;

    // A dialog, which only whoever drives answers.
    person.click("#take").await;
    person.reads("#driver-says", "You drive").await;
    person.click_through(alert).await;
    person.reads("#page-dialog-message", "Boo").await;
    person.click("#page-dialog-ok").await;
    person
        .becomes("document.querySelector('#page-dialog').hidden", true)
        .await;
    person.becomes(ACTIVE, "After").await;

    // Tabs, and the way back and forth.
    person.click("#new-tab").await;
    person.becomes(TABS, 2).await;
    person.becomes(ADDRESS, "").await;
    person.click("#url").await;
    let second = site.url("/second");
    person
        .hands
        .act(json!({ "kind": "insert_text", "text": second }))
        .await;
    person.hands.stroke("Enter", "Enter", 13, 0).await;
    person.becomes(ACTIVE, "Second").await;
    person.becomes(ADDRESS, second).await;
    person.click("#back").await;
    person.becomes(ADDRESS, "").await;
    person.click("#forward").await;
    person.becomes(ACTIVE, "Second").await;
    person.click(".tab:first-child .title").await;
    person.becomes(ACTIVE, "After").await;
    person.click("#reload").await;
    person.becomes(ACTIVE, "A small page").await;
    person.click(".tab:last-child .close").await;
    person.becomes(TABS, 1).await;
    // The keyboard comes back to the page.
    person.click_through(name).await;
    person.becomes("document.activeElement.id", "keys").await;
    person.hands.stroke("Escape", "Escape", 27, SHIFT).await;
    person.becomes("document.activeElement.id", "url").await;

    // The session's end is told, and nothing is tried again.
    person.click("#release").await;
    person.reads("#driver-says", "The automation drives").await;
    watched.end().await;
    person.reads("#says-title", "The session has ended").await;
    person.reads("#connection-says", "Ended").await;
    world.stop().await;
}

#[tokio::test]
async fn a_link_is_enough_to_watch_or_drive_until_it_is_taken_back() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.user("alice").await;
    let watched = alice.open(json!({})).await;
    watched.navigate(&site.url("/")).await.ok();
    let count = in_the_view(&watched, "#count").await;
    let shares = format!("/api/sessions/{}/shares", watched.id);
    let share = async |right: &str| alice.post(&shares, json!({ "right": right })).await.ok();
    let link = |share: &Value| {
        let token = share["token"].as_str().unwrap();
        format!("{}/live/{}#share={token}", world.api, watched.id)
    };
    let view = share("view").await;
    let mut person = Person::with_link(&alice, &link(&view)).await;
    person.is_live().await;
    person.becomes("location.hash", "").await;
    person
        .becomes("document.querySelector('#take').hidden", true)
        .await;
    person.click_through(count).await;

    let drive = share("drive").await;
    person.open("about:blank").await;
    person.open(&link(&drive)).await;
    person.is_live().await;
    person.click("#take").await;
    person.reads("#driver-says", "You drive").await;
    person.click_through(count).await;
    let clicked = async || site.counted();
    let latest = Instant::now() + SOON;
    while clicked().await == 0 {
        assert!(Instant::now() < latest, "the click does not arrive");
        sleep(LOOK_EVERY).await;
    }
    // The owner is told who drives, and takes it away.
    assert_eq!(watched.state().await.code(), "control_held");
    let id = drive["id"].as_str().unwrap();
    assert_eq!(alice.delete(&format!("{shares}/{id}")).await.status, 204);
    person
        .reads("#says-title", "This link counts no more")
        .await;
    let total = "document.querySelector('#total').value";
    assert_eq!(watched.value(total).await, "1");
    world.stop().await;
}

#[tokio::test]
async fn a_session_that_starts_is_waited_for() {
    let plan = Plan::default()
        .with("POOL_WARM", 0)
        .with("POOL_MAX", 2)
        .with("SESSIONS_PER_INSTANCE", 1);
    let world = plan.start().await.unwrap();
    let ada = ada(&world).await;
    let blocker = world.administrator().await.open(json!({})).await;
    let mut person = Person::signed_in(&world, &ada, "ses_01a20c01521f70cba25812359c803a52").await;
    person
        .reads("#says-title", "There is no such session")
        .await;
    let asking = {
        let ada = ada.clone();
        tokio::spawn(async move { ada.open(json!({})).await })
    };
    let queued = async || {
        let sessions = ada.get("/api/sessions").await.ok();
        let all = sessions["data"].as_array().unwrap().clone();
        all.into_iter().find(|it| it["status"] == "queued")
    };
    let latest = Instant::now() + SOON;
    let waiting = loop {
        if let Some(session) = queued().await {
            break session;
        }
        assert!(Instant::now() < latest, "nothing waits");
        sleep(LOOK_EVERY).await;
    };
    let page = format!("{}/live/{}", world.api, waiting["id"].as_str().unwrap());
    person.open(&page).await;
    person.reads("#says-title", "The session starts").await;
    person.reads("#says-more", "Place 1 in the queue").await;
    person.reads("#connection-says", "Starting").await;
    blocker.end().await;
    person.is_live().await;
    asking.await.unwrap().end().await;
    person.reads("#says-title", "The session has ended").await;
    world.stop().await;
}

#[tokio::test]
async fn the_page_comes_back_by_itself() {
    let mut world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let ada = ada(&world).await;
    let watched = ada.open(json!({})).await;
    watched.navigate(&site.url("/")).await.ok();
    let mut person = Person::signed_in(&world, &ada, &watched.id).await;
    person.is_live().await;
    person.click("#take").await;
    person.reads("#driver-says", "You drive").await;

    world.kill().await;
    world.start_again().await;
    let session = person.session.clone();
    let latest = Instant::now() + SOON;
    let mut person = loop {
        let mut hands = Screen::not_subscribed(&session.caller, &session.id).await;
        let answer = hands.ask("control", json!({ "action": "take" })).await;
        if answer["type"] == "controlled" {
            break Person { session, hands };
        }
        assert!(Instant::now() < latest, "{answer}");
        sleep(LOOK_EVERY).await;
    };
    person.is_live().await;
    // What it held it holds again.
    person.reads("#driver-says", "You drive").await;
    person.click("#release").await;
    person.reads("#driver-says", "The automation drives").await;
    let before = person
        .hands
        .value("document.querySelector('#screen').dataset.sequence")
        .await;
    watched.value("scrollTo(0, 300)").await;
    let newer =
        format!("Number(document.querySelector('#screen').dataset.sequence) > Number({before})");
    person.becomes(&newer, true).await;
    world.stop().await;
}

#[tokio::test]
async fn nothing_on_the_page_is_from_elsewhere() {
    let world = World::new().await.unwrap();
    let nobody = world.nobody();
    let page = nobody
        .get("/live/ses_01a20c01521f70cba25812359c803a52")
        .await;
    assert_eq!(page.status, 200);
    let html = String::from_utf8_lossy(&page.body).into_owned();
    for inline in [
        "<style",
        "style=",
        " onclick",
        "javascript:",
        "http:",
        "https:",
    ] {
        assert!(!html.contains(inline), "{inline}");
    }
    let files = html.match_indices("/pages/").map(|(at, _)| {
        let rest = &html[at..];
        rest[..rest.find('"').unwrap()].to_owned()
    });
    for path in files.chain(["/live/x".to_owned()]) {
        let file = nobody.get(&path).await;
        assert_eq!(file.status, 200, "{path}");
        let policy = file.headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(file.headers["x-content-type-options"], "nosniff");
    }
    assert_eq!(nobody.get("/pages/../mod.rs").await.status, 404);
    assert_eq!(nobody.get("/pages/live.rs").await.status, 404);
    world.stop().await;
}
