//! Who may use whom (`docs/ARCHITECTURE.md`). The tables below are the rule; a package that is missing in them fails.

use super::Problems;
use super::packages::{Metadata, Package};
use super::tree::TextFile;

/// For each package: which of our own packages its product code, and only its tests, may use.
struct Allowed {
    package: &'static str,
    uses: &'static [&'static str],
    tests_also: &'static [&'static str],
}

const EVERY_PART: &[&str] = &[
    "jobworker-common",
    "jobworker-storage",
    "jobworker-api",
    "jobworker-scheduler",
    "jobworker-agent",
    "jobworker-init",
];

const ALLOWED: &[Allowed] = &[
    Allowed {
        package: "jobworker-common",
        uses: &[],
        tests_also: &[],
    },
    Allowed {
        package: "jobworker-init",
        uses: &[],
        tests_also: &[],
    },
    Allowed {
        package: "jobworker-storage",
        uses: &["jobworker-common"],
        tests_also: &[],
    },
    Allowed {
        package: "jobworker-api",
        uses: &["jobworker-common", "jobworker-storage"],
        tests_also: &[],
    },
    Allowed {
        package: "jobworker-scheduler",
        uses: &["jobworker-common", "jobworker-storage"],
        tests_also: &[],
    },
    Allowed {
        package: "jobworker-agent",
        uses: &["jobworker-common", "jobworker-init"],
        // its tests speak with the real gateway; the program never links a database
        tests_also: &["jobworker-scheduler", "jobworker-storage"],
    },
    Allowed {
        package: "jobworker",
        uses: EVERY_PART,
        tests_also: &[],
    },
    Allowed {
        package: "jobworker-e2e",
        uses: EVERY_PART,
        tests_also: &["jobworker"],
    },
    Allowed {
        package: "jobworker-bench",
        uses: EVERY_PART,
        tests_also: &[],
    },
];

/// Crates of others that a package's product code must not name, and why.
const BANNED: &[(&str, &[&str], &str)] = &[
    (
        "jobworker-common",
        &[
            "rusqlite",
            "mongodb",
            "redis",
            "axum",
            "reqwest",
            "hyper",
            "tokio-tungstenite",
            "bollard",
        ],
        "the shared core has no driver and no socket, so that every rule can be tested without one",
    ),
    (
        "jobworker-agent",
        &["rusqlite", "mongodb", "redis"],
        "an agent runs strangers' programs: it must not be able to reach the database",
    ),
    (
        "jobworker-api",
        &["rusqlite", "mongodb", "redis", "bollard"],
        "stores are reached through common's traits, containers through an agent",
    ),
    (
        "jobworker-scheduler",
        &["rusqlite", "mongodb", "redis", "bollard"],
        "stores are reached through common's traits",
    ),
];

/// All that PID 1 of each container may consist of.
const INIT_ONLY: &[&str] = &["libc", "serde", "serde_json", "crc32fast"];

/// The files that choose the store: the programs' `main`, and the shell's `up`.
const NAMES_STORAGE: &[&str] = &[
    "api/src/main.rs",
    "scheduler/src/main.rs",
    "cli/src/up.rs",
    "cli/src/up/",
];

