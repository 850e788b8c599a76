//! Who may do what: one row a route, one column a caller. A route without a row fails.

use common::lifecycle::testing::worker;
use common::store::Topic;
use common::worker::Worker;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{World, problem};

/// What stands for `{id}`: a thing of the account that viewer, user and admin belong to.
#[derive(Clone, Copy, PartialEq)]
enum Thing {
    None,
    Job,
    File,
    Worker,
    Key,
    User,
}

struct Row {
    route: &'static str,
    thing: Thing,
    body: Value,
    /// nobody, viewer, user, user of another account, admin
    expected: [u16; 5],
}

fn row(route: &'static str, thing: Thing, body: Value, expected: [u16; 5]) -> Row {
    Row {
        route,
        thing,
        body,
        expected,
    }
}

fn nothing() -> Value {
    Value::Null
}

/// Sign-ins, users, accounts and keys.
fn people() -> Vec<Row> {
    use Thing::{Key, None, User};
    let read = [401, 200, 200, 200, 200];
    let admin = [401, 403, 403, 403, 201];
    vec![
        row(
            "POST /api/v1/auth/login",
            None,
            json!({"username": "x", "password": "y"}),
            [401; 5],
        ),
        row(
            "POST /api/v1/auth/logout",
            None,
            nothing(),
            [401, 204, 204, 204, 204],
        ),
        row("GET /api/v1/auth/me", None, nothing(), read),
        row(
            "POST /api/v1/auth/keys",
            None,
            json!({"name": "k"}),
            // These callers are API keys, which make no keys.
            [401, 403, 403, 403, 403],
        ),
        row("GET /api/v1/auth/keys", None, nothing(), read),
        row(
            "DELETE /api/v1/auth/keys/{id}",
            Key,
            nothing(),
            [401, 404, 403, 404, 204],
        ),
        row(
            "POST /api/v1/auth/password",
            None,
            json!({"old": "long enough", "new": "longer than that"}),
            [401, 403, 403, 403, 403],
        ),
        row(
            "POST /api/v1/users",
            None,
            json!({"username": "new", "password": "long enough", "role": "user", "account": "home"}),
            admin,
        ),
        row(
            "POST /api/v1/users/{id}/disable",
            User,
            json!({"disabled": false}),
            [401, 403, 403, 403, 204],
        ),
        row(
            "POST /api/v1/accounts",
            None,
            json!({"id": "new", "name": "New"}),
            admin,
        ),
    ]
}

fn rows() -> Vec<Row> {
    let mut rows = people();
    rows.extend(things());
    rows
}

/// Jobs, files and workers.
fn things() -> Vec<Row> {
    use Thing::{File, Job, None, Worker};
    let job = || json!({"command": "true"});
    let read = [401, 200, 200, 200, 200];
    let read_own = [401, 200, 200, 404, 200];
    vec![
        row("GET /api/v1/jobs", None, nothing(), read),
        row("POST /api/v1/jobs", None, job(), [401, 403, 201, 201, 201]),
        row(
            "POST /api/v1/jobs/bulk",
            None,
            json!({"jobs": [job()]}),
            [401, 403, 201, 201, 201],
        ),
        row("GET /api/v1/jobs/counts", None, nothing(), read),
        row("GET /api/v1/jobs/{id}", Job, nothing(), read_own),
        row("GET /api/v1/jobs/{id}/explain", Job, nothing(), read_own),
        row(
            "POST /api/v1/jobs/{id}/cancel",
            Job,
            json!({}),
            [401, 403, 202, 404, 202],
        ),
        row("GET /api/v1/jobs/{id}/artifacts", Job, nothing(), read_own),
        row("GET /api/v1/jobs/{id}/logs", Job, nothing(), read_own),
        row("GET /api/v1/jobs/{id}/logs/raw", Job, nothing(), read_own),
        row("GET /api/v1/jobs/{id}/logs/follow", Job, nothing(), read_own),
        row("GET /api/v1/files", None, nothing(), read),
        row("POST /api/v1/files", None, nothing(), [401, 403, 201, 201, 201]),
        row("GET /api/v1/files/{id}", File, nothing(), read_own),
        row(
            "DELETE /api/v1/files/{id}",
            File,
            nothing(),
            [401, 403, 204, 404, 204],
        ),
        row("GET /api/v1/workers", None, nothing(), read),
        row("GET /api/v1/workers/{id}", Worker, nothing(), read),
        row(
            "POST /api/v1/workers/{id}/drain",
            Worker,
            json!({"draining": true}),
            [401, 403, 403, 403, 200],
        ),
        row("GET /api/v1/openapi.json", None, nothing(), [200; 5]),
        row("GET /healthz", None, nothing(), [200; 5]),
        row("GET /readyz", None, nothing(), [200; 5]),
    ]
}

