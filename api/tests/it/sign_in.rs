//! Sign-in, the cookie, sign-out, keys, and the limits on guessing.

use std::time::Duration;

use common::store::Quota;
use reqwest::Method;
use serde_json::json;

use crate::support::{World, problem};

const PASSWORD: &str = "correct horse battery staple";

#[tokio::test]
async fn a_sign_in_gives_a_token_and_a_strict_cookie() {
    let world = World::new().await;
    world.add_user_with_password("anna", PASSWORD).await;
    let answer = world.sign_in("anna", PASSWORD).await.expect(200);
    let body = answer.json();
    let token = body["token"].as_str().unwrap();
    assert_eq!(
        answer.header("set-cookie"),
        format!("auth_token={token}; HttpOnly; SameSite=Strict; Path=/; Max-Age=43200")
    );
    assert_eq!(body["expires_at"], 1_800_000_000_000_i64 + 43_200_000);
    let me = world.get(token, "/api/v1/auth/me").await.expect(200).json();
    assert_eq!(
        me,
        json!({"id": "anna", "name": "anna", "account": "home", "role": "user"})
    );
}

#[tokio::test]
async fn with_tls_the_cookie_is_secure_and_hsts_is_sent() {
    let world = World::with(|config| config.tls = true).await;
    world.add_user_with_password("anna", PASSWORD).await;
    let answer = world.sign_in("anna", PASSWORD).await.expect(200);
    assert!(answer.header("set-cookie").ends_with("; Max-Age=43200; Secure"));
    assert_eq!(answer.header("strict-transport-security"), "max-age=31536000");
}

#[tokio::test]
async fn a_wrong_name_and_a_wrong_password_are_not_told_apart() {
    let world = World::new().await;
    world.add_user_with_password("anna", PASSWORD).await;
    let unknown = world.sign_in("nobody", PASSWORD).await.expect(401);
    let wrong = world.sign_in("anna", "wrong horse").await.expect(401);
    assert_eq!(problem(&unknown), problem(&wrong));
    assert_eq!(problem(&wrong)["code"], "wrong_credentials");
}

#[tokio::test]
async fn sign_out_ends_every_copy_of_the_token_at_once() {
    let world = World::new().await;
    world.add_user_with_password("anna", PASSWORD).await;
    let body = world.sign_in("anna", PASSWORD).await.expect(200).json();
    let token = body["token"].as_str().unwrap();
    let answer = world
        .post(token, "/api/v1/auth/logout", &json!({}))
        .await
        .expect(204);
    assert!(answer.header("set-cookie").contains("Max-Age=0"));
    let refused = world.get(token, "/api/v1/auth/me").await.expect(401);
    assert_eq!(refused.header("www-authenticate"), "Bearer");
}

#[tokio::test]
async fn a_disabled_user_is_out_with_the_next_request() {
    let world = World::new().await;
    let id = common::ids::UserId::new("ursula").unwrap();
    world.get(&world.keys.user, "/api/v1/auth/me").await.expect(200);
    assert!(world.stores.identity.set_disabled(&id, true).await.unwrap());
    world.get(&world.keys.user, "/api/v1/auth/me").await.expect(401);
}

#[tokio::test]
async fn a_sign_in_slides_with_use_and_ends_after_twelve_hours() {
    let world = World::new().await;
    world.add_user_with_password("anna", PASSWORD).await;
    let body = world.sign_in("anna", PASSWORD).await.expect(200).json();
    let token = body["token"].as_str().unwrap();
    for _ in 0..11 {
        world.clock.advance(Duration::from_secs(3_600));
        world.get(token, "/api/v1/auth/me").await.expect(200);
    }
    world.clock.advance(Duration::from_secs(3_600));
    world.get(token, "/api/v1/auth/me").await.expect(401);
}

#[tokio::test]
async fn a_sign_in_ends_unused() {
    let world = World::new().await;
    world.add_user_with_password("anna", PASSWORD).await;
    let body = world.sign_in("anna", PASSWORD).await.expect(200).json();
    world.clock.advance(Duration::from_secs(2 * 3_600));
    let token = body["token"].as_str().unwrap();
    world.get(token, "/api/v1/auth/me").await.expect(401);
}

