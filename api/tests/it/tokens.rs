//! Tokens that are not ours open nothing, however they are made.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::{SECRET, World};

const PASSWORD: &str = "correct horse battery staple";

async fn token_and_claims(world: &World) -> (String, Value) {
    world.add_user_with_password("anna", PASSWORD).await;
    let body = world.sign_in("anna", PASSWORD).await.expect(200).json();
    let token = body["token"].as_str().unwrap().to_owned();
    let payload = token.split('.').nth(1).unwrap();
    let claims = serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap();
    (token, claims)
}

fn header() -> Header {
    Header {
        kid: Some("1".to_owned()),
        ..Header::new(Algorithm::HS256)
    }
}

fn sign(header: &Header, claims: &Value, secret: &[u8]) -> String {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

#[tokio::test]
async fn only_our_own_signature_counts() {
    let world = World::new().await;
    let (token, claims) = token_and_claims(&world).await;
    let payload = BASE64URL_NOPAD.encode(&serde_json::to_vec(&claims).unwrap());
    let unsigned = |alg: &str| {
        let head = json!({"alg": alg, "typ": "JWT", "kid": "1"}).to_string();
        format!("{}.{payload}.", BASE64URL_NOPAD.encode(head.as_bytes()))
    };
    let mut forged = vec![
        unsigned("none"),
        unsigned("None"),
        unsigned("nOnE"),
        unsigned("HS256"),
        sign(&header(), &claims, b"another secret of thirty-two bytes"),
        sign(
            &Header {
                kid: Some("1".into()),
                ..Header::new(Algorithm::HS384)
            },
            &claims,
            SECRET,
        ),
        sign(
            &Header {
                kid: Some("1".into()),
                ..Header::new(Algorithm::HS512)
            },
            &claims,
            SECRET,
        ),
        token[..token.len() - 2].to_owned(),
        format!("{token}x"),
        "..".to_owned(),
        "x".repeat(10_000),
    ];
    for kid in [
        None,
        Some("2"),
        Some("../../dev/null"),
        Some("' OR 1=1"),
        Some(&*"k".repeat(3_000)),
    ] {
        let header = Header {
            kid: kid.map(str::to_owned),
            ..header()
        };
        forged.push(sign(&header, &claims, SECRET));
    }
    forged.push(sign(
        &Header {
            typ: Some("at".into()),
            ..header()
        },
        &claims,
        SECRET,
    ));
    forged.push(sign(
        &Header {
            crit: Some(vec!["exp".into()]),
            ..header()
        },
        &claims,
        SECRET,
    ));
    forged.push(sign(
        &Header {
            cty: Some("JWT".into()),
            ..header()
        },
        &claims,
        SECRET,
    ));
    for text in forged {
        let answer = world.get(&text, "/api/v1/auth/me").await;
        assert_eq!(answer.status.as_u16(), 401, "{}", &text[..text.len().min(200)]);
    }
    world
        .get(&sign(&header(), &claims, SECRET), "/api/v1/auth/me")
        .await
        .expect(200);
}

#[tokio::test]
async fn every_claim_is_required_typed_and_right() {
    let world = World::new().await;
    let (_, claims) = token_and_claims(&world).await;
    let mut forged = Vec::new();
    for name in ["iss", "aud", "sub", "sid", "jti", "iat", "nbf", "exp", "typ"] {
        let mut without = claims.clone();
        without.as_object_mut().unwrap().remove(name);
        forged.push((name, without));
        for wrong in [
            json!(null),
            json!([]),
            json!({"$ne": null}),
            json!(true),
            json!("x"),
            json!(""),
        ] {
            let mut changed = claims.clone();
            changed[name] = wrong;
            // any text is a good `jti`
            if !(name == "jti" && changed[name] == "x") {
                forged.push((name, changed));
            }
        }
    }
    let now = claims["iat"].as_i64().unwrap();
    for (name, value) in [
        ("exp", json!(now - 31)),
        ("nbf", json!(now + 31)),
        ("iat", json!(now + 31)),
        ("exp", json!(i64::MIN)),
        ("typ", json!("refresh")),
        ("sub", json!("ada")),
        ("sid", json!(common::ids::LoginId::random().to_string())),
        ("aud", json!(["jobworker-api", "x"])),
    ] {
        let mut changed = claims.clone();
        changed[name] = value;
        forged.push((name, changed));
    }
    for (name, claims) in forged {
        let text = sign(&header(), &claims, SECRET);
        let answer = world.get(&text, "/api/v1/auth/me").await;
        assert_eq!(answer.status.as_u16(), 401, "{name}: {claims}");
    }
}
