//! What the documents say is what the program does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use eagleray_spec::{Source, explain, resolve};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// README and everything under `docs`.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.extend(
        ["README.md", "README.ko.md"].map(|name| root().join(name)).into_iter().filter(|path| path.exists()),
    );
    found.sort();
    found
}

#[test]
fn every_yaml_block_in_the_documents_is_a_spec_that_check_accepts() {
    let mut blocks = 0;
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        for block in text.split("\n```yaml\n").skip(1) {
            let yaml = block.split("\n```").next().unwrap();
            let environment = |_: &str| Some("set".to_owned());
            let name = path.display().to_string();
            let source = Source {
                name: &name,
                text: yaml,
                base: Path::new("/srv"),
                overrides: &[],
                environment: &environment,
            };
            if let Err(problems) = resolve(&source) {
                panic!("{}", problems.into_error().render());
            }
            blocks += 1;
        }
    }
    assert!(blocks >= 3, "{blocks}");
}

#[test]
fn the_table_of_keys_is_fresh() {
    let path = root().join("docs/run-spec.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- keys -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- /keys -->").unwrap();
    let fresh = format!("{before}<!-- keys -->\n{}<!-- /keys -->{after}", table());
    if std::env::var_os("EAGLERAY_BLESS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    } else {
        assert!(text == fresh, "run `EAGLERAY_BLESS=1 cargo test -p eagleray-spec --test docs`");
    }
}

fn table() -> String {
    let mut table = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for key in explain::keys() {
        let default = match &key.default {
            None => "required".to_owned(),
            Some(Value::Null) => String::new(),
            Some(Value::String(text)) if !text.is_empty() => format!("`{text}`"),
            Some(value) => format!("`{value}`"),
        };
        let escape = |text: &str| text.replace('|', "\\|");
        let (kind, default, doc) = (escape(&key.kind), escape(&default), escape(&key.doc));
        let _ = writeln!(table, "| `{}` | {kind} | {default} | {doc} |", key.path);
    }
    table
}
