//! What applying objects would change: the API server's own answer, against what is there.

use std::fmt::Write as _;

use eagleray_base::Result;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cluster::{Apply, Cluster};
use crate::doctor::amount;
use crate::resource::Resource;
use crate::watch::situation::cut;

/// Kept by the API server and by controllers, of no interest to who compares.
const KEPT_BY_OTHERS: [&str; 6] =
    ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "finalizers"];

/// Maps of quantities, by their key: a controller that writes an object back may write `32Gi` as `32768Mi`, 0 as `"0"`.
const QUANTITIES: [&str; 5] = ["limits", "requests", "hard", "capacity", "allocatable"];
/// Quantities that stand alone, by their key.
const QUANTITY: [&str; 7] =
    ["sizeLimit", "storage", "volumeSize", "nominalQuota", "borrowingLimit", "lendingLimit", "divisor"];

/// What a controller writes empty where it writes an object back, and what is as good as absent. Of others, such as
/// selectors, an empty one says something.
const WRITTEN_EMPTY: [&str; 5] = ["scaleStrategy", "metadata", "resources", "status", "strategy"];

/// Longer values are cut where they are shown.
const SHOWN_CHARS_MAX: usize = 96;

/// What applying one object would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// `RayJob`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether there is none yet.
    pub new: bool,
    /// The fields that would change, of an object that is there.
    pub fields: Vec<Field>,
}

/// A field with both values; null where there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    /// `spec.backoffLimit`.
    pub path: String,
    /// What the cluster has.
    pub old: Value,
    /// What it would have.
    pub new: Value,
}

impl Change {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        !self.new && self.fields.is_empty()
    }

    /// As lines of text.
    pub fn text(&self) -> String {
        let mark = if self.new {
            '+'
        } else if self.is_empty() {
            '='
        } else {
            '~'
        };
        let mut text = format!("{mark} {} {}\n", self.kind, self.name);
        for field in &self.fields {
            let _ = writeln!(text, "    {}: {} → {}", field.path, shown(&field.old), shown(&field.new));
        }
        text
    }
}

fn shown(value: &Value) -> String {
    cut(if value.is_null() { "none".to_owned() } else { value.to_string() }, SHOWN_CHARS_MAX)
}

/// What applying an object would do. Nothing is kept; webhooks are asked as in earnest.
///
/// # Errors
/// As [`Cluster::apply`]: what would be refused is refused here.
pub fn change(cluster: &Cluster, object: &Value) -> Result<Change> {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let before = match Resource::of(object) {
        Some(resource) => cluster.get(resource, metadata["namespace"].as_str(), name)?,
        None => None,
    };
    let after = cluster.apply(object, Apply { dry_run: true, force: true })?;
    Ok(Change {
        kind: object["kind"].as_str().unwrap_or_default().to_owned(),
        name: name.to_owned(),
        new: before.is_none(),
        fields: before.map_or_else(Vec::new, |before| differences(&before, &after)),
    })
}

/// The fields in which two states of an object differ.
pub fn differences(before: &Value, after: &Value) -> Vec<Field> {
    let mut found = Vec::new();
    compare(Place { path: "", is_quantity: false }, &bare(before), &bare(after), &mut found);
    found
}

fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for key in KEPT_BY_OTHERS {
            metadata.remove(key);
        }
    }
    object
}

#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a str,
    is_quantity: bool,
}

fn compare(place: Place<'_>, old: &Value, new: &Value, found: &mut Vec<Field>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => compare_maps(place, a, b, found),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (old, new)) in a.iter().zip(b).enumerate() {
                let path = format!("{}[{index}]", place.path);
                compare(Place { path: &path, ..place }, old, new, found);
            }
        }
        _ if old == new || (place.is_quantity && is_same_amount(old, new)) => {}
        _ => found.push(Field { path: place.path.to_owned(), old: old.clone(), new: new.clone() }),
    }
}

fn compare_maps(
    place: Place<'_>,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    found: &mut Vec<Field>,
) {
    let Place { path, is_quantity } = place;
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added) {
        let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let value = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
        let (old, new) = (value(old), value(new));
        if (old.is_null() && is_nothing(key, &new)) || (new.is_null() && is_nothing(key, &old)) {
            continue;
        }
        let named = |keys: &[&str]| keys.contains(&key.as_str());
        let is_quantity = is_quantity || named(&QUANTITIES) || named(&QUANTITY);
        compare(Place { path: &inner, is_quantity }, &old, &new, found);
    }
}

