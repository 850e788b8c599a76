//! What the job gets of init: nothing but its environment and its pipes.

use std::{collections::BTreeSet, process::Command as Process};

use jobworker_init::protocol::Command;

use crate::harness::Init;

fn status_field(pid: i32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

#[test]
fn the_job_inherits_no_descriptor_no_signal_and_no_variable() {
    // a starter that leaks a descriptor and ignores signals
    let mut leaky = Process::new("/bin/sh");
    let script = format!(
        "trap '' HUP USR1; exec 9</etc/passwd; exec {}",
        env!("CARGO_BIN_EXE_jobworker-init-dynamic")
    );
    leaky.args(["-c", &script]).env("SECRET", "of the starter");
    let mut init = Init::from(leaky);
    init.shell("echo $$; exec sleep 30");
    let pid: i32 = init.first_line().parse().unwrap();

    crate::harness::until("the shell became sleep", || {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .unwrap()
            .starts_with("sleep")
            .then_some(())
    });
    let open: BTreeSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(open, BTreeSet::from(["0", "1", "2"].map(str::to_owned)));
    let stdin = std::fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
    assert_eq!(stdin.to_str(), Some("/dev/null"));
    let none = "0000000000000000";
    assert_eq!(
        [status_field(pid, "SigBlk"), status_field(pid, "SigIgn")],
        [none, none]
    );
    assert_eq!(
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))
            .unwrap()
            .trim(),
        "1000"
    );
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(
        [fields[2], fields[3]],
        [pid.to_string(), pid.to_string()],
        "its own group and session"
    );
    let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(!environ.contains("SECRET"), "{environ}");
    init.tell(&Command::Stop {
        why: jobworker_init::protocol::StopReason::Drain,
    });
    while !matches!(init.next(), jobworker_init::protocol::Frame::Exit(_)) {}
}

#[test]
fn the_job_runs_where_and_with_what_it_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = Init::new();
    let mut run = init.command_run(&["env"]);
    run.env = vec!["PATH=/usr/bin:/bin".into(), "A=b c".into(), "LANG=ü".into()];
    run.dir = dir.path().display().to_string();
    init.tell(&Command::Run(Box::new(run.clone())));
    assert_eq!(init.follow().text(), "PATH=/usr/bin:/bin\nA=b c\nLANG=ü\n");

    let mut init = Init::new();
    run.argv = vec!["pwd".into()];
    init.tell(&Command::Run(Box::new(run)));
    assert_eq!(
        init.follow().text().trim(),
        dir.path().canonicalize().unwrap().display().to_string()
    );
}

#[test]
fn what_init_does_not_understand_it_refuses() {
    let output = Process::new(env!("CARGO_BIN_EXE_jobworker-init-dynamic"))
        .arg("--what")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--what"));
}
