//! The rules that a request has to keep before anything is stored. Pure; every broken rule is reported, not only the
//! first.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Command, JobSpec, Priority, SPEC_BYTES_MAX};

/// A broken rule: which field, a stable code, and a sentence with the limit in it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FieldError {
    /// As a path, such as `resources.memory_mib`.
    pub field: String,
    pub code: &'static str,
    pub message: String,
}

const ENV_ENTRIES_MAX: usize = 512;
const LABELS_MAX: usize = 64;
const LABEL_LEN_MAX: usize = 256;
const INPUTS_MAX: usize = 256;
const ARTIFACT_GLOBS_MAX: usize = 64;
const IMAGE_LEN_MAX: usize = 255;
const NAME_LEN_MAX: usize = 200;
const RETRIES_MAX: u32 = 100;
const CPU_MILLIS: std::ops::RangeInclusive<u32> = 10..=1_024_000;
/// Docker refuses less than 6 MiB; init and its ring need some of it.
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 16..=16_777_216;
const DISK_MIB: std::ops::RangeInclusive<u32> = 8..=16_777_216;
const RUN_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
const QUEUE_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
const PULL_MAX: Duration = Duration::from_secs(24 * 3_600);
const GRACE_MAX: Duration = Duration::from_secs(600);
const BACKOFF_MAX: Duration = Duration::from_secs(24 * 3_600);
/// A prefix of labels that is ours alone.
const RESERVED_LABEL_PREFIXES: [&str; 2] = ["jobworker.", "our."];

/// Every rule that `spec` breaks; none for a good one.
pub fn validate(spec: &JobSpec) -> Vec<FieldError> {
    let mut errors = Errors(Vec::new());
    command(spec, &mut errors);
    environment(spec, &mut errors);
    image(&spec.image, &mut errors);
    places(spec, &mut errors);
    sizes(spec, &mut errors);
    labels("labels", &spec.labels, &mut errors);
    labels("worker_labels", &spec.worker_labels, &mut errors);
    if spec
        .name
        .as_ref()
        .is_some_and(|name| name.is_empty() || name.chars().count() > NAME_LEN_MAX || has_control(name))
    {
        errors.add(
            "name",
            "bad_text",
            format!("expected 1 to {NAME_LEN_MAX} printable characters"),
        );
    }
    if serde_json::to_vec(spec).map_or(usize::MAX, |text| text.len()) > SPEC_BYTES_MAX {
        errors.add(
            "",
            "spec_too_large",
            format!("the encoded job is over {SPEC_BYTES_MAX} bytes; put large data into files"),
        );
    }
    errors.0
}

/// Whether `path` names a place below the workspace: relative, without `..`, of ordinary length.
///
/// # Errors
/// A sentence that says which rule it breaks.
pub fn validate_path(path: &str) -> Result<(), &'static str> {
    if path.len() > 4_096 {
        Err("longer than 4096 bytes")
    } else if path.contains('\0') {
        Err("contains a NUL byte")
    } else if path.starts_with('/') {
        Err("expected a path relative to /workspace")
    } else if path.split('/').any(|part| part == "..") {
        Err("must not contain `..`")
    } else if path.split('/').any(|part| part.len() > 255) {
        Err("a part is longer than 255 bytes")
    } else {
        Ok(())
    }
}

struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, field: impl Into<String>, code: &'static str, message: impl Into<String>) {
        self.0.push(FieldError {
            field: field.into(),
            code,
            message: message.into(),
        });
    }
}

fn command(spec: &JobSpec, errors: &mut Errors) {
    let (empty, nul) = match &spec.command {
        Command::Shell(line) => (line.trim().is_empty(), line.contains('\0')),
        Command::Argv(argv) => (
            argv.first().is_some_and(String::is_empty),
            argv.iter().any(|arg| arg.contains('\0')),
        ),
    };
    if empty {
        errors.add(
            "command",
            "empty",
            "expected a command line or a list of arguments",
        );
    }
    if nul {
        errors.add("command", "nul_byte", "must not contain a NUL byte");
    }
    if let Some(entrypoint) = &spec.entrypoint
        && (entrypoint.first().is_some_and(String::is_empty)
            || entrypoint.iter().any(|arg| arg.contains('\0')))
    {
        errors.add(
            "entrypoint",
            "bad_text",
            "expected arguments without NUL bytes, the first not empty",
        );
    }
}

fn environment(spec: &JobSpec, errors: &mut Errors) {
    if spec.env.len() > ENV_ENTRIES_MAX {
        errors.add(
            "env",
            "too_many",
            format!(
                "expected at most {ENV_ENTRIES_MAX} variables, got {}",
                spec.env.len()
            ),
        );
    }
    for (name, value) in spec.env.iter().take(ENV_ENTRIES_MAX) {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            errors.add(
                "env",
                "bad_text",
                "a variable's name must not be empty nor contain `=`, and neither part a NUL byte",
            );
            break;
        }
    }
}

