//! Nobody sees another user's things. The table of routes is read from the
//! program's source, so that a new route without an entry here fails.

use browserfleet_tests::world::{PASSWORD, World};
use reqwest::Method;
use serde_json::{Value, json};

const ROUTES: &str = include_str!("../../control-plane/src/api/mod.rs");

/// Who may: for nobody, for another user on the first user's things, and for an
/// administrator on them.
struct Route {
    method: &'static str,
    path: &'static str,
    body: Option<Value>,
    expected: [u16; 3],
}

fn route(
    method: &'static str,
    path: &'static str,
    body: Option<Value>,
    expected: [u16; 3],
) -> Route {
    Route {
        method,
        path,
        body,
        expected,
    }
}

/// `{session}` is replaced by the first user's session; so is `SESSION` in bodies.
fn table() -> Vec<Route> {
    let session = |mut body: Value| {
        body["session_id"] = "SESSION".into();
        Some(body)
    };
    let theirs = [401, 404, 404];
    vec![
        route("GET", "/api/users/me", None, [401, 200, 200]),
        route("PUT", "/api/users/me", Some(json!({})), [401, 200, 200]),
        // Without the password: nobody's account goes by mistake.
        route("DELETE", "/api/users/me", Some(json!({})), [401, 422, 422]),
        route(
            "POST",
            "/api/users/me/password",
            Some(json!({ "current_password": "wrong one", "new_password": "x" })),
            [401, 403, 403],
        ),
        route("GET", "/api/users/me/second-factor", None, [401, 200, 200]),
        route(
            "POST",
            "/api/users/me/second-factor",
            Some(json!({})),
            [401, 422, 422],
        ),
        route(
            "DELETE",
            "/api/users/me/second-factor",
            Some(json!({ "code": "1" })),
            theirs,
        ),
        route(
            "POST",
            "/api/users/me/second-factor/confirm",
            Some(json!({ "code": "1" })),
            theirs,
        ),
        route(
            "POST",
            "/api/users/me/second-factor/recovery-codes",
            Some(json!({ "code": "1" })),
            theirs,
        ),
        route("GET", "/api/users/settings", None, [401, 200, 200]),
        route(
            "PUT",
            "/api/users/settings",
            Some(json!({})),
            [401, 200, 200],
        ),
        route("GET", "/api/auth/sessions", None, [401, 200, 200]),
        route("DELETE", "/api/auth/sessions", None, [401, 204, 204]),
        route("DELETE", "/api/auth/sessions/{login}", None, theirs),
        route("GET", "/api/users/me/identities", None, [401, 200, 200]),
        route(
            "DELETE",
            "/api/users/me/identities/{identity}",
            None,
            theirs,
        ),
        route("GET", "/api/keys", None, [401, 200, 200]),
        route(
            "POST",
            "/api/keys",
            Some(json!({ "name": "k", "scopes": ["sessions:read"] })),
            [401, 201, 201],
        ),
        route("DELETE", "/api/keys/{key}", None, theirs),
        route(
            "POST",
            "/api/ws-ticket",
            session(json!({ "right": "view" })),
            theirs,
        ),
        route("GET", "/api/admin/users", None, [401, 403, 200]),
        route("POST", "/api/admin/users", Some(json!({})), [401, 403, 422]),
        route("GET", "/api/admin/users/{user}", None, [401, 403, 200]),
        route(
            "PATCH",
            "/api/admin/users/{user}",
            Some(json!({ "role": "user" })),
            [401, 403, 200],
        ),
        route(
            "DELETE",
            "/api/admin/users/{user}/second-factor",
            None,
            [401, 403, 404],
        ),
        // Alice's login ends here; what she does below she does with a new one.
        route(
            "DELETE",
            "/api/admin/users/{user}/sessions",
            None,
            [401, 403, 204],
        ),
        route(
            "POST",
            "/api/admin/invitations",
            Some(json!({})),
            [401, 403, 422],
        ),
        route("GET", "/api/admin/audit", None, [401, 403, 200]),
        route("GET", "/api/sessions", None, [401, 200, 200]),
        route(
            "POST",
            "/api/sessions",
            Some(json!({ "name": 1 })),
            [401, 422, 422],
        ),
        route("GET", "/api/sessions/{session}", None, theirs),
        route("DELETE", "/api/sessions/{session}", None, theirs),
        route(
            "POST",
            "/api/sessions/{session}/extend",
            Some(json!({ "by_ms": 60000 })),
            theirs,
        ),
        route("GET", "/api/sessions/{session}/commands", None, theirs),
        route("GET", "/api/sessions/{session}/control", None, theirs),
        route(
            "POST",
            "/api/sessions/{session}/control",
            Some(json!({ "action": "take" })),
            theirs,
        ),
        route("GET", "/api/sessions/{session}/handoff", None, theirs),
        route(
            "POST",
            "/api/sessions/{session}/handoff",
            Some(json!({ "reason": "none" })),
            theirs,
        ),
        route(
            "POST",
            "/api/sessions/{session}/handoff/answer",
            Some(json!({ "outcome": "completed" })),
            theirs,
        ),
        route("GET", "/api/sessions/{session}/shares", None, theirs),
        route(
            "POST",
            "/api/sessions/{session}/shares",
            Some(json!({ "right": "view" })),
            theirs,
        ),
        route(
            "DELETE",
            "/api/sessions/{session}/shares/{share}",
            None,
            theirs,
        ),
        route(
            "POST",
            "/api/shares/redeem",
            Some(json!({ "token": "share_x" })),
            [404, 404, 404],
        ),
        route("GET", "/api/queue/{session}", None, theirs),
        route("GET", "/api/ec2/instances", None, [401, 200, 200]),
        // Of the kind that the pool has not, so that none is made.
        route(
            "POST",
            "/api/ec2/instances",
            Some(json!({ "instance_type": "none.large" })),
            [401, 422, 422],
        ),
        // An administrator sees and touches everybody's.
        route(
            "GET",
            "/api/ec2/instances/{instance}/status",
            None,
            [401, 404, 200],
        ),
        route("GET", "/api/ec2/instances/{instance}/journal", None, theirs),
        route(
            "POST",
            "/api/ec2/instances/{instance}/restart",
            Some(json!({ "mode": "none" })),
            [401, 404, 422],
        ),
        route(
            "DELETE",
            "/api/ec2/instances/{instance}",
            None,
            [401, 404, 202],
        ),
        // It ends already.
        route(
            "POST",
            "/api/ec2/instances/{instance}/drain",
            None,
            [401, 404, 409],
        ),
        route("GET", "/api/ec2/pool", None, [401, 403, 200]),
        route(
            "PUT",
            "/api/ec2/pool",
            Some(json!({ "warm": 9999 })),
            [401, 403, 422],
        ),
        route(
            "POST",
            "/api/browser/navigate",
            session(json!({ "url": "about:blank" })),
            theirs,
        ),
        route(
            "POST",
            "/api/browser/click",
            session(json!({ "x": 1, "y": 1 })),
            theirs,
        ),
        route(
            "POST",
            "/api/browser/type",
            session(json!({ "text": "x" })),
            theirs,
        ),
        route(
            "POST",
            "/api/browser/screenshot",
            session(json!({})),
            theirs,
        ),
        route(
            "POST",
            "/api/browser/execute",
            session(json!({ "expression": "1" })),
            theirs,
        ),
        route(
            "POST",
            "/api/browser/scroll",
            session(json!({ "to": "top" })),
            theirs,
        ),
        route(
            "POST",
            "/api/browser/dialog",
            session(json!({ "accept": true })),
            theirs,
        ),
        route("GET", "/api/browser/state", None, theirs),
        route(
            "POST",
            "/api/auth/register",
            Some(json!({})),
            [422, 422, 422],
        ),
        route("POST", "/api/auth/login", Some(json!({})), [422, 422, 422]),
        route(
            "POST",
            "/api/auth/login/second-factor",
            Some(json!({ "challenge": "x", "code": "1" })),
            [401, 401, 401],
        ),
        route(
            "POST",
            "/api/auth/verify-email",
            Some(json!({ "token": "x" })),
            [400, 400, 400],
        ),
        route(
            "POST",
            "/api/auth/verify-email/resend",
            Some(json!({ "email": "no@example.com" })),
            [202, 202, 202],
        ),
        route(
            "POST",
            "/api/auth/refresh-token",
            Some(json!({ "refresh_token": "x" })),
            [401, 401, 401],
        ),
        // Last of all, since it ends what the others go on with.
        route(
            "POST",
            "/api/auth/logout",
            Some(json!({ "refresh_token": "x" })),
            [401, 204, 204],
        ),
        route(
            "POST",
            "/api/auth/forgot-password",
            Some(json!({ "email": "no@example.com" })),
            [202, 202, 202],
        ),
        route(
            "POST",
            "/api/auth/reset-password",
            Some(json!({ "token": "x", "new_password": "four words and 1 number" })),
            [400, 400, 400],
        ),
        route("GET", "/api/auth/oauth", None, [200, 200, 200]),
        route("GET", "/api/auth/oauth/{provider}", None, [404, 404, 404]),
        route(
            "GET",
            "/api/auth/oauth/{provider}/callback",
            None,
            [400, 400, 400],
        ),
        route("GET", "/", None, [200, 200, 200]),
        route("GET", "/verify-email", None, [200, 200, 200]),
        route("GET", "/reset-password", None, [200, 200, 200]),
        route("GET", "/accept-invitation", None, [200, 200, 200]),
        route("GET", "/account.js", None, [200, 200, 200]),
        route("GET", "/account.css", None, [200, 200, 200]),
        // Its script asks whether there is such a session.
        route("GET", "/live/{session}", None, [200, 200, 200]),
        route("GET", "/pages/{file}", None, [200, 200, 200]),
        route("GET", "/healthz", None, [200, 200, 200]),
        route("GET", "/readyz", None, [200, 200, 200]),
        route("GET", "/openapi.json", None, [200, 200, 200]),
        route("GET", "/api/sessions/{session}/downloads", None, theirs),
        route(
            "GET",
            "/api/sessions/{session}/downloads/{name}",
            None,
            theirs,
        ),
        route("GET", "/asyncapi.json", None, [200, 200, 200]),
        // Without a session they tell where one is opened; theirs are none.
        route("GET", "/json/version", None, [401, 200, 200]),
        route("GET", "/json/version/", None, [401, 200, 200]),
        route("GET", "/json", None, theirs),
        route("GET", "/json/list", None, theirs),
        route("GET", "/json/protocol", None, [200, 200, 200]),
        route("PUT", "/json/new", None, theirs),
        route("GET", "/json/activate/{target}", None, theirs),
        route("GET", "/json/close/{target}", None, theirs),
    ]
}

