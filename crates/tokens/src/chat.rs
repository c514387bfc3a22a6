//! Conversations → ids by the tokenizer's own template, and which of them a model is to learn.
//!
//! A conversation is rendered as Hugging Face does it, and once more for each turn of the assistant, with the turn
//! and without: what the turn adds is what counts. So any template serves that writes earlier turns the same way
//! whatever follows; where one does not, the record is bad, with the reason.
//!
//! Templates are functions of the conversation: there is no clock in them, so `strftime_now` is not known.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use eagleray_base::{Error, Result};
use eagleray_store::Store;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Serde, Value as Shown};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::build::split_location;
use crate::format::uncounted;
use crate::tokenizer::Definition;

/// The name of the template in its environment, as errors have it.
const NAME: &str = "chat template";
/// Tags around what the assistant says, which templates may have for others' sake: the turns are found without.
const GENERATION: [(&str, &str); 2] = [("generation", "if true"), ("endgeneration", "endif")];

/// How conversations are read: a part of the build key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The field of a record that holds the messages; dots reach into objects.
    pub field: String,
    /// The template, Jinja.
    pub template: String,
    /// What `bos_token` stands for in it.
    pub bos_token: Option<String>,
    /// What `eos_token` stands for in it.
    pub eos_token: Option<String>,
}

impl Settings {
    /// Reads the template from `template`, a file, else from the tokenizer's folder.
    ///
    /// # Errors
    /// `NotFound` where there is no template; `Invalid` where what is there is none.
    pub fn read(field: &str, tokenizer: &str, template: Option<&str>) -> Result<Self> {
        let (beside, name) = split_location(tokenizer);
        let is_file = Path::new(name).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
        let store = Store::open(if is_file { beside } else { tokenizer })?;
        let config: Value = match store.head("tokenizer_config.json")? {
            Some(_) => {
                let place = store.url_of("tokenizer_config.json");
                serde_json::from_slice(&store.get("tokenizer_config.json")?)
                    .map_err(|error| Error::invalid(format!("`{place}` is not JSON: {error}")))?
            }
            None => Value::Null,
        };
        let text = match template {
            Some(location) => {
                let (root, name) = split_location(location);
                Some(utf8(&Store::open(root)?.get(name)?, location)?)
            }
            None if store.head("chat_template.jinja")?.is_some() => {
                Some(utf8(&store.get("chat_template.jinja")?, &store.url_of("chat_template.jinja"))?)
            }
            None => named_template(&config["chat_template"]),
        };
        let Some(template) = text else {
            return Err(Error::not_found(format!("`{tokenizer}` has no chat template")).with_hint(
                "name a Jinja file as `data.chat_template`, or a tokenizer's folder that has one",
            ));
        };
        let token = |key: &str| {
            let token = &config[key];
            token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
        };
        let (bos_token, eos_token) = (token("bos_token"), token("eos_token"));
        let settings = Self { field: field.to_owned(), template, bos_token, eos_token };
        settings.environment()?;
        Ok(settings)
    }

    /// What Transformers renders with: no line for a block, raised exceptions, JSON without escapes.
    fn environment(&self) -> Result<Environment<'static>> {
        let mut environment = Environment::new();
        let whitespace = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(whitespace.map_err(|error| Error::internal(error.to_string()))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Shown, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, without_generation(&self.template)).map_err(|error| {
            let line = error.line().map_or_else(String::new, |line| format!(", line {line}"));
            Error::invalid(format!("the chat template cannot be read{line}: {error}"))
                .with_hint("give one that `transformers` renders, as `data.chat_template`")
        })?;
        Ok(environment)
    }
}

fn utf8(bytes: &[u8], place: &str) -> Result<String> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|_| Error::invalid(format!("`{place}` is not UTF-8")))
}

/// Of several templates, which some tokenizers have, the one that stands for no other purpose.
fn named_template(found: &Value) -> Option<String> {
    let several = found.as_array().into_iter().flatten();
    let mut default = several.filter(|each| each["name"] == "default");
    found.as_str().or_else(|| default.next()?["template"].as_str()).map(str::to_owned)
}

/// Puts a block that does nothing in the place of tags that only Transformers knows.
fn without_generation(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        text.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let inner = tag[2..end.max(4) - 2].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        match GENERATION.iter().find(|(name, _)| *name == inner) {
            Some((name, block)) => text.push_str(&tag[..end].replacen(name, block, 1)),
            None => text.push_str(&tag[..end]),
        }
        rest = &tag[end..];
    }
    text.push_str(rest);
    text
}

