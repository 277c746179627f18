//! Bad input gets a 4xx that names the field, at once, and changes nothing.

use std::time::{Duration, Instant};

use browserfleet_tests::world::{Plan, World};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn each_bad_field_is_named() {
    let world = World::new().await.unwrap();
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    let long = "x".repeat(1024 * 1024 + 1);
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/api/sessions", json!({ "colour": 1 }), "colour"),
        ("/api/sessions", json!({ "user_id": "usr_1" }), "user_id"),
        ("/api/sessions", json!({ "browser": "lynx" }), "browser"),
        (
            "/api/sessions",
            json!({ "viewport": { "width": 0, "height": 10 } }),
            "viewport.width",
        ),
        (
            "/api/sessions",
            json!({ "viewport": { "width": 1, "height": "x" } }),
            "viewport.height",
        ),
        ("/api/sessions", json!({ "timeout_ms": -1 }), "timeout_ms"),
        ("/api/sessions", json!({ "timeout_ms": 1e18 }), "timeout_ms"),
        ("/api/sessions", json!({ "args": ["--no-sandbox"] }), "args"),
        (
            "/api/sessions",
            json!({ "args": ["--utility-cmd-prefix=x"] }),
            "args",
        ),
        (
            "/api/sessions",
            json!({ "launch_options": { "args": ["--load-extension=/"] } }),
            "launch_options",
        ),
        ("/api/browser/navigate", json!({}), "url"),
        (
            "/api/browser/navigate",
            json!({ "url": "not a url" }),
            "url",
        ),
        (
            "/api/browser/navigate",
            json!({ "url": "file:///etc/passwd" }),
            "url",
        ),
        (
            "/api/browser/navigate",
            json!({ "url": "javascript:1" }),
            "url",
        ),
        (
            "/api/browser/navigate",
            json!({ "url": "http://a/", "wait_until": "never" }),
            "wait_until",
        ),
        ("/api/browser/click", json!({}), "selector"),
        ("/api/browser/click", json!({ "selector": "" }), "selector"),
        (
            "/api/browser/click",
            json!({ "selector": "a\u{0}b" }),
            "selector",
        ),
        (
            "/api/browser/click",
            json!({ "selector": "a", "click_count": 99 }),
            "click_count",
        ),
        ("/api/browser/click", json!({ "x": 1 }), "y"),
        ("/api/browser/type", json!({ "text": long }), "text"),
        ("/api/browser/type", json!({ "text": 5 }), "text"),
        (
            "/api/browser/screenshot",
            json!({ "quality": 101, "format": "jpeg" }),
            "quality",
        ),
        (
            "/api/browser/screenshot",
            json!({ "clip": { "x": 0, "y": 0, "width": 100000, "height": 100000 } }),
            "clip",
        ),
        ("/api/browser/execute", json!({}), "expression"),
        ("/api/browser/scroll", json!({ "to": "left" }), "to"),
    ];
    for (path, mut body, field) in cases {
        if path.starts_with("/api/browser") {
            body["session_id"] = session.id.clone().into();
        }
        let started = Instant::now();
        let reply = alice.post(path, body.clone()).await;
        let took = started.elapsed();
        assert!(
            (400..500).contains(&reply.status),
            "{path} {body}: {reply:?}"
        );
        assert_eq!(reply.headers["content-type"], "application/problem+json");
        let named = reply.text("field");
        assert!(
            named.starts_with(field),
            "{path}: `{named}` is not `{field}`: {}",
            reply.text("detail")
        );
        assert!(took < Duration::from_millis(500), "{path} took {took:?}");
    }
    assert_eq!(
        session.commands().await,
        Vec::<Value>::new(),
        "nothing may have run"
    );
    world.stop().await;
}

#[tokio::test]
async fn bodies_that_are_no_requests_are_refused() {
    let world = World::new().await.unwrap();
    let alice = world.user("alice").await;
    let http = reqwest::Client::new();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        ("application/json", "{".to_owned(), 400),
        ("application/json", "{\"name\": NaN}".to_owned(), 400),
        (
            "application/json",
            "{\"name\": \"\\ud800\"}".to_owned(),
            400,
        ),
        ("application/json", deep, 400),
        ("text/plain", "{}".to_owned(), 415),
    ];
    for (content_type, body, status) in cases {
        let start: String = body.chars().take(20).collect();
        let reply = http
            .request(Method::POST, format!("{}/api/sessions", world.api))
            .bearer_auth(alice.token())
            .header("content-type", content_type)
            .body(body)
            .send()
            .await
            .unwrap();
        let got = reply.status().as_u16();
        assert!(
            got == status || (status == 400 && got == 422),
            "{start}: {got} is not {status}"
        );
    }
    let live = alice.get("/api/sessions").await.ok();
    assert_eq!(live["data"], json!([]));
    world.stop().await;
}

