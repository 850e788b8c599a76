//! How a job ends, and what is said of it.

use std::os::unix::fs::PermissionsExt;

use jobworker_init::protocol::{Command, EndedBy, ExitStatus, NotStartedReason, Run, StopReason};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Init, Record, alive, boot_ms};

fn reason_of(change: impl FnOnce(&mut Run)) -> NotStartedReason {
    let mut init = Init::new();
    let mut run = init.shell_run("true");
    change(&mut run);
    init.tell(&Command::Run(Box::new(run)));
    let record = init.follow();
    assert!(!record.started);
    let reason = record.not_started.unwrap().reason;
    assert!(init.bye().success());
    reason
}

fn file(bytes: &[u8], mode: u32) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("command");
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

fn ended(script: &str) -> Record {
    let mut init = Init::new();
    init.shell(script);
    let record = init.follow();
    assert!(init.bye().success());
    record
}

#[test]
fn the_exit_code_is_the_main_process_s() {
    let record = ended("exit 7");
    assert_eq!(
        (record.exit().status, record.exit().ended_by),
        (ExitStatus::Code(7), EndedBy::Itself)
    );
}

#[test]
fn a_signal_is_said_as_one() {
    assert_eq!(ended("kill -9 $$").exit().status, ExitStatus::Signal(9));
    assert_eq!(ended("kill -TERM $$").exit().status, ExitStatus::Signal(15));
}

#[test]
fn usage_covers_the_job_s_children() {
    let record = ended("(i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done) & wait");
    let usage = record.exit().rusage;
    assert!(
        usage.user_us + usage.system_us > 5_000 && usage.max_rss_kib > 100,
        "{usage:?}"
    );
}

#[test]
fn what_cannot_be_started_says_why() {
    assert_eq!(
        reason_of(|run| run.argv[0] = "no-such-command".into()),
        NotStartedReason::NoSuchCommand
    );
    assert_eq!(
        reason_of(|run| run.argv[0] = "/no/such/command".into()),
        NotStartedReason::NoSuchCommand
    );
    assert_eq!(reason_of(|run| run.argv.clear()), NotStartedReason::NoSuchCommand);
    assert_eq!(
        reason_of(|run| run.argv[0] = "/etc".into()),
        NotStartedReason::NotExecutable
    );
    assert_eq!(
        reason_of(|run| run.dir = "/no/such/folder".into()),
        NotStartedReason::BadWorkingDirectory
    );
    assert_eq!(
        reason_of(|run| run.dir = "/etc/passwd".into()),
        NotStartedReason::BadWorkingDirectory
    );
    assert_eq!(
        reason_of(|run| run.argv[1] = "a\0b".into()),
        NotStartedReason::Other { errno: 22 }
    );
    let (_dir, plain) = file(b"#!/bin/sh\n", 0o644);
    assert_eq!(
        reason_of(|run| run.argv[0] = plain),
        NotStartedReason::NotExecutable
    );
    let (_dir, text) = file(b"neither a program nor a script", 0o755);
    assert_eq!(
        reason_of(|run| run.argv[0] = text),
        NotStartedReason::NotExecutable
    );
}

#[test]
fn a_program_for_another_machine_is_told_apart() {
    // an ELF header of a 64-bit big-endian machine that no Linux runs on
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 2, 1];
    elf.resize(16, 0);
    elf.extend([0, 2, 0x12, 0x34]);
    elf.resize(128, 0);
    let (_dir, foreign) = file(&elf, 0o755);
    assert_eq!(
        reason_of(|run| run.argv[0] = foreign),
        NotStartedReason::WrongArchitecture
    );
}

#[test]
fn a_bare_name_is_looked_up_in_the_job_s_own_path() {
    let (dir, _) = file(b"#!/bin/sh\necho found \"$@\"\n", 0o755);
    let mut init = Init::new();
    let mut run = init.command_run(&["command", "a b"]);
    run.env = vec![format!("PATH=/nowhere:{}:/bin", dir.path().display())];
    init.tell(&Command::Run(Box::new(run)));
    assert_eq!(init.follow().text(), "found a b\n");
}