/// As Python writes JSON: a space after commas and colons, nothing escaped that need not be.
#[expect(clippy::needless_pass_by_value, reason = "minijinja's filters are given values")]
fn to_json(value: Shown, _rest: Rest<Shown>, options: Kwargs) -> Result<String, minijinja::Error> {
    let wrong = |error: serde_json::Error| {
        minijinja::Error::new(ErrorKind::BadSerialization, "a value has no form in JSON").with_source(error)
    };
    let value = serde_json::to_value(&value).map_err(wrong)?;
    let indent: Option<usize> = if options.has("indent") { options.get("indent")? } else { None };
    if options.has("ensure_ascii") && options.get::<bool>("ensure_ascii")? {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "`ensure_ascii` is not known here"));
    }
    options.assert_all_used()?;
    let mut text = String::new();
    write_json(&value, indent, 0, &mut text);
    Ok(text)
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, into: &mut String) {
    let (open, close, count) = match value {
        Value::Array(items) => ('[', ']', items.len()),
        Value::Object(fields) => ('{', '}', fields.len()),
        other => return into.push_str(&other.to_string()),
    };
    into.push(open);
    let line = |depth: usize, into: &mut String| {
        if let Some(indent) = indent.filter(|_| count > 0) {
            into.push('\n');
            into.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    let mut first = true;
    let mut next = |into: &mut String| {
        if !std::mem::take(&mut first) {
            into.push_str(separator);
        }
        line(depth + 1, into);
    };
    match value {
        Value::Array(items) => {
            for item in items {
                next(into);
                write_json(item, indent, depth + 1, into);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                next(into);
                let _ = write!(into, "{}: ", Value::from(key.as_str()));
                write_json(field, indent, depth + 1, into);
            }
        }
        _ => {}
    }
    line(depth, into);
    into.push(close);
}

/// Ready to turn records into ids.
pub struct Chat {
    settings: Settings,
    environment: Environment<'static>,
    tokenizer: tokenizers::Tokenizer,
    /// Tokens that end turns and the like: a message that holds one could speak for another.
    special: Vec<String>,
}

/// A conversation as text, and what of it the assistant said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The whole conversation.
    pub text: String,
    /// Bytes of `text`, ascending.
    pub counted: Vec<Range<usize>>,
}

impl Chat {
    /// Makes template and tokenizer ready.
    ///
    /// # Errors
    /// `Invalid` where one of them cannot be read.
    pub fn new(settings: &Settings, definition: &Definition) -> Result<Self> {
        Ok(Self {
            environment: settings.environment()?,
            settings: settings.clone(),
            tokenizer: definition.load_for_templates()?,
            special: definition.special_tokens().map(str::to_owned).collect(),
        })
    }

    /// Renders a record, the JSON of an object; or says why it is no conversation.
    ///
    /// # Errors
    /// What is wrong, to be read after the record's place.
    pub fn render(&self, record: &str) -> Result<Rendered, String> {
        let record: Value = serde_json::from_str(record).map_err(|error| format!("is not JSON: {error}"))?;
        let field = &self.settings.field;
        let mut found = &record;
        for key in field.split('.') {
            found = found.get(key).ok_or_else(|| format!("has no field `{field}`"))?;
        }
        let messages = found
            .as_array()
            .ok_or_else(|| format!("has a field `{field}` that is not a list of messages"))?;
        self.check(messages)?;
        let tools = &record["tools"];
        let text = self.fill(messages, tools, false)?;
        let mut counted = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if message["role"] != "assistant" {
                continue;
            }
            let (before, with) =
                (self.fill(&messages[..index], tools, true)?, self.fill(&messages[..=index], tools, false)?);
            if !with.starts_with(&before) || !text.starts_with(&with) {
                return Err(format!(
                    "cannot be masked: the chat template writes what goes before message {} otherwise when more \
                     follows",
                    index + 1
                ));
            }
            counted.push(before.len()..with.len());
        }
        Ok(Rendered { text, counted })
    }

    /// Appends the ids of a rendered conversation; those that do not count are marked so.
    ///
    /// # Errors
    /// `Internal` where the tokenizer refuses the text.
    pub fn encode(&self, rendered: &Rendered, ids: &mut Vec<u32>) -> Result<()> {
        let encoded = self.tokenizer.encode(rendered.text.as_str(), false);
        let encoded = encoded.map_err(|error| Error::internal("cannot tokenise").with_source(error))?;
        let mut ranges = rendered.counted.iter().peekable();
        for (&id, &(start, _)) in encoded.get_ids().iter().zip(encoded.get_offsets()) {
            while ranges.next_if(|range| range.end <= start).is_some() {}
            let counts = ranges.peek().is_some_and(|range| range.start <= start);
            ids.push(if counts { id } else { uncounted(id) });
        }
        Ok(())
    }

    fn check(&self, messages: &[Value]) -> Result<(), String> {
        let mut spoken = false;
        for (number, message) in (1..).zip(messages) {
            let Some(role) = message["role"].as_str() else {
                return Err(format!("has a message {number} without a `role`"));
            };
            spoken |= role == "assistant";
            if let Some(token) = self.special_in(message) {
                return Err(format!(
                    "has a message {number} that holds `{token}`, a token of the template's own"
                ));
            }
        }
        if spoken { Ok(()) } else { Err("has no message whose `role` is `assistant`".to_owned()) }
    }

    /// A special token that stands in some text of a message.
    fn special_in(&self, value: &Value) -> Option<&str> {
        match value {
            Value::String(text) => self.special.iter().map(String::as_str).find(|token| text.contains(token)),
            Value::Array(items) => items.iter().find_map(|item| self.special_in(item)),
            Value::Object(fields) => fields.values().find_map(|field| self.special_in(field)),
            _ => None,
        }
    }

    fn fill(&self, messages: &[Value], tools: &Value, add_generation_prompt: bool) -> Result<String, String> {
        let Settings { bos_token, eos_token, .. } = &self.settings;
        let messages = Shown::from(Serde(messages));
        let mut given = context! { messages, add_generation_prompt, bos_token, eos_token };
        if !tools.is_null() {
            given = context! { tools => Shown::from(Serde(tools)), ..given };
        }
        let template = self.environment.get_template(NAME).map_err(|error| error.to_string())?;
        template.render(given).map_err(|error| {
            let why = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            format!("cannot be rendered: {why} (chat template, line {})", error.line().unwrap_or(0))
        })
    }
}

#[cfg(test)]
mod tests;
