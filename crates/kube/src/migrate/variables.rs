//! `$NAME` and `${NAME}` of a template, filled in where they stand.
//!
//! The tree is filled in, not the text: a value can change no structure, lines stay those of the file, and
//! variables in comments are nobody's.

use std::collections::BTreeMap;

use eagleray_spec::is_secret_name;

use super::document::Document;

/// Variables that only a running worker has: a command may mention them, nobody can fill them in.
const RUNTIME: [&str; 14] = [
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "HOSTNAME",
    "JOB_COMPLETION_INDEX",
    "HOME",
    "PATH",
    "PWD",
    "PYTHONPATH",
];

/// What has no value: name → the lines where it stands.
pub(super) type Missing = BTreeMap<String, Vec<usize>>;

/// Fills variables into a document; `used` gathers those that stand in it.
pub(super) fn fill(document: &mut Document, given: &[(String, String)], used: &mut Vec<String>) -> Missing {
    let own = own_environment(document);
    let secrets = secret_paths(document);
    let mut missing = Missing::new();
    let prefix = document.prefix.clone();
    document.root.leaves_mut(&prefix, &mut |path, line, text| {
        let in_command = path.contains(".command[") || path.contains(".args[");
        let secret = secrets.iter().any(|secret| secret == path);
        let filled = replace(text, &mut |name, default| {
            used.push(name.to_owned());
            // What is secret is not carried: it needs no value, and is safer without.
            if secret {
                return None;
            }
            let value = given.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            let value = value.or_else(|| own.get(name).filter(|_| in_command).cloned());
            let value = value.or_else(|| default.map(str::to_owned));
            let runtime = RUNTIME.contains(&name) || name.starts_with("PET_");
            if value.is_none() && !(in_command && runtime) {
                missing.entry(name.to_owned()).or_default().push(line);
            }
            value
        });
        *text = filled;
    });
    missing
}

/// The plain variables of the document's containers, for commands that mention them.
fn own_environment(document: &Document) -> BTreeMap<String, String> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    document.root.leaves(&document.prefix, &mut |path, node| {
        let Some((owner, key)) = path.rsplit_once('.') else { return };
        if !owner.contains(".env[") || !owner.ends_with(']') {
            return;
        }
        if key == "name" {
            found.push((owner.to_owned(), node.text().unwrap_or_default().to_owned(), String::new()));
        } else if let (true, Some(last)) = (key == "value", found.last_mut())
            && last.0 == owner
        {
            node.text().unwrap_or_default().clone_into(&mut last.2);
        }
    });
    let plain = |(_, name, value): (String, String, String)| {
        (!value.contains('$') && !value.is_empty() && !is_secret_name(&name)).then_some((name, value))
    };
    found.into_iter().filter_map(plain).collect()
}

/// The values whose sibling `name` says that they are secret.
pub(super) fn secret_paths(document: &Document) -> Vec<String> {
    let mut owners = Vec::new();
    document.root.leaves(&document.prefix, &mut |path, node| {
        if let Some(owner) = path.strip_suffix(".name")
            && owner.contains(".env[")
            && node.text().is_some_and(is_secret_name)
        {
            owners.push(format!("{owner}.value"));
        }
    });
    owners
}

/// Replaces what `value` knows: it gets a name, and the default of `${NAME:-default}`.
fn replace(text: &str, value: &mut dyn FnMut(&str, Option<&str>) -> Option<String>) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        let (written, name, default) = variable(&rest[at..]);
        let found = if name.is_empty() { None } else { value(name, default) };
        filled.push_str(found.as_deref().unwrap_or(&rest[at..at + written]));
        rest = &rest[at + written..];
    }
    filled + rest
}

/// The variable that `text` begins with: its length as written, its name, its default.
fn variable(text: &str) -> (usize, &str, Option<&str>) {
    let name_end = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        if text.starts_with(|c: char| c.is_ascii_digit()) { 0 } else { end }
    };
    let after = &text[1..];
    if after.starts_with('$') {
        return (2, "", None);
    }
    let Some(inner) = after.strip_prefix('{') else {
        let end = name_end(after);
        return (1 + end, &after[..end], None);
    };
    let Some(close) = inner.find('}') else { return (1, "", None) };
    let end = name_end(&inner[..close]);
    let (name, rest) = inner[..close].split_at(end);
    let default = rest.strip_prefix(":-").or_else(|| rest.strip_prefix('-'));
    if rest.is_empty() || default.is_some() { (close + 3, name, default) } else { (1, "", None) }
}

/// Whether a variable is left in `text` that a worker would have to fill in.
pub(super) fn left_in(text: &str) -> Option<String> {
    let mut left = None;
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (written, name, _) = variable(&rest[at..]);
        if !name.is_empty() {
            left.get_or_insert_with(|| name.to_owned());
        } else if let Some(inner) = rest[at..].strip_prefix("$(") {
            left.get_or_insert_with(|| inner.split(')').next().unwrap_or_default().to_owned());
        }
        rest = &rest[at + written.max(1)..];
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> String {
        replace(text, &mut |name, default| match name {
            "A" => Some("1".into()),
            _ => default.map(str::to_owned),
        })
    }

    #[test]
    fn both_forms_and_defaults_are_filled_in_and_nothing_else() {
        assert_eq!(filled("$A-${A}_$AB ${B:-x} ${C-y}"), "1-1_$AB x y");
        assert_eq!(filled("$(A) $$A $1 ${A#x} ${A $"), "$(A) $$A $1 ${A#x} ${A $");
    }

    #[test]
    fn what_is_left_is_named() {
        assert_eq!(left_in("--rank=${RANK}").as_deref(), Some("RANK"));
        assert_eq!(left_in("--node=$(NODE)").as_deref(), Some("NODE"));
        assert_eq!(left_in("costs 5 $"), None);
    }
}
