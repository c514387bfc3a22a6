//! A serde deserializer over [`Node`] whose errors say where.
//!
//! The wanted type decides how a scalar is read: `10m` is text, `100_000` a number, and a folder
//! named `2024` stays text. Errors gather their path while they travel outwards.

use std::fmt::{self, Display};

use serde::de::{self, DeserializeSeed, Unexpected, Visitor};

use crate::problem::{Place, nearest};
use crate::yaml::{Entry, Node, Scalar, Step, Value, parse_float, parse_unsigned};

/// Separates a message from its hint inside serde's one string of an error.
const HINT: char = '\u{1f}';

/// Why a value was refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// From the root, in reverse while the error travels.
    steps: Vec<Step>,
    pub(crate) place: Option<Place>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// The key that is missing under `steps`, where that is the trouble.
    pub(crate) missing: Option<String>,
    /// The key that an unknown one was meant to be.
    pub(crate) meant: Option<String>,
}

impl Refused {
    fn new(message: impl Into<String>) -> Self {
        Self {
            steps: Vec::new(),
            place: None,
            message: message.into(),
            hint: None,
            missing: None,
            meant: None,
        }
    }

    fn expected(what: &str, node: &Node) -> Self {
        Self::new(format!("expected {what}, found {}", node.describe()))
    }

    fn under(mut self, step: Step, place: &Place) -> Self {
        self.steps.push(step);
        self.place.get_or_insert_with(|| place.clone());
        self
    }

    fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// The path of the refused value from the root.
    pub(crate) fn path(&self) -> Vec<Step> {
        self.steps.iter().rev().cloned().collect()
    }
}