/// The shape of an image reference: what an engine's own parser accepts, checked here so that nothing else reaches it.
fn image(image: &str, errors: &mut Errors) {
    let good = (1..=IMAGE_LEN_MAX).contains(&image.len())
        && image
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && image
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'@'))
        && !image.contains("..")
        && !image.contains("//");
    if !good {
        errors.add("image", "bad_image", format!(
            "expected an image reference such as `debian:12` of at most {IMAGE_LEN_MAX} characters of A-Z a-z 0-9 . _ - / : @"
        ));
    }
}

fn places(spec: &JobSpec, errors: &mut Errors) {
    if let Some(dir) = &spec.workdir {
        let plain = dir.starts_with('/')
            && dir.len() <= 4_096
            && dir
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-'))
            && !dir.split('/').any(|part| part == "..");
        // The kernel reads `//proc` and `/./proc` as `/proc`.
        let kernel = dir
            .split('/')
            .find(|part| !matches!(*part, "" | "."))
            .is_some_and(|root| matches!(root, "proc" | "sys" | "dev"));
        if !plain || kernel {
            errors.add(
                "workdir",
                "bad_workdir",
                "expected an absolute path of A-Z a-z 0-9 / . _ - outside /proc, /sys and /dev",
            );
        }
    }
    if spec.inputs.len() > INPUTS_MAX {
        errors.add(
            "inputs",
            "too_many",
            format!("expected at most {INPUTS_MAX} files; pack more into an archive"),
        );
    }
    for (place, input) in spec.inputs.iter().take(INPUTS_MAX).enumerate() {
        let names_file = input.unpack || !matches!(input.path.rsplit('/').next(), None | Some("" | "."));
        match validate_path(&input.path) {
            Err(rule) => errors.add(format!("inputs[{place}].path"), "bad_path", rule),
            Ok(()) if !names_file => errors.add(
                format!("inputs[{place}].path"),
                "bad_path",
                "expected a file name",
            ),
            Ok(()) => {}
        }
    }
    if spec.artifacts.len() > ARTIFACT_GLOBS_MAX {
        errors.add(
            "artifacts",
            "too_many",
            format!("expected at most {ARTIFACT_GLOBS_MAX} patterns"),
        );
    }
    for (place, glob) in spec.artifacts.iter().take(ARTIFACT_GLOBS_MAX).enumerate() {
        if glob.is_empty() {
            errors.add(
                format!("artifacts[{place}]"),
                "empty",
                "expected a pattern such as `out/*.txt`",
            );
        } else if let Err(rule) = validate_path(glob) {
            errors.add(format!("artifacts[{place}]"), "bad_path", rule);
        }
    }
}

fn sizes(spec: &JobSpec, errors: &mut Errors) {
    let resources = &spec.resources;
    for (field, value, range) in [
        ("resources.cpu_millis", resources.cpu_millis, CPU_MILLIS),
        ("resources.memory_mib", resources.memory_mib, MEMORY_MIB),
        ("resources.disk_mib", resources.disk_mib, DISK_MIB),
    ] {
        if !range.contains(&value) {
            errors.add(
                field,
                "out_of_range",
                format!("expected {} to {}, got {value}", range.start(), range.end()),
            );
        }
    }
    let limits = &spec.limits;
    for (field, value, least, most) in [
        (
            "limits.run_ms",
            Some(limits.run),
            Duration::from_millis(1),
            RUN_MAX,
        ),
        (
            "limits.queue_ms",
            limits.queue,
            Duration::from_millis(1),
            QUEUE_MAX,
        ),
        (
            "limits.pull_ms",
            Some(limits.pull),
            Duration::from_millis(1),
            PULL_MAX,
        ),
        ("limits.grace_ms", Some(limits.grace), Duration::ZERO, GRACE_MAX),
        (
            "retry.backoff_ms",
            Some(spec.retry.backoff),
            Duration::ZERO,
            BACKOFF_MAX,
        ),
        (
            "retry.backoff_max_ms",
            Some(spec.retry.backoff_max),
            Duration::ZERO,
            BACKOFF_MAX,
        ),
    ] {
        if value.is_some_and(|value| value < least || value > most) {
            errors.add(
                field,
                "out_of_range",
                format!("expected {} to {} ms", least.as_millis(), most.as_millis()),
            );
        }
    }
    if spec.retry.max_retries > RETRIES_MAX {
        errors.add(
            "retry.max_retries",
            "out_of_range",
            format!("expected at most {RETRIES_MAX}"),
        );
    }
    if spec.priority < Priority::MIN || spec.priority > Priority::MAX {
        errors.add(
            "priority",
            "out_of_range",
            format!("expected {} to {}", Priority::MIN.0, Priority::MAX.0),
        );
    }
}

