//! Objects as an API server holds them: what of them people wrote, and what they are called.

use serde_json::{Map, Value};

use crate::manifest::{Entry, Node, Place, Value as Written};

/// What of an object's metadata people write; all else of it is the server's.
const METADATA: [&str; 4] = ["name", "namespace", "labels", "annotations"];

/// Where `kubectl apply` keeps the whole object a second time.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object without what the cluster wrote: its status, who set which field, identities and times.
///
/// What the server filled in stays: it is what holds.
pub fn bare(mut object: Value) -> Value {
    let Some(fields) = object.as_object_mut() else { return object };
    fields.remove("status");
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| METADATA.contains(&key.as_str()));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
        metadata.retain(|_, value| !value.as_object().is_some_and(Map::is_empty));
    }
    object
}

/// `live:NAMESPACE/KIND/NAME`; without a namespace where it lies in none.
pub fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("live:{namespace}/{kind}/{}", text(&metadata["name"])),
        None => format!("live:{kind}/{}", text(&metadata["name"])),
    }
}

/// The object as if it had been read from a file, but that nothing has a line: every place is 0, 0.
pub(crate) fn node(value: &Value) -> Node {
    let place = Place::default();
    let plain = |text: String| Written::Scalar { text, plain: true };
    let value = match value {
        Value::Null => plain("null".to_owned()),
        Value::Bool(value) => plain(value.to_string()),
        Value::Number(value) => plain(value.to_string()),
        Value::String(text) => Written::Scalar { text: text.clone(), plain: false },
        Value::Array(items) => Written::List(items.iter().map(node).collect()),
        Value::Object(fields) => {
            let entry =
                |(key, value): (&String, &Value)| Entry { key: key.clone(), place, node: node(value) };
            Written::Mapping(fields.iter().map(entry).collect())
        }
    };
    Node { place, value }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_cluster_wrote_is_left_out_and_what_people_wrote_is_not() {
        let object = json!({
            "apiVersion": "ray.io/v1", "kind": "RayJob", "status": {"jobStatus": "RUNNING"}, "spec": {"suspend": false},
            "metadata": {
                "name": "a", "namespace": "ml", "uid": "1", "generation": 2, "managedFields": [{"manager": "x"}],
                "annotations": {LAST_APPLIED: "{}"}, "labels": {"team": "nlp"},
            },
        });
        assert_eq!(name(&object), "live:ml/RayJob/a");
        let bare = bare(object);
        assert_eq!(
            bare,
            json!({"apiVersion": "ray.io/v1", "kind": "RayJob", "spec": {"suspend": false},
                "metadata": {"name": "a", "namespace": "ml", "labels": {"team": "nlp"}}})
        );
        assert_eq!(name(&json!({"kind": "NodePool", "metadata": {"name": "p5"}})), "live:NodePool/p5");
        assert_eq!(super::bare(json!(1)), json!(1));
    }
}