/// Every method and path of the program's own table.
fn declared() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut text = ROUTES;
    while let Some(start) = text.find(".route(") {
        text = &text[start + ".route(".len()..];
        let line = &text[..text.find(".route(").unwrap_or(text.len())];
        let Some(path) = line.split('"').nth(1) else {
            continue;
        };
        let methods = line.split('"').nth(2).unwrap_or_default();
        for method in ["get", "post", "put", "delete", "patch"] {
            let named = methods
                .match_indices(&format!("{method}("))
                // Not the end of a handler's name.
                .any(|(at, _)| {
                    !methods[..at].ends_with(|it: char| it.is_alphanumeric() || it == '_')
                });
            if named {
                found.push((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    found
}

#[test]
fn every_route_has_an_entry() {
    let mut listed: Vec<(String, String)> = table()
        .iter()
        .map(|it| (it.method.to_owned(), it.path.to_owned()))
        .collect();
    let mut declared = declared();
    listed.sort();
    declared.sort();
    assert_eq!(listed, declared);
}

#[test]
fn the_document_has_every_route_and_no_other() {
    let text = include_str!("../../control-plane/src/api/openapi.json");
    let document: Value = serde_json::from_str(text).unwrap();
    let mut described: Vec<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods
                .as_object()
                .unwrap()
                .keys()
                .map(|it| (it.to_uppercase(), path.clone()))
        })
        .collect();
    let mut declared = declared();
    described.sort();
    declared.sort();
    assert_eq!(described, declared);
}

#[tokio::test]
async fn another_users_things_do_not_exist() {
    let world = World::new().await.unwrap();
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    let key = json!({ "name": "k", "scopes": ["sessions:read"] });
    let key = alice.post("/api/keys", key).await.ok()["id"].clone();
    let shares = format!("/api/sessions/{}/shares", session.id);
    let share = alice.post(&shares, json!({ "right": "drive" })).await.ok()["id"].clone();
    let login = alice.get("/api/auth/sessions").await.ok()["data"][0]["id"].clone();
    let alices = alice.get("/api/users/me").await.ok()["id"].clone();
    let instance = alice.post("/api/ec2/instances", json!({})).await.ok()["id"].clone();
    let callers = [
        world.nobody(),
        world.user("bob").await,
        world.administrator().await,
    ];
    let unknown = "ses_01a20c01521f70cba25812359c803a52";
    let ids = |id: &str, path: &str| {
        let known = id != unknown;
        let other = |theirs: &Value, prefix: &str| match theirs.as_str() {
            Some(theirs) if known => theirs.to_owned(),
            _ => unknown.replace("ses_", prefix),
        };
        path.replace("{session}", id)
            .replace("{key}", &other(&key, "key_"))
            .replace("{share}", &other(&share, "shr_"))
            .replace("{instance}", &other(&instance, "ins_"))
            .replace("{login}", &other(&login, "lgn_"))
            .replace("{identity}", &unknown.replace("ses_", "idt_"))
            .replace("{provider}", "nobody")
            .replace("{file}", "live.js")
            .replace("{user}", alices.as_str().unwrap_or_default())
    };
    let mut table = table();
    table.sort_by_key(|it| it.path == "/api/auth/logout");
    for route in table {
        for (caller, expected) in callers.iter().zip(route.expected) {
            let fill = |id: &str| {
                let path = if route.path == "/api/browser/state" {
                    format!("/api/browser/state?session_id={id}")
                } else {
                    ids(id, route.path)
                };
                let body = route.body.clone().map(|mut body| {
                    if body["session_id"] == "SESSION" {
                        body["session_id"] = id.into();
                    }
                    body
                });
                (path, body)
            };
            let method: Method = route.method.parse().unwrap();
            let (path, body) = fill(&session.id);
            let reply = caller.call(method.clone(), &path, body).await;
            assert_eq!(
                reply.status,
                expected,
                "{} {}: {}",
                route.method,
                route.path,
                reply.text("detail")
            );
            // What is not there of one's own says what it is.
            let own = route.path.contains("second-factor") || route.path.ends_with("/journal");
            if expected == 404 && !own {
                let (path, body) = fill(unknown);
                let none = caller.call(method, &path, body).await;
                let without_id = |mut it: Value| {
                    it["request_id"] = Value::Null;
                    it
                };
                assert_eq!(
                    without_id(reply.json()),
                    without_id(none.json()),
                    "theirs looks like none"
                );
            }
        }
    }
    let alice = world
        .nobody()
        .sign_in("alice@example.com", PASSWORD)
        .await
        .unwrap();
    let mut session = session;
    session.caller = alice.clone();
    assert_eq!(alice.get("/api/keys").await.ok()["data"][0]["id"], key);
    for odd in [
        "",
        "ses_1",
        "ses_%00",
        "SES_01A20C01521F70CBA25812359C803A52",
        "..%2f..",
        &"x".repeat(10_000),
    ] {
        let reply = alice.get(&format!("/api/sessions/{odd}")).await;
        assert!(
            [200, 404, 405, 414, 422].contains(&reply.status)
                && (reply.status != 200 || odd.is_empty()),
            "{odd}: {reply:?}"
        );
    }
    assert_eq!(
        session.commands().await,
        Vec::<Value>::new(),
        "nobody may have driven it"
    );
    assert_eq!(session.show().await["status"], "live");
    world.stop().await;
}

#[tokio::test]
async fn fields_that_are_not_the_callers_to_set_change_nothing() {
    let world = World::new().await.unwrap();
    let registered = world
        .nobody()
        .post("/api/auth/register", json!({ "email": "eve@example.com", "password": "four words and 1 number", "role": "admin" }))
        .await;
    assert_eq!(
        (registered.status, registered.text("field")),
        (422, "role".into())
    );
    let alice = world.user("alice").await;
    let settings = alice
        .call(
            Method::PUT,
            "/api/users/settings",
            Some(json!({ "role": "admin" })),
        )
        .await;
    assert_eq!(settings.status, 422);
    assert_eq!(alice.get("/api/users/me").await.text("role"), "user");
    world.stop().await;
}
