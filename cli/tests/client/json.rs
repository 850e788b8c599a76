//! `--json`: a program reads stdout whole as one JSON value.

use serde_json::Value;

use crate::support::{Server, stdout};

#[tokio::test]
async fn with_json_every_verb_that_answers_prints_one_value_and_nothing_else() {
    let server = Server::signed_in().await;
    std::fs::write(server.folder.path().join("data.bin"), "data").unwrap();
    let job = server.submitted().await;
    let many = r#"[{"command": ["true"]}, {"command": ["true"]}]"#;

    // the verb, what it reads, and a place that its answer has
    for (verb, input, place) in [
        (
            "login --password-stdin".to_owned(),
            server.password.as_str(),
            "/user/name",
        ),
        ("submit -- true".to_owned(), "", "/id"),
        ("submit --spec -".to_owned(), many, "/ids/1"),
        ("run --detach -- true".to_owned(), "", "/id"),
        (format!("get {job}"), "", "/spec/command"),
        (format!("why {job}"), "", "/sentence"),
        (format!("artifacts {job}"), "", "/artifacts"),
        (format!("cancel --why enough {job}"), "", "/cancel/why"),
        ("list".to_owned(), "", "/jobs/3/id"),
        ("workers".to_owned(), "", "/workers"),
        ("files upload data.bin".to_owned(), "", "/id"),
        ("files list".to_owned(), "", "/files/0/id"),
    ] {
        let arguments: Vec<&str> = std::iter::once("--json").chain(verb.split(' ')).collect();
        let output = server.shell_with(&arguments, input).await;
        assert!(output.status.success(), "{verb}: {output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{verb}: {error}: {output:?}"));
        assert!(answer.pointer(place).is_some(), "{verb}: no {place} in {answer}");
        assert!(
            answer.get("token").is_none(),
            "{verb} shows a secret: {}",
            stdout(&output)
        );
    }
    server.stop().await;
}
