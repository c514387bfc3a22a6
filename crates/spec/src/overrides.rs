//! `--set a.b=c`: one value laid over the tree, before it gets types.

use crate::problem::{Place, Problem};
use crate::yaml::{self, Entry, Node, Value};

/// Sets one value; mappings on the way are made, lists are entered by their index.
pub(crate) fn apply(tree: &mut Node, text: &str) -> Result<(), Problem> {
    let place = Place::Override(text.to_owned());
    let refuse = |message: String, hint: &str| {
        let mut problem = Problem::new(place.clone(), message);
        problem.hint = Some(hint.to_owned());
        problem
    };
    let Some((path, value)) = text.split_once('=') else {
        return Err(refuse("an override needs a `=`".into(), "write `--set train.steps=200`"));
    };
    let keys: Vec<&str> = path.trim().split('.').collect();
    if keys.iter().any(|key| key.trim().is_empty()) {
        return Err(refuse(format!("`{path}` is not a path of keys"), "write `--set train.steps=200`"));
    }
    let value = yaml::parse(value, &|_| place.clone())?;
    let mut node = tree;
    for (depth, key) in keys.iter().enumerate() {
        if node.is_null() {
            *node = Node::empty_mapping(place.clone());
        }
        let so_far = keys[..depth].join(".");
        node = match &mut node.value {
            Value::Mapping(entries) => child(entries, key, &place),
            Value::List(items) => {
                let length = items.len();
                match key.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                    Some(item) => item,
                    None => {
                        return Err(refuse(
                            format!("`{key}` is no index of `{so_far}`"),
                            &format!("it has {length} items, counted from 0"),
                        ));
                    }
                }
            }
            Value::Scalar { .. } => {
                return Err(refuse(
                    format!("`{so_far}` is not a mapping, so it has no `{key}`"),
                    &format!("set `{so_far}` as a whole: `--set '{so_far}={{{key}: …}}'`"),
                ));
            }
        };
    }
    *node = value;
    Ok(())
}

fn child<'a>(entries: &'a mut Vec<Entry>, key: &str, place: &Place) -> &'a mut Node {
    let index = entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
        entries.push(Entry {
            key: key.to_owned(),
            key_place: place.clone(),
            node: Node::empty_mapping(place.clone()),
        });
        entries.len() - 1
    });
    &mut entries[index].node
}
