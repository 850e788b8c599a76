//! `api/openapi.json` is what the code says.
//!
//! Regenerate: `UPDATE=1 cargo test -p jobworker-api --test it openapi`.

use serde_json::Value;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

#[test]
fn the_checked_in_description_is_the_codes() {
    let mut fresh = serde_json::to_string_pretty(&api::openapi()).unwrap();
    fresh.push('\n');
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(FILE, &fresh).unwrap();
    }
    let stored = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        fresh == stored,
        "api/openapi.json is stale: UPDATE=1 cargo test -p jobworker-api --test it openapi"
    );
}

#[test]
fn every_answer_is_described_and_every_integer_has_an_end() {
    let document = serde_json::to_value(api::openapi()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("default"), "{method} {path}");
            for (status, response) in responses {
                let text = response["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{method} {path} {status}");
            }
        }
    }
    let mut unbounded = Vec::new();
    integers("", &document, &mut unbounded);
    assert!(unbounded.is_empty(), "{unbounded:#?}");
    dangling(&document, &document);
}

fn integers(path: &str, value: &Value, unbounded: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let integer = match fields.get("type") {
                Some(Value::String(one)) => one == "integer",
                Some(Value::Array(some)) => some.iter().any(|one| one == "integer"),
                _ => false,
            };
            // an exit code is any 32-bit number, below zero too
            let whole = fields.get("format").is_some_and(|format| format == "int32")
                && fields.get("minimum").is_none();
            if integer && !whole && fields.get("maximum").is_none() {
                unbounded.push(path.to_owned());
            }
            for (name, inner) in fields {
                integers(&format!("{path}/{name}"), inner, unbounded);
            }
        }
        Value::Array(items) => {
            for (place, inner) in items.iter().enumerate() {
                integers(&format!("{path}/{place}"), inner, unbounded);
            }
        }
        _ => {}
    }
}

fn dangling(document: &Value, value: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get("$ref") {
                let pointer = target.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{target} points nowhere");
            }
            fields.values().for_each(|inner| dangling(document, inner));
        }
        Value::Array(items) => items.iter().for_each(|inner| dangling(document, inner)),
        _ => {}
    }
}
