//! What is installed beside the program: the Helm chart gives what `doctor` asks for and no more, and the images are
//! of the versions of the project.
//!
//! Helm itself is not there when tests run: the templates use so little of its language that the few lines below read
//! it, and what they do not know fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use common::documents;
use eagleray_launch::doctor::rights::{Part, RIGHTS, rules_text};
use serde_json::{Value, json};

mod common;

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/eagleray")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(chart().join(path)).unwrap()
}

fn values() -> Value {
    documents(&read("values.yaml")).remove(0)
}

/// The file of rights, out of the one list.
fn rights() -> String {
    let subjects = "subjects:
{{- if .Values.launcher.create }}
  - kind: ServiceAccount
    name: {{ .Values.launcher.name }}
    namespace: {{ .Release.Namespace }}
{{- end }}
{{- range .Values.users }}
  - kind: User
    apiGroup: rbac.authorization.k8s.io
    name: {{ . | quote }}
{{- end }}
{{- range .Values.groups }}
  - kind: Group
    apiGroup: rbac.authorization.k8s.io
    name: {{ . | quote }}
{{- end }}
";
    let mut text = "# Written by the test of the chart out of the rights that `eagleray doctor` asks for; do not edit.\n".to_owned();
    let head = |kind: &str, name: &str, namespaced: bool| {
        let namespace = if namespaced { "  namespace: {{ .Release.Namespace }}\n" } else { "" };
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {name}\n{namespace}  labels:\n    app.kubernetes.io/name: eagleray\n"
        )
    };
    let reference = |kind: &str, name: &str| {
        format!("roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: {kind}\n  name: {name}\n{subjects}")
    };
    text += &head("Role", "eagleray", true);
    let _ = write!(text, "rules:\n{}", rules_text(Part::Launch));
    for part in Part::ALL.into_iter().filter(|part| part.namespaced() && *part != Part::Launch) {
        let _ = write!(
            text,
            "{{{{- if .Values.rights.{} }}}}\n{}{{{{- end }}}}\n",
            part.name(),
            rules_text(part)
        );
    }
    let _ = write!(text, "---\n{}{}", head("RoleBinding", "eagleray", true), reference("Role", "eagleray"));
    for part in Part::ALL.into_iter().filter(|part| !part.namespaced()) {
        // No namespace holds it, so that its name says of which one it is.
        let name = format!("eagleray-{}-{{{{ .Release.Namespace }}}}", part.name());
        let _ = write!(
            text,
            "{{{{- if .Values.rights.{} }}}}\n---\n{}rules:\n{}---\n{}{}{{{{- end }}}}\n",
            part.name(),
            head("ClusterRole", &name, false),
            rules_text(part),
            head("ClusterRoleBinding", &name, false),
            reference("ClusterRole", &name)
        );
    }
    text
}

#[test]
fn the_chart_s_rights_are_those_that_doctor_asks_for() {
    let path = chart().join("templates/rbac.yaml");
    if std::env::var_os("EAGLERAY_BLESS").is_some() {
        std::fs::write(&path, rights()).unwrap();
    }
    assert_eq!(read("templates/rbac.yaml"), rights(), "EAGLERAY_BLESS=1 writes it anew");
}

/// Text or an action of a template, in order.
enum Piece<'a> {
    Text(&'a str),
    Action(&'a str),
}

fn pieces(template: &str) -> Vec<Piece<'_>> {
    let (mut rest, mut pieces, mut trims) = (template, Vec::new(), false);
    while let Some(start) = rest.find("{{") {
        let (before, after) = rest.split_at(start);
        let (action, next) = after[2..].split_once("}}").unwrap();
        let before = if trims { before.trim_start() } else { before };
        let (action, before) = match action.strip_prefix('-') {
            Some(action) => (action, before.trim_end()),
            None => (action, before),
        };
        let action_end = action.strip_suffix('-');
        trims = action_end.is_some();
        pieces.push(Piece::Text(before));
        pieces.push(Piece::Action(action_end.unwrap_or(action).trim()));
        rest = next;
    }
    pieces.push(Piece::Text(if trims { rest.trim_start() } else { rest }));
    pieces
}

fn lookup(scope: &Value, dot: &Value, path: &str) -> Value {
    if path == "." {
        return dot.clone();
    }
    let mut value = scope;
    for key in path.strip_prefix('.').unwrap_or_else(|| panic!("{path}")).split('.') {
        value = value.get(key).unwrap_or_else(|| panic!("there is no `{path}`"));
    }
    value.clone()
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Number(_) => true,
    }
}

