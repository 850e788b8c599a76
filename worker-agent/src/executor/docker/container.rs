//! The one function that says what a container may do.
//!
//! Pure. A job's wishes enter as numbers ([`Resources`]) and nothing else, so no specification can loosen what stands
//! here; [`Policy`] is the node owner's and can only choose a runtime and a smaller number of processes.
//! `masked_paths` and `readonly_paths` are never set: setting them *replaces* the engine's own lists.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use common::job::Resources;

use super::policy::Policy;

/// Where init is mounted; a folder of the container's root that images do not use.
pub const INIT_TARGET: &str = "/.jobworker-init";
pub const WORKSPACE_TARGET: &str = "/workspace";

/// What init may hold unacknowledged; added to the job's memory, so that a job gets all of what it asked for.
pub const RING_BYTES: u64 = 1024 * 1024;
/// Most processes and threads of one job: a fork bomb ends here.
pub const PIDS_MAX: i64 = 256;
const OPEN_FILES_MAX: i64 = 1024;
/// Part of the job's memory limit when used.
const TMP_OPTIONS: &str = "rw,noexec,nosuid,nodev,size=64m";
/// Each VOLUME of an image; it counts against the job's memory as well.
const VOLUME_SIZE: &str = "64m";
/// More VOLUMEs than any image has a use for.
pub const VOLUMES_MAX: usize = 16;

pub const LABEL_OWNER: &str = "jobworker.owner";
/// Of the process that made it.
pub const LABEL_LIFE: &str = "jobworker.life";
pub const LABEL_KIND: &str = "jobworker.kind";
pub const LABEL_CREATED: &str = "jobworker.created";
pub const LABEL_UID: &str = "jobworker.uid";

/// The user and group that everything in the container runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobUser {
    pub uid: u32,
    pub gid: u32,
}

/// Everything that differs from one container to the next.
#[derive(Debug, Clone, Copy)]
pub struct ContainerPlan<'a> {
    /// The image's id, never its name: a tag may move between look and use.
    pub image_id: &'a str,
    /// VOLUMEs of the image, checked by [`volume_problem`].
    pub volumes: &'a [String],
    pub resources: Resources,
    pub user: JobUser,
    /// On the host; mounted read-only.
    pub init: &'a str,
    /// On the host.
    pub workspace: &'a str,
    pub owner: &'a str,
    pub life: &'a str,
    pub created_ms: i64,
}

/// The container's whole configuration.
pub fn configuration(plan: &ContainerPlan<'_>, policy: &Policy) -> ContainerCreateBody {
    ContainerCreateBody {
        hostname: None,
        domainname: None,
        user: Some(format!("{}:{}", plan.user.uid, plan.user.gid)),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(false),
        open_stdin: Some(true),
        // a stdin that closed with its first attacher could not be adopted
        stdin_once: Some(false),
        env: Some(Vec::new()),
        entrypoint: Some(vec![INIT_TARGET.to_owned(), format!("--ring-bytes={RING_BYTES}")]),
        cmd: Some(Vec::new()),
        // the image's could run commands beside the job, for ever
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        image: Some(plan.image_id.to_owned()),
        // the image's WORKDIR may be one that this user cannot enter; init goes to the job's
        working_dir: Some("/".to_owned()),
        network_disabled: Some(true),
        labels: Some(labels(plan)),
        stop_signal: Some("SIGTERM".to_owned()),
        host_config: Some(host(plan, policy)),
        ..ContainerCreateBody::default()
    }
}

fn labels(plan: &ContainerPlan<'_>) -> HashMap<String, String> {
    HashMap::from([
        (LABEL_OWNER.to_owned(), plan.owner.to_owned()),
        (LABEL_LIFE.to_owned(), plan.life.to_owned()),
        (LABEL_KIND.to_owned(), "job".to_owned()),
        (LABEL_CREATED.to_owned(), plan.created_ms.to_string()),
        (LABEL_UID.to_owned(), plan.user.uid.to_string()),
    ])
}

