//! Accounts: what is told to strangers, how long tokens live, who may change what.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use browserfleet_tests::api::{Caller, Reply};
use browserfleet_tests::eventually;
use browserfleet_tests::world::{PASSWORD, Plan, World};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

const NEW_PASSWORD: &str = "five other words and 2 numbers";
/// How often each way is gone to tell two times apart.
const ROUNDS: usize = 300;
/// Addresses that each way is gone from: what is measured is not the throttle.
const ADDRESSES: usize = 60;
/// What two times may differ by that tell nothing: this, or a twentieth.
const DIFFERENCE: Duration = Duration::from_millis(5);
/// Of the tests that load both cores in order to measure, one at a time.
static MEASURED: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// How long it may take until what has to be quick was quick.
const PATIENCE: Duration = Duration::from_secs(15);

async fn log_in(world: &World, email: &str) -> Value {
    let body = json!({ "email": email, "password": PASSWORD });
    world.nobody().post("/api/auth/login", body).await.ok()
}

fn bearer(world: &World, signed_in: &Value) -> Caller {
    let token = signed_in["access_token"].as_str().unwrap();
    world.nobody().with_token(token)
}

async fn refresh(caller: &Caller, token: &Value) -> Reply {
    let body = json!({ "refresh_token": token });
    caller.post("/api/auth/refresh-token", body).await
}

