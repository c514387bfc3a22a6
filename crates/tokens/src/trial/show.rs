//! What a trial found, as text.

use std::fmt::Write as _;

use eagleray_base::units;

use super::{Findings, Listed, Spot};
use crate::reader::{Compression, Format};

/// Faults of one kind that are shown.
const SHOWN: usize = 10;
/// Characters of a sample that are shown.
const CHARS: usize = 160;
/// Tokens of a sample that are shown.
const PIECES: usize = 24;

/// `URL:LINE`, or the byte where the line is not known.
pub(super) fn place(object: &str, spot: Spot) -> String {
    spot.line.map_or_else(|| format!("{object}, byte {}", spot.offset), |line| format!("{object}:{line}"))
}

/// A text on one line, nothing in it that moves a terminal.
pub fn escaped(text: &str) -> String {
    // Quotes need no escape where none stand around.
    text.chars().fold(String::new(), |mut shown, c| {
        match c {
            '\'' | '"' => shown.push(c),
            other => shown.extend(other.escape_debug()),
        }
        shown
    })
}

/// What a trial found, for people.
pub fn show(found: &Findings) -> String {
    let mut shown = String::new();
    corpus(found, &mut shown);
    documents(found, &mut shown);
    faults(found, &mut shown);
    samples(found, &mut shown);
    rates(found, &mut shown);
    shown
}

fn line(shown: &mut String, label: &str, value: &str) {
    let _ = writeln!(shown, "  {label:<26}  {value}");
}

fn corpus(found: &Findings, shown: &mut String) {
    let corpus = &found.corpus;
    shown.push_str("corpus\n");
    line(shown, "objects", &format!("{}, {}", corpus.objects, units::format_bytes(corpus.bytes)));
    for kind in &corpus.kinds {
        let format = match kind.format {
            Format::Jsonl => "jsonl",
            Format::Txt => "txt",
        };
        let compression = match kind.compression {
            Compression::None => "",
            Compression::Zstd => ", zstd",
            Compression::Gzip => ", gzip",
        };
        let bytes = units::format_bytes(kind.bytes);
        line(shown, &format!("  {format}{compression}"), &format!("{}, {bytes}", kind.objects));
    }
    let part = 100.0 * found.raw_bytes as f64 / corpus.bytes.max(1) as f64;
    let read = units::format_bytes(found.raw_bytes);
    let much = if found.whole { "all of it".to_owned() } else { format!("{part:.2} %") };
    line(
        shown,
        "read here",
        &format!(
            "{read}, {much}: {} places in {} objects, {} requests",
            found.places, found.objects, found.gets
        ),
    );
}

fn documents(found: &Findings, shown: &mut String) {
    shown.push_str("\ndocuments\n");
    line(
        shown,
        "documents",
        &format!("{}, {} of text", found.documents, units::format_bytes(found.text_bytes)),
    );
    let [half, most, nearly, all] = found.lengths;
    let spread = format!("{half} (50 %), {most} (95 %), {nearly} (99 %), {all} (longest)");
    let Some(tokenizer) = &found.tokenizer else {
        line(shown, "bytes a document", &spread);
        line(shown, "tokens", "not known: no tokenizer was given, so reading alone was measured");
        return;
    };
    line(shown, "tokens", &format!("{}, by {} ({})", found.tokens, tokenizer.location, tokenizer.engine));
    if let Some(each) = found.text_bytes_per_token {
        line(shown, "bytes of text a token", &format!("{each:.2}"));
    }
    line(shown, "tokens a document", &spread);
    let long = format!("{:.1} % of documents", found.long_share * 100.0);
    line(shown, &format!("longer than {} tokens", found.sequence_length), &long);
    for (label, share) in
        [("unknown tokens", found.unknown_share), ("tokens of single bytes", found.fallback_share)]
    {
        if let Some(share) = share {
            line(shown, label, &format!("{:.3} % of tokens", share * 100.0));
        }
    }
}