fn host(plan: &ContainerPlan<'_>, policy: &Policy) -> HostConfig {
    let memory = i64::try_from(u64::from(plan.resources.memory_mib) * 1024 * 1024 + RING_BYTES)
        .expect("32 bits of MiB fit");
    HostConfig {
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(Vec::new()),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        readonly_rootfs: Some(true),
        network_mode: Some("none".to_owned()),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        pids_limit: Some(policy.pids_max.clamp(8, PIDS_MAX)),
        memory: Some(memory),
        // equal to memory: no swap
        memory_swap: Some(memory),
        nano_cpus: Some(i64::from(plan.resources.cpu_millis) * 1_000_000),
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("nofile".to_owned()),
            soft: Some(OPEN_FILES_MAX),
            hard: Some(OPEN_FILES_MAX),
        }]),
        tmpfs: Some(tmpfs(plan)),
        mounts: Some(vec![
            bind(plan.init, INIT_TARGET, true),
            bind(plan.workspace, WORKSPACE_TARGET, false),
        ]),
        // what init relays is acknowledged and replayed; the engine's own log would only be a second copy
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // removal by the engine would race with reading the ending
        auto_remove: Some(false),
        // init is ours
        init: Some(false),
        publish_all_ports: Some(false),
        runtime: policy.runtime.clone(),
        ..HostConfig::default()
    }
}

fn tmpfs(plan: &ContainerPlan<'_>) -> HashMap<String, String> {
    let JobUser { uid, gid } = plan.user;
    let mut tmpfs = HashMap::from([("/tmp".to_owned(), TMP_OPTIONS.to_owned())]);
    for volume in plan.volumes {
        let volume = volume.trim_end_matches('/');
        if volume != WORKSPACE_TARGET {
            tmpfs.entry(volume.to_owned()).or_insert_with(|| {
                format!("rw,nosuid,nodev,size={VOLUME_SIZE},mode=0755,uid={uid},gid={gid}")
            });
        }
    }
    tmpfs
}

