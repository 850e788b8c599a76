//! Rules that keep the documents in step with the tree: the map, the decisions, the commands, the links.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::Problems;
use super::tree::TextFile;

/// Headings that each decision record has, in this order.
const ADR_HEADINGS: &[&str] = &["## Context", "## Decision", "## Consequences"];

/// Folders of the root whose names speak for themselves.
const NOT_ON_THE_MAP: &[&str] = &[".github"];

/// The map names every folder of the repository, and every module at the top of each package's `src`.
pub fn check_map(map: &str, files: &[TextFile]) -> Problems {
    let mut problems = Problems::new();
    let folders: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| file.path.split_once('/'))
        .map(|(folder, _)| folder)
        .collect();
    for folder in folders.iter().filter(|folder| !NOT_ON_THE_MAP.contains(folder)) {
        if !map.contains(&format!("`{folder}/`")) {
            problems.push(format!(
                "docs/ARCHITECTURE.md does not name the folder `{folder}/`: add it to the map"
            ));
        }
    }
    let packages = folders.iter().filter(|folder| {
        let manifest = format!("{folder}/Cargo.toml");
        files.iter().any(|file| file.path == manifest)
    });
    for package in packages {
        let section = section_of(map, package);
        for module in modules_of(package, files) {
            if !section.contains(&format!("`{module}`")) {
                problems.push(format!(
                    "docs/ARCHITECTURE.md, section `{package}/`: add a line such as `- `{module}`: {}`",
                    purpose_of(package, module, files)
                ));
            }
        }
    }
    problems
}

/// The text from the heading that names the folder to the next heading.
fn section_of<'a>(map: &'a str, folder: &str) -> &'a str {
    let name = format!("`{folder}/`");
    let mut start = None;
    let mut offset = 0;
    for line in map.split_inclusive('\n') {
        if line.starts_with('#') {
            if let Some(start) = start {
                return &map[start..offset];
            }
            if line.contains(&name) {
                start = Some(offset);
            }
        }
        offset += line.len();
    }
    start.map_or("", |start| &map[start..])
}

fn modules_of<'a>(package: &str, files: &'a [TextFile]) -> BTreeSet<&'a str> {
    let source = format!("{package}/src/");
    files
        .iter()
        .filter(|file| file.is_rust())
        .filter_map(|file| file.path.strip_prefix(source.as_str()))
        .map(|path| {
            path.split_once('/')
                .map_or(path.trim_end_matches(".rs"), |(folder, _)| folder)
        })
        .filter(|module| !["lib", "main", "bin"].contains(module))
        .collect()
}

/// The first sentence of the module's own doc: what the map's line most often says.
fn purpose_of(package: &str, module: &str, files: &[TextFile]) -> String {
    let paths = [
        format!("{package}/src/{module}.rs"),
        format!("{package}/src/{module}/mod.rs"),
    ];
    let text = files
        .iter()
        .find(|file| paths.contains(&file.path))
        .map_or("", |file| file.text.as_str());
    let doc: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(str::trim)
        .collect();
    let doc = doc
        .split(|line| line.is_empty())
        .next()
        .unwrap_or_default()
        .join(" ");
    doc.split_inclusive(". ")
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Each decision has a number of its own, the three headings, and a line in the index.
pub fn check_decisions(files: &[TextFile]) -> Problems {
    let mut problems = Problems::new();
    let mut by_number: BTreeMap<&str, &str> = BTreeMap::new();
    let index = files
        .iter()
        .find(|file| file.path == "docs/adr/README.md")
        .map_or("", |file| file.text.as_str());
    if index.is_empty() {
        problems.push("docs/adr/README.md is missing: the index of the decisions".to_owned());
    }
    for file in files {
        let Some(name) = file
            .path
            .strip_prefix("docs/adr/")
            .filter(|name| *name != "README.md")
        else {
            continue;
        };
        let number = name.split('-').next().unwrap_or_default();
        if number.len() != 4 || !number.bytes().all(|byte| byte.is_ascii_digit()) || !name.ends_with(".md") {
            problems.push(format!("docs/adr/{name}: name it NNNN-title.md"));
            continue;
        }
        if let Some(other) = by_number.insert(number, name) {
            problems.push(format!("docs/adr/{name}: the number is taken by {other}"));
        }
        if !index.contains(&format!("({name})")) {
            problems.push(format!("docs/adr/README.md does not list {name}"));
        }
        let found: Vec<&str> = file
            .text
            .lines()
            .map(str::trim_end)
            .filter(|line| ADR_HEADINGS.contains(line))
            .collect();
        if found != ADR_HEADINGS {
            problems.push(format!(
                "docs/adr/{name}: needs {ADR_HEADINGS:?}, once each, in this order"
            ));
        }
    }
    problems
}

/// Targets of a Makefile, each with whether it carries a `## ` text for the help.
pub fn make_targets(makefile: &str) -> BTreeMap<&str, bool> {
    makefile
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split_once(':'))
        .filter(|(target, rest)| {
            !rest.starts_with('=') && target.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
        .map(|(target, rest)| (target, rest.contains("## ")))
        .collect()
}

/// Every target is explained by `make`, and every `make x` that a document tells exists.
pub fn check_commands(makefile: &str, files: &[TextFile]) -> Problems {
    let targets = make_targets(makefile);
    let mut problems: Problems = targets
        .iter()
        .filter(|(_, explained)| !**explained)
        .map(|(target, _)| format!("Makefile: the target `{target}` has no `## ` text for `make`'s list"))
        .collect();
    for file in files
        .iter()
        .filter(|file| file.path.ends_with(".md") || file.path == ".ci/run")
    {
        for told in told_targets(&file.text) {
            if !targets.contains_key(told) {
                problems.push(format!(
                    "{}: tells `make {told}`, which the Makefile does not have",
                    file.path
                ));
            }
        }
    }
    let readme = files
        .iter()
        .find(|file| file.path == "README.md")
        .map_or("", |file| file.text.as_str());
    for command in ["make demo", "make test"] {
        if !readme.contains(command) {
            problems.push(format!("README.md does not tell `{command}`"));
        }
    }
    problems
}

/// The targets in code: `make x` between backticks, or at the beginning of a line of a block.
fn told_targets(text: &str) -> BTreeSet<&str> {
    let word = |rest: &'_ str| {
        rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .unwrap_or(rest.len())
    };
    let in_ticks = text
        .match_indices("`make ")
        .map(|(at, found)| &text[at + found.len()..]);
    let in_blocks = text
        .lines()
        .filter_map(|line| line.trim_start_matches("$ ").strip_prefix("make "));
    in_ticks
        .map(|rest| &rest[..word(rest)])
        .chain(block_words(in_blocks))
        .filter(|told| !told.is_empty())
        .collect()
}

fn block_words<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    // In prose a line may begin with "make sure that …": a command stands alone or before a comment.
    lines.filter_map(|rest| {
        let mut words = rest.split_whitespace();
        let target = words.next()?;
        words
            .next()
            .is_none_or(|next| next.starts_with('#'))
            .then_some(target)
    })
}

