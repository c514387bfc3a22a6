//! The spec's own additions to the templates of worker pods, `cluster.eks.pod`.

use eagleray_base::{Error, Result};
use serde_json::Value;

use crate::yaml::{Field, Map, Node};

/// What is told at a field that comes from there.
const WHY: &str = "`cluster.eks.pod`";

/// Lays `pod` over a template: mappings field by field, items of lists by their `name` or `key`, the rest
/// replaced.
pub(super) fn merge(mut template: Map, pod: &serde_json::Map<String, Value>) -> Result<Map> {
    if let Some(key) = pod.keys().find(|key| !["metadata", "spec"].contains(&key.as_str())) {
        return Err(Error::invalid(format!("`cluster.eks.pod.{key}` is no part of a pod's template"))
            .with_hint("it has `metadata` and `spec`"));
    }
    merge_map(&mut template, pod);
    let first = container_name(&template);
    if first.as_deref() != Some("ray-worker") {
        return Err(Error::internal("the first container of a worker is not Ray's"));
    }
    Ok(template)
}

fn container_name(template: &Map) -> Option<String> {
    let value = Node::Map(template.clone()).value();
    value["spec"]["containers"][0]["name"].as_str().map(str::to_owned)
}

fn merge_map(into: &mut Map, from: &serde_json::Map<String, Value>) {
    for (key, value) in from {
        let found = into.0.iter_mut().find(|field| field.key == *key);
        match (found, value) {
            // What is the same already keeps its reason: the name by which an item was found, above all.
            (Some(Field { node, .. }), _) if node.value() == *value => {}
            (Some(Field { node: Node::Map(map), .. }), Value::Object(fields)) => merge_map(map, fields),
            (Some(Field { node: Node::List(items), .. }), Value::Array(more)) => merge_list(items, more),
            _ => into.set(key, value.clone().into(), Some(WHY.to_owned())),
        }
    }
}

fn merge_list(into: &mut Vec<Node>, from: &[Value]) {
    for value in from {
        let same = |item: &&mut Node| {
            ["name", "key"].iter().any(|key| value[*key].is_string() && item.value()[*key] == value[*key])
        };
        match (into.iter_mut().find(same), value) {
            (Some(Node::Map(map)), Value::Object(fields)) => merge_map(map, fields),
            _ => into.push(value.clone().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(pod: &Value) -> Result<Value> {
        let template = json!({
            "metadata": {"labels": {"team": "nlp"}},
            "spec": {"restartPolicy": "Always", "containers": [{"name": "ray-worker", "image": "a", "env": [{"name": "A", "value": "1"}]}]}
        });
        let Node::Map(template) = Node::from(template) else { unreachable!() };
        merge(template, pod.as_object().unwrap()).map(|map| Node::Map(map).value())
    }

    #[test]
    fn fields_are_replaced_items_are_found_by_name_and_new_ones_come_last() {
        let pod = json!({
            "metadata": {"labels": {"tier": "gold"}},
            "spec": {"hostIPC": true, "containers": [
                {"name": "sidecar", "image": "b"},
                {"name": "ray-worker", "image": "c", "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]}
            ]}
        });
        let wanted = json!({
            "metadata": {"labels": {"team": "nlp", "tier": "gold"}},
            "spec": {"restartPolicy": "Always", "hostIPC": true, "containers": [
                {"name": "ray-worker", "image": "c", "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]},
                {"name": "sidecar", "image": "b"}
            ]}
        });
        assert_eq!(merged(&pod).unwrap(), wanted);
    }

    #[test]
    fn what_is_no_part_of_a_template_is_refused() {
        let error = merged(&json!({"containers": []})).unwrap_err();
        assert_eq!(error.message(), "`cluster.eks.pod.containers` is no part of a pod's template");
    }
}