/// Checks the manifests.
pub fn check_manifests(metadata: &Metadata) -> Problems {
    metadata.packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Problems {
    let mut problems = Problems::new();
    let name = package.name.as_str();
    let Some(allowed) = ALLOWED.iter().find(|allowed| allowed.package == name) else {
        return vec![format!(
            "the package `{name}` is new: say in tests/src/tidy/arrows.rs what it may use"
        )];
    };
    for dependency in &package.dependencies {
        let target = dependency.name.as_str();
        let in_tests = dependency.kind.as_deref() == Some("dev");
        let ours = ALLOWED.iter().any(|known| known.package == target);
        let permitted = allowed.uses.contains(&target) || (in_tests && allowed.tests_also.contains(&target));
        if ours && !permitted {
            problems.push(format!(
                "`{name}` depends on `{target}`, against the arrows of docs/ARCHITECTURE.md"
            ));
        }
        for (banned_in, crates, why) in BANNED {
            if *banned_in == name && !in_tests && crates.contains(&target) {
                problems.push(format!("`{name}` depends on `{target}`: {why}"));
            }
        }
        if name == "jobworker-init" && !in_tests && !INIT_ONLY.contains(&target) {
            problems.push(format!(
                "`{name}` depends on `{target}`: PID 1 of each job consists of {INIT_ONLY:?} alone"
            ));
        }
    }
    problems
}

/// Checks that only the programs' beginnings choose a store; everything else holds `common`'s traits.
pub fn check_storage_is_named_at_the_edge(files: &[TextFile]) -> Problems {
    let judged = |file: &&TextFile| {
        let part = [
            "api/src/",
            "scheduler/src/",
            "cli/src/",
            "worker-agent/src/",
            "common/src/",
        ];
        file.is_rust() && !file.is_test() && part.iter().any(|part| file.path.starts_with(part))
    };
    let mut problems = Problems::new();
    for file in files.iter().filter(judged) {
        if NAMES_STORAGE.iter().any(|edge| file.path.starts_with(edge)) {
            continue;
        }
        for (at, line) in file.product_lines().iter().enumerate() {
            if names_storage(line) {
                problems.push(format!(
                    "{}:{}: names `storage`; only {NAMES_STORAGE:?} may",
                    file.path,
                    at + 1
                ));
            }
        }
    }
    problems
}

fn names_storage(line: &str) -> bool {
    let code = line.trim_start();
    if code.starts_with("//") {
        return false;
    }
    let ours = ["::", "self", "crate", "super"];
    code.match_indices("storage::").any(|(at, _)| {
        let before = &code[..at];
        let whole_word = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        whole_word && !ours.iter().any(|own| before.ends_with(own))
    }) || code.contains("jobworker_storage")
        || code.starts_with("use storage;")
        || code.starts_with("use storage as ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::packages::Dependency;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        Package {
            name: name.to_owned(),
            dependencies: dependencies
                .iter()
                .map(|(name, kind)| Dependency {
                    name: (*name).to_owned(),
                    kind: kind.map(str::to_owned),
                })
                .collect(),
            ..Package::default()
        }
    }

    fn problems_of(name: &str, dependency: &str, kind: Option<&str>) -> usize {
        check_package(&package(name, &[(dependency, kind)])).len()
    }

    #[test]
    fn each_forbidden_arrow_is_found() {
        for (from, to) in [
            ("jobworker-api", "jobworker-scheduler"),
            ("jobworker-scheduler", "jobworker-api"),
            ("jobworker-agent", "jobworker-storage"),
            ("jobworker-common", "jobworker-storage"),
            ("jobworker-storage", "jobworker-api"),
            ("jobworker-api", "jobworker-e2e"),
            ("jobworker-agent", "rusqlite"),
            ("jobworker-common", "reqwest"),
            ("jobworker-init", "tokio"),
            ("jobworker-init", "jobworker-common"),
        ] {
            assert!(problems_of(from, to, None) > 0, "{from} -> {to} must be refused");
        }
    }

    #[test]
    fn permitted_arrows_pass() {
        for (from, to, kind) in [
            ("jobworker-api", "jobworker-common", None),
            ("jobworker-agent", "jobworker-init", None),
            ("jobworker-init", "proptest", Some("dev")),
            ("jobworker-agent", "jobworker-storage", Some("dev")),
            ("jobworker", "jobworker-storage", None),
        ] {
            assert_eq!(problems_of(from, to, kind), 0, "{from} -> {to} must pass");
        }
    }

    #[test]
    fn a_package_without_a_row_is_found() {
        assert_eq!(problems_of("jobworker-new", "serde", None), 1);
    }

    #[test]
    fn storage_named_away_from_the_edge_is_found() {
        let bad = [
            "use storage::open;",
            "let s = storage::open(&config);",
            "use jobworker_storage::x;",
        ];
        for line in bad {
            let file = TextFile::new("api/src/routes/jobs.rs", line);
            assert_eq!(check_storage_is_named_at_the_edge(&[file]).len(), 1, "{line}");
        }
    }

    #[test]
    fn storage_named_at_the_edge_or_of_ones_own_passes() {
        let good = [
            ("api/src/main.rs", "use storage::open;"),
            ("cli/src/up/mod.rs", "use storage::open;"),
            ("api/src/routes/jobs.rs", "use crate::storage::x;"),
            ("api/src/routes/jobs.rs", "let x = log_storage::y;"),
            ("api/src/routes/jobs.rs", "// storage::open is called by main"),
            (
                "api/src/routes/jobs.rs",
                "#[cfg(test)]\nmod tests {\n    use storage::open;\n}",
            ),
            ("storage/src/lib.rs", "use storage::open;"),
        ];
        for (path, text) in good {
            let found = check_storage_is_named_at_the_edge(&[TextFile::new(path, text)]);
            assert!(found.is_empty(), "{path}: {found:?}");
        }
    }
}