#[tokio::test]
async fn a_cookie_writes_only_from_our_own_pages() {
    let world = World::with(|config| config.allowed_origins = vec!["https://console.example".into()]).await;
    world.add_user_with_password("anna", PASSWORD).await;
    let body = world.sign_in("anna", PASSWORD).await.expect(200).json();
    let cookie = format!("x=y; auth_token={}", body["token"].as_str().unwrap());
    let own = world.url.clone();
    let host = world.address.to_string();
    for (header, value, expected) in [
        ("x-none", "", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("sec-fetch-site", "same-origin", 201),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("origin", &format!("http://{host}.evil.example"), 403),
        ("origin", &own, 201),
        ("origin", "https://console.example", 201),
    ] {
        let request = world
            .request(Method::POST, "", "/api/v1/jobs")
            .header("cookie", &cookie)
            .header(header, value)
            .json(&json!({"command": "true"}));
        let answer = world.send(request).await;
        assert_eq!(answer.status.as_u16(), expected, "{header}: {value}");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    let reading = world
        .request(Method::GET, "", "/api/v1/jobs")
        .header("cookie", &cookie);
    world.send(reading).await.expect(200);
    let both = world
        .request(Method::POST, "not a token", "/api/v1/jobs")
        .header("cookie", &cookie)
        .header("origin", &own)
        .json(&json!({"command": "true"}));
    world.send(both).await.expect(401);
}

#[tokio::test]
async fn guessing_is_limited_by_name() {
    let world = World::with(|config| {
        config.limits.sign_ins_per_name = Some(Quota {
            limit: 2,
            window: Duration::from_secs(60),
        });
    })
    .await;
    for _ in 0..2 {
        world.sign_in("nobody", "wrong horse").await.expect(401);
    }
    let refused = world.sign_in("nobody", "wrong horse").await.expect(429);
    let pause: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&pause), "{pause}");
    world.sign_in("somebody", "wrong horse").await.expect(401);
    world.clock.advance(Duration::from_secs(pause));
    world.sign_in("nobody", "wrong horse").await.expect(401);
}

#[tokio::test]
async fn the_first_start_makes_one_administrator_once() {
    let folder = tempfile::tempdir().unwrap();
    let clock: common::time::SharedClock = std::sync::Arc::new(common::time::SystemClock);
    let config = common::config::StoreConfig::Embedded {
        folder: folder.path().join("store"),
    };
    let stores = storage::open(&config, clock.clone()).await.unwrap();
    let password = api::bootstrap_admin(&stores, &clock).await.unwrap().unwrap();
    assert!(api::bootstrap_admin(&stores, &clock).await.unwrap().is_none());
    let user = stores.identity.user_by_name("admin").await.unwrap().unwrap();
    assert!(user.password_hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    assert!(!user.password_hash.contains(password.expose().as_str()));
}

#[tokio::test]
async fn a_call_past_the_limit_is_told_when_to_come_back() {
    let world = World::with(|config| {
        config.limits.reads = Some(Quota {
            limit: 2,
            window: Duration::from_secs(60),
        });
    })
    .await;
    let path = "/api/v1/auth/me";
    let first = world.get(&world.keys.user, path).await.expect(200);
    assert_eq!(first.header("ratelimit-policy"), "\"reads\";q=2;w=60");
    assert!(
        first.header("ratelimit").starts_with("\"reads\";r=1;"),
        "{}",
        first.header("ratelimit")
    );
    world.get(&world.keys.user, path).await.expect(200);
    let refused = world.get(&world.keys.user, path).await.expect(429);
    assert_eq!(problem(&refused)["code"], "rate_limited");
    let pause: u64 = refused.header("retry-after").parse().unwrap();
    world.get(&world.keys.viewer, path).await.expect(200);
    world.clock.advance(Duration::from_secs(pause));
    world.get(&world.keys.user, path).await.expect(200);
}