/// Whether a value is as good as none.
fn is_nothing(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => WRITTEN_EMPTY.contains(&key) && fields.values().all(Value::is_null),
        _ => false,
    }
}

/// Whether two spellings are one quantity. Bytes are whole and milli-units the finest that is asked for, so what the
/// binary fraction of a decimal one adds is no difference.
fn is_same_amount(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (amount(old), amount(new)) else { return false };
    (old - new).abs() <= 4.0 * f64::EPSILON * old.abs().max(new.abs())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_controllers_write_is_no_difference() {
        let before = json!({"metadata": {"uid": "1", "generation": 2}, "spec": {"a": 1}, "status": {"x": 1}});
        let after = json!({"metadata": {"uid": "2"}, "spec": {"a": 1}});
        assert_eq!(differences(&before, &after), vec![]);
    }

    #[test]
    fn each_changed_field_is_named_with_both_values() {
        let before = json!({"spec": {"a": 1, "gone": true, "list": [{"b": 1}, 2]}});
        let after = json!({"spec": {"a": 2, "list": [{"b": 3}, 2], "come": "x"}});
        let found = differences(&before, &after);
        let shown: Vec<String> =
            found.iter().map(|field| format!("{} {} {}", field.path, field.old, field.new)).collect();
        assert_eq!(
            shown,
            ["spec.a 1 2", "spec.gone true null", "spec.list[0].b 1 3", "spec.come null \"x\""]
        );
    }

    #[test]
    fn another_spelling_of_the_same_is_no_difference() {
        let of = |memory: Value, gpus: Value, cpu: Value| {
            let resources =
                json!({"limits": {"memory": memory, "nvidia.com/gpu": gpus}, "requests": {"cpu": cpu}});
            json!({"spec": {"containers": [{"resources": resources}], "volumes": [{"emptyDir": {"sizeLimit": memory}}]}})
        };
        let ours = of(json!("32768Mi"), json!("0"), json!("1100m"));
        assert_eq!(differences(&of(json!("32Gi"), json!(0), json!("1.1")), &ours), vec![]);
        let paths = |before: &Value, after: &Value| -> Vec<String> {
            differences(before, after).into_iter().map(|field| field.path).collect()
        };
        assert_eq!(
            paths(&of(json!("34359738369"), json!("1"), json!("1100m")), &ours),
            [
                "spec.containers[0].resources.limits.memory",
                "spec.containers[0].resources.limits.nvidia.com/gpu",
                "spec.volumes[0].emptyDir.sizeLimit"
            ],
            "one byte is a difference"
        );
        let text = |value: &str| json!({"spec": {"rayStartParams": {"num-cpus": value}, "env": value}});
        assert_eq!(paths(&text("1"), &text("1000m")).len(), 2, "no quantities, whatever they look like");
    }

    #[test]
    fn what_is_written_back_empty_is_no_difference_where_it_says_nothing() {
        let written = json!({"spec": {"groups": [{"scaleStrategy": {}, "template": {"metadata": {"creationTimestamp": null}}}]}});
        let ours = json!({"spec": {"groups": [{"template": {}}]}});
        assert_eq!(differences(&written, &ours), vec![]);
        assert_eq!(differences(&ours, &written), vec![]);
        let from = |peer: Value| json!({"spec": {"ingress": [{"from": [peer]}]}});
        let everywhere = from(json!({"podSelector": {}, "namespaceSelector": {}}));
        let found = differences(&from(json!({"podSelector": {}})), &everywhere);
        assert_eq!(found.len(), 1, "an empty selector selects all");
        let scaled =
            json!({"spec": {"groups": [{"scaleStrategy": {"workersToDelete": ["p"]}, "template": {}}]}});
        assert_eq!(differences(&ours, &scaled).len(), 1);
    }

    #[test]
    fn a_long_value_is_cut_where_it_is_shown() {
        let field = Field { path: "data".into(), old: Value::Null, new: json!("é".repeat(500)) };
        let change = Change { kind: "ConfigMap".into(), name: "a".into(), new: false, fields: vec![field] };
        assert!(change.text().chars().count() < 2 * SHOWN_CHARS_MAX);
    }
}
