//! Rules for files of code, and for every text.

use super::{Finding, has_extension};

const FILE_LINES_MAX: usize = 1000;
const FILE_LINES_SPLIT: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// The comments that allow a longer function, with the reason behind them.
const LONG: [&str; 2] = ["// long: ", "# long: "];

/// Written in two parts, so that this file does not find itself.
const LEFTOVERS: [&str; 5] = [
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("X", "XX"),
    concat!("dbg", "!("),
    concat!("todo", "!("),
];
const MACHINE_PATHS: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/tmp", "/er"), concat!("/work", "/main"), concat!("/work", "/shared")];

/// The crates of floors 0 to 2, and what they may not know: a clock, a file, a network, a thread.
const PURE: [&str; 5] = [
    "crates/base/src/",
    "crates/spec/src/",
    "crates/order/src/",
    "crates/plan/src/",
    "crates/supervise/src/",
];
const IMPURE: [&str; 7] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio::",
];

/// Those that may look at the machine's files: the store, and the rim, for what is given by name.
const FILES: [&str; 4] = ["crates/store/", "crates/cli/", "crates/py/", "xtask/"];
const FILE_ACCESS: [&str; 4] = ["std::fs", "fs_err", "tokio::fs", "File::open"];

pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = machine_paths(path, text);
    let (rust, python) = (has_extension(path, "rs"), has_extension(path, "py"));
    if rust || python {
        findings.extend(file_length(path, text));
        findings.extend(leftovers(path, text));
    }
    if python {
        findings.extend(python_function_lengths(path, text));
    }
    if rust && !is_test(path) {
        findings.extend(function_lengths(path, text));
        let stands_in = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
        if stands_in(&PURE) {
            let why = "on a floor that knows no clock, file, network or thread";
            findings.extend(mentions(path, text, &IMPURE, why));
        } else if !stands_in(&FILES) {
            findings.extend(mentions(
                path,
                text,
                &FILE_ACCESS,
                "outside the store: use `eagleray_store::Store`",
            ));
        }
    }
    findings
}

/// Names in code, not in comments or tests, that do not belong there.
fn mentions(path: &str, text: &str, names: &[&str], why: &str) -> Vec<Finding> {
    numbered(text)
        .take_while(|(_, line)| *line != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .filter_map(|(number, line)| {
            let found = names.iter().find(|name| line.contains(**name))?;
            Some(Finding::error(format!("{path}:{number}"), format!("`{found}` {why}")))
        })
        .collect()
}

fn is_test(path: &str) -> bool {
    ["/tests/", "/benches/", "/examples/"].iter().any(|folder| path.contains(folder))
        || path.ends_with("/tests.rs")
}

fn file_length(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    let message = format!("{lines} lines: a file of code has at most {FILE_LINES_SPLIT}");
    match lines {
        _ if lines > FILE_LINES_MAX => Some(Finding::error(path, message)),
        _ if lines > FILE_LINES_SPLIT => Some(Finding::warning(path, message)),
        _ => None,
    }
}

fn leftovers(path: &str, text: &str) -> Vec<Finding> {
    numbered(text)
        .filter_map(|(number, line)| {
            let left = LEFTOVERS.into_iter().find(|left| has_word(line, left))?;
            Some(Finding::error(format!("{path}:{number}"), format!("`{left}` is left over")))
        })
        .collect()
}

/// Whether `line` holds `word` with no letter before it.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let joined = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !joined(before) && (word.ends_with('(') || !joined(after))
    })
}

/// Absolute paths of one machine, where a path begins: `<built>/work/` is none.
fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    numbered(text)
        .filter_map(|(number, line)| {
            let found = MACHINE_PATHS.into_iter().find(|wanted| {
                line.match_indices(wanted).any(|(at, _)| {
                    line[..at]
                        .chars()
                        .next_back()
                        .is_none_or(|c| c.is_whitespace() || "\"'`=:(,[".contains(c))
                })
            })?;
            let message = format!("`{found}…` is a path of one machine");
            Some(Finding::error(format!("{path}:{number}"), message))
        })
        .collect()
}

/// Functions of formatted code that are too long: rustfmt closes each at the indent where it began.
fn function_lengths(path: &str, text: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().take_while(|line| *line != "#[cfg(test)]").collect();
    let mut findings = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let Some(length) = length(&lines[first..], indent) else { continue };
        findings.extend(too_long(path, &lines, first, name, length));
    }
    findings
}

/// Functions of formatted Python that are too long: each ends before the next line at its indent.
fn python_function_lengths(path: &str, text: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut findings = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let bare = line.trim_start();
        let Some(rest) = bare.strip_prefix("async ").unwrap_or(bare).strip_prefix("def ") else { continue };
        let inside = |next: &&&str| {
            next.is_empty() || indent(next) > indent(line) || next.trim_start().starts_with(')')
        };
        let body = lines[first + 1..].iter().take_while(inside).collect::<Vec<_>>();
        let blank = body.iter().rev().take_while(|line| line.is_empty()).count();
        let name = rest.split('(').next().unwrap_or(rest);
        findings.extend(too_long(path, &lines, first, name, 1 + body.len() - blank));
    }
    findings
}

/// The finding for a function that begins at `first`, unless a comment above it says why it is long.
fn too_long(path: &str, lines: &[&str], first: usize, name: &str, length: usize) -> Option<Finding> {
    let reason = |line: &&str| LONG.iter().any(|long| line.trim().starts_with(long));
    let excused = lines[first.saturating_sub(6)..=first].iter().any(reason);
    let message = format!(
        "`{name}` has {length} lines: at most {FUNCTION_LINES_MAX}, or say why in a comment `long: reason` above it"
    );
    let found = length > FUNCTION_LINES_MAX && !excused;
    found.then(|| Finding::error(format!("{path}:{}", first + 1), message))
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let modifier = |word: &str| {
        matches!(word, "async" | "const" | "unsafe" | "extern" | "\"C\"") || word.starts_with("pub")
    };
    let word = words.find(|word| !modifier(word))?;
    let rest = words.next()?;
    (word == "fn").then(|| rest.split(['(', '<']).next().unwrap_or(rest))
}

/// Lines from the first to the brace that closes at `indent`; nothing for a declaration without a body.
fn length(lines: &[&str], indent: &str) -> Option<usize> {
    for (offset, line) in lines.iter().enumerate() {
        if line.is_empty() {
            continue;
        }
        // A line further left, or a declaration's `;`: there is no body.
        let inside = line.strip_prefix(indent)?;
        let declared = offset == 0 && line.ends_with(['}', ';']);
        if declared || (inside.starts_with(')') && line.ends_with(';')) {
            return None;
        }
        if inside == "}" {
            return Some(offset + 1);
        }
    }
    None
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests;
