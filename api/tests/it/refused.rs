//! Submissions that are refused: each with its field, its rule and a stable code, and nothing is stored of any.

use serde_json::{Map, Value, json};

use crate::support::{Answer, World, problem};

/// A good job with one field replaced.
fn with(field: &str, value: Value) -> Value {
    let mut job = json!({"command": "true"});
    job[field] = value;
    job
}

fn many(count: usize, value: &str) -> Value {
    let entries = (0..count).map(|number| (format!("V{number}"), value.into()));
    Value::Object(entries.collect::<Map<_, _>>())
}

/// The job, and the field and code that its refusal names.
fn table() -> Vec<(Value, &'static str, &'static str)> {
    let mut table = [places(), limits()].concat();
    table.extend([
        // Fields that nobody may set, or that are none.
        (with("id", json!("job_1")), "id", "unknown_field"),
        (with("account", json!("away")), "account", "unknown_field"),
        (
            with("submitted_by", json!("ada")),
            "submitted_by",
            "unknown_field",
        ),
        (with("attempts", json!([])), "attempts", "unknown_field"),
        (with("privileged", json!(true)), "privileged", "unknown_field"),
        (with("volumes", json!(["/:/host"])), "volumes", "unknown_field"),
        (
            with("limits", json!({"memory": 1})),
            "limits.memory",
            "unknown_field",
        ),
        (
            with("retry", json!({"forever": true})),
            "retry.forever",
            "unknown_field",
        ),
        // Types.
        (json!({}), "command", "missing"),
        (with("command", Value::Null), "command", "wrong_type"),
        (with("command", json!({"$ne": null})), "command", "wrong_type"),
        (with("command", json!([["a"]])), "command", "wrong_type"),
        (with("image", json!(7)), "image", "wrong_type"),
        (with("env", json!(["A=b"])), "env", "wrong_type"),
        (with("env", json!({"A": 1})), "env.A", "wrong_type"),
        (with("labels", json!("a=b")), "labels", "wrong_type"),
        (
            with("limits", json!({"run_ms": "1h"})),
            "limits.run_ms",
            "wrong_type",
        ),
        (with("pool", json!("../x")), "pool", "wrong_type"),
        // Commands.
        (with("command", json!("")), "command", "empty"),
        (with("command", json!(" \t\n")), "command", "empty"),
        (with("command", json!([""])), "command", "empty"),
        (with("command", json!("a\u{0}b")), "command", "nul_byte"),
        (with("command", json!(["a", "\u{0}"])), "command", "nul_byte"),
        (with("entrypoint", json!([""])), "entrypoint", "bad_text"),
    ]);
    for dir in [
        "/proc",
        "/proc/self/fd/7",
        "//proc/1/root",
        "/./proc",
        "/sys/kernel",
        "/dev/shm",
    ] {
        table.push((with("workdir", json!(dir)), "workdir", "bad_workdir"));
    }
    for image in [
        "",
        " ",
        "--privileged",
        "-v",
        "a b",
        "../../x",
        "/etc",
        "a//b",
        "a\nb",
        "a;b",
        "$(x)",
        "\u{0}",
        "é",
    ] {
        table.push((with("image", json!(image)), "image", "bad_image"));
    }
    table
}

/// Numbers, each out of its range.
fn limits() -> Vec<(Value, &'static str, &'static str)> {
    vec![
        // Limits.
        (
            with("limits", json!({"run_ms": -1})),
            "limits.run_ms",
            "wrong_type",
        ),
        (
            with("limits", json!({"run_ms": 0})),
            "limits.run_ms",
            "out_of_range",
        ),
        (
            with("limits", json!({"run_ms": 1.5})),
            "limits.run_ms",
            "wrong_type",
        ),
        (
            with("limits", json!({"run_ms": 1_000_000_000_000_u64})),
            "limits.run_ms",
            "out_of_range",
        ),
        (
            with("limits", json!({"run_ms": 18_446_744_073_709_551_615_u64})),
            "limits.run_ms",
            "out_of_range",
        ),
        (
            with("limits", json!({"queue_ms": 0})),
            "limits.queue_ms",
            "out_of_range",
        ),
        (
            with("limits", json!({"grace_ms": 1_000_000_000_000_u64})),
            "limits.grace_ms",
            "out_of_range",
        ),
        (
            with("resources", json!({"cpu_millis": -1})),
            "resources.cpu_millis",
            "wrong_type",
        ),
        (
            with("resources", json!({"cpu_millis": 0})),
            "resources.cpu_millis",
            "out_of_range",
        ),
        (
            with("resources", json!({"memory_mib": 4_000_000_000_u32})),
            "resources.memory_mib",
            "out_of_range",
        ),
        (
            with("resources", json!({"disk_mib": 1e300})),
            "resources.disk_mib",
            "wrong_type",
        ),
        (
            with("retry", json!({"max_retries": -1})),
            "retry.max_retries",
            "wrong_type",
        ),
        (
            with("retry", json!({"max_retries": 1_000_000})),
            "retry.max_retries",
            "out_of_range",
        ),
        (
            with("retry", json!({"backoff_ms": 1_000_000_000_000_u64})),
            "retry.backoff_ms",
            "out_of_range",
        ),
        (with("priority", json!(127)), "priority", "out_of_range"),
    ]
}

