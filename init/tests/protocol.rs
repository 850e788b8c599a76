//! Laws of the protocol's two directions, over arbitrary values and arbitrary garbage.
#![allow(clippy::unwrap_used)]

use jobworker_init::protocol::{
    CHUNK_BYTES_MAX, Command, ControlLine, Data, Dropped, EndedBy, Exit, ExitStatus, Frame, FrameDecoder,
    Gate, LINE_BYTES_MAX, LineDecoder, NotStarted, NotStartedReason, Phase, Ready, Run, Rusage, Started,
    StopReason, Stream, StreamTotal, Totals, WIRE_FRAME_BYTES_MAX, encode_frame, encode_line,
};
use proptest::{collection::vec, prelude::*};

fn stop_reason() -> impl Strategy<Value = StopReason> {
    prop_oneof![
        Just(StopReason::Cancelled),
        Just(StopReason::RunTimeout),
        Just(StopReason::LeaseLost),
        Just(StopReason::Drain)
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let run = (
        vec(".{0,40}", 0..5),
        vec(".{0,40}", 0..5),
        ".{0,40}",
        any::<[u64; 3]>(),
        any::<i32>(),
    )
        .prop_map(
            |(argv, env, dir, [grace_ms, grace_max_ms, deadline_ms], stop_signal)| {
                Command::Run(Box::new(Run {
                    argv,
                    env,
                    dir,
                    grace_ms,
                    grace_max_ms,
                    stop_signal,
                    deadline_ms,
                }))
            },
        );
    prop_oneof![
        run,
        any::<u64>().prop_map(|at_ms| Command::Deadline { at_ms }),
        stop_reason().prop_map(|why| Command::Stop { why }),
        any::<u64>().prop_map(|seq| Command::Ack { seq }),
        any::<u64>().prop_map(|seq| Command::Resume { seq }),
        Just(Command::Bye),
    ]
}

fn totals() -> impl Strategy<Value = Totals> {
    any::<[u64; 4]>().prop_map(|[a, b, c, d]| Totals {
        stdout: StreamTotal { chunks: a, bytes: b },
        stderr: StreamTotal { chunks: c, bytes: d },
    })
}

fn frame() -> impl Strategy<Value = Frame> {
    let ready = (
        any::<[u64; 4]>(),
        prop_oneof![Just(Phase::Waiting), Just(Phase::Running), Just(Phase::Ended)],
    )
        .prop_map(|([boot_clock_ms, generation, acked_seq, last_seq], phase)| {
            Frame::Ready(Ready {
                protocol: 1,
                boot_clock_ms,
                phase,
                generation,
                acked_seq,
                last_seq,
            })
        });
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..600),
        vec(0_u8..2, 0..600),
        Just(vec![9; CHUNK_BYTES_MAX])
    ];
    let data = (any::<[u64; 2]>(), any::<bool>(), bytes).prop_map(|([seq, stream_seq], out, bytes)| {
        Frame::Data(Data {
            seq,
            stream: if out { Stream::Stdout } else { Stream::Stderr },
            stream_seq,
            bytes,
        })
    });
    let status = prop_oneof![
        any::<i32>().prop_map(ExitStatus::Code),
        any::<i32>().prop_map(ExitStatus::Signal)
    ];
    let ended_by = prop_oneof![
        Just(EndedBy::Itself),
        Just(EndedBy::Deadline),
        Just(EndedBy::Engine),
        stop_reason().prop_map(|why| EndedBy::Stop { why })
    ];
    let exit = (
        any::<[u64; 6]>(),
        status,
        ended_by,
        totals(),
        any::<Option<u64>>(),
    )
        .prop_map(
            |(
                [seq, user_us, system_us, max_rss_kib, started_at_ms, ended_at_ms],
                status,
                ended_by,
                totals,
                oom_kills,
            )| {
                let rusage = Rusage {
                    user_us,
                    system_us,
                    max_rss_kib,
                };
                Frame::Exit(Exit {
                    seq,
                    status,
                    ended_by,
                    rusage,
                    oom_kills,
                    totals,
                    started_at_ms,
                    ended_at_ms,
                })
            },
        );
    let reason = prop_oneof![
        Just(NotStartedReason::NoSuchCommand),
        Just(NotStartedReason::BadWorkingDirectory),
        any::<i32>().prop_map(|errno| NotStartedReason::Other { errno })
    ];
    prop_oneof![
        ready,
        any::<u64>().prop_map(|boot_clock_ms| Frame::Started(Started { boot_clock_ms })),
        data,
        exit,
        (any::<u64>(), reason, totals()).prop_map(|(seq, reason, totals)| Frame::NotStarted(NotStarted {
            seq,
            reason,
            totals
        })),
    ]
}

