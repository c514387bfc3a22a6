//! The canonical hash of a tokenizer: equal for files that differ in key order, spacing or the two ways
//! of writing merges, different wherever an id could differ.

use std::collections::BTreeMap;

use eagleray_base::Digest;
use serde_json::Value;

/// Parts that no id depends on.
const LEFT_OUT: [&str; 4] = ["version", "truncation", "padding", "decoder"];

pub(super) fn hash(json: &Value) -> Digest {
    let mut hasher = Parts(Vec::new());
    let parts: BTreeMap<&String, &Value> =
        json.as_object().into_iter().flatten().filter(|(key, _)| !LEFT_OUT.contains(&key.as_str())).collect();
    for (key, value) in parts {
        hasher.text(b'k', key);
        hasher.value(value, key == "model");
    }
    Digest::of(&hasher.0)
}

struct Parts(Vec<u8>);

impl Parts {
    fn text(&mut self, tag: u8, text: &str) {
        self.0.push(tag);
        self.0.extend_from_slice(&(text.len() as u64).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn value(&mut self, value: &Value, is_model: bool) {
        match value {
            Value::Null => self.0.push(b'n'),
            Value::Bool(value) => self.0.extend_from_slice(&[b'b', u8::from(*value)]),
            Value::Number(number) => self.text(b'd', &number.to_string()),
            Value::String(text) => self.text(b's', text),
            Value::Array(items) => {
                self.0.push(b'[');
                for item in items {
                    self.value(item, false);
                }
                self.0.push(b']');
            }
            Value::Object(entries) => {
                self.0.push(b'{');
                let sorted: BTreeMap<&String, &Value> = entries.iter().collect();
                for (key, value) in sorted {
                    self.text(b'k', key);
                    match value {
                        Value::Array(merges) if is_model && key == "merges" => self.merges(merges),
                        value => self.value(value, false),
                    }
                }
                self.0.push(b'}');
            }
        }
    }

    /// Merges are written `"a b"` by older programs and `["a", "b"]` by newer ones.
    fn merges(&mut self, merges: &[Value]) {
        self.0.push(b'[');
        for merge in merges {
            match merge.as_str().and_then(|merge| merge.split_once(' ')) {
                Some((left, right)) => {
                    self.0.push(b'[');
                    self.text(b's', left);
                    self.text(b's', right);
                    self.0.push(b']');
                }
                None => self.value(merge, false),
            }
        }
        self.0.push(b']');
    }
}