/// An error of a value's own parser, as serde carries it.
pub(crate) fn refuse<E: de::Error>(error: &eagleray_base::Error) -> E {
    match error.hint() {
        Some(hint) => E::custom(format!("{}{HINT}{hint}", error.message())),
        None => E::custom(error.message()),
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: Display>(message: T) -> Self {
        let text = message.to_string();
        match text.split_once(HINT) {
            Some((message, hint)) => Self::new(message).with_hint(Some(hint.to_owned())),
            None => Self::new(text),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("expected {expected}, found {}", found_text(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let known = list(expected);
        let hint = match nearest(variant, expected.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`? known are {known}"),
            None => format!("known are {known}"),
        };
        Self::new(format!("`{variant}` is not known here")).with_hint(Some(hint))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let meant = nearest(field, expected.iter().copied());
        let hint = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if expected.is_empty() => "there are no keys here".into(),
            None => format!("known keys are {}", list(expected)),
        };
        let refused = Self::new(format!("unknown key `{field}`")).with_hint(Some(hint));
        Self { meant: meant.map(str::to_owned), ..refused }
    }

    fn missing_field(field: &'static str) -> Self {
        let mut refused = Self::new(format!("the key `{field}` is missing"));
        refused.missing = Some(field.to_owned());
        refused
    }
}

fn found_text(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("`{value}`"),
        Unexpected::Float(value) => format!("`{value}`"),
        Unexpected::Str(text) => format!("`{text}`"),
        Unexpected::Map => "a mapping".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        other => other.to_string(),
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Deserializes one node.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a Node);

macro_rules! whole_numbers {
    ($($method:ident $type:ident $visit:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            let what = || match u64::from($type::MAX) {
                u64::MAX => "a whole number".to_owned(),
                max => format!("a whole number up to {max}"),
            };
            match &self.0.value {
                Value::Scalar { text, .. } => match parse_unsigned(text).and_then(|v| $type::try_from(v).ok()) {
                    Some(value) => visitor.$visit(value),
                    None => Err(Refused::expected(&what(), self.0)),
                },
                _ => Err(Refused::expected(&what(), self.0)),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match &self.0.value {
            Value::Scalar { text, plain } => match Scalar::resolve(text, *plain) {
                Scalar::Null => visitor.visit_unit(),
                Scalar::Bool(value) => visitor.visit_bool(value),
                Scalar::Unsigned(value) => visitor.visit_u64(value),
                Scalar::Signed(value) => visitor.visit_i64(value),
                Scalar::Float(value) => visitor.visit_f64(value),
                Scalar::Text(text) => visitor.visit_str(text),
            },
            Value::List(items) => visitor.visit_seq(Items { items, index: 0 }),
            Value::Mapping(entries) => visitor.visit_map(Entries { entries, index: 0 }),
        }
    }

    whole_numbers!(deserialize_u8 u8 visit_u8, deserialize_u16 u16 visit_u16,
        deserialize_u32 u32 visit_u32, deserialize_u64 u64 visit_u64);

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match &self.0.value {
            Value::Scalar { text, .. } => match parse_float(text) {
                Some(value) => visitor.visit_f64(value),
                None => Err(Refused::expected("a finite number", self.0)),
            },
            _ => Err(Refused::expected("a number", self.0)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match &self.0.value {
            Value::Scalar { text, plain } => match Scalar::resolve(text, *plain) {
                Scalar::Bool(value) => visitor.visit_bool(value),
                _ => Err(Refused::expected("`true` or `false`", self.0)),
            },
            _ => Err(Refused::expected("`true` or `false`", self.0)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match &self.0.value {
            Value::Scalar { text, .. } if !self.0.is_null() => visitor.visit_str(text),
            _ => Err(Refused::expected("text", self.0)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match &self.0.value {
            Value::List(items) => visitor.visit_seq(Items { items, index: 0 }),
            _ => Err(Refused::expected("a list", self.0)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Refused> {
        match &self.0.value {
            Value::List(items) if items.len() == length => visitor.visit_seq(Items { items, index: 0 }),
            Value::List(items) => {
                Err(Refused::new(format!("expected a list of {length}, found a list of {}", items.len())))
            }
            _ => Err(Refused::expected(&format!("a list of {length}"), self.0)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match &self.0.value {
            Value::Mapping(entries) => visitor.visit_map(Entries { entries, index: 0 }),
            // A key with nothing after it is a mapping whose every line is commented out.
            Value::Scalar { .. } if self.0.is_null() => visitor.visit_map(Entries { entries: &[], index: 0 }),
            _ => Err(Refused::expected("a mapping", self.0)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_map(visitor).map_err(|refused| {
            let bare = refused.steps.is_empty() && refused.missing.is_none();
            if bare && refused.hint.is_none() && !matches!(self.0.value, Value::Mapping(_)) {
                return refused.with_hint(Some(format!("its keys are {}", list(fields))));
            }
            refused
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        match &self.0.value {
            Value::Scalar { text, .. } if !self.0.is_null() => {
                visitor.visit_enum(Bare { text, node: self.0 })
            }
            Value::Mapping(entries) if entries.len() == 1 => visitor.visit_enum(Tagged(&entries[0])),
            _ => Err(Refused::expected(&format!("one of {}", list(variants)), self.0)),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 char bytes byte_buf unit unit_struct tuple_struct ignored_any
    }
}

struct Items<'a> {
    items: &'a [Node],
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        let Some(item) = self.items.get(self.index) else { return Ok(None) };
        let step = Step::Index(self.index);
        self.index += 1;
        seed.deserialize(Reader(item)).map(Some).map_err(|refused| refused.under(step, &item.place))
    }
}

struct Entries<'a> {
    entries: &'a [Entry],
    index: usize,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        let Some(entry) = self.entries.get(self.index) else { return Ok(None) };
        let key = de::value::StrDeserializer::new(&entry.key);
        seed.deserialize(key)
            .map(Some)
            .map_err(|refused: Refused| refused.under(Step::Key(entry.key.clone()), &entry.key_place))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refused> {
        let entry = &self.entries[self.index];
        self.index += 1;
        seed.deserialize(Reader(&entry.node)).map_err(|refused| at_entry(refused, entry))
    }
}

/// Scalars are pointed at themselves, everything else at its key.
fn at_entry(refused: Refused, entry: &Entry) -> Refused {
    let scalar = matches!(entry.node.value, Value::Scalar { .. }) && !entry.node.is_null();
    let place = if scalar { &entry.node.place } else { &entry.key_place };
    refused.under(Step::Key(entry.key.clone()), place)
}

/// `kind: {…}`, the one entry of a mapping.
struct Tagged<'a>(&'a Entry);

impl<'de, 'a> de::EnumAccess<'de> for Tagged<'a> {
    type Error = Refused;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<'a>), Refused> {
        let key = de::value::StrDeserializer::new(&self.0.key);
        let variant = seed.deserialize(key).map_err(|refused: Refused| {
            // The key names the variant: its path is the enum's, which is what would be removed.
            Refused { place: Some(self.0.key_place.clone()), ..refused }
        })?;
        Ok((variant, Content(Some(self.0))))
    }
}

/// `kind`, a bare word.
struct Bare<'a> {
    text: &'a str,
    node: &'a Node,
}

impl<'de, 'a> de::EnumAccess<'de> for Bare<'a> {
    type Error = Refused;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<'a>), Refused> {
        let variant = seed
            .deserialize(de::value::StrDeserializer::new(self.text))
            .map_err(|refused: Refused| Refused { place: Some(self.node.place.clone()), ..refused })?;
        Ok((variant, Content(None)))
    }
}

/// What belongs to a variant; a bare word stands for a mapping of defaults.
struct Content<'a>(Option<&'a Entry>);

impl<'de> de::VariantAccess<'de> for Content<'_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        match self.0 {
            None => Ok(()),
            Some(entry) if entry.node.is_null() => Ok(()),
            Some(entry) => {
                let message = format!("`{}` takes nothing, found {}", entry.key, entry.node.describe());
                Err(at_entry(Refused::new(message), entry))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        match self.0 {
            Some(entry) => seed.deserialize(Reader(&entry.node)).map_err(|refused| at_entry(refused, entry)),
            None => seed.deserialize(Reader(&Node::empty_mapping(Place::Whole))),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, _visitor: V) -> Result<V::Value, Refused> {
        Err(Refused::new("lists have no variants here"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        match self.0 {
            Some(entry) => de::Deserializer::deserialize_map(Reader(&entry.node), visitor)
                .map_err(|refused| at_entry(refused, entry)),
            None => visitor.visit_map(Entries { entries: &[], index: 0 }),
        }
    }
}