fn labels(field: &str, labels: &BTreeMap<String, String>, errors: &mut Errors) {
    if labels.len() > LABELS_MAX {
        errors.add(field, "too_many", format!("expected at most {LABELS_MAX} labels"));
    }
    for (name, value) in labels.iter().take(LABELS_MAX) {
        if name.is_empty()
            || name.len() > LABEL_LEN_MAX
            || value.len() > LABEL_LEN_MAX
            || has_control(name)
            || has_control(value)
        {
            errors.add(
                field,
                "bad_text",
                format!("names and values: 1 to {LABEL_LEN_MAX} printable bytes"),
            );
        } else if field == "labels"
            && RESERVED_LABEL_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
        {
            errors.add(
                format!("labels.{name}"),
                "reserved",
                "labels that begin with `jobworker.` or `our.` are the system's own",
            );
        }
    }
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::testing::spec;

    fn codes(change: impl FnOnce(&mut JobSpec)) -> Vec<(String, &'static str)> {
        let mut spec = spec();
        change(&mut spec);
        validate(&spec)
            .into_iter()
            .map(|error| (error.field, error.code))
            .collect()
    }

    #[test]
    fn a_plain_job_breaks_no_rule() {
        assert_eq!(codes(|_| {}), vec![]);
    }

    #[test]
    fn every_limit_of_time_has_a_default_a_least_and_a_most() {
        type Set = fn(&mut JobSpec, Duration);
        let (ms, days) = (Duration::from_millis, |days: u64| {
            Duration::from_secs(days * 24 * 3_600)
        });
        let default = spec().limits;
        assert_eq!(default.queue, None, "a job waits for as long as it takes");
        let table: [(&str, Set, Duration, Duration, Duration); 4] = [
            (
                "limits.queue_ms",
                |spec, value| spec.limits.queue = Some(value),
                days(7),
                ms(1),
                days(365),
            ),
            (
                "limits.pull_ms",
                |spec, value| spec.limits.pull = value,
                default.pull,
                ms(1),
                days(1),
            ),
            (
                "limits.run_ms",
                |spec, value| spec.limits.run = value,
                default.run,
                ms(1),
                days(30),
            ),
            (
                "limits.grace_ms",
                |spec, value| spec.limits.grace = value,
                default.grace,
                ms(0),
                ms(600_000),
            ),
        ];
        for (field, set, plain, least, most) in table {
            for good in [plain, least, most] {
                assert_eq!(codes(|spec| set(spec, good)), vec![], "{field} {good:?}");
            }
            let below = least.checked_sub(ms(1));
            for bad in below.into_iter().chain([most + ms(1), Duration::MAX]) {
                assert_eq!(
                    codes(|spec| set(spec, bad)),
                    vec![(field.to_owned(), "out_of_range")],
                    "{bad:?}"
                );
            }
        }
    }

    #[test]
    fn a_job_stored_before_it_had_a_limit_of_pulls_has_the_default() {
        let mut text = serde_json::to_value(spec()).unwrap();
        text["limits"].as_object_mut().unwrap().remove("pull_ms").unwrap();
        let read: JobSpec = serde_json::from_value(text).unwrap();
        assert_eq!(read, spec());
    }

    #[test]
    fn every_rule_names_its_field_and_code() {
        type Change = Box<dyn FnOnce(&mut JobSpec)>;
        let table: Vec<(&str, &str, Change)> = vec![
            (
                "command",
                "empty",
                Box::new(|s| s.command = Command::Shell("  ".into())),
            ),
            (
                "command",
                "nul_byte",
                Box::new(|s| s.command = Command::Argv(vec!["a\0".into()])),
            ),
            (
                "image",
                "bad_image",
                Box::new(|s| s.image = "--privileged".into()),
            ),
            ("image", "bad_image", Box::new(|s| s.image = "a b".into())),
            ("image", "bad_image", Box::new(|s| s.image = "../../x".into())),
            (
                "workdir",
                "bad_workdir",
                Box::new(|s| s.workdir = Some("/proc/self/fd/7".into())),
            ),
            (
                "workdir",
                "bad_workdir",
                Box::new(|s| s.workdir = Some("//proc/self/fd/7".into())),
            ),
            (
                "workdir",
                "bad_workdir",
                Box::new(|s| s.workdir = Some("/./dev".into())),
            ),
            (
                "workdir",
                "bad_workdir",
                Box::new(|s| s.workdir = Some("relative".into())),
            ),
            (
                "resources.memory_mib",
                "out_of_range",
                Box::new(|s| s.resources.memory_mib = 1),
            ),
            (
                "limits.run_ms",
                "out_of_range",
                Box::new(|s| s.limits.run = Duration::ZERO),
            ),
            (
                "limits.run_ms",
                "out_of_range",
                Box::new(|s| s.limits.run = Duration::from_millis(1_000_000_000_000)),
            ),
            (
                "artifacts[0]",
                "bad_path",
                Box::new(|s| s.artifacts = vec!["../x".into()]),
            ),
            (
                "labels.our.owner",
                "reserved",
                Box::new(|s| {
                    s.labels.insert("our.owner".into(), "x".into());
                }),
            ),
            (
                "env",
                "too_many",
                Box::new(|s| s.env = (0..10_000).map(|n| (format!("V{n}"), String::new())).collect()),
            ),
            (
                "",
                "spec_too_large",
                Box::new(|s| s.command = Command::Shell("x".repeat(1 << 20))),
            ),
        ];
        for (field, code, change) in table {
            assert!(
                codes(change).contains(&(field.to_owned(), code)),
                "{field} {code}"
            );
        }
    }
}