/// Every relative link of a document leads to a file or folder of the repository.
pub fn check_links(files: &[TextFile]) -> Problems {
    let mut problems = Problems::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for target in links(&file.text) {
            let resolved = resolve(&file.path, target);
            let below = format!("{resolved}/");
            if !files
                .iter()
                .any(|other| other.path == resolved || other.path.starts_with(&below))
            {
                problems.push(format!("{}: the link to {target} leads nowhere", file.path));
            }
        }
    }
    problems
}

fn links(text: &str) -> Vec<&str> {
    text.match_indices("](")
        .filter_map(|(at, found)| text[at + found.len()..].split_once(')').map(|(target, _)| target))
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains(':') && !target.contains(char::is_whitespace))
        .collect()
}

fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD_ADR: &str = "# 1\n## Context\na\n## Decision\nb\n## Consequences\nc\n";

    #[test]
    fn a_folder_or_module_that_the_map_leaves_out_is_found() {
        let files = [
            TextFile::new("api/Cargo.toml", ""),
            TextFile::new("api/src/lib.rs", ""),
            TextFile::new("api/src/routes/jobs.rs", ""),
            TextFile::new("api/src/error.rs", ""),
        ];
        assert!(check_map("## `api/`\n`routes`, `error`\n", &files).is_empty());
        assert_eq!(
            check_map("## `api/`\n`routes`\n## next\n`error`\n", &files).len(),
            1
        );
        assert_eq!(check_map("## the api\n", &files).len(), 3);
    }

    #[test]
    fn a_missing_line_of_the_map_is_proposed_from_the_modules_own_doc() {
        let files = [
            TextFile::new("api/Cargo.toml", ""),
            TextFile::new(
                "api/src/error.rs",
                "//! What went\n//! wrong. And more.\n//!\n//! Even more.\nuse x;\n",
            ),
        ];
        let problems = check_map("## `api/`\n", &files);
        assert!(
            problems[0].ends_with("`- `error`: What went wrong.`"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_decision_without_number_headings_or_line_in_the_index_is_found() {
        let index = TextFile::new("docs/adr/README.md", "- [One](0001-one.md)\n");
        let good = TextFile::new("docs/adr/0001-one.md", GOOD_ADR);
        assert!(check_decisions(&[index.clone(), good.clone()]).is_empty());
        let bad = [
            TextFile::new("docs/adr/one.md", GOOD_ADR),
            TextFile::new("docs/adr/0002-two.md", GOOD_ADR),
            TextFile::new(
                "docs/adr/0001-one.md",
                "## Decision\n## Context\n## Consequences\n",
            ),
            TextFile::new("docs/adr/0001-one.md", "## Context\n## Decision\n"),
        ];
        for file in bad {
            let path = file.path.clone();
            assert_eq!(check_decisions(&[index.clone(), file]).len(), 1, "{path}");
        }
        let twice = TextFile::new("docs/adr/0001-uno.md", GOOD_ADR);
        assert_eq!(check_decisions(&[index, good, twice]).len(), 2);
        assert_eq!(check_decisions(&[]).len(), 1);
    }

    #[test]
    fn an_unexplained_target_and_a_command_that_is_not_there_are_found() {
        let makefile = "A := b\ndemo: setup ## shows it\n\techo: x\ntest: ## tests\n";
        let readme = |text: &str| [TextFile::new("README.md", text)];
        assert!(
            check_commands(
                makefile,
                &readme("`make demo`, then\nmake test\nmake sure of it\n")
            )
            .is_empty()
        );
        assert_eq!(
            check_commands(makefile, &readme("`make demo` `make test` `make coffee`")).len(),
            1
        );
        assert_eq!(
            check_commands(makefile, &readme("`make demo` `make test`\nmake coffee  # now\n")).len(),
            1
        );
        assert_eq!(check_commands(makefile, &readme("`make demo`")).len(), 1);
        assert_eq!(
            check_commands("test:\ndemo: ## x\n", &readme("`make demo` `make test`")).len(),
            1
        );
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        let there = TextFile::new(
            "docs/adr/0001-one.md",
            "[up](../map.md) [net](https://example.org) [me](#here)",
        );
        let map = TextFile::new("docs/map.md", "[adr](adr/) [one](./adr/0001-one.md#context)");
        assert!(check_links(&[there.clone(), map]).is_empty());
        assert_eq!(check_links(&[there]).len(), 1);
    }
}