#[test]
fn a_child_that_outlives_the_main_process_may_still_write_a_little() {
    let record = ended("(sleep 0.3; echo late) & exit 5");
    assert_eq!(
        (record.text(), record.exit().status),
        ("late\n", ExitStatus::Code(5))
    );
}

#[test]
fn a_child_that_lingers_too_long_is_killed_wherever_it_hid() {
    let record = ended("setsid sh -c 'trap \"\" TERM; echo $$; sleep 60; echo never' & sleep 0.2; exit 0");
    assert_eq!(record.exit().status, ExitStatus::Code(0));
    let pid = record.text().trim().parse().unwrap();
    assert!(!alive(pid));
}

#[test]
fn who_let_go_of_the_pipes_is_not_waited_for() {
    let mut init = Init::new();
    init.shell("sleep 60 >/dev/null 2>&1 & echo $!; exit 0");
    let before = boot_ms();
    let record = init.follow();
    assert!(boot_ms() - before < 20_000);
    assert!(!alive(record.text().trim().parse().unwrap()));
}

#[test]
fn a_stop_ends_those_who_ignore_it_and_those_who_left_the_session() {
    let mut init = Init::new();
    let mut run = init.shell_run(
        "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ $PPID; sleep 60; :' & wait; wait; sleep 60",
    );
    run.grace_ms = 300;
    init.tell(&Command::Run(Box::new(run)));
    let line = init.first_line();
    let pids: Vec<i32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    init.tell(&Command::Stop {
        why: StopReason::Cancelled,
    });
    let asked = boot_ms();
    // the second one is too late to be the cause
    init.tell(&Command::Stop {
        why: StopReason::Drain,
    });
    let exit = loop {
        if let jobworker_init::protocol::Frame::Exit(exit) = init.next() {
            break exit;
        }
    };
    assert!(boot_ms() - asked >= 300, "the grace is kept");
    assert_eq!(
        (exit.status, exit.ended_by),
        (
            ExitStatus::Signal(9),
            EndedBy::Stop {
                why: StopReason::Cancelled
            }
        )
    );
    assert!(pids.iter().all(|pid| !alive(*pid)));
}

#[test]
fn a_stop_lets_a_job_end_in_its_own_way() {
    let mut init = Init::new();
    let mut run = init.shell_run("trap 'echo bye; exit 9' USR1; echo up; while :; do sleep 0.05; done");
    run.stop_signal = 10;
    init.tell(&Command::Run(Box::new(run)));
    let mut record = Record::default();
    while record.stdout != b"up\n" {
        record.take(init.next());
    }
    init.tell(&Command::Stop {
        why: StopReason::RunTimeout,
    });
    while !record.take(init.next()) {}
    assert_eq!(record.text(), "up\nbye\n");
    assert_eq!(record.exit().status, ExitStatus::Code(9));
    assert_eq!(
        record.exit().ended_by,
        EndedBy::Stop {
            why: StopReason::RunTimeout
        }
    );
}

#[test]
fn the_fleet_s_grace_caps_the_job_s_own() {
    let mut init = Init::new();
    let mut run = init.shell_run("trap '' TERM; echo up; while :; do sleep 0.05; done");
    (run.grace_ms, run.grace_max_ms) = (3_600_000, 100);
    init.tell(&Command::Run(Box::new(run)));
    assert_eq!(init.first_line(), "up");
    init.tell(&Command::Stop {
        why: StopReason::LeaseLost,
    });
    assert!(
        matches!(init.next(), jobworker_init::protocol::Frame::Exit(exit) if exit.status == ExitStatus::Signal(9))
    );
}

