//! The shape of the project still holds: what docs/ARCHITECTURE.md promises about the tree is checked here, file by file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the core must not reach: the parts that replay, simulation and the daemon share.
const PURE: [&str; 4] = ["src/parse/", "src/correlate/", "src/engine/", "src/enforce/nft/plan.rs"];
/// What would be I/O, a clock, or something spawned. `std::net` itself is fine: addresses live there.
const IMPURE: [&str; 16] = [
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixDatagram",
    "ToSocketAddrs",
    "Zoned::now",
    "Timestamp::now",
    "tokio",
    "nix::",
];
const STAGES: [&str; 5] = ["source", "parse", "correlate", "engine", "enforce"];
const LINES_MAX: usize = 800;

#[test]
fn unsafe_stays_in_one_file() {
    let found = occurrences(&["src", "tests", "benches"], |file| file != "src/enforce/nft/sys.rs" && file != "tests/tidy.rs", &["unsafe"]);
    assert!(found.is_empty(), "unsafe outside of src/enforce/nft/sys.rs:\n{}", found.join("\n"));
}

#[test]
fn core_does_no_io_and_reads_no_clock() {
    let found = occurrences(&["src"], |file| PURE.iter().any(|pure| file.starts_with(pure)) && !is_test_file(file), &IMPURE);
    assert!(found.is_empty(), "the core must stay pure:\n{}", found.join("\n"));
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = rust_files(&["src", "tests", "benches"])
        .into_iter()
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .map(|(lines, file)| format!("{file}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "more than {LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn modules_say_what_they_are() {
    let mut silent = Vec::new();
    for file in rust_files(&["src"]).into_iter().filter(|file| !is_test_file(file)) {
        let text = read(&file);
        if !text.starts_with("//! ") || text.starts_with("//! (being built)") {
            silent.push(format!("{file} does not open with a doc comment"));
        }
    }
    for stage in STAGES {
        let file = format!("src/{stage}/mod.rs");
        let head: String = read(&file).lines().take_while(|line| line.starts_with("//!")).collect();
        if !head.contains("**Invariant") {
            silent.push(format!("{file} names no **Invariant:**"));
        }
    }
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

#[test]
fn code_map_is_complete_and_current() {
    let text = read("docs/ARCHITECTURE.md");
    let (_, after) = text.split_once("## Code map").expect("docs/ARCHITECTURE.md has a code map");
    let map = after.split("\n## ").next().unwrap_or_default();
    let named: BTreeSet<&str> =
        map.lines().filter_map(|line| line.split_whitespace().next()).filter(|word| word.starts_with("src/")).collect();

    let mut wrong = Vec::new();
    for file in rust_files(&["src"]) {
        let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
        if !named.contains(file.as_str()) && !named.contains(format!("{directory}/").as_str()) {
            wrong.push(format!("{file} is not in the code map"));
        }
    }
    for path in named {
        if !root().join(path).exists() {
            wrong.push(format!("{path} is in the code map and does not exist"));
        }
    }
    assert!(wrong.is_empty(), "docs/ARCHITECTURE.md:\n{}", wrong.join("\n"));
}

/// The same list as `cargo deny check licenses` uses, for machines without cargo-deny.
#[test]
fn licences_are_allowed() {
    let deny: toml::Table = read("deny.toml").parse().unwrap();
    let allowed: Vec<&str> = deny["licenses"]["allow"].as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect();

    let packages = packages();
    assert!(packages.len() > 20, "cargo metadata tells of {} packages only", packages.len());
    let wrong: Vec<String> = packages
        .into_iter()
        .filter(|(_, licence)| !licence.as_deref().is_some_and(|licence| is_allowed(licence, &allowed)))
        .map(|(name, licence)| format!("{name}: {}", licence.unwrap_or_else(|| "no licence".into())))
        .collect();
    assert!(wrong.is_empty(), "licences that deny.toml does not allow:\n{}", wrong.join("\n"));
}

#[test]
fn licence_expressions_are_read_right() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-2.0", true),
        ("GPL-2.0 OR MIT", true),
        ("MIT AND GPL-2.0", false),
        ("MIT/Apache-2.0", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true),
        ("GPL-2.0 OR (MIT AND (Unicode-3.0 OR GPL-3.0))", true),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn tracked_files_name_no_machine() {
    // Put together, as this file is tracked too.
    let private = [["/wo", "rk/"], ["/tmp/", "wt"], ["/ro", "ot/"], [".regi", "stry/src"]].map(|parts| parts.concat());
    let mut found = Vec::new();
    for file in tracked_files() {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if private.iter().any(|path| line.contains(path.as_str())) {
                found.push(format!("{file}:{}: {line}", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "paths of one machine:\n{}", found.join("\n"));
}

#[test]
fn commands_in_the_documents_exist() {
    let makefile = read("Makefile");
    let verbs = help();
    let mut wrong = Vec::new();
    for file in ["README.md", "docs/install.md", "docs/syslog.md"] {
        for command in commands(&read(file)) {
            let words: Vec<&str> = command.split_whitespace().filter(|word| *word != "sudo").collect();
            let known = match words.as_slice() {
                ["make", target, ..] => makefile.lines().any(|line| line.starts_with(&format!("{target}:"))),
                ["mailwarden", verb, ..] => verbs.contains(*verb),
                [path, ..] if path.starts_with("scripts/") => root().join(path).is_file(),
                _ => true,
            };
            if !known {
                wrong.push(format!("{file}: {command}"));
            }
        }
    }
    assert!(wrong.is_empty(), "commands that do not exist:\n{}", wrong.join("\n"));
}

/// `file:line: text` wherever one of `words` stands in code (not in a comment, not in the tests at a file's end).
fn occurrences(directories: &[&str], wanted: impl Fn(&str) -> bool, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in rust_files(directories).into_iter().filter(|file| wanted(file)) {
        let text = read(&file);
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| has_word(line, word)) {
                found.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(inside) && (word.ends_with(':') || !after.is_some_and(inside))
    })
}

fn is_test_file(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.ends_with("_tests.rs") || file.contains("/tests/")
}

/// Commands of fenced blocks, and of `$ command` lines in blocks that show output.
fn commands(markdown: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut block = None;
    for line in markdown.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = if block.is_none() { Some(language.to_owned()) } else { None };
            continue;
        }
        let command = match block.as_deref() {
            Some("sh") => Some(line.trim()),
            Some(_) => line.trim().strip_prefix("$ "),
            None => None,
        };
        commands.extend(command.filter(|command| !command.is_empty() && !command.starts_with('#')).map(str::to_owned));
    }
    commands
}

/// The words that the tool's help opens its lines with: its verbs.
fn help() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_mailwarden")).arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| line.starts_with(' ')).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Name and licence of every crate that is built for this machine.
fn packages() -> Vec<(String, Option<String>)> {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let used: BTreeSet<&str> = metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap()).collect();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| used.contains(package["id"].as_str().unwrap()))
        .map(|package| (package["name"].as_str().unwrap().to_owned(), package["license"].as_str().map(str::to_owned)))
        .collect()
}

/// An SPDX expression; `/` is the old way to write OR.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.trim();
    let alternatives = split_outside_brackets(&expression.replace('/', " OR "), " OR ");
    if alternatives.len() > 1 {
        return alternatives.iter().any(|part| is_allowed(part, allowed));
    }
    let parts = split_outside_brackets(expression, " AND ");
    if parts.len() > 1 {
        return parts.iter().all(|part| is_allowed(part, allowed));
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => is_allowed(inner, allowed),
        None => allowed.contains(&expression),
    }
}

fn split_outside_brackets(text: &str, separator: &str) -> Vec<String> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && at >= start && text[at..].starts_with(separator) => {
                parts.push(text[start..at].to_owned());
                start = at + separator.len();
            }
            _ => {}
        }
    }
    parts.push(text[start..].to_owned());
    parts
}

fn rust_files(directories: &[&str]) -> Vec<String> {
    all_files(directories).into_iter().filter(|file| file.ends_with(".rs")).collect()
}

fn tracked_files() -> Vec<String> {
    match Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout).unwrap().split_terminator('\0').map(str::to_owned).collect()
        }
        // A source archive: everything in it was tracked.
        _ => all_files(&["src", "tests", "benches", "docs", "scripts", "filters", "jail.d", "systemd", "contrib"]),
    }
}

/// Paths from the root of the project, sorted.
fn all_files(directories: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    let mut pending: Vec<PathBuf> = directories.iter().map(PathBuf::from).collect();
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(root().join(&directory)) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            let path = directory.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                pending.push(path);
            } else {
                files.push(path.into_os_string().into_string().unwrap());
            }
        }
    }
    files.sort();
    files
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
