//! API keys: made after a sign-in alone, never more than their owner, revoked at once.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{World, problem};

const PASSWORD: &str = "correct horse battery staple";
const KEYS: &str = "/api/v1/auth/keys";

/// A world with a user `anna` and a token of hers.
async fn world() -> (World, String) {
    let world = World::new().await;
    world.add_user_with_password("anna", PASSWORD).await;
    let token = world.token("anna", PASSWORD).await;
    (world, token)
}

async fn make(world: &World, token: &str, body: Value) -> Value {
    world.post(token, KEYS, &body).await.expect(201).json()
}

async fn revoke(world: &World, by: &str, id: &Value) -> u16 {
    let path = format!("{KEYS}/{}", id.as_str().unwrap());
    let answer = world.send(world.request(Method::DELETE, by, &path)).await;
    answer.status.as_u16()
}

#[tokio::test]
async fn a_key_never_does_more_than_its_owner_or_its_own_role() {
    let (world, token) = world().await;
    let made = make(&world, &token, json!({"name": "dashboard", "role": "viewer"})).await;
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("jwk_"), "{key}");
    world.get(key, "/api/v1/jobs").await.expect(200);
    world
        .post(key, "/api/v1/jobs", &json!({"command": "true"}))
        .await
        .expect(403);
    let made = make(&world, &token, json!({"name": "grab", "role": "admin"})).await;
    assert_eq!(made["role"], "user");
    world
        .get("", &format!("/api/v1/jobs?token={key}"))
        .await
        .expect(401);
}

#[tokio::test]
async fn a_key_makes_no_keys_and_changes_no_password() {
    let world = World::new().await;
    for key in [&world.keys.user, &world.keys.admin] {
        let refused = world.post(key, KEYS, &json!({"name": "more"})).await.expect(403);
        assert_eq!(problem(&refused)["code"], "sign_in_needed");
        let change = json!({"old": PASSWORD, "new": "something else"});
        let refused = world
            .post(key, "/api/v1/auth/password", &change)
            .await
            .expect(403);
        assert_eq!(problem(&refused)["code"], "sign_in_needed");
    }
    let listed = world.get(&world.keys.user, KEYS).await.expect(200).json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_expired_key_opens_nothing() {
    let (world, token) = world().await;
    let body = json!({"name": "short", "expires_at": 1_800_000_010_000_i64});
    let made = make(&world, &token, body).await;
    let key = made["key"].as_str().unwrap();
    world.get(key, "/api/v1/auth/me").await.expect(200);
    world.clock.advance(Duration::from_secs(10));
    world.get(key, "/api/v1/auth/me").await.expect(401);
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_and_stays_listed() {
    let (world, token) = world().await;
    let made = make(&world, &token, json!({"name": "ci"})).await;
    let kept = make(&world, &token, json!({"name": "kept"})).await;
    let key = made["key"].as_str().unwrap();
    world.get(key, "/api/v1/auth/me").await.expect(200);
    // Neither another user nor another key of the same user ends it.
    assert_eq!(revoke(&world, &world.keys.other, &made["id"]).await, 404);
    assert_eq!(revoke(&world, &world.keys.user, &made["id"]).await, 404);
    assert_eq!(
        revoke(&world, kept["key"].as_str().unwrap(), &made["id"]).await,
        403
    );
    world.get(key, "/api/v1/auth/me").await.expect(200);
    assert_eq!(revoke(&world, &token, &made["id"]).await, 204);
    world.get(key, "/api/v1/auth/me").await.expect(401);
    world
        .get(kept["key"].as_str().unwrap(), "/api/v1/auth/me")
        .await
        .expect(200);
    // Again is the same; nothing makes it good again.
    assert_eq!(revoke(&world, &token, &made["id"]).await, 204);
    world.get(key, "/api/v1/auth/me").await.expect(401);
    let listed = world.get(&token, KEYS).await.expect(200).json();
    let mut seen: Vec<(&str, bool)> = listed["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| (key["name"].as_str().unwrap(), key["revoked"].as_bool().unwrap()))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [("ci", true), ("kept", false)]);
    assert!(!listed.to_string().contains("sha256"), "{listed}");
}

#[tokio::test]
async fn a_key_may_end_itself_and_an_administrator_any() {
    let (world, token) = world().await;
    let own = make(&world, &token, json!({"name": "leaked"})).await;
    let key = own["key"].as_str().unwrap();
    assert_eq!(revoke(&world, key, &own["id"]).await, 204);
    world.get(key, "/api/v1/auth/me").await.expect(401);
    let other = make(&world, &token, json!({"name": "lost"})).await;
    assert_eq!(revoke(&world, &world.keys.admin, &other["id"]).await, 204);
    let key = other["key"].as_str().unwrap();
    world.get(key, "/api/v1/auth/me").await.expect(401);
}

#[tokio::test]
async fn the_number_of_keys_ends_and_revoked_ones_do_not_count() {
    let (world, token) = world().await;
    let mut last = Value::Null;
    for number in 0..100 {
        last = make(&world, &token, json!({"name": format!("k{number}")})).await;
    }
    let refused = world
        .post(&token, KEYS, &json!({"name": "more"}))
        .await
        .expect(409);
    assert_eq!(problem(&refused)["code"], "too_many_keys");
    assert_eq!(revoke(&world, &token, &last["id"]).await, 204);
    make(&world, &token, json!({"name": "more"})).await;
}