fn expression(action: &str, scope: &Value, dot: &Value) -> String {
    if let Some((path, indent)) =
        action.strip_prefix("toYaml ").and_then(|rest| rest.split_once(" | nindent "))
    {
        let Value::Object(fields) = lookup(scope, dot, path) else { panic!("{path} is no mapping") };
        let indent = " ".repeat(indent.parse().unwrap());
        return fields.iter().fold(String::new(), |mut text, (key, value)| {
            let _ = write!(text, "\n{indent}{key}: {value}");
            text
        });
    }
    let (path, quoted) = action.strip_suffix(" | quote").map_or((action, false), |path| (path, true));
    match lookup(scope, dot, path) {
        Value::String(text) if !quoted => text,
        value @ Value::String(_) => value.to_string(),
        other => panic!("`{action}` is {other}"),
    }
}

/// Renders pieces up to the end of their block; how many were taken.
fn render(pieces: &[Piece<'_>], scope: &Value, dot: &Value, shown: bool, out: &mut String) -> usize {
    let mut index = 0;
    while index < pieces.len() {
        match pieces[index] {
            Piece::Text(text) if shown => out.push_str(text),
            Piece::Text(_) => {}
            Piece::Action("end") => return index + 1,
            Piece::Action(action) => {
                let inner = &pieces[index + 1..];
                if let Some(path) = action.strip_prefix("if ") {
                    index += render(inner, scope, dot, shown && is_set(&lookup(scope, dot, path)), out);
                } else if let Some(path) = action.strip_prefix("range ") {
                    let items = lookup(scope, dot, path);
                    let items = items.as_array().unwrap();
                    for item in items.iter().filter(|_| shown) {
                        render(inner, scope, item, true, out);
                    }
                    index += render(inner, scope, dot, false, &mut String::new());
                } else if shown {
                    out.push_str(&expression(action, scope, dot));
                }
            }
        }
        index += 1;
    }
    index
}

/// All objects of the chart.
fn objects(values: &Value) -> Vec<Value> {
    let scope = json!({"Values": values, "Release": {"Namespace": "training", "Name": "eagleray"}});
    let folder = std::fs::read_dir(chart().join("templates")).unwrap();
    let mut names: Vec<String> =
        folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let rendered = names.iter().flat_map(|name| {
        let template = read(&format!("templates/{name}"));
        let mut text = String::new();
        render(&pieces(&template), &scope, &Value::Null, true, &mut text);
        if name == "NOTES.txt" { Vec::new() } else { documents(&text) }
    });
    rendered.collect()
}

/// `verb resource.group` of every rule of every role of a kind.
fn given(objects: &[Value], kind: &str) -> BTreeSet<String> {
    let roles = objects.iter().filter(|object| object["kind"] == kind);
    let rules = roles.flat_map(|role| role["rules"].as_array().unwrap());
    rules
        .flat_map(|rule| {
            let (group, resource) =
                (rule["apiGroups"][0].as_str().unwrap(), rule["resources"][0].as_str().unwrap());
            let single =
                ["apiGroups", "resources"].iter().all(|key| rule[*key].as_array().unwrap().len() == 1);
            let named = rule.get("resourceNames").map_or_else(String::new, |names| format!(" {names}"));
            let keys = if named.is_empty() { 3 } else { 4 };
            assert!(single && rule.as_object().unwrap().len() == keys, "{rule}");
            let verbs = rule["verbs"].as_array().unwrap().iter();
            verbs
                .map(move |verb| format!("{} {resource}.{group}{named}", verb.as_str().unwrap()))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn wanted(parts: &[Part]) -> BTreeSet<String> {
    let rights = RIGHTS.iter().filter(|right| parts.contains(&right.part));
    rights
        .flat_map(|right| {
            let named =
                if right.names.is_empty() { String::new() } else { format!(" {}", json!(right.names)) };
            let each = right.verbs.iter();
            each.map(move |verb| format!("{verb} {}.{}{named}", right.resource, right.group))
        })
        .collect()
}

#[test]
fn by_default_one_account_may_launch_in_one_namespace_and_no_more() {
    let objects = objects(&values());
    let kinds: Vec<&str> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Role", "RoleBinding", "ServiceAccount"]);
    assert_eq!(given(&objects, "Role"), wanted(&[Part::Launch, Part::Logs]));
    assert!(objects.iter().all(|object| object["metadata"]["namespace"] == "training"));
    let subject = json!([{"kind": "ServiceAccount", "name": "eagleray-launcher", "namespace": "training"}]);
    assert_eq!(objects[1]["subjects"], subject);
    assert_eq!(objects[1]["roleRef"]["name"], objects[0]["metadata"]["name"]);
    assert!(given(&objects, "Role").iter().all(|right| !right.contains('*')));
}

#[test]
fn everything_that_can_be_asked_for_is_rendered() {
    let mut values = values();
    for part in ["logs", "elastic", "queue", "nodes", "priority", "leaks", "read", "look"] {
        values["rights"][part] = json!(true);
    }
    let role = "arn:aws:iam::123456789012:role/solar";
    values["launcher"]["roleArn"] = json!(role);
    values["runs"] = json!({"create": true, "name": "solar", "roleArn": role});
    values["users"] = json!(["jane: doe", "kim"]);
    values["groups"] = json!(["nlp"]);
    values["quota"] =
        json!({"create": true, "name": "team", "hard": {"requests.nvidia.com/gpu": "64", "pods": 20}});
    let objects = objects(&values);
    let (namespaced, wide): (Vec<Part>, Vec<Part>) =
        Part::ALL.into_iter().partition(|part| part.namespaced());
    assert_eq!(given(&objects, "Role"), wanted(&namespaced));
    assert_eq!(given(&objects, "ClusterRole"), wanted(&wide));
    let of_kind =
        |kind: &str| objects.iter().filter(|object| object["kind"] == kind).cloned().collect::<Vec<_>>();
    for binding in of_kind("ClusterRoleBinding") {
        assert_eq!(binding["subjects"].as_array().unwrap().len(), 4);
        assert_eq!(binding["subjects"][1]["name"], "jane: doe");
        assert_eq!(binding["roleRef"]["name"], binding["metadata"]["name"]);
    }
    assert_eq!(of_kind("ClusterRoleBinding").len(), wide.len());
    let accounts = of_kind("ServiceAccount");
    assert_eq!(accounts.len(), 2);
    assert!(
        accounts
            .iter()
            .all(|account| account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] == role)
    );
    assert_eq!(
        of_kind("ResourceQuota")[0]["spec"]["hard"],
        json!({"requests.nvidia.com/gpu": "64", "pods": 20})
    );
}

fn compare(schema: &Value, root: &Value, value: &Value, place: &str) {
    let reference =
        schema["$ref"].as_str().map(|name| &root["definitions"][name.rsplit('/').next().unwrap()]);
    let schema = reference.unwrap_or(schema);
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        other => panic!("{place}: {other}"),
    };
    assert_eq!(schema["type"], kind, "{place}");
    let (Some(fields), Some(known)) = (value.as_object(), schema["properties"].as_object()) else {
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{place}: a key that is misspelt is refused");
    let known: Vec<&String> = known.keys().filter(|key| *key != "global").collect();
    assert_eq!(fields.keys().collect::<BTreeSet<_>>(), known.into_iter().collect::<BTreeSet<_>>(), "{place}");
    for (key, value) in fields {
        compare(&schema["properties"][key], root, value, &format!("{place}.{key}"));
    }
}

/// Every value has its place in the schema, and every place its value.
#[test]
fn the_schema_knows_the_values() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    compare(&schema, &schema, &values(), "values");
}

/// The value behind `name` in a text, up to what ends it.
fn after<'a>(text: &'a str, name: &str) -> &'a str {
    let rest = text.split_once(name).unwrap_or_else(|| panic!("no `{name}`")).1;
    rest.split(['"', ' ', '\n', '[', '-']).next().unwrap()
}

