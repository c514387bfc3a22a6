//! Edges between crates, against the table of floors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Finding;

/// The document that holds the table.
const DOCUMENT: &str = "ARCHITECTURE.md";
/// What crates of ours are called.
const PREFIX: &str = "eagleray-";
/// Frameworks, and the one crate that may name each.
const RIM: [(&str, &str); 6] = [
    ("pyo3", "py"),
    ("numpy", "py"),
    ("clap", "cli"),
    ("indicatif", "cli"),
    ("kube", "launch"),
    ("axum", "board"),
];

/// What stands before the name of such a framework among dependencies: one of them has the name of a crate of ours.
const FRAMEWORK: &str = "framework ";

/// Direct dependencies of each crate, tests' own left out: crate → names, both without our prefix.
type Edges = BTreeMap<String, BTreeSet<String>>;

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let text =
        std::fs::read_to_string(root.join(DOCUMENT)).with_context(|| format!("cannot read `{DOCUMENT}`"))?;
    let floors = floors(&text);
    ensure!(!floors.is_empty(), "`{DOCUMENT}` has no table of floors between `<!-- floors -->` markers");
    Ok(judge(&floors, &edges(&metadata(root)?)))
}

/// The table: crate → the crates it lists under "uses".
fn floors(document: &str) -> Edges {
    let table = document.split("<!-- floors -->").nth(1).unwrap_or_default();
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.filter_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [_, name, .., uses] = cells[..] else { return None };
        let uses = uses.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        Some((name.trim_matches('`').to_owned(), uses.collect()))
    })
    .collect()
}

/// What a crate may use: what it lists, and what those list.
fn reachable(floors: &Edges, name: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&String> = floors.get(name).into_iter().flatten().collect();
    while let Some(next) = open.pop() {
        if reached.insert(next.clone()) {
            open.extend(floors.get(next).into_iter().flatten());
        }
    }
    reached
}

fn judge(floors: &Edges, edges: &Edges) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, uses) in edges {
        let place = format!("crates/{name}/Cargo.toml");
        let ours = name != "xtask";
        if ours && !floors.contains_key(name) {
            findings.push(Finding::error(&place, format!("`{name}` stands on no floor of `{DOCUMENT}`")));
        }
        let allowed = reachable(floors, name);
        for used in uses {
            let framework = used.strip_prefix(FRAMEWORK);
            if let Some((framework, rim)) = RIM.iter().find(|(known, _)| framework == Some(*known)) {
                if rim != name {
                    let message = format!("`{name}` may not use `{framework}`: only `{rim}` may");
                    findings.push(Finding::error(&place, message));
                }
            } else if edges.contains_key(used) && !allowed.contains(used) {
                let message = format!("`{name}` may not use `{used}`, after the floors in `{DOCUMENT}`");
                findings.push(Finding::error(&place, message));
            }
        }
    }
    findings
}

fn metadata(root: &Path) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(root)
        .output()
        .context("cannot run `cargo metadata`")?;
    ensure!(output.status.success(), "`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn edges(metadata: &Value) -> Edges {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .map(|package| {
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            let used = dependencies.filter(|dependency| dependency["kind"] != "dev");
            (short(&package["name"]), used.map(|dependency| used_name(&dependency["name"])).collect())
        })
        .collect()
}

fn used_name(name: &Value) -> String {
    let framework = RIM.iter().find(|(framework, _)| name == framework);
    framework.map_or_else(|| short(name), |(framework, _)| format!("{FRAMEWORK}{framework}"))
}

fn short(name: &Value) -> String {
    let name = name.as_str().unwrap_or_default();
    name.strip_prefix(PREFIX).unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TABLE: &str = "text\n<!-- floors -->\n| floor | crate | one line | uses |\n| --- | --- | --- | --- |\n\
        | 0 | `base` | units | |\n| 1 | `spec` | the spec | base |\n| 3 | `store` | objects | base |\n\
        | 4 | `run` | a run | store, spec |\n| 7 | `py` | the binding | run |\n<!-- floors -->\n| no | `row` | | |\n";

    fn edges_of(pairs: &[(&str, &[&str])]) -> Edges {
        pairs
            .iter()
            .map(|(name, uses)| ((*name).into(), uses.iter().map(|u| (*u).into()).collect()))
            .collect()
    }

    fn messages(edges: &[(&str, &[&str])]) -> Vec<String> {
        judge(&floors(TABLE), &edges_of(edges)).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn the_table_is_read_between_its_markers() {
        let read = floors(TABLE);
        assert_eq!(read.len(), 5);
        assert_eq!(read["run"], ["spec", "store"].map(String::from).into());
    }

    #[test]
    fn a_crate_may_use_what_it_lists_and_what_those_list() {
        let all = [
            ("base", &["serde"][..]),
            ("spec", &["base"]),
            ("store", &["base"]),
            ("run", &["store", "spec", "base"]),
        ];
        assert_eq!(messages(&all), Vec::<String>::new());
    }

    #[test]
    fn an_edge_upwards_or_sideways_is_an_error() {
        let found = messages(&[("base", &[][..]), ("spec", &["store"]), ("store", &["base"])]);
        assert_eq!(found, ["`spec` may not use `store`, after the floors in `ARCHITECTURE.md`"]);
    }

    #[test]
    fn a_crate_that_stands_on_no_floor_is_an_error() {
        assert_eq!(messages(&[("extra", &[][..])]), ["`extra` stands on no floor of `ARCHITECTURE.md`"]);
    }

    #[test]
    fn a_framework_stays_at_the_rim() {
        assert_eq!(messages(&[("py", &["framework pyo3"][..])]), Vec::<String>::new());
        assert_eq!(
            messages(&[("run", &["framework pyo3"][..])]),
            ["`run` may not use `pyo3`: only `py` may"]
        );
    }

    #[test]
    fn a_crate_of_ours_is_not_the_framework_of_its_name() {
        let metadata = json!({"packages": [{"name": "eagleray-cli", "dependencies": [
            {"name": "eagleray-kube", "kind": null}, {"name": "kube", "kind": null}]}]});
        assert_eq!(edges(&metadata), edges_of(&[("cli", &["kube", "framework kube"])]));
    }

    #[test]
    fn edges_leave_out_what_only_tests_use() {
        let metadata = json!({"packages": [{"name": "eagleray-run", "dependencies": [
            {"name": "eagleray-store", "kind": null}, {"name": "eagleray-tokens", "kind": "dev"}]}]});
        assert_eq!(edges(&metadata), edges_of(&[("run", &["store"])]));
    }
}
