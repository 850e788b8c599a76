//! Logs: each chunk once, in order, to the byte.

use bytes::Bytes;
use common::ids::AttemptId;
use common::log::{LogChunk, Stream};
use common::store::{Appended, LogPosition, StoredChunk};
use common::time::Timestamp;

use super::Backend;

const NOW: Timestamp = Timestamp::from_millis(5);

pub fn chunk(attempt: AttemptId, stream: Stream, seq: u64, text: &str) -> LogChunk {
    LogChunk {
        attempt,
        stream,
        seq,
        bytes: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn out(attempt: AttemptId, seq: u64, text: &str) -> LogChunk {
    chunk(attempt, Stream::Stdout, seq, text)
}

/// Reads an attempt to its end by pages of `bytes_max`.
pub async fn read_all(
    backend: &impl Backend,
    attempt: AttemptId,
    stream: Option<Stream>,
    bytes_max: usize,
) -> Vec<StoredChunk> {
    let (mut from, mut found) = (LogPosition::default(), Vec::new());
    loop {
        let page = backend
            .stores()
            .logs
            .read(attempt, stream, from, bytes_max)
            .await
            .unwrap();
        if page.chunks.is_empty() {
            assert_eq!(page.next, from, "nothing new leaves the place as it was");
            return found;
        }
        assert!(page.next > page.chunks.last().unwrap().position);
        from = page.next;
        found.extend(page.chunks);
    }
}

fn text(chunks: &[StoredChunk]) -> String {
    chunks
        .iter()
        .map(|stored| String::from_utf8(stored.chunk.bytes.to_vec()).unwrap())
        .collect()
}

pub async fn a_chunk_twice_is_read_once(backend: &mut impl Backend) {
    let attempt = AttemptId::random();
    let logs = backend.stores().logs;
    let batch = vec![out(attempt, 0, "a"), out(attempt, 1, "b"), out(attempt, 0, "a")];
    let answers = logs.append(batch.clone(), NOW).await.unwrap();
    assert_eq!(answers, [Appended::Stored, Appended::Stored, Appended::Repeat]);
    let (one, two) = tokio::join!(logs.append(batch.clone(), NOW), logs.append(batch, NOW));
    assert_eq!([one.unwrap(), two.unwrap()].concat(), [Appended::Repeat; 6]);
    // Under a key that is taken, other bytes are a repeat as well: what was acknowledged stays.
    let other = logs.append(vec![out(attempt, 1, "other")], NOW).await.unwrap();
    assert_eq!(other, [Appended::Repeat]);
    assert_eq!(text(&read_all(backend, attempt, None, 1_000).await), "ab");
}

pub async fn chunks_are_read_in_the_order_of_storing(backend: &mut impl Backend) {
    let attempt = AttemptId::random();
    let logs = backend.stores().logs;
    let err = |seq, text| chunk(attempt, Stream::Stderr, seq, text);
    logs.append(vec![out(attempt, 0, "o0 "), err(0, "e0 ")], NOW)
        .await
        .unwrap();
    logs.append(vec![err(1, "e1 "), out(attempt, 1, "o1 ")], NOW)
        .await
        .unwrap();
    let all = read_all(backend, attempt, None, 4).await;
    assert_eq!(text(&all), "o0 e0 e1 o1 ");
    assert!(all.windows(2).all(|two| two[0].position < two[1].position));
    assert!(all.iter().all(|stored| stored.stored_at == NOW));
    assert_eq!(
        text(&read_all(backend, attempt, Some(Stream::Stderr), 1_000).await),
        "e0 e1 "
    );
    let extent = logs.extent(attempt).await.unwrap();
    assert_eq!(
        (extent.stdout.chunks, extent.stderr.bytes, extent.stdout.next_seq),
        (2, 6, 2)
    );
    let past = logs.read(attempt, None, extent.end, 1_000).await.unwrap();
    assert!(past.chunks.is_empty());
    let unknown = logs.extent(AttemptId::random()).await.unwrap();
    assert_eq!(unknown, Default::default());
}

pub async fn ranges_are_cut_to_the_byte(backend: &mut impl Backend) {
    let attempt = AttemptId::random();
    let logs = backend.stores().logs;
    let whole: String = (0..200).map(|number| format!("line {number}\n")).collect();
    let mut seq = 0;
    // Chunks of all lengths, empty ones among them, and a hole in the numbers.
    let mut rest = whole.as_str();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at((seq as usize % 17).min(rest.len()));
        let number = if seq < 40 { seq } else { seq + 10 };
        let noise = chunk(attempt, Stream::Stderr, seq, "noise");
        logs.append(vec![out(attempt, number, head), noise], NOW)
            .await
            .unwrap();
        rest = tail;
        seq += 1;
    }
    let end = whole.len() as u64;
    for (start, until) in [
        (0, end),
        (0, 1),
        (1, 1),
        (end - 1, end),
        (end, end + 9),
        (100, 777),
        (5, u64::MAX),
        (9, 3),
    ] {
        let found = logs
            .read_range(attempt, Stream::Stdout, start, until)
            .await
            .unwrap();
        let cut = |place: u64| usize::try_from(place.min(end)).unwrap();
        let expected = whole.as_bytes().get(cut(start)..cut(until)).unwrap_or_default();
        assert_eq!(found, expected, "{start}..{until}");
    }
}

pub async fn disorder_is_mended_by_number(backend: &mut impl Backend) {
    let attempt = AttemptId::random();
    let logs = backend.stores().logs;
    for seq in [2, 0, 4, 1, 3] {
        let text = seq.to_string().repeat(2);
        logs.append(vec![out(attempt, seq, &text)], NOW).await.unwrap();
    }
    let extent = logs.extent(attempt).await.unwrap();
    assert_eq!(
        (extent.stdout.chunks, extent.stdout.bytes, extent.stdout.next_seq),
        (5, 10, 5)
    );
    let range = logs.read_range(attempt, Stream::Stdout, 0, 10).await.unwrap();
    assert_eq!(range, "0011223344");
    let range = logs.read_range(attempt, Stream::Stdout, 3, 8).await.unwrap();
    assert_eq!(range, "12233");
    assert_eq!(text(&read_all(backend, attempt, None, 1_000).await), "2200441133");
}

pub async fn holes_are_told(backend: &mut impl Backend) {
    let attempt = AttemptId::random();
    let logs = backend.stores().logs;
    let nothing = logs.missing(attempt, [2, 0]).await.unwrap();
    assert_eq!((nothing.stdout, nothing.stderr), (vec![(0, 2)], vec![]));
    let chunks = [0, 1, 4, 5, 9].map(|seq| out(attempt, seq, "x"));
    logs.append(chunks.into(), NOW).await.unwrap();
    for (until, expected) in [
        (0, vec![]),
        (2, vec![]),
        (3, vec![(2, 3)]),
        (5, vec![(2, 4)]),
        (8, vec![(2, 4), (6, 8)]),
        (12, vec![(2, 4), (6, 9), (10, 12)]),
    ] {
        let missing = logs.missing(attempt, [until, 0]).await.unwrap();
        assert_eq!(missing.stdout, expected, "until {until}");
    }
    logs.append(vec![out(attempt, 3, "x"), out(attempt, 2, "x")], NOW)
        .await
        .unwrap();
    assert_eq!(logs.missing(attempt, [6, 0]).await.unwrap(), Default::default());
    assert_eq!(logs.extent(attempt).await.unwrap().stdout.next_seq, 6);
}

pub async fn pages_hold_at_least_one_chunk(backend: &mut impl Backend) {
    let attempt = AttemptId::random();
    let logs = backend.stores().logs;
    let chunks = (0..10).map(|seq| out(attempt, seq, "0123456789")).collect();
    logs.append(chunks, NOW).await.unwrap();
    for (bytes_max, chunks) in [(0, 1), (9, 1), (10, 1), (29, 2), (1_000, 10)] {
        let page = logs.read(attempt, None, LogPosition(0), bytes_max).await.unwrap();
        assert_eq!(page.chunks.len(), chunks, "of {bytes_max} bytes");
    }
}

pub async fn purging_forgets_one_attempt(backend: &mut impl Backend) {
    let (gone, stays) = (AttemptId::random(), AttemptId::random());
    let logs = backend.stores().logs;
    logs.append(vec![out(gone, 0, "gone"), out(stays, 0, "stays")], NOW)
        .await
        .unwrap();
    logs.purge(gone).await.unwrap();
    logs.purge(gone).await.unwrap();
    assert_eq!(logs.extent(gone).await.unwrap(), Default::default());
    assert!(read_all(backend, gone, None, 100).await.is_empty());
    assert_eq!(text(&read_all(backend, stays, None, 100).await), "stays");
}

pub async fn concurrent_floods_stay_apart(backend: &mut impl Backend) {
    let logs = backend.stores().logs;
    let attempts: Vec<AttemptId> = (0..8).map(|_| AttemptId::random()).collect();
    let floods = attempts.iter().enumerate().map(|(number, attempt)| {
        let logs = logs.clone();
        async move {
            for seq in 0..30 {
                let text = format!("{number}:{seq} ");
                logs.append(vec![out(*attempt, seq, &text)], NOW).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(floods).await;
    for (number, attempt) in attempts.iter().enumerate() {
        let expected: String = (0..30).map(|seq| format!("{number}:{seq} ")).collect();
        assert_eq!(text(&read_all(backend, *attempt, None, 64).await), expected);
    }
}
