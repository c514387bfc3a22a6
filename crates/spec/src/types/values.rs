//! Values with a form of their own: places, counts, intervals, and mappings that keep their order.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use eagleray_base::{Error, units};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::de::refuse;

/// A path, a URL or a glob, as written: relative to the spec's folder, with `${NAME}` from the environment.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Location(pub String);

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        check_location(&text).map_err(|error| refuse(&error))?;
        Ok(Self(text))
    }
}

impl JsonSchema for Location {
    fn schema_name() -> Cow<'static, str> {
        "Location".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "minLength": 1,
            "description": "A path relative to the spec's folder, `file:///…` or `s3://bucket/…`; `${NAME}` reads the environment."
        })
    }
}

/// What can be said about a location without the environment.
fn check_location(text: &str) -> Result<(), Error> {
    if text.trim().is_empty() {
        return Err(Error::invalid("expected a path or a URL, found nothing"));
    }
    if text.starts_with('~') {
        return Err(Error::invalid(format!("`{text}` starts with `~`, which only a shell expands"))
            .with_hint("write `${HOME}` for it"));
    }
    let Some((scheme, rest)) = text.split_once("://") else { return Ok(()) };
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    match scheme {
        "s3" if authority.contains('@') => {
            // The text may hold a secret: it is not repeated.
            Err(Error::invalid("an S3 location holds no credentials")
                .with_hint("S3 reads them from the environment: `AWS_ACCESS_KEY_ID` and so on"))
        }
        "s3" if authority.is_empty() => {
            Err(Error::invalid(format!("`{text}` names no bucket")).with_hint("write `s3://bucket/prefix`"))
        }
        "file" if !authority.is_empty() => Err(Error::invalid(format!("`{text}` names a host"))
            .with_hint("a file URL has three slashes: `file:///data/run`")),
        "s3" | "file" | "memory" => Ok(()),
        _ => Err(Error::invalid(format!("`{scheme}://` is not a store this program knows"))
            .with_hint("write a path, `file:///…` or `s3://bucket/…`")),
    }
}

/// A number, or a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The least.
    pub min: u32,
    /// The most.
    pub max: u32,
}

impl Count {
    /// Exactly so many.
    pub const fn exactly(number: u32) -> Self {
        Self { min: number, max: number }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    min: u32,
    max: u32,
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or `{min: …, max: …}`")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
                let number = u32::try_from(number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))?;
                Ok(Count::exactly(number))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Count, A::Error> {
                let Range { min, max } = Range::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Count { min, max })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.min == self.max {
            return serializer.serialize_u32(self.min);
        }
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("min", &self.min)?;
        map.serialize_entry("max", &self.max)?;
        map.end()
    }
}

impl JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let number = serde_json::json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
        let bound = |doc: &str| serde_json::json!({"type": "integer", "minimum": 0, "maximum": u32::MAX, "description": doc});
        json_schema!({
            "description": "A number, or a range.",
            "anyOf": [number, {
                "type": "object", "required": ["min", "max"], "additionalProperties": false,
                "properties": {"min": bound("The fewest."), "max": bound("The most.")}
            }]
        })
    }
}

/// How often something happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Every {
    /// As the measured times ask for.
    Auto,
    /// After so many steps.
    Steps(u64),
    /// After so many seconds.
    Seconds(f64),
}

impl Every {
    fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid(format!("`{text}` is not an interval"))
                .with_hint("write `auto`, `500 steps`, or a duration such as `30s`, `10m`, `2h`")
        };
        let trimmed = text.trim();
        if trimmed == "auto" {
            return Ok(Self::Auto);
        }
        let steps = trimmed.strip_suffix("steps").or_else(|| trimmed.strip_suffix("step"));
        let every = match steps {
            Some(number) => Self::Steps(crate::yaml::parse_unsigned(number.trim()).ok_or_else(wrong)?),
            None => Self::Seconds(units::parse_duration(trimmed).map_err(|_| wrong())?.as_secs_f64()),
        };
        match every {
            Self::Steps(0) => {
                Err(Error::invalid("an interval of 0 steps").with_hint("write `1 steps` or more"))
            }
            Self::Seconds(seconds) if seconds <= 0.0 => {
                Err(Error::invalid("an interval of no time").with_hint("write `30s` or more"))
            }
            every => Ok(every),
        }
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(|error| refuse(&error))
    }
}

impl Serialize for Every {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Steps(steps) => serializer.collect_str(&format_args!("{steps} steps")),
            Self::Seconds(seconds) => serializer.collect_str(&format_args!("{seconds}s")),
        }
    }
}

impl JsonSchema for Every {
    fn schema_name() -> Cow<'static, str> {
        "Every".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "`auto`, a number of steps (`500 steps`), or a duration (`30s`, `10m`, `2h`)."
        })
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(transparent)]
pub struct OneOrMany(pub Vec<Location>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path or a list of paths")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Location::deserialize(de::value::StrDeserializer::new(text)).map(|one| OneOrMany(vec![one]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(OneOrMany(all))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for OneOrMany {
    fn schema_name() -> Cow<'static, str> {
        "OneOrMany".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Location>();
        json_schema!({
            "description": "A path or glob, or a list of them.",
            "anyOf": [one, {"type": "array", "items": one, "minItems": 1}]
        })
    }
}

/// Layers of a model: all linear ones but the head, or those of these names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Targets {
    /// `all-linear`.
    #[default]
    AllLinear,
    /// Those whose name is one of these, or ends with it behind a dot.
    Named(Vec<String>),
}

/// The word for all linear layers but the head.
const ALL_LINEAR: &str = "all-linear";

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Targets;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`all-linear` or a list of names")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Targets, E> {
                if text == ALL_LINEAR {
                    return Ok(Targets::AllLinear);
                }
                Err(E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Targets, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(Targets::Named(all))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AllLinear => serializer.serialize_str(ALL_LINEAR),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl JsonSchema for Targets {
    fn schema_name() -> Cow<'static, str> {
        "Targets".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`all-linear`, or a list of names of layers.",
            "anyOf": [
                {"type": "string", "const": ALL_LINEAR},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
            ]
        })
    }
}

/// A mapping from names that keeps the order in which it was written.
#[derive(Clone, Debug)]
pub struct Named<T>(pub Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Named<T> {
    /// The names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for All<T> {
            type Value = Named<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping from names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Named(all))
            }
        }
        deserializer.deserialize_map(All(PhantomData))
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({"type": "object", "additionalProperties": value})
    }

    fn inline_schema() -> bool {
        true
    }
}
