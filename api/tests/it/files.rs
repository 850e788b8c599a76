//! Files up and down.

use reqwest::Method;
use sha2::{Digest, Sha256};

use crate::support::{World, problem};

fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

#[tokio::test]
async fn a_file_comes_back_as_it_went_whole_and_in_parts() {
    let world = World::new().await;
    let key = &world.keys.user;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let request = world
        .request(Method::POST, key, "/api/v1/files?name=data%20%C3%A4%22.bin")
        .header("content-type", "application/x-test")
        .header("x-content-sha256", sha256(&bytes))
        .body(bytes.clone());
    let stored = world.send(request).await.expect(201);
    let meta = stored.json();
    assert_eq!(meta["bytes"], bytes.len());
    assert_eq!(meta["sha256"], sha256(&bytes));
    assert_eq!(meta["name"], "data ä\".bin");
    let path = stored.header("location").to_owned();
    let whole = world.get(key, &path).await.expect(200);
    assert!(whole.bytes == bytes);
    assert_eq!(whole.header("content-type"), "application/x-test");
    assert_eq!(
        whole.header("content-disposition"),
        "attachment; filename*=UTF-8''data%20%C3%A4%22.bin"
    );
    let range = world
        .request(Method::GET, key, &path)
        .header("range", "bytes=1000000-1000009");
    let part = world.send(range).await.expect(206);
    assert_eq!(part.bytes, bytes[1_000_000..1_000_010]);
    assert_eq!(part.header("content-range"), "bytes 1000000-1000009/3000000");
    let past = world
        .request(Method::GET, key, &path)
        .header("range", "bytes=3000000-");
    world.send(past).await.expect(416);
    let changed = world
        .request(Method::GET, key, &path)
        .header("range", "bytes=0-9")
        .header("if-range", "\"another\"");
    world.send(changed).await.expect(200);
}

#[tokio::test]
async fn a_form_is_taken_too() {
    let world = World::new().await;
    let key = &world.keys.user;
    let part = reqwest::multipart::Part::bytes(b"hello".to_vec()).file_name("hello.txt");
    let form = reqwest::multipart::Form::new().part("file", part);
    let request = world.request(Method::POST, key, "/api/v1/files").multipart(form);
    let meta = world.send(request).await.expect(201).json();
    assert_eq!((&meta["name"], &meta["bytes"]), (&"hello.txt".into(), &5.into()));
    let form = reqwest::multipart::Form::new().text("other", "x");
    let request = world.request(Method::POST, key, "/api/v1/files").multipart(form);
    world.send(request).await.expect(422);
}

#[tokio::test]
async fn a_file_over_the_limit_or_with_another_hash_leaves_nothing() {
    let world = World::with(|config| config.upload_bytes_max = 1_000).await;
    let key = &world.keys.user;
    for (size, status) in [(999, 201), (1_000, 201), (1_001, 413)] {
        for chunked in [false, true] {
            let bytes = vec![7; size];
            let body = if chunked {
                let pieces: Vec<Result<_, std::io::Error>> =
                    bytes.chunks(100).map(|piece| Ok(piece.to_vec())).collect();
                reqwest::Body::wrap_stream(futures_util::stream::iter(pieces))
            } else {
                bytes.into()
            };
            let request = world.request(Method::POST, key, "/api/v1/files").body(body);
            let answer = world.send(request).await;
            assert_eq!(answer.status.as_u16(), status, "{size} chunked {chunked}");
        }
    }
    let request = world
        .request(Method::POST, key, "/api/v1/files")
        .header("x-content-sha256", sha256(b"other"))
        .body("bytes");
    let answer = world.send(request).await.expect(422);
    assert_eq!(problem(&answer)["errors"][0]["code"], "sha256_mismatch");
    let list = world.get(key, "/api/v1/files").await.expect(200).json();
    assert_eq!(list["files"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn lists_are_paged_and_deletion_is_for_good() {
    let world = World::new().await;
    let key = &world.keys.user;
    let mut ids = Vec::new();
    for _ in 0..3 {
        world.clock.advance(std::time::Duration::from_millis(1));
        ids.insert(0, world.upload(key, "f", b"x").await);
    }
    world.upload(&world.keys.other, "f", b"x").await;
    let first = world.get(key, "/api/v1/files?limit=2").await.expect(200).json();
    let next = first["next"].as_str().unwrap();
    let second = world
        .get(key, &format!("/api/v1/files?limit=2&cursor={next}"))
        .await
        .expect(200)
        .json();
    let seen: Vec<&str> = [&first, &second]
        .iter()
        .flat_map(|page| page["files"].as_array().unwrap())
        .map(|file| file["id"].as_str().unwrap())
        .collect();
    assert_eq!(seen, ids);
    let path = format!("/api/v1/files/{}", ids[0]);
    world
        .send(world.request(Method::DELETE, key, &path))
        .await
        .expect(204);
    world.get(key, &path).await.expect(404);
    world
        .send(world.request(Method::DELETE, key, &path))
        .await
        .expect(404);
}