/// What does not differ from one call to the next by itself.
fn looks(reply: &Reply) -> (u16, Value, Vec<String>) {
    let mut body = reply.json();
    body["request_id"] = Value::Null;
    let mut headers: Vec<String> = reply.headers.keys().map(ToString::to_string).collect();
    headers.sort();
    (reply.status, body, headers)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// It can be this quick: other tests use the same cores, so it need not be at once.
async fn takes_less_than(bound: Duration, ask: impl AsyncFn()) {
    let began = Instant::now();
    loop {
        let asked = Instant::now();
        ask().await;
        let took = asked.elapsed();
        if took < bound {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{took:?} and not {bound:?}");
        tokio::time::sleep(PATIENCE / 50).await;
    }
}

/// Of the passwords that people choose most, those that are long enough.
const COMMON: &[&str] = &[
    "password",
    "12345678",
    "123456789",
    "1234567890",
    "password1",
    "qwerty123",
    "1q2w3e4r",
    "1qaz2wsx",
    "iloveyou",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "superman",
    "trustno1",
    "starwars",
    "whatever",
    "computer",
    "michelle",
    "jennifer",
    "corvette",
    "mercedes",
    "letmein1",
    "welcome1",
    "passw0rd",
    "p@ssw0rd",
    "qwertyui",
    "asdfghjkl",
    "zaq12wsx",
    "11111111",
    "00000000",
    "88888888",
    "87654321",
    "987654321",
    "147258369",
    "abcd1234",
    "abc12345",
    "q1w2e3r4",
    "1q2w3e4r5t",
    "qazwsxedc",
    "liverpool",
    "alexander",
    "chocolate",
    "butterfly",
    "Password1",
    "PASSWORD",
    "admin123",
    "internet",
    "samantha",
    "victoria",
    "changeme",
    "dragon123",
    "monkey123",
    "basketball",
    "cocacola",
    "metallica",
    "spiderman",
    "blink182",
    "elizabeth",
    "maverick",
    "pokemon1",
    "aaaaaaaa",
    "ashley123",
];

/// Accounts that there are, for one attempt: strangers may try each 100 times.
const KNOWN: usize = 4;
/// Attempts to tell two times apart: other tests use the same cores, and what they
/// take is not what an account takes.
const ATTEMPTS: usize = 3;

/// What a stranger may ask about an address, and what is answered.
struct Way {
    path: &'static str,
    body: Value,
    status: u16,
}

impl Way {
    async fn ask(&self, caller: &Caller, email: &str) -> Reply {
        let mut body = self.body.clone();
        body["email"] = email.into();
        let reply = caller.post(self.path, body).await;
        assert_eq!(reply.status, self.status, "{}: {reply:?}", self.path);
        reply
    }

    /// How long it takes where there is an account, and where there is none.
    async fn medians(&self, callers: &[Vec<Caller>; 2], attempt: usize) -> [Duration; 2] {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            let somebody = format!("known{}@example.com", attempt * KNOWN + round % KNOWN);
            // Registering makes an account of it: each way has its own.
            let page = self.path.rsplit('/').next().unwrap();
            let nobody = format!("nobody{attempt}-{round}@{page}.example.com");
            for (which, email) in [somebody, nobody].iter().enumerate() {
                let caller = &callers[which][round % ADDRESSES];
                let asked = Instant::now();
                self.ask(caller, email).await;
                times[which].push(asked.elapsed());
            }
        }
        times.map(median)
    }
}

#[tokio::test]
async fn strangers_are_not_told_who_has_an_account() {
    let _alone = MEASURED.lock().await;
    let world = World::new().await.unwrap();
    for number in 0..KNOWN * ATTEMPTS {
        let email = format!("known{number}@example.com");
        world.register(&email, PASSWORD).await;
    }
    let callers = [1, 2].map(|network| {
        let hosts = (1..).take(ADDRESSES);
        let addresses = hosts.map(|host| IpAddr::V4(Ipv4Addr::new(127, 0, network, host)));
        addresses
            .map(|it| Caller::from_address(&world.api, it))
            .collect::<Vec<_>>()
    });
    let way = |path, body, status| Way { path, body, status };
    let ways = [
        way(
            "/api/auth/login",
            json!({ "password": "not the right one" }),
            401,
        ),
        way(
            "/api/auth/register",
            json!({ "password": NEW_PASSWORD }),
            202,
        ),
        way("/api/auth/forgot-password", json!({}), 202),
        way("/api/auth/verify-email/resend", json!({}), 202),
    ];
    for way in ways {
        let [one, other] = [&callers[0][0], &callers[1][0]];
        let known = way.ask(one, "known0@example.com").await;
        let unknown = way.ask(other, "someone@example.org").await;
        assert_eq!(looks(&known), looks(&unknown), "{}", way.path);
        let mut told = Vec::new();
        for attempt in 0..ATTEMPTS {
            let [known, unknown] = way.medians(&callers, attempt).await;
            println!(
                "{}: {known:?} where there is an account, {unknown:?} where there is none",
                way.path
            );
            let (less, more) = (known.min(unknown), known.max(unknown));
            if more - less < DIFFERENCE.max(less / 20) {
                told.clear();
                break;
            }
            told.push([known, unknown]);
        }
        assert!(told.is_empty(), "{}: {told:?} tell them apart", way.path);
    }
    // Its owner is told.
    let told = "You have an account already";
    eventually("the mail came", Duration::from_secs(5), || async {
        let mails = world.mails("known0@example.com");
        mails.iter().any(|it| it.contains(told))
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn a_password_is_long_uncommon_and_exact() {
    let world = World::new().await.unwrap();
    let register = async |password: &str, email: &str| {
        let body = json!({ "email": email, "password": password });
        world.nobody().post("/api/auth/register", body).await
    };
    for (password, code) in [
        ("seven77", "invalid"),
        (&"x".repeat(129), "invalid"),
        ("password1234", "password_too_common"),
        ("browserfleet", "password_too_common"),
        ("qwertyuiop", "password_too_common"),
        ("iloveyou1", "password_too_common"),
    ] {
        let reply = register(password, "a@example.com").await;
        let found = (reply.status, reply.code(), reply.text("field"));
        assert_eq!(
            found,
            (422, code.to_owned(), "password".to_owned()),
            "{password}"
        );
    }
    for password in COMMON {
        let reply = register(password, "a@example.com").await;
        assert_eq!(reply.code(), "password_too_common", "{password}");
    }
    let password = "x".repeat(1024 * 1024);
    let huge = format!("{{\"email\":\"a@example.com\",\"password\":\"{password}\"}}");
    let http = reqwest::Client::builder()
        .local_address(IpAddr::from([127, 0, 0, 2]))
        .build()
        .unwrap();
    let path = format!("{}/api/auth/register", world.api);
    takes_less_than(Duration::from_millis(50), async || {
        let request = http.post(&path).header("content-type", "application/json");
        let reply = request.body(huge.clone()).send().await.unwrap();
        assert_eq!(reply.status(), 422);
    })
    .await;
    for (name, length) in [("long", 64), ("longest", 128)] {
        let password: String = "pass phrase 🔑 ".chars().cycle().take(length).collect();
        let email = format!("{name}@example.com");
        world.register(&email, &password).await;
        assert!(world.nobody().sign_in(&email, &password).await.is_ok());
        let trimmed = password.trim_end();
        if trimmed != password {
            assert!(world.nobody().sign_in(&email, trimmed).await.is_err());
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn nobody_signs_in_before_the_address_is_proven() {
    let world = World::new().await.unwrap();
    let nobody = world.nobody();
    let body = json!({ "email": "eve@example.com", "password": PASSWORD });
    nobody.post("/api/auth/register", body.clone()).await.ok();
    let early = nobody.post("/api/auth/login", body).await;
    assert_eq!(
        (early.status, early.code()),
        (401, "bad_credentials".into())
    );
    // Whoever reads the mail decides: the last one to register has the account.
    let first = world.mailed_token("eve@example.com", "verify-email").await;
    let body = json!({ "email": "eve@example.com", "password": NEW_PASSWORD });
    nobody.post("/api/auth/register", body.clone()).await.ok();
    eventually("the second mail came", Duration::from_secs(5), || async {
        world.mails("eve@example.com").len() == 2
    })
    .await;
    let second = world.mailed_token("eve@example.com", "verify-email").await;
    let verify = async |token: &str| {
        let reply = nobody
            .post("/api/auth/verify-email", json!({ "token": token }))
            .await;
        (reply.status, reply.code())
    };
    assert_eq!(verify(&first).await, (400, "token_invalid".into()));
    assert_eq!(verify(&second).await, (204, String::new()));
    assert_eq!(verify(&second).await, (400, "token_invalid".into()));
    assert!(nobody.sign_in("eve@example.com", PASSWORD).await.is_err());
    assert!(
        nobody
            .sign_in("eve@example.com", NEW_PASSWORD)
            .await
            .is_ok()
    );
    world.stop().await;
}

#[tokio::test]
async fn a_link_confirms_the_registration_that_it_was_sent_for() {
    let world = World::new().await.unwrap();
    let (nobody, mine) = (world.nobody(), "ada@example.com");
    let body = json!({ "email": mine, "password": PASSWORD });
    nobody.post("/api/auth/register", body).await.ok();
    // Somebody has it written to until it is written to often enough.
    let full = "was written to often enough";
    while !world.log().contains(full) {
        let again = json!({ "email": mine });
        nobody
            .post("/api/auth/verify-email/resend", again)
            .await
            .ok();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let link = world.mailed_token(mine, "verify-email").await;
    // Their own registration, which no mail tells of.
    let theirs = json!({ "email": mine, "password": NEW_PASSWORD });
    nobody.post("/api/auth/register", theirs).await.ok();
    let verify = json!({ "token": link });
    assert_eq!(
        nobody.post("/api/auth/verify-email", verify).await.status,
        400
    );
    assert!(nobody.sign_in(mine, NEW_PASSWORD).await.is_err());
    world.stop().await;
}

#[tokio::test]
async fn a_refresh_token_that_was_used_up_ends_its_login() {
    let world = World::new().await.unwrap();
    world.register("ada@example.com", PASSWORD).await;
    let nobody = world.nobody();
    let first = log_in(&world, "ada@example.com").await;
    // An answer that was lost is given again, once, while nobody used it.
    let second = refresh(&nobody, &first["refresh_token"]).await.ok();
    let again = refresh(&nobody, &first["refresh_token"]).await.ok();
    assert_eq!(second["refresh_token"], again["refresh_token"]);
    assert_eq!(refresh(&nobody, &first["refresh_token"]).await.status, 401);
    // That harmed nobody.
    let third = refresh(&nobody, &second["refresh_token"]).await.ok();
    let ada = bearer(&world, &third);
    assert_eq!(ada.get("/api/users/me").await.status, 200);
    // Two generations old: somebody else has it.
    let replayed = refresh(&nobody, &first["refresh_token"]).await;
    assert_eq!(
        (replayed.status, replayed.code()),
        (401, "refresh_token_invalid".into())
    );
    assert_eq!(ada.get("/api/users/me").await.status, 401);
    assert_eq!(refresh(&nobody, &third["refresh_token"]).await.status, 401);
    let lines = world
        .administrator()
        .await
        .get("/api/admin/audit?action=login.replayed")
        .await
        .ok();
    assert_eq!(lines["data"].as_array().unwrap().len(), 1);
    assert_eq!(lines["data"][0]["result"], "refused");
    // Only that login.
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", PASSWORD)
            .await
            .is_ok()
    );
    world.stop().await;
}

#[tokio::test]
async fn logging_out_ends_every_token_of_the_login() {
    let world = World::new().await.unwrap();
    world.register("ada@example.com", PASSWORD).await;
    let (one, other) = (
        log_in(&world, "ada@example.com").await,
        log_in(&world, "ada@example.com").await,
    );
    let ada = bearer(&world, &one);
    assert_eq!(
        ada.call(Method::POST, "/api/auth/logout", None)
            .await
            .status,
        204
    );
    assert_eq!(ada.get("/api/users/me").await.status, 401);
    assert_eq!(
        refresh(&world.nobody(), &one["refresh_token"]).await.status,
        401
    );
    // By the refresh token alone, too, and as often as one likes.
    let body = json!({ "refresh_token": other["refresh_token"] });
    for _ in 0..2 {
        let reply = world.nobody().post("/api/auth/logout", body.clone()).await;
        assert_eq!(reply.status, 204);
    }
    assert_eq!(
        bearer(&world, &other).get("/api/users/me").await.status,
        401
    );
    let nothing = world
        .nobody()
        .call(Method::POST, "/api/auth/logout", None)
        .await;
    assert_eq!(nothing.status, 401);
    world.stop().await;
}

#[tokio::test]
async fn logins_are_listed_and_ended_and_a_new_password_ends_them_all() {
    let world = World::new().await.unwrap();
    world.register("ada@example.com", PASSWORD).await;
    let mut logins = Vec::new();
    for _ in 0..4 {
        logins.push(log_in(&world, "ada@example.com").await);
    }
    let ada = bearer(&world, &logins[0]);
    let listed = ada.get("/api/auth/sessions").await.ok();
    let listed = listed["data"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 4);
    let current: Vec<&Value> = listed.iter().filter(|it| it["current"] == true).collect();
    assert_eq!(current.len(), 1);
    assert_eq!(current[0]["id"], logins[0]["login_session_id"]);
    assert_eq!(current[0]["address"], "127.0.0.1");
    let one = logins[3]["login_session_id"].as_str().unwrap();
    assert_eq!(
        ada.delete(&format!("/api/auth/sessions/{one}"))
            .await
            .status,
        204
    );
    assert_eq!(
        bearer(&world, &logins[3]).get("/api/users/me").await.status,
        401
    );

    let wrong = json!({ "current_password": "not it at all", "new_password": NEW_PASSWORD });
    let wrong = ada.post("/api/users/me/password", wrong).await;
    assert_eq!(
        (wrong.status, wrong.code()),
        (403, "current_password_wrong".into())
    );
    let common = json!({ "current_password": PASSWORD, "new_password": "password1234" });
    let common = ada.post("/api/users/me/password", common).await;
    assert_eq!(
        (common.status, common.text("field")),
        (422, "new_password".into())
    );
    let body = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    let changed = ada.post("/api/users/me/password", body).await.ok();
    assert_ne!(changed["login_session_id"], logins[0]["login_session_id"]);
    for login in &logins {
        assert_eq!(bearer(&world, login).get("/api/users/me").await.status, 401);
        assert_eq!(
            refresh(&world.nobody(), &login["refresh_token"])
                .await
                .status,
            401
        );
    }
    assert_eq!(
        bearer(&world, &changed).get("/api/users/me").await.status,
        200
    );
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", PASSWORD)
            .await
            .is_err()
    );

    let other = world
        .nobody()
        .sign_in("ada@example.com", NEW_PASSWORD)
        .await
        .unwrap();
    assert_eq!(other.delete("/api/auth/sessions").await.status, 204);
    assert_eq!(
        bearer(&world, &changed).get("/api/users/me").await.status,
        401
    );
    assert_eq!(other.get("/api/users/me").await.status, 200);
    world.stop().await;
}

#[tokio::test]
async fn guessing_is_slowed_and_locks_nobody_out() {
    let world = World::new().await.unwrap();
    world.register("ada@example.com", PASSWORD).await;
    let guess = async |caller: &Caller, round: u32, headers: &[(&str, &str)]| {
        let body =
            json!({ "email": "ada@example.com", "password": format!("guess number {round}") });
        caller
            .call_with(Method::POST, "/api/auth/login", Some(body), headers)
            .await
    };
    let thief = Caller::from_address(&world.api, "127.0.0.2".parse().unwrap());
    let mut refused = 0;
    for round in 0..100 {
        let reply = guess(&thief, round, &[]).await;
        match reply.status {
            401 => assert!(round < 12, "guess {round} was looked at"),
            429 => {
                assert!(round >= 9, "guess {round} was refused");
                let wait = reply.headers["retry-after"].to_str().unwrap();
                assert!((1..=60).contains(&wait.parse::<u32>().unwrap()), "{wait}");
                assert_eq!(reply.code(), "too_many_attempts");
                refused += 1;
            }
            other => panic!("{other}: {reply:?}"),
        }
    }
    assert!(refused >= 88, "{refused}");
    // What a stranger says of where they are changes nothing.
    for round in 0..200 {
        let forwarded = format!("198.51.100.{round}");
        let reply = guess(&thief, round, &[("x-forwarded-for", &forwarded)]).await;
        assert_eq!(reply.status, 429);
    }
    // The owner, from anywhere else.
    let owner = Caller::from_address(&world.api, "127.0.0.3".parse().unwrap());
    assert!(owner.sign_in("ada@example.com", PASSWORD).await.is_ok());
    // Not from many addresses at once either, where the owner has been before.
    let guesses = (0..15_u8).map(|host| {
        let address = Ipv4Addr::new(127, 0, 9, 1 + host);
        let caller = Caller::from_address(&world.api, IpAddr::V4(address));
        async move {
            for round in 0..9 {
                guess(&caller, round, &[]).await;
            }
        }
    });
    join_all(guesses).await;
    let stranger = Caller::from_address(&world.api, "127.0.8.1".parse().unwrap());
    assert_eq!(guess(&stranger, 0, &[]).await.status, 429);
    assert!(owner.sign_in("ada@example.com", PASSWORD).await.is_ok());
    let lines = world.administrator().await;
    let lines = lines
        .get("/api/admin/audit?action=login.throttled")
        .await
        .ok();
    let lines = lines["data"].as_array().unwrap().len();
    assert!((1..=17).contains(&lines), "{lines} lines for 17 addresses");
    world.stop().await;
}

#[tokio::test]
async fn a_proxy_that_is_trusted_is_believed() {
    let world = Plan::default()
        .with("TRUSTED_PROXIES", "127.0.0.0/8")
        .start()
        .await
        .unwrap();
    world.register("ada@example.com", PASSWORD).await;
    for round in 0..30 {
        let forwarded = format!("203.0.113.7, 198.51.100.{round}");
        let body = json!({ "email": "ada@example.com", "password": "wrong one again" });
        let headers = [("x-forwarded-for", forwarded.as_str())];
        let reply = world
            .nobody()
            .call_with(Method::POST, "/api/auth/login", Some(body), &headers)
            .await;
        assert_eq!(reply.status, 401, "{round}");
    }
    let lines = world
        .administrator()
        .await
        .get("/api/admin/audit?action=login&result=refused")
        .await;
    assert_eq!(lines.ok()["data"][0]["address"], "198.51.100.29");
    world.stop().await;
}

#[tokio::test]
async fn pages_have_cookies_that_other_pages_cannot_use() {
    let world = Plan::default()
        .with("ALLOWED_ORIGINS", "https://app.example.com")
        .start()
        .await
        .unwrap();
    world.register("ada@example.com", PASSWORD).await;
    let nobody = world.nobody();
    let own: &[(&str, &str)] = &[("sec-fetch-site", "same-origin")];
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let signed_in = nobody
        .call_with(Method::POST, "/api/auth/login", Some(body.clone()), own)
        .await;
    assert_eq!(signed_in.status, 200);
    let shown = signed_in.json();
    assert!(shown.get("access_token").is_none() && shown.get("refresh_token").is_none());
    for cookie in signed_in.headers.get_all("set-cookie") {
        let cookie = cookie.to_str().unwrap();
        for part in [
            "__Host-",
            "; HttpOnly",
            "; Secure",
            "; SameSite=Strict",
            "; Path=/",
        ] {
            assert!(cookie.contains(part), "{part}: {cookie}");
        }
        assert!(!cookie.contains("Domain"), "{cookie}");
    }
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(signed_in.headers[name], value);
    }
    let policy = signed_in.headers["content-security-policy"]
        .to_str()
        .unwrap();
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");

    let cookies = signed_in.cookies();
    let settings = async |headers: &[(&str, &str)]| {
        let mut all = vec![("cookie", cookies.as_str())];
        all.extend(headers);
        let body = Some(json!({ "theme": "dark" }));
        nobody
            .call_with(Method::PUT, "/api/users/settings", body, &all)
            .await
            .status
    };
    assert_eq!(settings(&[("sec-fetch-site", "same-origin")]).await, 200);
    assert_eq!(
        settings(&[
            ("origin", "https://app.example.com"),
            ("sec-fetch-site", "cross-site")
        ])
        .await,
        200
    );
    assert_eq!(
        settings(&[]).await,
        403,
        "a cookie and no word on where it comes from"
    );
    assert_eq!(settings(&[("sec-fetch-site", "cross-site")]).await, 403);
    assert_eq!(settings(&[("sec-fetch-site", "same-site")]).await, 403);
    assert_eq!(settings(&[("origin", "https://evil.example")]).await, 403);
    let read = nobody
        .call_with(
            Method::GET,
            "/api/users/settings",
            None,
            &[("cookie", &cookies)],
        )
        .await;
    assert_eq!(read.ok()["theme"], "dark");
    for content_type in ["text/plain", "application/x-www-form-urlencoded"] {
        let reply = reqwest::Client::new()
            .put(format!("{}/api/users/settings", world.api))
            .header("cookie", &cookies)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", content_type)
            .body("{\"theme\":\"light\"}")
            .send()
            .await
            .unwrap();
        assert_eq!(reply.status(), 415, "{content_type}");
    }
    // Nobody is signed in by another page, as somebody else.
    let forced = nobody
        .call_with(
            Method::POST,
            "/api/auth/login",
            Some(body),
            &[("sec-fetch-site", "cross-site")],
        )
        .await;
    assert_eq!((forced.status, forced.code()), (403, "cross_origin".into()));
    assert!(forced.cookies().is_empty());

    let again = nobody
        .call_with(
            Method::POST,
            "/api/auth/refresh-token",
            None,
            &[("cookie", &cookies), own[0]],
        )
        .await;
    assert_eq!(again.status, 200);
    assert!(again.cookies().contains("__Host-browserfleet-refresh="));
    let out = nobody
        .call_with(
            Method::POST,
            "/api/auth/logout",
            None,
            &[("cookie", &again.cookies()), own[0]],
        )
        .await;
    assert_eq!((out.status, out.cookies()), (204, String::new()));
    assert_eq!(settings(&[("sec-fetch-site", "same-origin")]).await, 401);
    world.stop().await;
}

#[tokio::test]
async fn where_people_come_over_tls_browsers_never_try_without() {
    let plan = Plan::default().with("PUBLIC_URL", "https://fleet.example.com");
    let world = plan.start().await.unwrap();
    for path in ["/", "/api/users/me", "/nowhere"] {
        let reply = world.nobody().get(path).await;
        let told = reply.headers["strict-transport-security"].to_str().unwrap();
        assert!(told.starts_with("max-age="), "{path}: {told}");
    }
    world.stop().await;
}

#[tokio::test]
async fn forged_tokens_are_refused_at_once() {
    let world = World::new().await.unwrap();
    let ada = world.user("ada").await;
    let good = ada.token().to_owned();
    let parts: Vec<&str> = good.split('.').collect();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0";
    let embedded =
        "eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCIsImp3ayI6eyJrdHkiOiJvY3QiLCJrIjoiQUFBQSJ9fQ";
    let elsewhere = "eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCIsImprdSI6Imh0dHBzOi8vZXZpbC5leGFtcGxlL2p3a3MuanNvbiJ9";
    let mut forged = vec![
        String::new(),
        "x".into(),
        "a.b.c".into(),
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{embedded}.{}.{}", parts[1], parts[2]),
        format!(
            "{}.{}.{}",
            parts[0],
            parts[1],
            &parts[2][..parts[2].len() - 1]
        ),
        format!("{}.{}", parts[0], parts[1]),
        format!("{good}."),
        "bf_".to_owned() + &"A".repeat(43),
        "bfr_".to_owned() + &"A".repeat(43),
        format!("{elsewhere}.{}.{}", parts[1], parts[2]),
        "x".repeat(1024 * 16),
    ];
    forged.extend((0..28).map(|at| {
        let mut bytes = good.clone().into_bytes();
        let at = at * bytes.len() / 28;
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    }));
    assert!(forged.len() >= 40);
    for token in forged.iter().filter(|it| **it != good) {
        let forger = ada.with_token(token);
        takes_less_than(Duration::from_millis(20), async || {
            let status = forger.get("/api/users/me").await.status;
            assert!([401, 431].contains(&status), "{token:.60}: {status}");
        })
        .await;
    }
    // Longer than any header may be: the connection is closed on it.
    let endless = ada.with_token(&"x".repeat(1024 * 1024));
    let reply = endless.try_call(Method::GET, "/api/users/me", None, &[]);
    assert!(reply.await.map_or(431, |it| it.status) == 431);
    assert_eq!(ada.get("/api/users/me").await.status, 200);
    world.stop().await;
}

#[tokio::test]
async fn keys_do_what_they_are_for_and_no_more() {
    let world = World::new().await.unwrap();
    let ada = world.user("ada").await;
    for (body, field) in [
        (json!({ "name": "", "scopes": ["sessions:read"] }), "name"),
        (json!({ "name": "a", "scopes": [] }), "scopes"),
        (
            json!({ "name": "a", "scopes": ["everything"] }),
            "scopes[0]",
        ),
        (json!({ "name": "a", "scopes": ["admin:read"] }), "scopes"),
        (
            json!({ "name": "a", "scopes": ["sessions:read"], "expires_in": 1e9 as u64 }),
            "expires_in",
        ),
    ] {
        let reply = ada.post("/api/keys", body).await;
        assert_eq!((reply.status, reply.text("field")), (422, field.to_owned()));
    }
    let make = async |scopes: &[&str], expires_in: Option<u32>| {
        let body = json!({ "name": "ci", "scopes": scopes, "expires_in": expires_in });
        let made = ada.post("/api/keys", body).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.json()
    };
    let writer = make(&["sessions:read", "sessions:write"], None).await;
    let reader = make(&["sessions:read"], None).await;
    let short = make(&["account:read"], Some(1)).await;
    let with = |key: &Value| world.nobody().with_token(key["key"].as_str().unwrap());
    assert!(writer["key"].as_str().unwrap().starts_with("bf_"));
    let session = with(&writer).open(json!({})).await;
    assert_eq!(session.value("1 + 1").await, 2);
    assert_eq!(
        with(&reader)
            .get(&format!("/api/sessions/{}", session.id))
            .await
            .status,
        200
    );
    let refused = with(&reader).post("/api/sessions", json!({})).await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "insufficient_scope".into())
    );
    for (method, path) in [
        (Method::GET, "/api/users/me"),
        (Method::POST, "/api/keys"),
        (Method::DELETE, "/api/users/me"),
        (Method::GET, "/api/auth/sessions"),
    ] {
        assert_eq!(
            with(&writer)
                .call(method, path, Some(json!({})))
                .await
                .status,
            403,
            "{path}"
        );
    }
    eventually("the key expired", Duration::from_secs(5), || async {
        with(&short).get("/api/users/me").await.status == 401
    })
    .await;
    let listed = ada.get("/api/keys").await.ok();
    assert!(!listed.to_string().contains(reader["key"].as_str().unwrap()));
    assert!(
        listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|it| !it["last_used_at"].is_null())
    );
    let id = writer["id"].as_str().unwrap();
    assert_eq!(ada.delete(&format!("/api/keys/{id}")).await.status, 204);
    assert_eq!(with(&writer).get("/api/sessions").await.status, 401);
    assert_eq!(with(&reader).get("/api/sessions").await.status, 200);
    session.end().await;
    world.stop().await;
}

#[tokio::test]
async fn settings_have_versions_and_new_sessions_use_them() {
    let world = World::new().await.unwrap();
    let ada = world.user("ada").await;
    let settings = json!({
        "theme": "dark",
        "browser_preferences": {
            "default_user_agent": "Fleet/1.0",
            "default_viewport": { "width": 800, "height": 600 },
            "default_timeout_ms": 700,
        },
        "ec2_preferences": {
            "preferred_region": "eu-central-1",
            "instance_type": "m7i.large",
            "terminate_when_idle": true,
            "idle_timeout_minutes": 1,
        },
    });
    let before = ada.get("/api/users/settings").await;
    let etag = before.headers["etag"].to_str().unwrap().to_owned();
    let put = async |value: &Value, etag: &str| {
        let headers = [("if-match", etag)];
        ada.call_with(
            Method::PUT,
            "/api/users/settings",
            Some(value.clone()),
            &headers,
        )
        .await
    };
    let replaced = put(&settings, &etag).await;
    assert_eq!((replaced.status, replaced.json()), (200, settings.clone()));
    let late = put(&json!({}), &etag).await;
    assert_eq!(
        (late.status, late.code()),
        (412, "precondition_failed".into())
    );
    assert_eq!(put(&settings, "\"nonsense\"").await.status, 412);
    assert_eq!(ada.get("/api/users/settings").await.json(), settings);
    let etag = replaced.headers["etag"].to_str().unwrap();
    let unchanged = ada
        .call_with(
            Method::GET,
            "/api/users/settings",
            None,
            &[("if-none-match", etag)],
        )
        .await;
    assert_eq!(unchanged.status, 304);
    for (path, value, field) in [
        (
            "browser_preferences",
            json!({ "default_viewport": { "width": 0, "height": 1 } }),
            "browser_preferences.default_viewport.width",
        ),
        (
            "browser_preferences",
            json!({ "default_timeout_ms": 0 }),
            "browser_preferences.default_timeout_ms",
        ),
        (
            "ec2_preferences",
            json!({ "preferred_region": "nowhere" }),
            "ec2_preferences.preferred_region",
        ),
        (
            "ec2_preferences",
            json!({ "idle_timeout_minutes": 100_000 }),
            "ec2_preferences.idle_timeout_minutes",
        ),
        ("theme", json!("blue"), "theme"),
    ] {
        let reply = put(&json!({ path: value }), "*").await;
        assert_eq!((reply.status, reply.text("field")), (422, field.to_owned()));
    }
    let session = ada.open(json!({})).await;
    assert_eq!(
        session.value("[innerWidth, innerHeight]").await,
        json!([800, 600])
    );
    assert_eq!(session.value("navigator.userAgent").await, "Fleet/1.0");
    let slow = session
        .command("execute", json!({ "expression": "new Promise(() => {})" }))
        .await;
    assert_eq!((slow.status, slow.code()), (504, "command_timeout".into()));
    session.end().await;
    world.stop().await;
}

#[tokio::test]
async fn who_leaves_leaves_nothing() {
    let world = World::new().await.unwrap();
    let ada = world.user("ada").await;
    let key = json!({ "name": "k", "scopes": ["sessions:read", "sessions:write"] });
    let key = ada.post("/api/keys", key).await.ok()["key"].clone();
    let id = ada.get("/api/users/me").await.text("id");
    let session = ada.open(json!({})).await;
    session.value("'something of mine'").await;
    let browsers = world.browsers().len();
    let wrong = ada
        .call(
            Method::DELETE,
            "/api/users/me",
            Some(json!({ "current_password": "not it" })),
        )
        .await;
    assert_eq!(
        (wrong.status, wrong.code()),
        (403, "current_password_wrong".into())
    );
    let left = ada
        .call(
            Method::DELETE,
            "/api/users/me",
            Some(json!({ "current_password": PASSWORD })),
        )
        .await;
    assert_eq!(left.status, 204, "{left:?}");
    assert_eq!(ada.get("/api/users/me").await.status, 401);
    let by_key = world.nobody().with_token(key.as_str().unwrap());
    assert_eq!(by_key.get("/api/sessions").await.status, 401);
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", PASSWORD)
            .await
            .is_err()
    );
    eventually(
        "the session's browser is gone",
        Duration::from_secs(5),
        || async {
            world.browsers().len() < browsers || world.log().contains("reason=\"user_barred\"")
        },
    )
    .await;
    eventually("the history is gone", Duration::from_secs(15), || async {
        world
            .log()
            .contains("the history of a user who left is gone")
    })
    .await;
    let admin = world.administrator().await;
    assert_eq!(
        admin.get(&format!("/api/admin/users/{id}")).await.status,
        404
    );
    let lines = admin
        .get(&format!("/api/admin/audit?user_id={id}"))
        .await
        .ok();
    let lines = lines["data"].as_array().unwrap().clone();
    assert!(lines.iter().any(|it| it["action"] == "account.deleted"));
    assert!(
        lines
            .iter()
            .all(|it| it["address"].is_null() && it["user_agent"].is_null())
    );
    // The address is free again.
    world.register("ada@example.com", PASSWORD).await;
    world.stop().await;
}

/// 1,000 wrong passwords from as many addresses at once: what `/healthz` took
/// meanwhile (p99), and the largest memory, in KiB.
async fn flood(world: &World, round: u8) -> (Duration, u64) {
    let logins = (0..1_000_u32).map(|number| {
        let [_, _, third, fourth] = (number + 1).to_be_bytes();
        let address = Ipv4Addr::new(127, 1 + round, third, fourth.max(1));
        let caller = Caller::from_address(&world.api, IpAddr::V4(address));
        async move {
            let body = json!({ "email": "ada@example.com", "password": "wrong by one word" });
            caller.post("/api/auth/login", body).await.status
        }
    });
    let logins = tokio::spawn(join_all(logins.collect::<Vec<_>>()));
    let (health, mut times, mut peak) = (world.nobody(), Vec::new(), 0);
    while !logins.is_finished() {
        let asked = Instant::now();
        assert_eq!(health.get("/healthz").await.status, 200);
        times.push(asked.elapsed());
        peak = peak.max(resident_kib(world.process()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answers = logins.await.unwrap();
    assert!(
        answers.iter().all(|it| [401, 429, 503].contains(it)),
        "{answers:?}"
    );
    times.sort();
    (times[times.len() * 99 / 100], peak)
}

#[tokio::test]
async fn a_thousand_logins_at_once_hold_nobody_up() {
    let _alone = MEASURED.lock().await;
    let world = World::new().await.unwrap();
    world.register("ada@example.com", PASSWORD).await;
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", PASSWORD)
            .await
            .is_ok()
    );
    let before = resident_kib(world.process());
    let mut slowest = Vec::new();
    // Other tests use the same cores: one flood of three has to be seen as it is.
    for round in 0..3 {
        let (p99, peak) = flood(&world, round).await;
        println!("/healthz: p99 {p99:?}; memory {before} KiB, at most {peak} KiB");
        // Four hashes at once, 19 MiB each, and 1,000 connections.
        assert!(peak - before < 256 * 1024, "{before} KiB, then {peak} KiB");
        slowest.push(p99);
        if p99 < Duration::from_millis(200) {
            break;
        }
    }
    let best = slowest.iter().min().unwrap();
    assert!(*best < Duration::from_millis(200), "{slowest:?}");
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", PASSWORD)
            .await
            .is_ok()
    );
    world.stop().await;
}

fn resident_kib(process: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|it| it.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
