//! Tokens one by one, as people can read them.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::Value;

/// The tokens of a vocabulary by their ids.
pub struct Pieces {
    names: HashMap<u32, String>,
    /// The bytes that characters stand for, of a byte-level vocabulary.
    bytes: Option<HashMap<char, u8>>,
}

impl Pieces {
    pub(super) fn new(json: &Value) -> Self {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let mut names = HashMap::new();
        match json.pointer("/model/vocab") {
            Some(Value::Object(vocab)) => {
                names.extend(vocab.iter().filter_map(|(name, value)| Some((id(value)?, name.clone()))));
            }
            Some(Value::Array(vocab)) => {
                let name = |entry: &Value| Some(entry.get(0)?.as_str()?.to_owned());
                names.extend((0..).zip(vocab).filter_map(|(id, entry)| Some((id, name(entry)?))));
            }
            _ => {}
        }
        for token in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            if let (Some(id), Some(name)) = (id(&token["id"]), token["content"].as_str()) {
                names.insert(id, name.to_owned());
            }
        }
        let byte_level = ["pre_tokenizer", "decoder"].iter().any(|part| has_byte_level(&json[*part]));
        Self { names, bytes: byte_level.then(byte_alphabet) }
    }

    /// Each id's piece of text; what is no character alone is written `\xNN`, and an id of no token as its number.
    pub fn of(&self, ids: &[u32]) -> Vec<String> {
        ids.iter()
            .map(|id| self.names.get(id).map_or_else(|| format!("<{id}>"), |name| self.decoded(name)))
            .collect()
    }

    fn decoded(&self, name: &str) -> String {
        let bytes: Option<Vec<u8>> = if let Some(bytes) = &self.bytes {
            name.chars().map(|c| bytes.get(&c).copied()).collect()
        } else {
            let byte = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()).map(|byte| vec![byte])
        };
        // SentencePiece writes spaces so.
        let bytes = bytes.unwrap_or_else(|| name.replace('\u{2581}', " ").into_bytes());
        let mut shown = String::new();
        for chunk in bytes.utf8_chunks() {
            shown.push_str(&crate::trial::escaped(chunk.valid()));
            for byte in chunk.invalid() {
                let _ = write!(shown, "\\x{byte:02x}");
            }
        }
        shown
    }
}

fn has_byte_level(value: &Value) -> bool {
    match value {
        Value::Object(fields) => {
            fields.get("type").and_then(Value::as_str) == Some("ByteLevel")
                || fields.values().any(has_byte_level)
        }
        Value::Array(items) => items.iter().any(has_byte_level),
        _ => false,
    }
}

/// GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut next = 256_u32;
    let alphabet = (0..=u8::MAX).filter_map(|byte| {
        let code = if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        Some((char::from_u32(code)?, byte))
    });
    alphabet.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn byte_level_pieces_are_the_bytes_they_stand_for() {
        let vocab = json!({"\u{120}the": 0, "\u{ed}\u{137}\u{13e}": 1, "\u{ed}": 2, "\u{10a}": 3});
        let json = json!({"model": {"vocab": vocab}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]}});
        assert_eq!(Pieces::new(&json).of(&[0, 2, 3, 9]), [" the", "\\xed", "\\n", "<9>"]);
        // 한 is ED 95 9C.
        assert_eq!(Pieces::new(&json).of(&[1]), ["한"]);
    }

    #[test]
    fn pieces_of_sentencepiece_have_spaces_and_bytes() {
        let json = json!({"model": {"vocab": [["\u{2581}a", 0.0], ["<0x0A>", 0.0], ["<0xED>", 0.0]]}, "added_tokens": [{"id": 3, "content": "</s>"}]});
        assert_eq!(Pieces::new(&json).of(&[0, 1, 2, 3]), [" a", "\\n", "\\xed", "</s>"]);
    }
}
