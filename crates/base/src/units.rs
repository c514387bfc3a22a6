//! Bytes and durations as people write them: `64MiB`, `10m`, `1.5h`.

use std::time::Duration;

use crate::{Error, Result};

const BYTES: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const SECONDS: &[(&str, f64)] = &[("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];

/// Parses `512`, `64MiB`, `1.5 GB`.
///
/// # Errors
/// `Invalid` where the text is not a number with one of the units B, KB … TB, KiB … TiB.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let (number, unit) = split(text);
    let scale =
        if unit.is_empty() { Some(1) } else { BYTES.iter().find(|(name, _)| *name == unit).map(|u| u.1) };
    match (number.parse::<f64>(), scale) {
        (Ok(number), Some(scale)) if number >= 0.0 && number.is_finite() => {
            Ok((number * scale as f64) as u64)
        }
        _ => Err(Error::invalid(format!("`{text}` is not a size"))
            .with_hint("write a number and a unit: `64MiB`, `1.5GB`")),
    }
}

/// Parses `250ms`, `10s`, `10m`, `1.5h`, `2d`.
///
/// # Errors
/// `Invalid` where the text is not a number with one of these units.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let (number, unit) = split(text);
    let scale = SECONDS.iter().find(|(name, _)| *name == unit).map(|u| u.1);
    match (number.parse::<f64>(), scale) {
        (Ok(number), Some(scale)) if number >= 0.0 && number * scale < 1e12 => {
            Ok(Duration::from_secs_f64(number * scale))
        }
        _ => Err(Error::invalid(format!("`{text}` is not a duration"))
            .with_hint("write a number and a unit: `30s`, `10m`, `2h`")),
    }
}

/// Bytes for people, in binary units with three significant digits.
pub fn format_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    unreachable!("the loop returns at its last unit")
}

/// A duration for people: `850 ms`, `12.3 s`, `4 m 05 s`, `2 h 03 m`.
pub fn format_seconds(seconds: f64) -> String {
    let whole = seconds as u64;
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} m {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} m", whole / 3600, whole / 60 % 60),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_as_written() {
        assert_eq!(parse_bytes("1.5 GB").unwrap(), 1_500_000_000);
        assert_eq!(parse_bytes("7").unwrap(), 7);
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("1.5h").unwrap(), Duration::from_mins(90));
        for wrong in ["", "10", "m", "-3s", "ten minutes"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert!(parse_bytes("64 MiBs").is_err());
    }

    #[test]
    fn values_for_people_keep_their_unit() {
        assert_eq!(format_bytes(1023), "1023 B");
        assert_eq!(format_bytes(64 << 20), "64.0 MiB");
        assert_eq!(format_seconds(245.0), "4 m 05 s");
    }
}
