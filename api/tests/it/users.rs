//! Passwords that are changed, users that are shut out, and what is still open for them: nothing.

use std::time::Duration;

use common::store::Quota;
use reqwest::Method;
use serde_json::json;

use crate::support::{PATIENCE, World, problem};

const PASSWORD: &str = "correct horse battery staple";
const NEW: &str = "another horse altogether";
const ME: &str = "/api/v1/auth/me";
const CHANGE: &str = "/api/v1/auth/password";

#[tokio::test]
async fn a_changed_password_ends_the_other_sign_ins_and_opens_alone() {
    let world = World::new().await;
    world.add_user_with_password("anna", PASSWORD).await;
    let here = world.token("anna", PASSWORD).await;
    let elsewhere = world.token("anna", PASSWORD).await;
    let key = world.make_key("anna").await.1;
    for (old, new, status, code) in [
        ("wrong horse", NEW, 403, "wrong_password"),
        (&*"x".repeat(2_000), NEW, 403, "wrong_password"),
        (PASSWORD, "short", 422, "invalid"),
        (PASSWORD, &*"x".repeat(1_025), 422, "invalid"),
    ] {
        let body = json!({"old": old, "new": new});
        let refused = world.post(&here, CHANGE, &body).await.expect(status);
        assert_eq!(problem(&refused)["code"], code);
    }
    world.get(&elsewhere, ME).await.expect(200);
    let body = json!({"old": PASSWORD, "new": NEW});
    world.post(&here, CHANGE, &body).await.expect(204);
    world.get(&here, ME).await.expect(200);
    world.get(&elsewhere, ME).await.expect(401);
    world.get(&key, ME).await.expect(200);
    world.sign_in("anna", PASSWORD).await.expect(401);
    world.sign_in("anna", NEW).await.expect(200);
    // The old one proves nothing any more.
    world.post(&here, CHANGE, &body).await.expect(403);
}

#[tokio::test]
async fn guessing_the_old_password_is_limited_as_signing_in_is() {
    let world = World::with(|config| {
        config.limits.sign_ins_per_name = Some(Quota {
            limit: 3,
            window: Duration::from_secs(60),
        });
    })
    .await;
    world.add_user_with_password("anna", PASSWORD).await;
    let token = world.token("anna", PASSWORD).await;
    let guess = json!({"old": "wrong horse", "new": NEW});
    for expected in [403, 403, 429] {
        world.post(&token, CHANGE, &guess).await.expect(expected);
    }
}

#[tokio::test]
async fn a_disabled_user_is_out_at_once_and_old_tokens_stay_void() {
    let world = World::new().await;
    world.add_user_with_password("anna", PASSWORD).await;
    let token = world.token("anna", PASSWORD).await;
    let key = world.make_key("anna").await.1;
    let path = "/api/v1/users/anna/disable";
    let admin = world.keys.admin.clone();
    for opened in [&token, &key] {
        world.get(opened, ME).await.expect(200);
    }
    world
        .post(&admin, path, &json!({"disabled": true}))
        .await
        .expect(204);
    for opened in [&token, &key] {
        world.get(opened, ME).await.expect(401);
    }
    world.sign_in("anna", PASSWORD).await.expect(401);
    world
        .post(&admin, path, &json!({"disabled": false}))
        .await
        .expect(204);
    // A new sign-in is needed: what was open before stays closed. Keys were made for good.
    world.get(&token, ME).await.expect(401);
    world.get(&key, ME).await.expect(200);
    world.sign_in("anna", PASSWORD).await.expect(200);
    let nobody = world
        .post(&admin, "/api/v1/users/nobody/disable", &json!({"disabled": true}))
        .await
        .expect(404);
    assert_eq!(problem(&nobody)["code"], "not_found");
    let own = world
        .post(&admin, "/api/v1/users/ada/disable", &json!({"disabled": true}))
        .await
        .expect(409);
    assert_eq!(problem(&own)["code"], "own_user");
}

/// Each way to lose the right to follow ends the stream.
#[tokio::test]
async fn a_follower_whose_right_has_ended_ends_too() {
    let world = World::new().await;
    world.add_user_with_password("anna", PASSWORD).await;
    let job = world.submit(&world.keys.user).await;
    world.run(job).await;
    let path = format!("/api/v1/jobs/{job}/logs/follow");
    let admin = world.keys.admin.clone();
    for way in [
        "signed out",
        "sign-in unused",
        "key revoked",
        "key expired",
        "user disabled",
    ] {
        let token = world.token("anna", PASSWORD).await;
        let short =
            json!({"name": way, "expires_at": common::time::Clock::now(&*world.clock).as_millis() + 60_000});
        let key = world
            .post(&token, "/api/v1/auth/keys", &short)
            .await
            .expect(201)
            .json();
        let by = match way {
            "key revoked" | "key expired" => key["key"].as_str().unwrap(),
            _ => &token,
        };
        let mut stream = world.request(Method::GET, by, &path).send().await.unwrap();
        assert_eq!(stream.status().as_u16(), 200);
        stream.chunk().await.unwrap().expect("the state comes first");
        match way {
            "signed out" => {
                world
                    .post(by, "/api/v1/auth/logout", &json!({}))
                    .await
                    .expect(204);
            }
            "sign-in unused" => world.clock.advance(Duration::from_secs(2 * 3_600)),
            "key revoked" => {
                let path = format!("/api/v1/auth/keys/{}", key["id"].as_str().unwrap());
                world
                    .send(world.request(Method::DELETE, &token, &path))
                    .await
                    .expect(204);
            }
            "key expired" => world.clock.advance(Duration::from_secs(60)),
            _ => {
                let body = json!({"disabled": true});
                world
                    .post(&admin, "/api/v1/users/anna/disable", &body)
                    .await
                    .expect(204);
            }
        }
        // The right is looked at again every four seconds of the installation's own clock.
        world.clock.advance(Duration::from_secs(4));
        let rest = tokio::time::timeout(PATIENCE, async {
            while let Ok(Some(_)) = stream.chunk().await {}
        });
        assert!(rest.await.is_ok(), "still open: {way}");
    }
}

#[tokio::test]
async fn a_sign_in_is_small() {
    let world = World::new().await;
    let path = "/api/v1/auth/login";
    let limit = 16 * 1024;
    let shell = json!({"username": "anna", "password": ""}).to_string().len();
    for (size, status) in [(limit, 401), (limit + 1, 413)] {
        let body = json!({"username": "anna", "password": "x".repeat(size - shell)});
        assert_eq!(body.to_string().len(), size);
        world.post("", path, &body).await.expect(status);
    }
}
