//! Rules about source files: each says what it is for, none grows past reading, tests wait for facts.

use super::Problems;
use super::tree::TextFile;

/// 500 lines are the aim; past this a file surely has two purposes.
const PRODUCT_LINES_MAX: usize = 600;

/// On the line or the one before it: this wait stands between two looks at a condition with a deadline.
const POLL_MARK: &str = "tidy: poll";

/// Here a sleep is an event of simulated time, and costs nothing.
const SIMULATED: &str = "tests/src/simulation/";

/// Every Rust file begins by saying what it is for.
pub fn check_module_docs(files: &[TextFile]) -> Problems {
    files
        .iter()
        .filter(|file| file.is_rust() && !file.text.trim_start().starts_with("//!"))
        .map(|file| {
            format!(
                "{}: begin it with `//!`: purpose, invariants, what happens on failure",
                file.path
            )
        })
        .collect()
}

/// No file of product code is longer than a reader can hold.
pub fn check_sizes(files: &[TextFile]) -> Problems {
    files
        .iter()
        .filter(|file| file.is_rust() && !file.is_test())
        .map(|file| (file, file.product_lines().len()))
        .filter(|(_, lines)| *lines > PRODUCT_LINES_MAX)
        .map(|(file, lines)| {
            format!(
                "{}: {lines} lines (at most {PRODUCT_LINES_MAX}): split it by purpose",
                file.path
            )
        })
        .collect()
}

/// Tests wait for a condition, never for time; none is switched off.
pub fn check_tests_wait_for_facts(files: &[TextFile]) -> Problems {
    let mut problems = Problems::new();
    let in_real_time = |file: &&TextFile| file.is_rust() && !file.path.starts_with(SIMULATED);
    for file in files.iter().filter(in_real_time) {
        let mut before = "";
        for (number, line) in file.test_lines() {
            let code = line.trim_start();
            if !code.starts_with("//") {
                let marked = line.contains(POLL_MARK) || before.contains(POLL_MARK);
                if calls(code, "sleep") && !marked {
                    problems.push(format!(
                        "{}:{number}: sleeps; wait for a condition with a deadline",
                        file.path
                    ));
                }
                if code.starts_with("#[ignore") {
                    problems.push(format!(
                        "{}:{number}: an ignored test proves nothing; mend or remove it",
                        file.path
                    ));
                }
            }
            before = line;
        }
    }
    problems
}

/// Whether `code` calls a function of this name outside a text literal, as far as a line shows.
fn calls(code: &str, name: &str) -> bool {
    let call = format!("{name}(");
    code.match_indices(&call).any(|(at, _)| {
        let before = &code[..at];
        let whole_word = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let quotes = before.matches('"').count() - before.matches("\\\"").count();
        let in_text = quotes % 2 == 1;
        whole_word && !in_text
    })
}

/// What is not finished is an issue or is not there; a mark in the code is neither.
pub fn check_nothing_is_left_undone(files: &[TextFile]) -> Problems {
    // put together here, so that this file does not find itself
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    find_words(files, &marks, "finish it, or write an issue")
}

/// Nothing in the tree names a folder of one machine. `checkout` is this repository's root.
pub fn check_no_machine_paths(files: &[TextFile], checkout: &str) -> Problems {
    let fixed = [
        concat!("/wo", "rk/"),
        concat!("/Us", "ers/"),
        concat!("/ro", "ot/."),
        concat!("/tmp/", "t-"),
    ];
    let mut words: Vec<&str> = fixed.to_vec();
    // A short root such as `/src` is a word of its own in many a text.
    if checkout.matches('/').count() >= 2 {
        words.push(checkout);
    }
    find_words(files, &words, "a path of one machine; take it out")
}

fn find_words(files: &[TextFile], words: &[&str], advice: &str) -> Problems {
    let mut problems = Problems::new();
    for file in files
        .iter()
        .filter(|file| !file.path.ends_with(".lock") && !file.path.ends_with("-lock.json"))
    {
        for (at, line) in file.text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                problems.push(format!("{}:{}: `{word}`: {advice}", file.path, at + 1));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> [TextFile; 1] {
        [TextFile::new(path, text)]
    }

    #[test]
    fn a_file_without_a_module_doc_is_found() {
        assert_eq!(
            check_module_docs(&file("a/src/x.rs", "use std::fs;\n//! late\n")).len(),
            1
        );
        assert_eq!(
            check_module_docs(&file("a/src/x.rs", "/// not the module's\nfn a() {}\n")).len(),
            1
        );
        assert!(check_module_docs(&file("a/src/x.rs", "//! What it is for.\n")).is_empty());
    }

    #[test]
    fn a_file_past_the_limit_is_found_and_tests_do_not_count() {
        let long = "let a = 1;\n".repeat(PRODUCT_LINES_MAX + 1);
        assert_eq!(check_sizes(&file("a/src/x.rs", &long)).len(), 1);
        assert!(check_sizes(&file("a/tests/x.rs", &long)).is_empty());
        let tests = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(check_sizes(&file("a/src/x.rs", &tests)).is_empty());
    }

    #[test]
    fn a_sleep_or_an_ignored_test_is_found() {
        for bad in [
            "tokio::time::sleep(d).await;",
            "thread::sleep(d);",
            "sleep(d).await;",
            "#[ignore = \"slow\"]",
        ] {
            assert_eq!(
                check_tests_wait_for_facts(&file("a/tests/x.rs", bad)).len(),
                1,
                "{bad}"
            );
            let inside = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n    {bad}\n}}\n");
            assert_eq!(
                check_tests_wait_for_facts(&file("a/src/x.rs", &inside)).len(),
                1,
                "{bad}"
            );
        }
    }

    #[test]
    fn polling_product_code_and_a_jobs_own_sleep_pass() {
        assert!(check_tests_wait_for_facts(&file("a/src/x.rs", "tokio::time::sleep(d).await;")).is_empty());
        for good in [
            "// tidy: poll\ntokio::time::sleep(d).await;",
            "let argv = [\"sh\", \"-c\", \"sleep 30\"];",
            "let script = \"import time; time.sleep(30)\";",
            "fn no_sleep_here() {}",
            "let asleep(x) = y;",
        ] {
            assert!(
                check_tests_wait_for_facts(&file("a/tests/x.rs", good)).is_empty(),
                "{good}"
            );
        }
    }

    #[test]
    fn unfinished_marks_and_machine_paths_are_found() {
        let undone = format!("// {} later", concat!("TO", "DO"));
        assert_eq!(check_nothing_is_left_undone(&file("docs/a.md", &undone)).len(), 1);
        assert!(check_nothing_is_left_undone(&file("docs/a.md", "to do it later")).is_empty());
        let path = format!("see {}x", concat!("/Us", "ers/"));
        assert_eq!(check_no_machine_paths(&file("docs/a.md", &path), "/").len(), 1);
        assert_eq!(
            check_no_machine_paths(&file("docs/a.md", "in /srv/ci/clone/x"), "/srv/ci/clone").len(),
            1
        );
        assert!(check_no_machine_paths(&file("docs/a.md", "/workspace, /tmp/x"), "/srv/ci/clone").is_empty());
    }
}
