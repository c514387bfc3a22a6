//! A number that is known to lie between two others.

use std::ops::{Add, Mul};

use eagleray_base::{Error, Result};
use serde::{Deserialize, Serialize};

/// From `low` to `high`; both are the same where the number is known.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
}

impl Band {
    /// Nothing.
    pub const ZERO: Self = Self::exactly(0.0);

    /// A number that is known.
    pub const fn exactly(number: f64) -> Self {
        Self { low: number, high: number }
    }

    /// Between two numbers, whichever is the smaller.
    pub fn between(one: f64, other: f64) -> Self {
        Self { low: one.min(other), high: one.max(other) }
    }

    /// What holds both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// A divisor that grows makes less of it.
    #[must_use]
    pub fn over(self, divisor: Self) -> Self {
        Self { low: self.low / divisor.high, high: self.high / divisor.low }
    }

    /// Each end through a function that never falls.
    #[must_use]
    pub fn map(self, rising: impl Fn(f64) -> f64) -> Self {
        Self { low: rising(self.low), high: rising(self.high) }
    }

    /// `0.4`, or `0.3..0.5`; `number` reads one end.
    ///
    /// # Errors
    /// `Invalid` where an end is none, or the ends stand the wrong way round.
    pub fn parse(text: &str, number: impl Fn(&str) -> Result<f64>) -> Result<Self> {
        let Some((low, high)) = text.split_once("..") else { return number(text).map(Self::exactly) };
        let band = Self { low: number(low)?, high: number(high)? };
        if band.low <= band.high {
            return Ok(band);
        }
        Err(Error::invalid(format!("`{text}` ends below its beginning"))
            .with_hint("write the smaller number first"))
    }
}

impl Add for Band {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { low: self.low + other.low, high: self.high + other.high }
    }
}

impl Mul<f64> for Band {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self { low: self.low * factor, high: self.high * factor }
    }
}

impl Mul for Band {
    type Output = Self;

    /// Of numbers that are not negative.
    fn mul(self, other: Self) -> Self {
        Self { low: self.low * other.low, high: self.high * other.high }
    }
}