/// Paths and names.
fn places() -> Vec<(Value, &'static str, &'static str)> {
    vec![
        // Places.
        (with("workdir", json!("")), "workdir", "bad_workdir"),
        (with("workdir", json!("a/b")), "workdir", "bad_workdir"),
        (with("workdir", json!("/a/../proc")), "workdir", "bad_workdir"),
        (with("workdir", json!("/a b")), "workdir", "bad_workdir"),
        (with("artifacts", json!(["../*"])), "artifacts[0]", "bad_path"),
        (
            with("artifacts", json!(["ok", "/etc/*"])),
            "artifacts[1]",
            "bad_path",
        ),
        (with("artifacts", json!([""])), "artifacts[0]", "empty"),
        // Names.
        (with("name", json!("a\u{1b}[2J")), "name", "bad_text"),
        (with("env", json!({"": "x"})), "env", "bad_text"),
        (with("env", json!({"A=B": "x"})), "env", "bad_text"),
        (with("env", json!({"A": "\u{0}"})), "env", "bad_text"),
        (with("env", many(10_000, "")), "env", "too_many"),
        (with("labels", many(65, "")), "labels", "too_many"),
        (with("labels", json!({"a": "\n"})), "labels", "bad_text"),
        (
            with("labels", json!({"jobworker.owner": "x"})),
            "labels.jobworker.owner",
            "reserved",
        ),
        (
            with("labels", json!({"our.owner": "x"})),
            "labels.our.owner",
            "reserved",
        ),
    ]
}

fn first(answer: &Answer) -> (String, String) {
    let problem = problem(answer);
    assert_eq!(problem["code"], "invalid", "{problem}");
    let error = &problem["errors"][0];
    let text = |name: &str| error[name].as_str().unwrap().to_owned();
    assert!(!text("message").is_empty(), "{problem}");
    (text("field"), text("code"))
}

async fn nothing_is_stored(world: &World) {
    let counts = world
        .get(&world.keys.admin, "/api/v1/jobs/counts")
        .await
        .expect(200)
        .json();
    let stored: u64 = counts
        .as_object()
        .unwrap()
        .values()
        .map(|count| count.as_u64().unwrap())
        .sum();
    assert_eq!(stored, 0, "{counts}");
    assert_eq!(world.stores.queue.len().await.unwrap(), 0);
}

#[tokio::test]
async fn each_refusal_names_field_and_code_and_nothing_is_stored() {
    let world = World::new().await;
    for (job, field, code) in table() {
        let shown: String = job.to_string().chars().take(200).collect();
        let answer = world
            .post(&world.keys.user, "/api/v1/jobs", &job)
            .await
            .expect(422);
        assert_eq!(first(&answer), (field.to_owned(), code.to_owned()), "{shown}");
        // One bad job spoils the whole bulk.
        let bulk = json!({"jobs": [{"command": "true"}, job]});
        let answer = world
            .post(&world.keys.user, "/api/v1/jobs/bulk", &bulk)
            .await
            .expect(422);
        let field = format!("jobs[1].{field}");
        assert_eq!(first(&answer), (field, code.to_owned()), "{shown}");
    }
    nothing_is_stored(&world).await;
}

/// Three megabytes anywhere: refused by size, or by the field's own rule, and never echoed.
#[tokio::test]
async fn what_is_far_too_large_is_refused_in_a_short_answer() {
    let world = World::new().await;
    let large = "x".repeat(3 * 1024 * 1024);
    let cases = [
        (with("image", json!(large)), "jobs[0].image", "bad_image"),
        (with("name", json!(large)), "jobs[0].name", "bad_text"),
        (with("command", json!(large)), "jobs[0]", "spec_too_large"),
        (
            with("workdir", json!(format!("/{large}"))),
            "jobs[0].workdir",
            "bad_workdir",
        ),
        (with("labels", json!({"a": large})), "jobs[0].labels", "bad_text"),
        (
            with("labels", json!({format!("our.{large}"): "a"})),
            "jobs[0].labels",
            "bad_text",
        ),
        (with("env", many(300_000, "")), "jobs[0].env", "too_many"),
        (
            with("resources", json!({"memory_mib": large})),
            "jobs[0].resources.memory_mib",
            "wrong_type",
        ),
        (with(&large, json!(1)), "jobs[0].xxxx", "unknown_field"),
        (with("pool", json!(large)), "jobs[0].pool", "wrong_type"),
    ];
    for (job, field, code) in cases {
        let one = world
            .post(&world.keys.user, "/api/v1/jobs", &job)
            .await
            .expect(413);
        assert_eq!(problem(&one)["code"], "too_large");
        let bulk = json!({"jobs": [job]});
        let answer = world
            .post(&world.keys.user, "/api/v1/jobs/bulk", &bulk)
            .await
            .expect(422);
        let (found, found_code) = first(&answer);
        assert!(found.starts_with(field), "{field}: {found:.100}");
        assert_eq!(found_code, code, "{field}");
        assert!(
            answer.bytes.len() < 4_096,
            "{field}: {} bytes",
            answer.bytes.len()
        );
    }
    // Within the size of a request, and still too large for a job.
    let command = "x".repeat(200 * 1024);
    let answer = world
        .post(&world.keys.user, "/api/v1/jobs", &with("command", json!(command)))
        .await
        .expect(422);
    assert_eq!(first(&answer), (String::new(), "spec_too_large".to_owned()));
    let million = "x".repeat(1024 * 1024);
    world
        .post(&world.keys.user, "/api/v1/jobs", &with("command", json!(million)))
        .await
        .expect(413);
    nothing_is_stored(&world).await;
}
