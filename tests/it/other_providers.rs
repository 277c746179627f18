//! Signing in with other providers: a certified OpenID provider with each
//! algorithm, and what speaks as GitHub does.

use std::collections::BTreeMap;

use browserfleet_tests::api::Caller;
use browserfleet_tests::services::{GitHub, OpenIdProvider, Tells};
use browserfleet_tests::world::{PASSWORD, Plan, World};
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use serde_json::json;

/// Goes where it is sent, keeps cookies, and fills in the provider's forms.
struct Browser {
    http: reqwest::Client,
    cookies: BTreeMap<(String, String), String>,
}

struct Page {
    status: u16,
    url: Url,
    text: String,
}

impl Browser {
    fn new() -> Self {
        let http = reqwest::Client::builder().redirect(Policy::none()).build();
        Self {
            http: http.unwrap(),
            cookies: BTreeMap::new(),
        }
    }

    fn cookies_for(&self, url: &Url) -> String {
        let host = url.authority().to_owned();
        let own = self.cookies.iter().filter(|((owner, _), _)| *owner == host);
        own.map(|((_, name), value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join("; ")
    }

    async fn go(&mut self, method: Method, url: Url, form: Option<String>) -> Page {
        let (mut method, mut url, mut form) = (method, url, form);
        for _ in 0..20 {
            let mut request = self
                .http
                .request(method.clone(), url.clone())
                .header("cookie", self.cookies_for(&url))
                .header("accept", "text/html");
            if let Some(form) = form.take() {
                let kind = "application/x-www-form-urlencoded";
                request = request.header("content-type", kind).body(form);
            }
            let response = request.send().await.unwrap();
            for cookie in response.headers().get_all("set-cookie") {
                let cookie = cookie.to_str().unwrap();
                let (name, rest) = cookie.split_once('=').unwrap();
                let value = rest.split(';').next().unwrap().to_owned();
                let key = (url.authority().to_owned(), name.to_owned());
                if value.is_empty() {
                    self.cookies.remove(&key);
                } else {
                    self.cookies.insert(key, value);
                }
            }
            let status = response.status().as_u16();
            match response.headers().get("location") {
                Some(location) if response.status().is_redirection() => {
                    url = url.join(location.to_str().unwrap()).unwrap();
                    method = Method::GET;
                    // Where we return to need not be a page.
                    if url.path() == "/done" {
                        return Page {
                            status,
                            url,
                            text: String::new(),
                        };
                    }
                }
                _ => {
                    let text = response.text().await.unwrap();
                    return Page { status, url, text };
                }
            }
        }
        panic!("sent around in circles");
    }

    /// Signs in at the OpenID provider and lets it tell us who that is.
    async fn sign_in_as(&mut self, start: &str, who: &str) -> Page {
        let mut page = self.go(Method::GET, start.parse().unwrap(), None).await;
        for _ in 0..3 {
            let Some((_, rest)) = page.text.split_once("action=\"") else {
                return page;
            };
            let action = rest.split('"').next().unwrap();
            let action = page.url.join(action).unwrap();
            let prompt = if page.text.contains("name=\"login\"") {
                "login"
            } else {
                "consent"
            };
            let form = format!("prompt={prompt}&login={who}&password=x");
            page = self.go(Method::POST, action, Some(form)).await;
        }
        page
    }

    fn caller(&self, world: &World) -> Option<Caller> {
        let host = world.api.strip_prefix("http://").unwrap().to_owned();
        let key = (host, "__Host-browserfleet-access".to_owned());
        self.cookies
            .get(&key)
            .map(|it| world.nobody().with_token(it))
    }
}

/// A world whose address is known before it starts, since the provider has to know it.
async fn world_with(plan: Plan) -> (World, OpenIdProvider) {
    world_of("RS256", Tells::InTheToken, plan).await
}

async fn world_of(algorithm: &str, tells: Tells, plan: Plan) -> (World, OpenIdProvider) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let callback = format!("http://{address}/api/auth/oauth/acme/callback");
    let provider = OpenIdProvider::start(algorithm, tells, &callback)
        .await
        .unwrap();
    let world = plan
        .with("LISTEN", address)
        .with("OIDC_PROVIDERS", "acme")
        .with("OIDC_ACME_ISSUER", &provider.issuer)
        .with("OIDC_ACME_CLIENT_ID", "browserfleet")
        .with("OIDC_ACME_CLIENT_SECRET", "a secret between the two of us")
        .start()
        .await
        .unwrap();
    (world, provider)
}

async fn signs_in(algorithm: &str, tells: Tells) {
    let (world, _provider) = world_of(algorithm, tells, Plan::default()).await;
    let listed = world.nobody().get("/api/auth/oauth").await.ok();
    assert_eq!(listed["data"], json!([{ "name": "acme" }]));
    let start = format!("{}/api/auth/oauth/acme?return_to=/done", world.api);
    let mut browser = Browser::new();
    let page = browser.sign_in_as(&start, "ada").await;
    assert_eq!(page.url.path(), "/done", "{}: {}", page.status, page.text);
    let ada = browser.caller(&world).expect("signed in");
    let me = ada.get("/api/users/me").await.ok();
    assert_eq!(
        (&me["email"], &me["first_name"]),
        (&json!("ada@example.com"), &json!("Ada"))
    );
    let identities = ada.get("/api/users/me/identities").await.ok();
    assert_eq!(identities["data"][0]["provider"], "acme");
    // The only way in stays.
    let id = identities["data"][0]["id"].as_str().unwrap();
    let last = ada.delete(&format!("/api/users/me/identities/{id}")).await;
    assert_eq!((last.status, last.code()), (409, "last_way_in".into()));
    // The next time it is the same account, whatever else changed.
    let mut again = Browser::new();
    again.sign_in_as(&start, "ada").await;
    let same = again
        .caller(&world)
        .unwrap()
        .get("/api/users/me")
        .await
        .ok();
    assert_eq!(same["id"], me["id"]);
    world.stop().await;
}

#[tokio::test]
async fn an_openid_provider_with_rs256_signs_in() {
    signs_in("RS256", Tells::InTheToken).await;
}

#[tokio::test]
async fn an_openid_provider_that_tells_no_address_in_its_token_is_asked() {
    signs_in("RS256", Tells::WhereAsked).await;
}

#[tokio::test]
async fn an_openid_provider_with_es256_signs_in() {
    signs_in("ES256", Tells::InTheToken).await;
}

#[tokio::test]
async fn an_attempt_belongs_to_the_browser_that_began_it() {
    let (world, _provider) = world_with(Plan::default()).await;
    let start = format!("{}/api/auth/oauth/acme", world.api);
    for odd in ["https://evil.example", "//evil.example", "/\\evil.example"] {
        let path = format!("/api/auth/oauth/acme?return_to={odd}");
        let reply = world.nobody().get(&path).await;
        assert_eq!(
            (reply.status, reply.text("field")),
            (422, "return_to".into())
        );
    }
    let callback = format!("{start}/callback?code=x&state=y");
    let mut stranger = Browser::new();
    let page = stranger
        .go(Method::GET, callback.parse().unwrap(), None)
        .await;
    assert!(page.text.contains("attempt_invalid"), "{}", page.text);
    // With an attempt of its own, and another's answer.
    let headers = [("accept", "application/json")];
    let begun = world
        .nobody()
        .call_with(Method::GET, "/api/auth/oauth/acme", None, &headers)
        .await;
    let url: Url = begun.text("authorization_url").parse().unwrap();
    let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!(query["code_challenge_method"], "S256");
    assert!(query["nonce"].len() > 15 && query["state"].len() > 15);
    let cookie = begun.headers["set-cookie"].to_str().unwrap();
    assert!(
        cookie.contains("__Host-")
            && cookie.contains("HttpOnly")
            && cookie.contains("SameSite=Lax")
    );
    let cookies = begun.cookies();
    for (state, code) in [
        ("another", "attempt_invalid"),
        (query["state"].as_str(), "provider_failed"),
    ] {
        let path = format!("/api/auth/oauth/acme/callback?code=forged&state={state}");
        let headers = [("cookie", cookies.as_str())];
        let reply = world
            .nobody()
            .call_with(Method::GET, &path, None, &headers)
            .await;
        assert_eq!(reply.code(), code);
    }
    let refused = "/api/admin/audit?action=login&result=refused";
    let lines = world.administrator().await.get(refused).await.ok();
    let lines = lines["data"].as_array().unwrap().clone();
    let why: Vec<&str> = lines
        .iter()
        .map(|it| it["detail"].as_str().unwrap())
        .collect();
    let provider =
        ["provider_failed", "attempt_invalid"].map(|it| format!("another provider: {it}"));
    assert_eq!(why, provider);
    world.stop().await;
}

#[tokio::test]
async fn accounts_are_joined_only_where_both_sides_proved_the_address() {
    let (world, _provider) = world_with(Plan::default()).await;
    let start = format!("{}/api/auth/oauth/acme?return_to=/done", world.api);
    // Both sides: the same account.
    let ada = world.user("ada").await;
    let mut browser = Browser::new();
    browser.sign_in_as(&start, "ada").await;
    let same = browser
        .caller(&world)
        .unwrap()
        .get("/api/users/me")
        .await
        .ok();
    assert_eq!(same["id"], ada.get("/api/users/me").await.ok()["id"]);
    // Ours is not proven: who squats on the address gets nothing.
    let squat = json!({ "email": "bob@example.com", "password": PASSWORD });
    world.nobody().post("/api/auth/register", squat).await.ok();
    let mut browser = Browser::new();
    browser.sign_in_as(&start, "bob").await;
    assert_eq!(
        browser
            .caller(&world)
            .unwrap()
            .get("/api/users/me")
            .await
            .text("email"),
        "bob@example.com"
    );
    assert!(
        world
            .nobody()
            .sign_in("bob@example.com", PASSWORD)
            .await
            .is_err()
    );
    // Theirs is not proven: sign in here, and join it by hand.
    let eve = world.user("unverified1").await;
    let mut browser = Browser::new();
    let page = browser.sign_in_as(&start, "unverified1").await;
    assert!(
        page.text.contains("provider_email_unverified"),
        "{}",
        page.text
    );
    assert!(browser.caller(&world).is_none());
    let host: Url = world.api.parse().unwrap();
    let key = (
        host.authority().to_owned(),
        "__Host-browserfleet-access".to_owned(),
    );
    let mut browser = Browser::new();
    browser.cookies.insert(key, eve.token().to_owned());
    let page = browser
        .sign_in_as(&format!("{start}&link=true"), "unverified1")
        .await;
    assert_eq!(page.url.path(), "/done", "{}", page.text);
    let identities = eve.get("/api/users/me/identities").await.ok();
    assert_eq!(identities["data"].as_array().unwrap().len(), 1);
    let mut browser = Browser::new();
    browser.sign_in_as(&start, "unverified1").await;
    assert_eq!(
        browser
            .caller(&world)
            .unwrap()
            .get("/api/users/me")
            .await
            .text("email"),
        "unverified1@example.com"
    );
    // Nobody joins without being signed in, or what another has.
    let nobody = world.nobody().get("/api/auth/oauth/acme?link=true").await;
    assert_eq!(nobody.status, 401);
    world.stop().await;
}

#[tokio::test]
async fn an_identity_is_joined_only_while_its_login_lasts() {
    let (world, _provider) = world_with(Plan::default()).await;
    let eve = world.user("eve").await;
    let path = "/api/auth/oauth/acme?link=true&return_to=/done";
    let headers = [("accept", "application/json")];
    // Whoever had the login for a moment has begun to join an identity of theirs.
    let begun = eve.call_with(Method::GET, path, None, &headers).await;
    let url = begun.text("authorization_url");
    let (name, value) = begun
        .cookies()
        .split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .unwrap();
    eve.post("/api/auth/logout", json!({})).await.ok();
    let mut browser = Browser::new();
    let host: Url = world.api.parse().unwrap();
    let key = (host.authority().to_owned(), name);
    browser.cookies.insert(key, value);
    let page = browser.sign_in_as(&url, "mallory").await;
    assert!(page.text.contains("unauthenticated"), "{}", page.text);
    let eve = world
        .nobody()
        .sign_in("eve@example.com", PASSWORD)
        .await
        .unwrap();
    assert_eq!(
        eve.get("/api/users/me/identities").await.ok()["data"],
        json!([])
    );
    world.stop().await;
}

#[tokio::test]
async fn registration_is_closed_for_them_too() {
    let plan = Plan::default().with("REGISTRATION", "closed");
    let (world, _provider) = world_with(plan).await;
    let start = format!("{}/api/auth/oauth/acme?return_to=/done", world.api);
    let page = Browser::new().sign_in_as(&start, "ada").await;
    assert!(page.text.contains("registration_closed"), "{}", page.text);
    world.stop().await;
}

#[tokio::test]
async fn github_signs_in() {
    let github = GitHub::start().await.unwrap();
    let world = Plan::default()
        .with("GITHUB_CLIENT_ID", "octo")
        .with("GITHUB_CLIENT_SECRET", "octo secret")
        .with("GITHUB_URL", &github.address)
        .with("GITHUB_API_URL", &github.address)
        .start()
        .await
        .unwrap();
    for (who, email) in [("mona", Some("mona@example.com")), ("unverified", None)] {
        let headers = [("accept", "application/json")];
        let path = "/api/auth/oauth/github?return_to=/done";
        let begun = world
            .nobody()
            .call_with(Method::GET, path, None, &headers)
            .await;
        let url = format!("{}&as={who}", begun.text("authorization_url"));
        let mut browser = Browser::new();
        let host: Url = world.api.parse().unwrap();
        let (name, value) = begun
            .cookies()
            .split_once('=')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        browser
            .cookies
            .insert((host.authority().to_owned(), name), value);
        let page = browser.go(Method::GET, url.parse().unwrap(), None).await;
        match (email, browser.caller(&world)) {
            (Some(email), Some(caller)) => {
                assert_eq!(page.url.path(), "/done");
                assert_eq!(caller.get("/api/users/me").await.text("email"), email);
            }
            (None, None) => assert!(page.text.contains("provider_email_unverified")),
            other => panic!("{who}: {other:?}: {}", page.text),
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn a_second_factor_is_asked_for_after_another_provider_too() {
    let (world, _provider) = world_with(Plan::default()).await;
    let start = format!("{}/api/auth/oauth/acme?return_to=/done", world.api);
    let mut browser = Browser::new();
    browser.sign_in_as(&start, "ada").await;
    let ada = browser.caller(&world).unwrap();
    let path = "/api/users/me/second-factor";
    let proposed = ada.post(path, json!({})).await.ok();
    let totp = totp_rs::Totp::from_url(proposed["otpauth_url"].as_str().unwrap()).unwrap();
    let code = totp.generate_current().to_string();
    let confirmed = ada
        .post(&format!("{path}/confirm"), json!({ "code": code }))
        .await
        .ok();
    let recovery = confirmed["recovery_codes"][0].as_str().unwrap();
    let mut browser = Browser::new();
    let page = browser.sign_in_as(&start, "ada").await;
    assert_eq!(
        (page.url.path(), page.url.query()),
        ("/done", Some("second-factor"))
    );
    assert!(browser.caller(&world).is_none());
    // The challenge is in a cookie that no address has in it.
    let cookies = browser.cookies_for(&world.api.parse().unwrap());
    let headers = [
        ("cookie", cookies.as_str()),
        ("sec-fetch-site", "same-origin"),
    ];
    let body = Some(json!({ "code": recovery }));
    let finish = "/api/auth/login/second-factor";
    let signed_in = world
        .nobody()
        .call_with(Method::POST, finish, body, &headers)
        .await;
    assert_eq!(signed_in.status, 200);
    assert!(signed_in.cookies().contains("__Host-browserfleet-access="));
    world.stop().await;
}
