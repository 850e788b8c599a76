//! Every error has one shape, every answer its headers, and nothing shows what is inside.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{World, problem};

#[tokio::test]
async fn bad_requests_name_the_field_and_the_rule() {
    let world = World::new().await;
    let table: Vec<(Value, u16, &str, &str)> = vec![
        (
            json!({"command": "x", "owner": "me"}),
            422,
            "owner",
            "unknown_field",
        ),
        (
            json!({"command": "x", "state": "succeeded"}),
            422,
            "state",
            "unknown_field",
        ),
        (
            json!({"command": "x", "resources": {"cpu": 1}}),
            422,
            "resources.cpu",
            "unknown_field",
        ),
        (json!({"name": "x"}), 422, "command", "missing"),
        (json!({"command": 7}), 422, "command", "wrong_type"),
        (json!({"command": ["a", 7]}), 422, "command", "wrong_type"),
        (
            json!({"command": "x", "priority": 300}),
            422,
            "priority",
            "wrong_type",
        ),
        (
            json!({"command": "x", "priority": 11}),
            422,
            "priority",
            "out_of_range",
        ),
        (
            json!({"command": "x", "resources": {"memory_mib": "1"}}),
            422,
            "resources.memory_mib",
            "wrong_type",
        ),
        (
            json!({"command": "x", "resources": {"memory_mib": 1}}),
            422,
            "resources.memory_mib",
            "out_of_range",
        ),
        (
            json!({"command": "x", "limits": {"run_ms": 0}}),
            422,
            "limits.run_ms",
            "out_of_range",
        ),
        (
            json!({"command": "x", "image": "--privileged"}),
            422,
            "image",
            "bad_image",
        ),
        (
            json!({"command": "x", "not_before": -1}),
            422,
            "not_before",
            "out_of_range",
        ),
        (
            json!({"command": "x", "inputs": [{"file": {"$ne": null}, "path": "a"}]}),
            422,
            "inputs[0].file",
            "wrong_type",
        ),
        (
            json!({"command": "x", "inputs": [{"file": "fil_00000000000000000000000000", "path": "a"}]}),
            422,
            "inputs[0].file",
            "no_such_file",
        ),
    ];
    for (body, status, field, code) in table {
        let answer = world
            .post(&world.keys.user, "/api/v1/jobs", &body)
            .await
            .expect(status);
        let problem = problem(&answer);
        assert_eq!(problem["errors"][0]["field"], field, "{body} {problem}");
        assert_eq!(problem["errors"][0]["code"], code, "{body} {problem}");
    }
}

#[tokio::test]
async fn bad_bodies_and_queries_are_problems_too() {
    let world = World::new().await;
    let key = &world.keys.user;
    let raw = |text: &'static str, kind: &'static str| {
        world
            .request(Method::POST, key, "/api/v1/jobs")
            .header("content-type", kind)
            .body(text)
    };
    let deep: &'static str = Box::leak(format!("{{\"command\":{}", "[".repeat(10_000)).into_boxed_str());
    for (request, status, code) in [
        (raw("{", "application/json"), 400, "bad_json"),
        (raw("{\"command\":\"x\"} x", "application/json"), 400, "bad_json"),
        (raw("", "application/json"), 400, "bad_json"),
        (raw("[]", "application/json"), 422, "invalid"),
        (raw(deep, "application/json"), 400, "bad_json"),
        (raw("{\"command\":\"x\"}", "text/plain"), 415, "not_json"),
        (
            raw("command=x", "application/x-www-form-urlencoded"),
            415,
            "not_json",
        ),
        (
            world.request(Method::GET, key, "/api/v1/jobs?state=nonsense"),
            422,
            "invalid",
        ),
        (
            world.request(Method::GET, key, "/api/v1/jobs?state[$gt]="),
            422,
            "invalid",
        ),
        (
            world.request(Method::GET, key, "/api/v1/jobs?limit=0"),
            422,
            "invalid",
        ),
        (
            world.request(Method::GET, key, "/api/v1/jobs?limit=201"),
            422,
            "invalid",
        ),
        (
            world.request(Method::GET, key, "/api/v1/jobs?limit=1&limit=2"),
            422,
            "invalid",
        ),
        (
            world.request(Method::GET, key, "/api/v1/jobs?cursor=fil_1"),
            422,
            "invalid",
        ),
        (
            world.request(Method::GET, key, "/api/v1/nonsense"),
            404,
            "not_found",
        ),
        (world.request(Method::GET, key, "/nonsense"), 404, "not_found"),
        (
            world.request(Method::PATCH, key, "/api/v1/jobs"),
            405,
            "method_not_allowed",
        ),
        (
            world.request(Method::GET, "", "/api/v1/jobs"),
            401,
            "unauthenticated",
        ),
        (
            world.request(Method::GET, &"k".repeat(5_000), "/api/v1/jobs"),
            401,
            "unauthenticated",
        ),
    ] {
        let answer = world.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{code}: {}", answer.text());
        assert_eq!(problem(&answer)["code"], code);
    }
}

