//! Lines of a stream, each in memory once and none longer than the limit.

use std::ops::Range;

use eagleray_base::Result;

use super::{Source, place};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// One line, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Where it begins in the stream, and where it lies in [`Lines::bytes`].
    Whole { offset: u64, range: Range<usize> },
    /// A line over the limit, read past without being kept.
    TooLong { offset: u64, bytes: u64 },
}

/// Cuts a stream at newlines.
pub(super) struct Lines {
    source: Source,
    url: String,
    buffer: Vec<u8>,
    /// The unread part of the buffer.
    start: usize,
    filled: usize,
    /// The offset in the object of `buffer[start]`.
    offset: u64,
    /// Lines from here on belong to the next piece.
    end: u64,
    limit: u64,
    at_end: bool,
    /// Lines handed out.
    number: u64,
}

impl Lines {
    /// All lines of a stream.
    pub(super) fn new(source: Source, url: String, limit: u64) -> Self {
        Self {
            source,
            url,
            buffer: Vec::new(),
            start: 0,
            filled: 0,
            offset: 0,
            end: u64::MAX,
            limit,
            at_end: false,
            number: 0,
        }
    }

    /// The lines that start in `[start, end)`; the stream begins one byte before `start`, so that a line
    /// that starts exactly there is told from one that is cut.
    pub(super) fn ranged(source: Source, url: String, limit: u64, start: u64, end: u64) -> Self {
        let mut lines = Self::new(source, url, limit);
        lines.end = end;
        lines.offset = start.saturating_sub(1);
        lines
    }

    /// Reads past the line that the piece before owns.
    pub(super) fn skip_first(&mut self) -> Result<()> {
        while self.offset < self.end {
            let unread = &self.buffer[self.start..self.filled];
            if let Some(found) = memchr::memchr(b'\n', unread) {
                self.consume(found + 1);
                return Ok(());
            }
            self.consume(unread.len());
            if !self.fill()? {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Of the last line, counted from 1.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn next(&mut self) -> Result<Option<Line>> {
        let line = self.cut()?;
        self.number += u64::from(line.is_some());
        Ok(line)
    }

    fn cut(&mut self) -> Result<Option<Line>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let offset = self.offset;
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.start..self.filled];
            if let Some(found) = memchr::memchr(b'\n', &unread[searched..]) {
                let range = self.start..self.start + searched + found;
                self.consume(searched + found + 1);
                return Ok(Some(self.sized(offset, range)));
            }
            searched = unread.len();
            if searched as u64 > self.limit {
                return self.skip_long(offset).map(Some);
            }
            if !self.fill()? {
                if searched == 0 {
                    return Ok(None);
                }
                let range = self.start..self.filled;
                self.consume(searched);
                return Ok(Some(self.sized(offset, range)));
            }
        }
    }

    fn sized(&self, offset: u64, range: Range<usize>) -> Line {
        let bytes = range.len() as u64;
        if bytes > self.limit { Line::TooLong { offset, bytes } } else { Line::Whole { offset, range } }
    }

    /// Drops what is buffered of a line over the limit, and reads on to its end.
    fn skip_long(&mut self, offset: u64) -> Result<Line> {
        loop {
            let unread = &self.buffer[self.start..self.filled];
            if let Some(found) = memchr::memchr(b'\n', unread) {
                self.consume(found + 1);
                return Ok(Line::TooLong { offset, bytes: self.offset - offset - 1 });
            }
            self.consume(unread.len());
            if self.buffer.len() > 4 * READ_BYTES {
                self.buffer = Vec::new();
                (self.start, self.filled) = (0, 0);
            }
            if !self.fill()? {
                return Ok(Line::TooLong { offset, bytes: self.offset - offset });
            }
        }
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        self.offset += count as u64;
    }

    /// Reads more behind what is unread; `false` at the stream's end.
    fn fill(&mut self) -> Result<bool> {
        if self.at_end {
            return Ok(false);
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < self.filled + READ_BYTES {
            self.buffer.resize((self.filled + READ_BYTES).max(2 * self.filled), 0);
        }
        loop {
            match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(0) => {
                    self.at_end = true;
                    return Ok(false);
                }
                Ok(count) => {
                    self.filled += count;
                    return Ok(true);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let offset = self.offset + (self.filled - self.start) as u64;
                    return Err(place(error, &self.url, offset));
                }
            }
        }
    }
}
