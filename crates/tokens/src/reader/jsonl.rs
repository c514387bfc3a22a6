//! A JSON object a line; only the text field is decoded, but the whole line is checked.

use eagleray_base::limits::DOCUMENT_BYTES_MAX;
use eagleray_base::{Result, units};
use sonic_rs::{JsonValueTrait, LazyValue};

use super::lines::{Line, Lines};
use super::{DocumentReader, Record, Source};

/// The byte order mark that some editors put before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads JSON lines.
pub struct Jsonl {
    lines: Lines,
    /// The dotted path to the text field, as keys.
    keys: Vec<String>,
    field: String,
    text: String,
    limit: u64,
    /// Whether the stream starts within a line of the piece before.
    skip: bool,
}

impl Jsonl {
    /// All lines of a stream; `text_field` is a key, or keys with dots between.
    pub fn new(source: Source, url: String, text_field: &str) -> Self {
        Self::limited(source, url, text_field, DOCUMENT_BYTES_MAX)
    }

    /// As [`Jsonl::new`] with another limit of a line's bytes.
    pub fn limited(source: Source, url: String, text_field: &str, limit: u64) -> Self {
        Self::over(Lines::new(source, url, limit), text_field, limit, false)
    }

    /// The lines that start in `[start, end)` of a stream that begins one byte before `start`, or at 0.
    pub fn ranged(source: Source, url: String, text_field: &str, start: u64, end: u64) -> Self {
        let lines = Lines::ranged(source, url, DOCUMENT_BYTES_MAX, start, end);
        Self::over(lines, text_field, DOCUMENT_BYTES_MAX, start > 0)
    }

    fn over(lines: Lines, text_field: &str, limit: u64, skip: bool) -> Self {
        let keys = text_field.split('.').map(str::to_owned).collect();
        Self { lines, keys, field: text_field.to_owned(), text: String::new(), limit, skip }
    }

    /// Puts the record's text into `self.text`, or says what is wrong.
    fn parse(&mut self, range: std::ops::Range<usize>, offset: u64) -> Result<(), String> {
        self.text.clear();
        let mut bytes = self.lines.bytes(range).trim_ascii();
        if offset == 0 {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let line = std::str::from_utf8(bytes)
            .map_err(|error| format!("is not UTF-8 at byte {} of the line", error.valid_up_to()))?;
        let record: LazyValue<'_> =
            sonic_rs::from_str(line).map_err(|error| format!("is not JSON: {}", first_line(&error)))?;
        if !record.is_object() {
            return Err("is JSON but not an object".to_owned());
        }
        if self.field == super::WHOLE_RECORD {
            self.text.push_str(line);
            return Ok(());
        }
        let field =
            sonic_rs::get_from_str(line, &self.keys).map_err(|_| format!("has no field `{}`", self.field))?;
        if !field.is_str() {
            return Err(format!("has a field `{}` that is not a string", self.field));
        }
        match field.as_str() {
            Some(text) => self.text.push_str(text),
            None => return Err(format!("has a field `{}` with an escape that is no character", self.field)),
        }
        Ok(())
    }
}

fn first_line(error: &sonic_rs::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_lowercase()
}

impl DocumentReader for Jsonl {
    fn next(&mut self) -> Result<Option<Record<'_>>> {
        if std::mem::take(&mut self.skip) {
            self.lines.skip_first()?;
        }
        while let Some(line) = self.lines.next()? {
            match line {
                Line::TooLong { offset, bytes } => {
                    let reason = format!(
                        "is {} long, over the limit of {}",
                        units::format_bytes(bytes),
                        units::format_bytes(self.limit)
                    );
                    return Ok(Some(Record::Bad { offset, reason }));
                }
                Line::Whole { range, .. } if self.lines.bytes(range.clone()).trim_ascii().is_empty() => {}
                Line::Whole { offset, range } => {
                    return Ok(Some(match self.parse(range, offset) {
                        Ok(()) => Record::Document { offset, text: &self.text },
                        Err(reason) => Record::Bad { offset, reason },
                    }));
                }
            }
        }
        Ok(None)
    }

    fn line(&self) -> u64 {
        self.lines.number()
    }
}