fn bind(source: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(source.to_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

/// Why a VOLUME of an image cannot be covered by a bounded tmpfs; none for an ordinary one.
pub fn volume_problem(volumes: &[String]) -> Option<String> {
    if volumes.len() > VOLUMES_MAX {
        return Some(format!(
            "the image declares {} volumes, at most {VOLUMES_MAX} are covered",
            volumes.len()
        ));
    }
    volumes.iter().find_map(|volume| {
        let parts: Vec<&str> = volume.split('/').filter(|part| !part.is_empty()).collect();
        let odd = !volume.starts_with('/')
            || parts.is_empty()
            || parts.iter().any(|part| matches!(*part, "." | ".."))
            || volume.chars().any(|c| c.is_control() || c == ',' || c == ':')
            || matches!(parts[0], "proc" | "sys" | "dev" | ".jobworker-init");
        odd.then(|| "the image declares a volume at a place that cannot be covered".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan<'a>(volumes: &'a [String]) -> ContainerPlan<'a> {
        ContainerPlan {
            image_id: "sha256:aa",
            volumes,
            resources: Resources {
                cpu_millis: 1_500,
                memory_mib: 256,
                disk_mib: 1_024,
            },
            user: JobUser {
                uid: 61_003,
                gid: 61_003,
            },
            init: "/state/init/0123/jobworker-init",
            workspace: "/state/ws/jw-a-1/mnt",
            owner: "node-1/abc",
            life: "1f",
            created_ms: 7,
        }
    }

    #[test]
    fn the_whole_configuration_is_this() {
        let volumes = vec!["/data".to_owned()];
        let body = configuration(&plan(&volumes), &Policy::default());
        let seen = serde_json::to_value(&body).unwrap();
        let expected = serde_json::json!({
            "User": "61003:61003",
            "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
            "Tty": false, "OpenStdin": true, "StdinOnce": false,
            "Env": [], "Cmd": [], "Image": "sha256:aa", "WorkingDir": "/",
            "Entrypoint": ["/.jobworker-init", "--ring-bytes=1048576"],
            "Healthcheck": { "Test": ["NONE"] },
            "NetworkDisabled": true,
            "StopSignal": "SIGTERM",
            "Labels": {
                "jobworker.owner": "node-1/abc", "jobworker.life": "1f", "jobworker.kind": "job",
                "jobworker.created": "7", "jobworker.uid": "61003",
            },
            "HostConfig": {
                "Privileged": false, "CapDrop": ["ALL"], "CapAdd": [],
                "SecurityOpt": ["no-new-privileges:true"],
                "ReadonlyRootfs": true, "NetworkMode": "none", "IpcMode": "private",
                "CgroupnsMode": "private", "PidsLimit": 256,
                "Memory": 269_484_032, "MemorySwap": 269_484_032, "NanoCpus": 1_500_000_000,
                "Ulimits": [{ "Name": "nofile", "Soft": 1024, "Hard": 1024 }],
                "Tmpfs": {
                    "/tmp": "rw,noexec,nosuid,nodev,size=64m",
                    "/data": "rw,nosuid,nodev,size=64m,mode=0755,uid=61003,gid=61003",
                },
                "Mounts": [
                    { "Target": "/.jobworker-init", "Source": "/state/init/0123/jobworker-init",
                      "Type": "bind", "ReadOnly": true, "BindOptions": { "Propagation": "rprivate" } },
                    { "Target": "/workspace", "Source": "/state/ws/jw-a-1/mnt",
                      "Type": "bind", "ReadOnly": false, "BindOptions": { "Propagation": "rprivate" } },
                ],
                "LogConfig": { "Type": "none" },
                "RestartPolicy": { "Name": "no" },
                "AutoRemove": false, "Init": false, "PublishAllPorts": false,
            },
        });
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_volume_at_an_odd_place_is_refused() {
        for odd in [
            "/",
            "data",
            "/proc/x",
            "/dev",
            "/a/../b",
            "/a,b",
            "/a:b",
            "/.jobworker-init",
        ] {
            assert!(volume_problem(&[odd.to_owned()]).is_some(), "{odd}");
        }
        assert!(volume_problem(&vec!["/v".to_owned(); 17]).is_some());
        assert!(volume_problem(&["/var/lib/data".to_owned(), "/tmp".to_owned()]).is_none());
    }

    #[test]
    fn a_volume_never_changes_tmp_or_the_workspace() {
        let volumes = vec!["/tmp".to_owned(), "/tmp/".to_owned(), "/workspace".to_owned()];
        let host = configuration(&plan(&volumes), &Policy::default())
            .host_config
            .unwrap();
        assert_eq!(
            host.tmpfs.unwrap(),
            HashMap::from([("/tmp".to_owned(), TMP_OPTIONS.to_owned())])
        );
    }

    proptest! {
        #[test]
        fn nothing_a_job_or_policy_says_loosens_it(
            cpu_millis: u32, memory_mib: u32, disk_mib: u32, pids_max: i64,
            volumes in proptest::collection::vec("/[a-z]{1,8}", 0..4),
        ) {
            let plain = configuration(&plan(&[]), &Policy::default());
            let plan = ContainerPlan { resources: Resources { cpu_millis, memory_mib, disk_mib }, ..plan(&volumes) };
            let policy = Policy { pids_max, ..Policy::default() };
            let mut body = configuration(&plan, &policy);
            {
                let host = body.host_config.as_mut().unwrap();
                prop_assert!(host.pids_limit.unwrap() >= 8 && host.pids_limit.unwrap() <= PIDS_MAX);
                prop_assert_eq!(host.memory, host.memory_swap);
                prop_assert!(host.memory.unwrap() > 0);
                prop_assert!(host.tmpfs.as_ref().unwrap().values().all(|options| options.contains("size=64m") && options.contains("nosuid,nodev")));
                let plain_host = plain.host_config.as_ref().unwrap();
                host.pids_limit = plain_host.pids_limit;
                host.memory = plain_host.memory;
                host.memory_swap = plain_host.memory_swap;
                host.nano_cpus = plain_host.nano_cpus;
                host.tmpfs.clone_from(&plain_host.tmpfs);
            }
            // numbers and covered volumes aside, it is the same to the letter
            prop_assert_eq!(body, plain);
        }
    }
}
