//! The second factor: enrolled by its code, asked for at login, good once.

use base64::Engine;
use browserfleet_tests::api::Caller;
use browserfleet_tests::world::{PASSWORD, World};
use reqwest::Method;
use serde_json::{Value, json};
use totp_rs::Totp;

/// The code `steps` after the present one.
fn code(totp: &Totp, steps: i64) -> String {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    totp.generate(now.checked_add_signed(steps * 30).unwrap())
        .to_string()
}

async fn log_in(world: &World, email: &str) -> browserfleet_tests::api::Reply {
    let body = json!({ "email": email, "password": PASSWORD });
    world.nobody().post("/api/auth/login", body).await
}

async fn enrol(caller: &Caller) -> (Totp, Vec<String>) {
    let path = "/api/users/me/second-factor";
    let proposed = caller
        .post(path, json!({ "current_password": PASSWORD }))
        .await
        .ok();
    let totp = Totp::from_url(proposed["otpauth_url"].as_str().unwrap()).unwrap();
    let picture = proposed["qr_code"].as_str().unwrap();
    let picture = picture.strip_prefix("data:image/png;base64,").unwrap();
    let picture = base64::engine::general_purpose::STANDARD
        .decode(picture)
        .unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    let wrong = caller
        .post(&format!("{path}/confirm"), json!({ "code": "000000" }))
        .await;
    assert_eq!((wrong.status, wrong.code()), (403, "code_wrong".into()));
    let confirmed = caller
        .post(
            &format!("{path}/confirm"),
            json!({ "code": code(&totp, -1) }),
        )
        .await
        .ok();
    let codes: Vec<String> = serde_json::from_value(confirmed["recovery_codes"].clone()).unwrap();
    assert_eq!(codes.len(), 10);
    (totp, codes)
}

#[tokio::test]
async fn a_second_factor_is_asked_for_and_each_code_is_good_once() {
    let world = World::new().await.unwrap();
    let ada = world.user("ada").await;
    let (totp, recovery) = enrol(&ada).await;
    let asked = log_in(&world, "ada@example.com").await;
    assert_eq!(
        (asked.status, asked.code()),
        (401, "second_factor_needed".into())
    );
    assert!(asked.cookies().is_empty());
    let challenge = asked.json()["challenge"].clone();
    let answer = async |challenge: &Value, code: &str| {
        let body = json!({ "challenge": challenge, "code": code });
        world
            .nobody()
            .post("/api/auth/login/second-factor", body)
            .await
    };
    let now = code(&totp, 0);
    let signed_in = answer(&challenge, &now).await.ok();
    let again = world
        .nobody()
        .with_token(signed_in["access_token"].as_str().unwrap());
    assert_eq!(again.get("/api/users/me").await.ok()["second_factor"], true);
    // Not twice, not an older one, not a made-up challenge.
    assert_eq!(answer(&challenge, &now).await.code(), "code_wrong");
    assert_eq!(
        answer(&json!("AAAA"), &now).await.code(),
        "challenge_invalid"
    );
    // A recovery code, however it is typed, once.
    let typed = recovery[0].to_uppercase().replace('-', " ");
    assert_eq!(answer(&challenge, &typed).await.status, 200);
    assert_eq!(answer(&challenge, &recovery[0]).await.code(), "code_wrong");
    let state = again.get("/api/users/me/second-factor").await.ok();
    assert_eq!(
        state,
        json!({ "enabled": true, "required": false, "recovery_codes_left": 9 })
    );
    // Guessing codes is slowed, even for who knows the password.
    let mut statuses = Vec::new();
    for guess in 0..8 {
        statuses.push(answer(&challenge, &format!("{guess:06}")).await.status);
    }
    assert!(
        statuses.contains(&429) && !statuses.contains(&200),
        "{statuses:?}"
    );
    world.stop().await;
}

#[tokio::test]
async fn turning_it_off_needs_it() {
    let world = World::new().await.unwrap();
    let ada = world.user("ada").await;
    let (_, recovery) = enrol(&ada).await;
    let path = "/api/users/me/second-factor";
    let off = async |code: &str| {
        let body = Some(json!({ "code": code }));
        let reply = ada.call(Method::DELETE, path, body).await;
        (reply.status, reply.code())
    };
    assert_eq!(off("123456").await, (403, "code_wrong".into()));
    let twice = ada
        .post(path, json!({ "current_password": PASSWORD }))
        .await;
    assert_eq!(
        (twice.status, twice.code()),
        (409, "second_factor_enabled".into())
    );
    let body = json!({ "code": recovery[0] });
    let renewed = ada.post(&format!("{path}/recovery-codes"), body).await.ok();
    let renewed: Vec<String> = serde_json::from_value(renewed["recovery_codes"].clone()).unwrap();
    assert_eq!(off(&renewed[9]).await, (204, String::new()));
    assert_eq!(log_in(&world, "ada@example.com").await.status, 200);
    world.stop().await;
}

#[tokio::test]
async fn an_administrator_can_require_it_and_take_it_off() {
    let world = World::new().await.unwrap();
    let (ada, admin) = (world.user("ada").await, world.administrator().await);
    let id = ada.get("/api/users/me").await.text("id");
    let path = format!("/api/admin/users/{id}");
    admin
        .patch(&path, json!({ "second_factor_required": true }))
        .await
        .ok();
    assert_eq!(ada.get("/api/users/me").await.status, 401);
    let limited = world
        .nobody()
        .sign_in("ada@example.com", PASSWORD)
        .await
        .unwrap();
    let refused = limited.get("/api/sessions").await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "second_factor_enrolment_needed".into())
    );
    enrol(&limited).await;
    let asked = log_in(&world, "ada@example.com").await;
    assert_eq!(asked.code(), "second_factor_needed");
    let off = json!({ "code": "000000" });
    let off = limited
        .call(Method::DELETE, "/api/users/me/second-factor", Some(off))
        .await;
    assert_eq!((off.status, off.code()), (403, "forbidden".into()));
    // The device is lost, and the paper too.
    assert_eq!(
        admin.delete(&format!("{path}/second-factor")).await.status,
        204
    );
    admin
        .patch(&path, json!({ "second_factor_required": false }))
        .await
        .ok();
    assert_eq!(log_in(&world, "ada@example.com").await.status, 200);
    world.stop().await;
}