fn faults(found: &Findings, shown: &mut String) {
    let corpus = &found.corpus;
    let objects = found.damaged.len() as u64 + corpus.unnamed + corpus.empty_objects;
    shown.push_str("\nwhat is wrong\n");
    if found.bad + found.empty + found.duplicates + objects == 0 {
        shown.push_str("  nothing that was read\n");
    }
    let records = found.bad + found.empty + found.documents;
    list(shown, "records that are no documents", found.bad, records, &found.bad_listed);
    list(shown, "documents without text", found.empty, records, &found.empty_listed);
    list(shown, "documents read before", found.duplicates, found.documents, &found.duplicates_listed);
    if !found.damaged.is_empty() {
        let _ = writeln!(shown, "  damaged objects: {}", found.damaged.len());
        found.damaged.iter().take(SHOWN).for_each(|each| {
            let _ = writeln!(shown, "    {each}");
        });
    }
    if corpus.unnamed > 0 {
        let _ = writeln!(
            shown,
            "  objects whose names tell no format, at which a build stops: {}",
            corpus.unnamed
        );
        corpus.unnamed_listed.iter().for_each(|each| {
            let _ = writeln!(shown, "    {each}");
        });
    }
    if corpus.empty_objects > 0 {
        let _ = writeln!(shown, "  objects without a byte: {}", corpus.empty_objects);
    }
}

fn list(shown: &mut String, what: &str, count: u64, of: u64, listed: &[Listed]) {
    if count == 0 {
        return;
    }
    let share = 100.0 * count as f64 / of.max(1) as f64;
    let _ = writeln!(shown, "  {what}: {count} ({share:.2} %)");
    for each in listed.iter().take(SHOWN) {
        let _ = writeln!(shown, "    {} {}", place(&each.object, each.spot), escaped(&each.reason));
    }
    if count > SHOWN as u64 {
        let _ = writeln!(shown, "    and {} more", count - SHOWN as u64);
    }
}

fn samples(found: &Findings, shown: &mut String) {
    if found.samples.is_empty() {
        return;
    }
    shown.push_str("\nsamples\n");
    for sample in &found.samples {
        let tokens =
            if found.tokenizer.is_some() { format!(", {} tokens", sample.tokens) } else { String::new() };
        let size = units::format_bytes(sample.bytes);
        let _ = writeln!(shown, "  {} ({size}{tokens})", place(&sample.object, sample.spot));
        let text: String = sample.text.chars().take(CHARS).collect();
        let more = if (text.len() as u64) < sample.bytes { "…" } else { "" };
        let _ = writeln!(shown, "    {}{more}", escaped(&text));
        if !sample.pieces.is_empty() {
            let pieces: Vec<&str> = sample.pieces.iter().take(PIECES).map(String::as_str).collect();
            let more = if sample.tokens > pieces.len() as u64 + 1 { "|…" } else { "" };
            let _ = writeln!(shown, "    {}{more}", pieces.join("|"));
        }
    }
}

fn rates(found: &Findings, shown: &mut String) {
    let rates = &found.rates;
    let mb = |rate: f64| format!("{:.1} MB/s", rate / 1e6);
    let seconds = units::format_seconds;
    shown.push_str("\nspeed, in bytes on the store\n");
    let reading = mb(rates.read_bytes_per_cpu_second);
    line(shown, "reading, a CPU", &format!("{reading} ({} of CPU time)", seconds(rates.read_cpu_seconds)));
    if found.tokenizer.is_some() {
        let tokenising = mb(rates.tokenise_bytes_per_cpu_second);
        let spent = seconds(rates.tokenise_cpu_seconds);
        line(shown, "tokenising, a CPU", &format!("{tokenising} ({spent} of CPU time)"));
        line(shown, "both, a CPU", &mb(rates.bytes_per_cpu_second));
    }
    let waited = mb(rates.bytes_per_wall_second);
    line(shown, "a task, waits included", &format!("{waited} ({})", seconds(rates.wall_seconds)));
}
