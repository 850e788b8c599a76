//! The control channel: half lines, old attachers, garbage, its end.

use jobworker_init::protocol::{Command, EndedBy, ExitStatus, LINE_BYTES_MAX, StopReason, encode_line};

use crate::harness::{Init, boot_ms, until};

#[test]
fn a_half_written_line_of_a_dead_attacher_spoils_nothing() {
    let mut init = Init::new();
    let run = init.shell_run("echo first");
    let line = encode_line(1, &Command::Run(Box::new(run))).unwrap();
    init.write(&line[..line.len() / 2]);
    init.generation = 2;
    init.shell("echo second");
    assert_eq!(init.follow().text(), "second\n");
}

#[test]
fn an_older_generation_has_nothing_more_to_say() {
    let mut init = Init::new();
    init.generation = 5;
    init.shell("echo up; sleep 0.5; exit 3");
    assert_eq!(init.first_line(), "up");
    init.generation = 4;
    init.tell(&Command::Stop {
        why: StopReason::Cancelled,
    });
    init.tell(&Command::Deadline { at_ms: 1 });
    init.generation = 6;
    init.tell(&Command::Ack { seq: 1 });
    let exit = loop {
        if let jobworker_init::protocol::Frame::Exit(exit) = init.next() {
            break exit;
        }
    };
    assert_eq!(
        (exit.status, exit.ended_by),
        (ExitStatus::Code(3), EndedBy::Itself)
    );
}

#[test]
fn garbage_and_lines_without_end_are_dropped_in_bounded_memory() {
    let mut init = Init::new();
    init.write(b"\xff\xfe{}\n[[[[\n{\"generation\":1}\n{\"generation\":-1,\"command\":\"bye\"}\nnull\n");
    init.write(b"{\"generation\":9,\"command\":{\"fly\":{}}}\n");
    let endless = vec![b'['; 1 << 20];
    for _ in 0..16 {
        init.write(&endless);
    }
    assert!(init.peak_kib() < 8 * 1024, "{} KiB", init.peak_kib());
    init.shell("echo well");
    assert_eq!(init.follow().text(), "well\n");
}

#[test]
fn a_large_specification_fits_into_a_line() {
    let mut init = Init::new();
    let mut run = init.shell_run("printf %s \"$BIG\"");
    run.env.push(format!("BIG={}", "v".repeat(100_000)));
    let line = encode_line(1, &Command::Run(Box::new(run))).unwrap();
    assert!(line.len() < LINE_BYTES_MAX);
    init.write(&line);
    assert_eq!(init.follow().stdout.len(), 100_000);
}

#[test]
fn the_end_of_input_is_not_a_command() {
    let mut init = Init::new();
    let mut run = init.shell_run("sleep 0.4; echo done");
    run.deadline_ms = boot_ms() + 4_000;
    init.tell(&Command::Run(Box::new(run)));
    init.close_input();
    let mut record = crate::harness::Record::default();
    while !record.take(init.next()) {}
    assert_eq!(record.text(), "done\n");
    assert!(!init.has_left());
    // input that is gone must not keep init busy
    let (ticks, end) = (init.cpu_ticks(), boot_ms() + 1_000);
    until("a second is over", || (boot_ms() > end).then_some(()));
    assert!(
        init.cpu_ticks() - ticks < 30,
        "{} ticks in a second",
        init.cpu_ticks() - ticks
    );
    assert_eq!(init.wait().code(), Some(75));
}