fn routes() -> Vec<String> {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if ["get", "post", "put", "delete", "patch"].contains(&method.as_str()) {
                routes.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    routes.sort();
    routes
}

#[test]
fn every_route_has_a_row() {
    let mut listed: Vec<String> = rows().iter().map(|row| row.route.to_owned()).collect();
    listed.sort();
    assert_eq!(routes(), listed);
}

async fn thing(world: &World, kind: Thing) -> String {
    match kind {
        Thing::None => String::new(),
        Thing::Job => {
            let job = world.submit(&world.keys.user).await;
            world.run(job).await;
            job.to_string()
        }
        Thing::File => world.upload(&world.keys.user, "f", b"x").await,
        Thing::Worker => {
            register_worker(world).await;
            "node-1".to_owned()
        }
        Thing::Key => world.make_key("ursula").await.0.to_string(),
        Thing::User => "victor".to_owned(),
    }
}

pub async fn register_worker(world: &World) {
    let worker = Worker {
        session: None,
        ..worker("node-1")
    };
    world.stores.workers.put(&worker, None).await.unwrap();
    world.stores.hints.send(Topic::Capacity);
}

#[tokio::test]
async fn each_caller_gets_what_the_table_says() {
    let world = World::new().await;
    let keys = &world.keys;
    let callers = [
        ("nobody", ""),
        ("viewer", &*keys.viewer),
        ("user", &keys.user),
        ("other", &keys.other),
        ("admin", &keys.admin),
    ];
    let mut wrong = Vec::new();
    for row in rows() {
        let (method, path) = row.route.split_once(' ').unwrap();
        for ((name, key), expected) in callers.iter().zip(row.expected) {
            let path = path.replace("{id}", &thing(&world, row.thing).await);
            let mut request = world.request(method.parse::<Method>().unwrap(), key, &path);
            if !row.body.is_null() {
                request = request.json(&row.body);
            }
            // the head is enough: a follower's body ends with its job
            let response = request.send().await.unwrap();
            if response.status() != expected {
                wrong.push(format!(
                    "{} as {name}: {} not {expected}",
                    row.route,
                    response.status()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn anothers_thing_is_answered_as_one_that_is_not_there() {
    let world = World::new().await;
    for row in rows().into_iter().filter(|row| row.expected[3] == 404) {
        let (method, path) = row.route.split_once(' ').unwrap();
        let own = thing(&world, row.thing).await;
        let random = match row.thing {
            Thing::File => common::ids::FileId::random().to_string(),
            _ => common::ids::JobId::random().to_string(),
        };
        let mut bodies = Vec::new();
        for id in [&own, &random, &"malformed".to_owned()] {
            let request = world
                .request(
                    method.parse().unwrap(),
                    &world.keys.other,
                    &path.replace("{id}", id),
                )
                .json(&row.body);
            let answer = world.send(request).await.expect(404);
            bodies.push(problem(&answer));
        }
        assert_eq!(bodies[0], bodies[1], "{}", row.route);
        assert_eq!(bodies[0], bodies[2], "{}", row.route);
    }
}

#[tokio::test]
async fn a_drained_worker_says_so() {
    let world = World::new().await;
    register_worker(&world).await;
    for draining in [true, false] {
        let body = json!({"draining": draining});
        world
            .post(&world.keys.admin, "/api/v1/workers/node-1/drain", &body)
            .await
            .expect(200);
        let seen = world
            .get(&world.keys.viewer, "/api/v1/workers/node-1")
            .await
            .expect(200)
            .json();
        assert_eq!(seen["draining"], draining);
    }
}