#[test]
fn a_deadline_that_passes_ends_the_job_and_one_that_is_renewed_does_not() {
    let mut init = Init::new();
    let mut run = init.shell_run("sleep 2.2; echo still; sleep 60");
    run.deadline_ms = boot_ms() + 2_000;
    init.tell(&Command::Run(Box::new(run)));
    let end = boot_ms() + 3_000;
    init.tell(&Command::Deadline { at_ms: end });
    let record = init.follow();
    assert_eq!(record.text(), "still\n");
    assert_eq!(
        (record.exit().status, record.exit().ended_by),
        (ExitStatus::Signal(15), EndedBy::Deadline)
    );
    assert!(record.exit().ended_at_ms >= end);
    // and nobody says bye: it leaves by itself
    assert_eq!(init.wait().code(), Some(75));
}

#[test]
fn a_deadline_ends_all_even_if_nobody_takes_the_output_any_more() {
    let mut init = Init::new();
    let mut run = init.shell_run("echo $$; exec yes");
    run.deadline_ms = boot_ms() + 1_500;
    init.tell(&Command::Run(Box::new(run)));
    let pid = init.first_line().parse().unwrap();
    // nothing is read or acknowledged from here on
    assert_eq!(init.wait().code(), Some(75));
    assert!(!alive(pid));
}

#[test]
fn a_run_that_comes_after_its_own_deadline_is_not_started() {
    assert_eq!(
        reason_of(|run| run.deadline_ms = 1),
        NotStartedReason::DeadlinePassed
    );
}

#[test]
fn a_stop_before_the_run_keeps_it_from_starting() {
    let mut init = Init::new();
    init.tell(&Command::Stop {
        why: StopReason::Cancelled,
    });
    init.shell("echo never");
    let record = init.follow();
    assert_eq!(record.not_started.unwrap().reason, NotStartedReason::Stopped);
    assert!(init.bye().success());
}

#[test]
fn an_init_that_is_never_told_to_run_leaves_unless_renewed() {
    let begun = boot_ms();
    let mut alone = Init::with(&["--wait-ms=300"]);
    let mut renewed = Init::with(&["--wait-ms=300"]);
    renewed.tell(&Command::Deadline { at_ms: begun + 1_500 });
    assert_eq!(alone.wait().code(), Some(75));
    assert_eq!(renewed.wait().code(), Some(75));
    assert!(boot_ms() >= begun + 1_500);
    let disposed = Init::new();
    assert!(disposed.bye().success());
}

#[test]
fn an_ending_is_kept_until_bye() {
    let mut init = Init::new();
    init.shell("exit 6");
    let exit = init.follow().exit().clone();
    init.attach_anew(0);
    // acknowledged before, so only ready and started come again
    assert!(init.next().seq().is_none() && init.next().seq().is_none());
    let pid = init.pid();
    assert!(alive(pid) && exit.status == ExitStatus::Code(6));
    assert!(init.bye().success());
    assert!(!alive(pid));
}

#[test]
fn bye_is_not_heard_while_the_job_runs() {
    let mut init = Init::new();
    init.shell("echo up; sleep 0.3; exit 8");
    assert_eq!(init.first_line(), "up");
    init.tell(&Command::Bye);
    let exit = loop {
        if let jobworker_init::protocol::Frame::Exit(exit) = init.next() {
            break exit;
        }
    };
    assert_eq!(exit.status, ExitStatus::Code(8));
}

#[test]
fn a_request_to_end_from_inside_is_not_heard() {
    let mut init = Init::new();
    init.shell("echo up; kill -TERM $PPID; kill -INT $PPID; kill -HUP $PPID; sleep 0.2; exit 2");
    assert_eq!(init.first_line(), "up");
    kill_process(Pid::from_raw(init.pid()).unwrap(), Signal::TERM).unwrap();
    let exit = loop {
        if let jobworker_init::protocol::Frame::Exit(exit) = init.next() {
            break exit;
        }
    };
    assert_eq!(
        (exit.status, exit.ended_by),
        (ExitStatus::Code(2), EndedBy::Itself)
    );
    assert!(init.bye().success());
}

#[test]
fn a_second_run_is_not_obeyed() {
    let mut init = Init::new();
    init.shell("echo one; sleep 0.2");
    init.shell("echo two");
    assert_eq!(init.follow().text(), "one\n");
    init.shell("echo three");
    assert_eq!(init.next_within(200), None);
}