/// Feeds `wire` in pieces of `step` bytes and checks the bound on memory at each.
fn decode(decoder: &mut FrameDecoder, wire: &[u8], step: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    for mut piece in wire.chunks(step.max(1)) {
        while let Some(frame) = decoder.next_frame(&mut piece) {
            frames.push(frame);
        }
        assert!(piece.is_empty());
        assert!(decoder.held_bytes() <= WIRE_FRAME_BYTES_MAX);
    }
    frames
}

fn lines(wire: &[u8], step: usize) -> Vec<Result<ControlLine, Dropped>> {
    let (mut decoder, mut found) = (LineDecoder::default(), Vec::new());
    for mut piece in wire.chunks(step.max(1)) {
        while let Some(line) = decoder.next_line(&mut piece) {
            found.push(line);
        }
        assert!(decoder.held_bytes() <= LINE_BYTES_MAX);
    }
    found
}

proptest! {
    #[test]
    fn frames_come_back_as_they_went(frames in vec(frame(), 1..6), step in 1_usize..5000) {
        let wire: Vec<u8> = frames.iter().flat_map(|f| encode_frame(f).unwrap()).collect();
        let mut decoder = FrameDecoder::new();
        prop_assert_eq!(decode(&mut decoder, &wire, step), frames);
        prop_assert_eq!(decoder.broken_frames(), 0);
    }

    /// Garbage may swallow the first frame behind it at most when it ends in what looks like a frame's head:
    /// a mark cuts that short, so not even then.
    #[test]
    fn good_frames_are_found_between_garbage(parts in vec((vec(any::<u8>(), 0..300), frame()), 1..6), step in 1_usize..5000) {
        let mut wire = Vec::new();
        for (garbage, frame) in &parts {
            wire.extend_from_slice(garbage);
            wire.extend(encode_frame(frame).unwrap());
        }
        wire.extend_from_slice(b"\0tail");
        let expected: Vec<Frame> = parts.into_iter().map(|(_, frame)| frame).collect();
        prop_assert_eq!(decode(&mut FrameDecoder::new(), &wire, step), expected);
    }

    #[test]
    fn an_attacher_in_the_middle_of_a_frame_gets_all_that_follow(first in frame(), rest in vec(frame(), 1..4), cut in any::<prop::sample::Index>()) {
        let head = encode_frame(&first).unwrap();
        let cut = 1 + cut.index(head.len() - 1);
        let mut wire = head[cut..].to_vec();
        wire.extend(rest.iter().flat_map(|f| encode_frame(f).unwrap()));
        let mut decoder = FrameDecoder::new();
        prop_assert_eq!(decode(&mut decoder, &wire, 7), rest);
        prop_assert_eq!(decoder.broken_frames(), 0);
    }

    #[test]
    fn a_truncated_frame_yields_nothing_and_spoils_nothing(cut_one in frame(), next in frame(), cut in any::<prop::sample::Index>()) {
        let head = encode_frame(&cut_one).unwrap();
        let mut wire = head[..cut.index(head.len())].to_vec();
        wire.extend(encode_frame(&next).unwrap());
        prop_assert_eq!(decode(&mut FrameDecoder::new(), &wire, 1000), vec![next]);
    }

    #[test]
    fn a_damaged_frame_is_dropped(sent in frame(), at in any::<prop::sample::Index>(), with in 1_u8..=255) {
        let mut wire = encode_frame(&sent).unwrap();
        let at = at.index(wire.len());
        wire[at] ^= with;
        prop_assert!(!decode(&mut FrameDecoder::new(), &wire, 1000).contains(&sent));
    }

    #[test]
    fn a_job_cannot_forge_a_frame_wherever_the_attacher_comes_in(forged in frame(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encode_frame(&forged).unwrap();
        bytes.truncate(CHUNK_BYTES_MAX / 2);
        let bytes = [bytes.clone(), bytes].concat();
        let real = Frame::Data(Data { seq: 1, stream: Stream::Stdout, stream_seq: 0, bytes });
        let wire = encode_frame(&real).unwrap();
        let cut = 1 + cut.index(wire.len() - 1);
        prop_assert_eq!(decode(&mut FrameDecoder::new(), &wire[cut..], 1000), vec![]);
    }

    #[test]
    fn garbage_alone_never_panics(wire in vec(any::<u8>(), 0..4000), step in 1_usize..500) {
        decode(&mut FrameDecoder::new(), &wire, step);
        lines(&wire, step);
    }

    #[test]
    fn control_lines_come_back_as_they_went(sent in vec((any::<u64>(), command()), 1..6), step in 1_usize..500) {
        let wire: Vec<u8> = sent.iter().flat_map(|(g, c)| encode_line(*g, c).unwrap()).collect();
        let expected: Vec<_> = sent.into_iter().map(|(generation, command)| Ok(ControlLine { generation, command })).collect();
        prop_assert_eq!(lines(&wire, step), expected);
    }

    #[test]
    fn a_half_written_line_spoils_only_itself(half in command(), whole in command(), cut in any::<prop::sample::Index>()) {
        let head = encode_line(1, &half).unwrap();
        // without its closing brace, or it would be whole
        let mut wire = head[..cut.index(head.len() - 2)].to_vec();
        wire.extend(encode_line(2, &whole).unwrap());
        let found: Vec<_> = lines(&wire, 11).into_iter().flatten().collect();
        prop_assert_eq!(found, vec![ControlLine { generation: 2, command: whole }]);
    }
}

#[test]
fn an_overlong_line_is_dropped_in_bounded_memory_and_the_next_is_read() {
    let mut wire = vec![b'x'; 3 * LINE_BYTES_MAX];
    wire.extend(encode_line(5, &Command::Bye).unwrap());
    let next = ControlLine {
        generation: 5,
        command: Command::Bye,
    };
    assert_eq!(lines(&wire, 4096), vec![Err(Dropped::TooLong), Ok(next)]);
}

#[test]
fn a_command_that_fits_into_no_line_is_refused_where_it_is_made() {
    let run = Run {
        argv: vec!["a".repeat(LINE_BYTES_MAX)],
        env: vec![],
        dir: "/".into(),
        grace_ms: 0,
        grace_max_ms: 0,
        stop_signal: 15,
        deadline_ms: 0,
    };
    assert!(encode_line(1, &Command::Run(Box::new(run))).is_err());
}

#[test]
fn a_chunk_over_the_limit_is_refused_where_it_is_made() {
    let data = |len| {
        Frame::Data(Data {
            seq: 1,
            stream: Stream::Stdout,
            stream_seq: 0,
            bytes: vec![0; len],
        })
    };
    assert!(encode_frame(&data(CHUNK_BYTES_MAX)).is_ok());
    assert!(encode_frame(&data(CHUNK_BYTES_MAX + 1)).is_err());
}

#[test]
fn the_gate_obeys_the_highest_generation() {
    let mut gate = Gate::default();
    assert_eq!(
        [3, 2, 3, 4, 3].map(|g| gate.admit(g)),
        [true, false, true, true, false]
    );
    assert_eq!(gate.highest(), 4);
}

#[test]
fn the_words_on_the_wire_stay_what_they_are() {
    let line = |c| String::from_utf8(encode_line(7, &c).unwrap()).unwrap();
    assert_eq!(line(Command::Bye), "\n{\"generation\":7,\"command\":\"bye\"}\n");
    assert_eq!(
        line(Command::Stop {
            why: StopReason::LeaseLost
        }),
        "\n{\"generation\":7,\"command\":{\"stop\":{\"why\":\"lease_lost\"}}}\n"
    );
    let wire = encode_frame(&Frame::Started(Started { boot_clock_ms: 5 })).unwrap();
    assert_eq!(wire[..3], [0, 1, 27]);
    assert!(String::from_utf8_lossy(&wire).contains("{\"boot_clock_ms\":5}"));
}
