//! What `docs/lint.md` says of the rules is what the rules say of themselves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::Path;

use eagleray_kube::lint::{Rule, rules};

fn table() -> String {
    let mut table =
        "| rule | severity | looks at | what is wrong | why |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for Rule { id, severity, kinds, mode, summary, why, .. } in rules() {
        let mode = mode.map(|mode| format!(", {} only", mode.name())).unwrap_or_default();
        let escape = |text: &str| text.replace('|', "\\|");
        let (summary, why) = (escape(summary), escape(why));
        let _ = writeln!(table, "| `{id}` | {} | {kinds}{mode} | {summary} | {why} |", severity.name());
    }
    table
}

#[test]
fn the_table_of_rules_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lint.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- rules -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- /rules -->").unwrap();
    let fresh = format!("{before}<!-- rules -->\n{}<!-- /rules -->{after}", table());
    if std::env::var_os("EAGLERAY_BLESS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    } else {
        assert!(text == fresh, "run `EAGLERAY_BLESS=1 cargo test -p eagleray-kube --test docs`");
    }
}
