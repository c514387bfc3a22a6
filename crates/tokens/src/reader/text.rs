//! One document a file.

use std::io::Read;

use eagleray_base::limits::DOCUMENT_BYTES_MAX;
use eagleray_base::{Result, units};

use super::{DocumentReader, Record, Source, place};

/// Reads a text file as one document. A byte order mark at its beginning is left out.
pub struct Text {
    source: Option<Source>,
    url: String,
    document: String,
    limit: u64,
}

impl Text {
    /// The one document of a stream.
    pub fn new(source: Source, url: String) -> Self {
        Self::limited(source, url, DOCUMENT_BYTES_MAX)
    }

    /// As [`Text::new`] with another limit of bytes.
    pub fn limited(source: Source, url: String, limit: u64) -> Self {
        Self { source: Some(source), url, document: String::new(), limit }
    }
}

impl DocumentReader for Text {
    fn next(&mut self) -> Result<Option<Record<'_>>> {
        let Some(source) = self.source.take() else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = source.take(self.limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| place(error, &self.url, bytes.len() as u64))?;
        if bytes.len() as u64 > self.limit {
            let reason = format!("is longer than the limit of {}", units::format_bytes(self.limit));
            return Ok(Some(Record::Bad { offset: 0, reason }));
        }
        match String::from_utf8(bytes) {
            Ok(text) => {
                self.document = text;
                let text = self.document.strip_prefix('\u{feff}').unwrap_or(&self.document);
                Ok(Some(Record::Document { offset: 0, text }))
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                Ok(Some(Record::Bad { offset: 0, reason: format!("is not UTF-8 at byte {at}") }))
            }
        }
    }
}
