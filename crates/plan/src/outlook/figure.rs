//! A number with its unit, the formula that it comes from, and the source of what it starts from.

use serde::Serialize;

use crate::band::Band;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Things.
    Count,
    /// A share of one.
    Share,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Bytes of memory, which is counted in powers of two.
    Memory,
    /// Bytes a second.
    BytesPerSecond,
    /// Things a second.
    PerSecond,
    /// Floating point operations.
    Flops,
    /// Floating point operations a second.
    FlopsPerSecond,
    /// Dollars.
    Dollars,
    /// Dollars an hour.
    DollarsPerHour,
}

/// A number of an outlook.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Its name, which does not change.
    pub key: &'static str,
    /// Its name for people.
    pub label: String,
    /// What it counts.
    pub unit: Unit,
    /// The number, or the two that it lies between.
    #[serde(flatten)]
    pub value: Band,
    /// How it is computed, with the numbers that went in.
    pub formula: String,
    /// Where those come from.
    pub source: String,
}

impl Figure {
    /// The number as people read it: `2 to 6`, `$55.04`.
    pub fn show(&self) -> String {
        show(self.value, self.unit)
    }
}

/// A band as people read it, its unit said once where both ends share it.
pub fn show(value: Band, unit: Unit) -> String {
    let (low, high) = (one(value.low, unit), one(value.high, unit));
    if low == high {
        return low;
    }
    let word = |text: &str| text.split_once(' ').map(|(_, word)| word.to_owned());
    match (word(&low), word(&high)) {
        (Some(first), Some(second)) if first == second => {
            format!("{} to {high}", low.split(' ').next().unwrap_or_default())
        }
        _ => format!("{low} to {high}"),
    }
}

fn one(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => grouped(value, 0),
        Unit::Share => format!("{:.1} %", value * 100.0),
        Unit::Seconds => seconds(value),
        Unit::Bytes => scaled(value, "B"),
        Unit::Memory => format!("{} GiB", grouped(value / (1_u64 << 30) as f64, 1)),
        Unit::BytesPerSecond => scaled(value, "B/s"),
        Unit::PerSecond => format!("{}/s", grouped(value, usize::from(value < 100.0))),
        Unit::Flops => scaled(value, "FLOP"),
        Unit::FlopsPerSecond => scaled(value, "FLOP/s"),
        Unit::Dollars => format!("${}", grouped(value, if value < 1_000.0 { 2 } else { 0 })),
        Unit::DollarsPerHour => format!("${}/h", grouped(value, 2)),
    }
}

/// `12.3 s`, `4.2 min`, `17.5 h`, `23.1 d`: one digit, as bands deserve no more.
fn seconds(value: f64) -> String {
    let (value, unit) = match value {
        v if v < 120.0 => (v, "s"),
        v if v < 7_200.0 => (v / 60.0, "min"),
        v if v < 172_800.0 => (v / 3_600.0, "h"),
        v if v.is_finite() => (v / 86_400.0, "d"),
        _ => return "for ever".to_owned(),
    };
    format!("{} {unit}", grouped(value, 1))
}

/// Three digits and a power of a thousand.
fn scaled(value: f64, unit: &str) -> String {
    let mut value = value;
    for prefix in ["", "k", "M", "G", "T", "P"] {
        if value < 1_000.0 {
            let digits = usize::from(!prefix.is_empty());
            return format!("{value:.digits$} {prefix}{unit}");
        }
        value /= 1_000.0;
    }
    format!("{} E{unit}", grouped(value, 1))
}

/// Digits in groups of three.
fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) =
        text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut shown = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && digit.is_ascii_digit() {
            shown.push(',');
        }
        shown.push(digit);
    }
    match rest {
        Some(rest) => format!("{shown}.{rest}"),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_people_read_them() {
        let shown = |low: f64, high: f64, unit| show(Band { low, high }, unit);
        assert_eq!(shown(2.0, 6.0, Unit::Count), "2 to 6");
        assert_eq!(shown(1_234_567.0, 1_234_567.0, Unit::Count), "1,234,567");
        assert_eq!(shown(0.305, 0.45, Unit::Share), "30.5 to 45.0 %");
        assert_eq!(shown(90.0, 5_400.0, Unit::Seconds), "90.0 s to 90.0 min");
        assert_eq!(shown(7_200.0, 14_400.0, Unit::Seconds), "2.0 to 4.0 h");
        assert_eq!(shown(96.4e9, 96.4e9, Unit::Bytes), "96.4 GB");
        assert_eq!(shown(12.5, 1_200.0, Unit::PerSecond), "12.5/s to 1,200/s");
        assert_eq!(shown(55.04, 220.16, Unit::DollarsPerHour), "$55.04/h to $220.16/h");
        assert_eq!(shown(f64::INFINITY, f64::INFINITY, Unit::Seconds), "for ever");
    }
}
