//! Output: exact, numbered, bounded, and sent again to who comes anew.

use jobworker_init::protocol::{Command, ExitStatus, Frame, Phase};

use crate::harness::{Init, Record, boot_ms, noise, until};

/// Takes what comes without acknowledging it, until the ring of 1 MiB is full and init has stopped to speak.
fn fill_the_ring(init: &mut Init, record: &mut Record) -> Vec<Frame> {
    let mut numbered = Vec::new();
    loop {
        match init.next_within(300) {
            Some(frame) => {
                numbered.extend(frame.seq().map(|_| frame.clone()));
                assert!(
                    !record.take(frame),
                    "the job cannot end while it waits in its write"
                );
            }
            None if record.stdout.len() > 900_000 => return numbered,
            None => {}
        }
    }
}

/// Files for `cat`, and the script that writes them to both streams at once.
fn two_files(out: &[u8], err: &[u8]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("out"), out).unwrap();
    std::fs::write(dir.path().join("err"), err).unwrap();
    let at = dir.path().display();
    let script = format!("cat {at}/err >&2 & cat {at}/out; wait");
    (dir, script)
}

#[test]
fn both_streams_arrive_byte_for_byte() {
    for len in [0, 1, 254, 255, 1000, 4096] {
        let (out, err) = (noise(len, 1), noise(len / 2, 2));
        let (_dir, script) = two_files(&out, &err);
        let mut init = Init::new();
        init.shell(&script);
        let record = init.follow();
        assert!(record.started);
        assert_eq!((&record.stdout, &record.stderr), (&out, &err), "{len} bytes");
        assert_eq!(record.exit().status, ExitStatus::Code(0));
        assert!(init.bye().success());
    }
}

#[test]
fn nothing_is_lost_and_nothing_grows_when_acknowledgements_come_late() {
    let (out, err) = (noise(8 << 20, 3), noise(1 << 20, 4));
    let (_dir, script) = two_files(&out, &err);
    let mut init = Init::new();
    init.shell(&script);
    let mut record = Record::default();
    loop {
        // only when init has stopped to speak, so the ring runs full each time
        let Some(frame) = init.next_within(20) else {
            init.tell(&Command::Ack { seq: record.last_seq });
            continue;
        };
        if record.take(frame) {
            break;
        }
    }
    assert!(record.stdout == out && record.stderr == err);
    // the ring of 1 MiB, a batch, and the program itself
    assert!(init.peak_kib() < 12 * 1024, "{} KiB", init.peak_kib());
    assert!(init.bye().success());
}

#[test]
fn a_full_ring_stops_the_job_but_not_init() {
    let big = noise(3 << 20, 5);
    let (_dir, script) = two_files(&big, b"");
    let mut init = Init::new();
    init.shell(&script);
    let mut record = Record::default();
    let first = fill_the_ring(&mut init, &mut record);
    assert!(record.stdout.len() <= 1 << 20, "{}", record.stdout.len());

    init.attach_anew(0);
    let Frame::Ready(ready) = init.next() else {
        panic!("ready comes first")
    };
    assert_eq!(
        (ready.phase, ready.acked_seq, ready.last_seq),
        (Phase::Running, 0, record.last_seq)
    );
    assert!(matches!(init.next(), Frame::Started(_)));
    for frame in &first {
        assert_eq!(&init.next(), frame, "a repeat is the same");
    }
    init.tell(&Command::Ack { seq: record.last_seq });
    loop {
        let frame = init.next();
        init.tell(&Command::Ack {
            seq: frame.seq().unwrap(),
        });
        if record.take(frame) {
            break;
        }
    }
    assert!(record.stdout == big);
}

#[test]
fn lingering_is_not_counted_while_the_ring_is_full() {
    let big = noise(3 << 20, 6);
    let (dir, _) = two_files(&big, b"");
    let mut init = Init::new();
    init.shell(&format!("cat {}/out & exit 3", dir.path().display()));
    let mut record = Record::default();
    fill_the_ring(&mut init, &mut record);
    // longer than the main process's heirs may linger
    let end = boot_ms() + 2_500;
    until("more than the linger is over", || (boot_ms() > end).then_some(()));
    init.tell(&Command::Ack { seq: record.last_seq });
    loop {
        let frame = init.next();
        init.tell(&Command::Ack {
            seq: frame.seq().unwrap(),
        });
        if record.take(frame) {
            break;
        }
    }
    assert!(record.stdout == big);
    assert_eq!(record.exit().status, ExitStatus::Code(3));
}

#[test]
fn who_attaches_in_the_middle_of_a_frame_gets_everything_that_was_not_acknowledged() {
    let big = noise(600_000, 7);
    let (_dir, script) = two_files(&big, b"");
    let mut init = Init::new();
    init.shell(&script);
    // the first attacher takes a little and dies in the middle of a frame
    let mut taken = 0;
    while taken < 50_001 {
        taken += init.read_raw(&mut [0; 1717], boot_ms() + 20_000).unwrap();
    }
    init.attach_anew(0);
    let mut record = Record::default();
    let mut again = false;
    loop {
        let frame = init.next();
        again |= matches!(frame, Frame::Ready(_));
        // what was already on its way when the new one came is dropped by it, as by an agent: wait for ready
        if again && record.take(frame) {
            break;
        }
    }
    assert!(record.stdout == big);
    init.tell(&Command::Ack { seq: record.last_seq });
    assert!(init.bye().success());
}

#[test]
fn a_resume_sends_only_what_comes_after() {
    let mut init = Init::new();
    init.shell("for i in 1 2 3 4 5; do echo $i; read -r x < /proc/uptime; done; exit 4");
    let mut frames = Vec::new();
    while !matches!(frames.last(), Some(Frame::Exit(_))) {
        frames.push(init.next());
    }
    let last = frames.last().unwrap().clone();
    init.attach_anew(last.seq().unwrap() - 1);
    assert!(
        matches!(init.next(), Frame::Ready(ready) if ready.phase == Phase::Ended && ready.generation == 2)
    );
    assert!(matches!(init.next(), Frame::Started(_)));
    assert_eq!(init.next(), last);
    assert_eq!(init.next_within(100), None);
}

#[test]
fn a_reader_that_is_gone_does_not_end_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("done");
    let mut init = Init::new();
    init.shell(&format!("echo x; echo y; touch {}", mark.display()));
    init.close_output();
    until("the job is through", || mark.exists().then_some(()));
    until("init obeys bye once the job is over", || {
        if !init.has_left() {
            // may be too early, or too late for a reader
            init.tell_if_there(&Command::Bye);
        }
        init.has_left().then_some(())
    });
}