/// Only the browser knows which locales and time zones there are.
#[tokio::test]
async fn an_option_that_the_browser_refuses_is_named() {
    let world = World::new().await.unwrap();
    let alice = world.user("alice").await;
    for (field, value) in [("timezone", "Mars/Olympus_Mons"), ("locale", "!")] {
        let reply = alice.post("/api/sessions", json!({ field: value })).await;
        assert_eq!(reply.status, 422, "{reply:?}");
        assert_eq!(reply.text("field"), field);
    }
    let ended = alice.get("/api/sessions").await.ok();
    assert_eq!(ended["data"][0]["status"], "ended");
    assert_eq!(ended["data"][0]["end_reason"], "locale_refused");
    assert_eq!(alice.open(json!({})).await.value("1 + 1").await, 2);
    world.stop().await;
}

const SECRET: &str = "hunter2-and-more";

#[tokio::test]
async fn a_bad_configuration_is_refused_with_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no certificate").unwrap();
    let file = file.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let key_file = |name: &str, key: &[u8], mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, key).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let open_key = key_file("open", &rand::random::<[u8; 32]>(), 0o644);
    let short_key = key_file("short", &rand::random::<[u8; 31]>(), 0o600);
    let example = "change-me-to-something-secret-0123456789";
    let example_key = key_file("example", example.as_bytes(), 0o600);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = key_file("a.pem", made.cert.pem().as_bytes(), 0o644);
    let mail_with_secret = format!("http://root:{SECRET}@127.0.0.1");
    let with_secret = format!("postgres://root:{SECRET}@127.0.0.1:1/db");
    let cases: [(&[(&str, &str)], &str); 55] = [
        (&[("LISTEN", "nowhere")], "BROWSERFLEET_LISTEN"),
        (&[("LISTEN", "127.0.0.1:99999")], "BROWSERFLEET_LISTEN"),
        (&[("LISTEN", "127.0.0.1")], "BROWSERFLEET_LISTEN"),
        (&[("LISTEN", &taken)], "BROWSERFLEET_LISTEN"),
        (&[("LISTEN", "203.0.113.1:80")], "BROWSERFLEET_LISTEN"),
        (&[("AGENT_LISTEN", "x:1")], "BROWSERFLEET_AGENT_LISTEN"),
        (&[("AGENT_LISTEN", &taken)], "BROWSERFLEET_AGENT_LISTEN"),
        (&[("CONNECTIONS_MAX", "0")], "BROWSERFLEET_CONNECTIONS_MAX"),
        (&[("CONNECTIONS_MAX", "-1")], "BROWSERFLEET_CONNECTIONS_MAX"),
        (&[("POOL_WARM", "many")], "BROWSERFLEET_POOL_WARM"),
        (&[("POOL_WARM", "1.5")], "BROWSERFLEET_POOL_WARM"),
        (&[("POOL_WARM", "9")], "BROWSERFLEET_POOL_MAX"),
        (&[("POOL_STOPPED", "1")], "BROWSERFLEET_POOL_STOPPED"),
        (&[("POOL_STOPPED", "9")], "BROWSERFLEET_POOL_MAX"),
        (&[("POOL_MAX", "0")], "BROWSERFLEET_POOL_MAX"),
        (&[("POOL_MAX", "99999999999")], "BROWSERFLEET_POOL_MAX"),
        (
            &[("SESSIONS_PER_INSTANCE", "0")],
            "BROWSERFLEET_SESSIONS_PER_INSTANCE",
        ),
        (
            &[("SESSIONS_PER_USER", "none")],
            "BROWSERFLEET_SESSIONS_PER_USER",
        ),
        (&[("POOL_IDLE_MS", "5m")], "BROWSERFLEET_POOL_IDLE_MS"),
        (
            &[("DATABASE_URL", "mysql://a")],
            "BROWSERFLEET_DATABASE_URL",
        ),
        (
            &[("DATABASE_URL", "browserfleet.db")],
            "BROWSERFLEET_DATABASE_URL",
        ),
        (
            &[("DATABASE_URL", &with_secret)],
            "BROWSERFLEET_DATABASE_URL: could not open the database",
        ),
        (
            &[("DATABASE_URL", "sqlite:/nowhere/a.db")],
            "BROWSERFLEET_DATABASE_URL: could not open the database",
        ),
        (&[("DATA_DIR", file)], "BROWSERFLEET_DATA_DIR"),
        (&[("TLS_CERT", "/a")], "BROWSERFLEET_TLS_KEY"),
        (&[("TLS_KEY", "/a")], "BROWSERFLEET_TLS_CERT"),
        (
            &[("TLS_CERT", "/a"), ("TLS_KEY", "/a")],
            "BROWSERFLEET_TLS_CERT",
        ),
        (
            &[("TLS_CERT", file), ("TLS_KEY", file)],
            "BROWSERFLEET_TLS_CERT",
        ),
        (&[("PROVIDER", "moon")], "BROWSERFLEET_PROVIDER"),
        (
            &[("LOCAL_AGENT", "/nowhere/agent")],
            "BROWSERFLEET_LOCAL_AGENT",
        ),
        (
            &[("BROWSER_EXECUTABLE", "/nowhere/chrome")],
            "BROWSERFLEET_BROWSER_EXECUTABLE",
        ),
        (&[("LOG_FORMAT", "loud")], "BROWSERFLEET_LOG_FORMAT"),
        (&[("LOG", "=,=")], "BROWSERFLEET_LOG"),
        (&[("ADMIN_EMAIL", "nobody")], "BROWSERFLEET_ADMIN_EMAIL"),
        (
            &[("ADMIN_PASSWORD", "short")],
            "BROWSERFLEET_ADMIN_PASSWORD",
        ),
        (&[("LISTNE", "127.0.0.1:1")], "BROWSERFLEET_LISTNE"),
        (&[("SIGNING_KEYS", &open_key)], "chmod 600"),
        (&[("SIGNING_KEYS", &short_key)], "at least 32"),
        (&[("SIGNING_KEYS", &example_key)], "no random key"),
        (
            &[("SIGNING_KEYS", "/nowhere/key")],
            "BROWSERFLEET_SIGNING_KEYS",
        ),
        (&[("SIGNING_KEYS", "/a,/b,/c")], "BROWSERFLEET_SIGNING_KEYS"),
        (&[("SEALING_KEY", &short_key)], "BROWSERFLEET_SEALING_KEY"),
        (
            &[("TLS_CERT", &certificate), ("TLS_KEY", &open_key)],
            "BROWSERFLEET_TLS_KEY",
        ),
        (&[("PUBLIC_URL", "fleet")], "BROWSERFLEET_PUBLIC_URL"),
        (
            &[("ALLOWED_ORIGINS", "https://a.example/path")],
            "BROWSERFLEET_ALLOWED_ORIGINS",
        ),
        (
            &[("TRUSTED_PROXIES", "the proxy")],
            "BROWSERFLEET_TRUSTED_PROXIES",
        ),
        (&[("REGISTRATION", "maybe")], "BROWSERFLEET_REGISTRATION"),
        (&[("LOGIN_IDLE_DAYS", "99")], "BROWSERFLEET_LOGIN_MAX_DAYS"),
        (
            &[("PASSWORD_MEMORY_KIB", "8")],
            "BROWSERFLEET_PASSWORD_MEMORY_KIB",
        ),
        (&[("PASSWORD_PASSES", "1")], "BROWSERFLEET_PASSWORD_PASSES"),
        (&[("SMTP_URL", &mail_with_secret)], "BROWSERFLEET_SMTP_URL"),
        (&[("MAIL_FROM", "me")], "BROWSERFLEET_MAIL_FROM"),
        (
            &[("OIDC_PROVIDERS", "acme")],
            "BROWSERFLEET_OIDC_ACME_ISSUER",
        ),
        (
            &[
                ("OIDC_PROVIDERS", "acme"),
                ("OIDC_ACME_ISSUER", "http://sso.example.com"),
                ("OIDC_ACME_CLIENT_ID", "a"),
                ("OIDC_ACME_CLIENT_SECRET", SECRET),
            ],
            "https",
        ),
        (
            &[("GITHUB_CLIENT_ID", "a")],
            "BROWSERFLEET_GITHUB_CLIENT_SECRET",
        ),
    ];
    for (settings, words) in cases {
        let started = Instant::now();
        let plan = settings
            .iter()
            .fold(Plan::default(), |plan, (key, value)| plan.with(key, value));
        let refused = plan.start().await;
        let said = refused.err().map(|it| it.to_string()).unwrap_or_default();
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{settings:?} took {:?}",
            started.elapsed()
        );
        assert!(said.contains(words), "{settings:?}: {said}");
        assert!(!said.contains(SECRET), "{settings:?}: {said}");
    }
}
