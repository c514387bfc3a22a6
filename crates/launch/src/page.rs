//! A page of a list, of which one object at a time is held.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Reads a list, telling each object; the token of the next page, where there is one.
///
/// # Errors
/// Where the text is no JSON, or no object whose `items` are a list.
pub fn read(text: &str, tell: &mut dyn FnMut(&Value)) -> serde_json::Result<Option<String>> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let next = Page(tell).deserialize(&mut reader)?;
    reader.end()?;
    Ok(next)
}

struct Page<'a>(&'a mut dyn FnMut(&Value));

impl<'de> DeserializeSeed<'de> for Page<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Page<'_> {
    type Value = Option<String>;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("a list of the API server")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut next = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => {
                    let metadata: Value = map.next_value()?;
                    next = metadata["continue"].as_str().map(str::to_owned);
                }
                "items" => map.next_value_seed(Items(&mut *self.0))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(next)
    }
}

struct Items<'a>(&'a mut dyn FnMut(&Value));

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("objects, or null")
    }

    // A list in Go that was never made.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<(), S::Error> {
        while let Some(item) = items.next_element::<Value>()? {
            (self.0)(&item);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> (Vec<String>, Option<String>) {
        let mut names = Vec::new();
        let next = read(text, &mut |item| names.push(item["name"].to_string())).unwrap();
        (names, next)
    }

    #[test]
    fn each_object_is_told_and_the_next_page_named_in_whatever_order() {
        let expected = (vec!["1".to_owned(), "2".to_owned()], Some("x".to_owned()));
        assert_eq!(
            names(r#"{"kind":"List","metadata":{"continue":"x"},"items":[{"name":1},{"name":2}]}"#),
            expected
        );
        assert_eq!(names(r#"{"items":[{"name":1},{"name":2}],"metadata":{"continue":"x"}}"#), expected);
        assert_eq!(names(r#"{"items":null,"metadata":{}}"#), (vec![], None));
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for wrong in ["", "[]", "{", r#"{"items":{}}"#, r#"{"items":[]} x"#, r#"{"items":[1"#] {
            assert!(read(wrong, &mut |_| {}).is_err(), "{wrong}");
        }
    }
}
