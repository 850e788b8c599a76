//! The images that `scripts/ensure-image` makes are what jobs and tests take them for.

use jobworker_e2e::scripts::{docker, image, run, script};
use serde_json::{Value, json};

fn config(name: &str) -> Value {
    let text = run(docker(None).args(["image", "inspect", "--format", "{{json .Config}}", name]));
    serde_json::from_str(&text.expect("the image is there")).expect("docker answers in JSON")
}

#[test]
fn a_second_setup_changes_nothing() {
    let name = image("JOBWORKER_IMAGE").expect("the image has a name");
    let id = || {
        run(docker(None).args(["image", "inspect", "--format", "{{.Id}}", &name]))
            .expect("the image is there")
    };
    run(&mut script("ensure-image")).expect("the images are made");
    let first = id();
    run(&mut script("ensure-image")).expect("the images are there already");
    assert_eq!(id(), first);
}

#[test]
fn a_job_finds_the_usual_programs_and_a_user_that_is_not_root() {
    run(&mut script("ensure-image")).expect("the images are made");
    let name = image("JOBWORKER_IMAGE").expect("the image has a name");
    let shell = "for p in sh cat tr sort uniq awk tar wc sleep; do command -v $p >/dev/null || echo missing $p; done; id -u";
    let mut command = docker(None);
    command.args([
        "run",
        "--rm",
        "--network",
        "none",
        "--user",
        "65534",
        "--read-only",
        &name,
        "sh",
        "-c",
        shell,
    ]);
    assert_eq!(run(&mut command).expect("a container runs"), "65534\n");
}

#[test]
fn the_rules_image_sets_everything_that_an_image_can_set() {
    run(&mut script("ensure-image")).expect("the images are made");
    let name = image("JOBWORKER_RULES_IMAGE").expect("the image has a name");
    let config = config(&name);
    assert_eq!(config["Entrypoint"], json!(["/bin/entry"]));
    assert_eq!(config["Cmd"], json!(["echo", "from CMD"]));
    assert_eq!(config["WorkingDir"], "/srv/image");
    assert_eq!(config["User"], "root");
    assert_eq!(config["Volumes"], json!({ "/data": {} }));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD-SHELL", "true"]));

    let said = run(docker(None).args(["run", "--rm", "--network", "none", &name])).expect("a container runs");
    assert_eq!(
        said,
        "entry: dir=/srv/image greeting=hello args=echo from CMD\nfrom CMD\n"
    );
}