#[tokio::test]
async fn sizes_end_exactly_where_they_are_said_to() {
    let world = World::new().await;
    let key = &world.keys.user;
    let limit = 256 * 1024;
    for (size, status) in [(limit - 1, 422), (limit, 422), (limit + 1, 413)] {
        let shell = "{\"command\":\"\"}".len();
        let text = format!("{{\"command\":\"{}\"}}", "x".repeat(size - shell));
        assert_eq!(text.len(), size);
        for chunked in [false, true] {
            let body = if chunked {
                let pieces: Vec<Result<_, std::io::Error>> = text
                    .as_bytes()
                    .chunks(10_000)
                    .map(|piece| Ok(piece.to_vec()))
                    .collect();
                reqwest::Body::wrap_stream(futures_util::stream::iter(pieces))
            } else {
                reqwest::Body::from(text.clone())
            };
            let request = world
                .request(Method::POST, key, "/api/v1/jobs")
                .header("content-type", "application/json")
                .body(body);
            let answer = world.send(request).await;
            assert_eq!(answer.status.as_u16(), status, "{size} chunked {chunked}");
            problem(&answer);
        }
    }
    let long = format!("/api/v1/jobs?cursor={}", "x".repeat(8 * 1024));
    let answer = world.get(key, &long).await.expect(414);
    problem(&answer);
    let heavy = world
        .request(Method::GET, key, "/api/v1/jobs")
        .header("x-heavy", "x".repeat(17 * 1024));
    problem(&world.send(heavy).await.expect(431));
}

#[tokio::test]
async fn every_answer_carries_the_same_guards() {
    let world = World::new().await;
    let key = &world.keys.user;
    let job = world.submit(key).await;
    let file = world.upload(key, "f", b"x").await;
    let answers = [
        world.get(key, &format!("/api/v1/jobs/{job}")).await,
        world.get(key, "/api/v1/nonsense").await,
        world.get("", "/api/v1/jobs").await,
        world.get("", "/healthz").await,
        world.post(key, "/api/v1/jobs", &json!({})).await,
    ];
    for answer in &answers {
        let seen: Vec<(&str, &str)> = [
            "cache-control",
            "content-security-policy",
            "cross-origin-resource-policy",
            "referrer-policy",
            "x-content-type-options",
            "strict-transport-security",
            "server",
        ]
        .map(|name| (name, answer.header(name)))
        .to_vec();
        assert_eq!(
            seen,
            [
                ("cache-control", "no-store"),
                (
                    "content-security-policy",
                    "default-src 'none'; frame-ancestors 'none'"
                ),
                ("cross-origin-resource-policy", "same-origin"),
                ("referrer-policy", "no-referrer"),
                ("x-content-type-options", "nosniff"),
                ("strict-transport-security", ""),
                ("server", ""),
            ]
        );
        assert!(answer.header("x-request-id").starts_with("req_"));
    }
    let download = world.get(key, &format!("/api/v1/files/{file}")).await.expect(200);
    assert!(download.header("content-security-policy").starts_with("sandbox;"));
    assert!(download.header("content-disposition").starts_with("attachment;"));
    assert_eq!(download.header("cache-control"), "no-store");
}

#[tokio::test]
async fn internals_stay_inside() {
    let world = World::new().await;
    let job = world.submit(&world.keys.user).await;
    world.run(job).await;
    let body = world
        .get(&world.keys.user, &format!("/api/v1/jobs/{job}"))
        .await
        .expect(200)
        .text();
    for word in [
        "revision",
        "epoch",
        "session",
        "lease",
        "report_hash",
        "hidden",
        "ses_",
    ] {
        assert!(!body.contains(word), "{word}: {body}");
    }
    // whoever has to find out what happened sees who wrote it
    let seen = world
        .get(&world.keys.admin, &format!("/api/v1/jobs/{job}"))
        .await
        .expect(200)
        .json();
    assert!(seen["revision"].is_u64() && seen["epoch"].is_u64(), "{seen}");
    assert!(seen["attempts"][0]["session"].is_string(), "{seen}");
}
