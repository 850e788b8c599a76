//! What may be built in: licences, sources, banned packages, duplicates. The policy is `deny.toml`, which cargo-deny
//! reads too; these rules hold it on machines that have no cargo-deny.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::Problems;
use super::licence;
use super::packages::Package;

/// The part of `deny.toml` that is checked here.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Policy {
    pub licenses: Licences,
    pub bans: Bans,
    pub sources: Sources,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Licences {
    pub allow: Vec<String>,
    #[serde(default)]
    pub exceptions: Vec<Exception>,
}

/// A licence accepted for one package alone.
#[derive(Debug, Clone, Deserialize)]
pub struct Exception {
    #[serde(rename = "crate")]
    pub package: String,
    pub allow: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Bans {
    #[serde(default)]
    pub deny: Vec<Named>,
    #[serde(default)]
    pub skip: Vec<Named>,
}

/// `name` or `name@version`, with the reason.
#[derive(Debug, Clone, Deserialize)]
pub struct Named {
    #[serde(rename = "crate")]
    pub package: String,
    #[serde(default)]
    pub reason: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sources {
    pub allow_registry: Vec<String>,
}

/// Reads the policy; an entry without a reason is a problem of its own (`check_reasons`).
pub fn parse(text: &str) -> Result<Policy, toml::de::Error> {
    toml::from_str(text)
}

/// Every package offers a licence that we accept.
pub fn check_licences(policy: &Policy, packages: &[&Package]) -> Problems {
    let mut problems = Problems::new();
    for package in packages.iter().filter(|package| package.source.is_some()) {
        let exception = policy
            .licenses
            .exceptions
            .iter()
            .find(|exception| exception.package == package.name);
        let accepted = |name: &str| {
            policy.licenses.allow.iter().any(|allowed| allowed == name)
                || exception.is_some_and(|exception| exception.allow.iter().any(|allowed| allowed == name))
        };
        match &package.license {
            Some(expression) if licence::is_met(expression, &accepted) => {}
            Some(expression) => problems.push(format!(
                "{} {}: `{expression}` cannot be met by the licences that deny.toml accepts",
                package.name, package.version
            )),
            None => problems.push(format!("{} {} names no licence", package.name, package.version)),
        }
    }
    problems
}

/// Every package comes from the registry that the policy names, or from this repository.
pub fn check_sources(policy: &Policy, packages: &[&Package]) -> Problems {
    packages
        .iter()
        .filter_map(|package| package.source.as_ref().map(|source| (package, source)))
        .filter(|(_, source)| {
            let registry = source
                .strip_prefix("registry+")
                .or_else(|| source.strip_prefix("sparse+"));
            !registry.is_some_and(|registry| {
                policy
                    .sources
                    .allow_registry
                    .iter()
                    .any(|allowed| allowed == registry)
            })
        })
        .map(|(package, source)| format!("{} {} comes from {source}", package.name, package.version))
        .collect()
}

/// Nothing banned is built in.
pub fn check_bans(policy: &Policy, packages: &[&Package]) -> Problems {
    let mut problems = Problems::new();
    for banned in &policy.bans.deny {
        for package in packages.iter().filter(|package| package.name == banned.package) {
            problems.push(format!(
                "{} {} is banned: {}",
                package.name, package.version, banned.reason
            ));
        }
    }
    problems
}

/// A package is built in once, or deny.toml says why twice; an entry there that no longer applies goes.
pub fn check_duplicates(policy: &Policy, packages: &[&Package]) -> Problems {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .insert(&package.version);
    }
    let mut problems = Problems::new();
    for (name, versions) in &versions {
        let excused = |version: &&&str| {
            policy
                .bans
                .skip
                .iter()
                .any(|skip| skip.package == format!("{name}@{version}"))
        };
        let counted: Vec<&&str> = versions.iter().filter(|version| !excused(version)).collect();
        if counted.len() > 1 {
            problems.push(format!(
                "{name} is built in as {counted:?}: bring it to one, or excuse all but one, with a reason"
            ));
        }
    }
    for skip in &policy.bans.skip {
        let (name, version) = skip.package.split_once('@').unwrap_or((&skip.package, ""));
        let needed = versions
            .get(name)
            .is_some_and(|versions| versions.len() > 1 && versions.contains(version));
        if !needed {
            problems.push(format!(
                "deny.toml excuses {}, which is no duplicate any more: take it out",
                skip.package
            ));
        }
    }
    problems
}

/// Every ban and every excuse says why.
pub fn check_reasons(policy: &Policy) -> Problems {
    let entries = policy.bans.deny.iter().chain(&policy.bans.skip);
    entries
        .filter(|entry| entry.reason.trim().is_empty())
        .map(|entry| format!("deny.toml: the entry for {} gives no reason", entry.package))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        [licenses]
        allow = ["MIT"]
        exceptions = [{ crate = "odd", allow = ["OddLicence"] }]
        [bans]
        deny = [{ crate = "evil", reason = "it is" }]
        skip = [{ crate = "twice@1.0.0", reason = "an old user of it" }]
        [sources]
        allow-registry = ["https://example.org/index"]
    "#;

    fn policy() -> Policy {
        parse(POLICY).expect("the sample is valid")
    }

    fn package(name: &str, version: &str, licence: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            license: (!licence.is_empty()).then(|| licence.to_owned()),
            source: Some("registry+https://example.org/index".to_owned()),
            ..Package::default()
        }
    }

    #[test]
    fn a_licence_that_is_not_accepted_or_missing_is_found() {
        let bad = [
            package("a", "1.0.0", "GPL-3.0"),
            package("b", "1.0.0", ""),
            package("c", "1.0.0", "OddLicence"),
        ];
        for package in &bad {
            assert_eq!(check_licences(&policy(), &[package]).len(), 1, "{}", package.name);
        }
        let good = [
            package("a", "1.0.0", "MIT OR GPL-3.0"),
            package("odd", "1.0.0", "OddLicence"),
        ];
        assert!(check_licences(&policy(), &[&good[0], &good[1]]).is_empty());
    }

    #[test]
    fn a_foreign_source_is_found() {
        for source in [
            "git+https://example.org/x",
            "registry+https://other.example/index",
        ] {
            let foreign = Package {
                source: Some(source.to_owned()),
                ..package("a", "1.0.0", "MIT")
            };
            assert_eq!(check_sources(&policy(), &[&foreign]).len(), 1, "{source}");
        }
        let ours = Package {
            source: None,
            ..package("a", "1.0.0", "MIT")
        };
        assert!(check_sources(&policy(), &[&ours, &package("b", "1.0.0", "MIT")]).is_empty());
    }

    #[test]
    fn a_banned_package_is_found() {
        assert_eq!(
            check_bans(&policy(), &[&package("evil", "1.0.0", "MIT")]).len(),
            1
        );
    }

    #[test]
    fn a_duplicate_and_an_excuse_that_is_not_needed_are_found() {
        let (one, two) = (package("twice", "1.0.0", "MIT"), package("twice", "2.0.0", "MIT"));
        assert!(check_duplicates(&policy(), &[&one, &two]).is_empty());
        assert_eq!(
            check_duplicates(&policy(), &[&two]).len(),
            1,
            "the excuse is stale"
        );
        let three = package("twice", "3.0.0", "MIT");
        assert_eq!(check_duplicates(&policy(), &[&one, &two, &three]).len(), 1);
    }

    #[test]
    fn an_entry_without_a_reason_is_found() {
        let mut policy = policy();
        assert!(check_reasons(&policy).is_empty());
        policy.bans.deny[0].reason.clear();
        assert_eq!(check_reasons(&policy).len(), 1);
    }
}