/// They cannot be built where tests run: what can be told from their text is.
#[test]
fn the_images_are_of_the_versions_of_the_project() {
    let root = chart().join("../..");
    let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let (project, workspace) = (text("pyproject.toml"), text("Cargo.toml"));
    for name in ["cpu", "cuda"] {
        let image = text(&format!("images/Dockerfile.{name}"));
        assert_eq!(
            after(&image, "ARG RAY=rayproject/ray:"),
            after(&project, "ray[default,train]=="),
            "{name}"
        );
        assert_eq!(
            after(&image, "pip install --no-cache-dir maturin=="),
            after(&project, "requires = [\"maturin=="),
            "{name}"
        );
        let rust = format!("{}.0", after(&workspace, "rust-version = \""));
        assert_eq!(after(&image, "--default-toolchain "), rust, "{name}");
        if name == "cpu" {
            assert_eq!(after(&image, "torch=="), after(&project, "torch=="));
        }
        let words =
            |line: &str| line.split(['"', ' ', ',']).any(|word| ["-l", "-lc", "--login"].contains(&word));
        assert!(!image.lines().any(words), "{name}: a login shell");
        let steps: Vec<&str> =
            image.lines().filter(|line| line.starts_with("USER ") || line.starts_with("FROM ")).collect();
        assert_eq!(steps.last(), Some(&"USER ray"), "{name}: nothing of a run needs root");
        let docs = text("docs/images.md");
        assert!(docs.contains(&format!("images/Dockerfile.{name}")) && docs.contains("not built in CI"));
        let base = image.lines().find_map(|line| line.strip_prefix("ARG RAY=")).unwrap();
        assert!(docs.contains(base), "docs/images.md says another base than {base}");
    }
}
