//! What instances cost an hour: a table with dates and sources, and what a user lays over it.

use std::collections::BTreeMap;
use std::fmt;

use eagleray_base::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::band::Band;

/// The table that comes with the program, as text.
pub const TABLE: &str = include_str!("prices.yaml");

/// The only version of the table.
const VERSION: u32 = 1;

/// After so many days a price is old.
pub const OLD_DAYS: i64 = 90;

/// A day of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: i32,
    month: u8,
    day: u8,
}

impl Date {
    /// Parses `2026-07-20`.
    ///
    /// # Errors
    /// `Invalid` where the text is no day.
    pub fn parse(text: &str) -> Result<Self> {
        let numbers: Vec<&str> = text.split('-').collect();
        let parsed = match numbers.as_slice() {
            [year, month, day] if year.len() == 4 && month.len() == 2 && day.len() == 2 => {
                year.parse().ok().zip(month.parse().ok()).zip(day.parse().ok())
            }
            _ => None,
        };
        match parsed {
            Some(((year, month), day))
                if (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day) =>
            {
                Ok(Self { year, month, day })
            }
            _ => Err(Error::invalid(format!("`{text}` is not a day")).with_hint("write it as 2026-07-20")),
        }
    }

    /// Days since 1970-01-01, by counting years from March on, so that a leap day is the last of its year.
    fn days(self) -> i64 {
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let month = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    /// The days from `earlier` to this one.
    pub fn days_since(self, earlier: Self) -> i64 {
        self.days() - earlier.days()
    }
}

fn days_of(year: i32, month: u8) -> u8 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + u8::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| serde::de::Error::custom(error.message()))
    }
}

/// Where prices come from, and of when they are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The day that they held.
    pub date: Date,
    /// The regions that they hold in.
    pub region: String,
    /// Who says so.
    pub source: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.source, self.region, self.date)
    }
}

/// A row as written; what it leaves out about its origin is the table's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    on_demand: Option<f64>,
    spot: Option<Band>,
    date: Option<Date>,
    region: Option<String>,
    source: Option<String>,
}

/// A table as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    on_demand: Origin,
    #[serde(default)]
    spot: Option<Origin>,
    #[serde(default)]
    spot_share: Option<Band>,
    #[serde(default)]
    s3: Option<S3>,
    #[serde(default)]
    instances: BTreeMap<String, Row>,
}

/// What S3 asks for, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct S3 {
    get_per_1000: f64,
    date: Date,
    region: String,
    source: String,
}

/// A price with where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Price {
    /// Dollars an hour.
    pub dollars: Band,
    /// Of when and from where; of the price that it was derived from, where it was.
    pub origin: Origin,
    /// Whether a spot price was derived from the one on demand.
    pub derived: bool,
}

/// Prices of instances.
#[derive(Clone, Debug, PartialEq)]
pub struct Prices {
    on_demand: BTreeMap<String, Price>,
    spot: BTreeMap<String, Price>,
    spot_share: Band,
    /// Dollars for a thousand GETs, and where that is from.
    pub s3_get_per_1000: Option<(f64, Origin)>,
}

impl Prices {
    /// The table that comes with the program.
    ///
    /// # Errors
    /// None, which a test holds.
    pub fn embedded() -> Result<Self> {
        let empty = Self {
            on_demand: BTreeMap::new(),
            spot: BTreeMap::new(),
            spot_share: Band { low: 0.0, high: 1.0 },
            s3_get_per_1000: None,
        };
        empty.overlaid(TABLE)
    }

    /// The same with a user's table laid over it: YAML or JSON in the form of [`TABLE`].
    ///
    /// # Errors
    /// `Invalid` where it cannot be read, with the place, or holds a price that is none.
    pub fn overlaid(mut self, text: &str) -> Result<Self> {
        let file = read(text)?;
        if let Some(share) = file.spot_share {
            self.spot_share = share;
        }
        if let Some(S3 { get_per_1000, date, region, source }) = file.s3.clone() {
            self.s3_get_per_1000 = Some((get_per_1000, Origin { date, region, source }));
        }
        self.lay(file);
        Ok(self)
    }

    fn lay(&mut self, file: File) {
        let spot_default = file.spot.unwrap_or_else(|| file.on_demand.clone());
        for (name, row) in file.instances {
            let origin = |default: &Origin| Origin {
                date: row.date.unwrap_or(default.date),
                region: row.region.clone().unwrap_or_else(|| default.region.clone()),
                source: row.source.clone().unwrap_or_else(|| default.source.clone()),
            };
            if let Some(dollars) = row.on_demand {
                let (dollars, origin) = (Band::exactly(dollars), origin(&file.on_demand));
                self.on_demand.insert(name.clone(), Price { dollars, origin, derived: false });
                // A spot price of another day beside a new price on demand would contradict it.
                self.spot.remove(&name);
            }
            if let Some(dollars) = row.spot {
                self.spot.insert(name, Price { dollars, origin: origin(&spot_default), derived: false });
            }
        }
    }

    /// What an instance costs an hour on demand; `None` where no table says.
    pub fn on_demand(&self, instance: &str) -> Option<&Price> {
        self.on_demand.get(instance)
    }

    /// What it costs as spot capacity: its own row, else a share of what it costs on demand.
    ///
    /// A row that asks for more than on demand is cut to it, which AWS never exceeds.
    pub fn spot(&self, instance: &str) -> Option<Price> {
        let on_demand = self.on_demand.get(instance);
        let Some(price) = self.spot.get(instance) else {
            let on_demand = on_demand?;
            let dollars = self.spot_share * on_demand.dollars.high;
            return Some(Price { dollars, origin: on_demand.origin.clone(), derived: true });
        };
        let most = on_demand.map_or(f64::INFINITY, |on_demand| on_demand.dollars.high);
        Some(Price { dollars: price.dollars.map(|dollars| dollars.min(most)), ..price.clone() })
    }
}

fn read(text: &str) -> Result<File> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| {
        // The first line says what and where; a picture of the place follows it.
        let shown = error.to_string();
        let shown = shown.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Error::invalid(format!("a table of prices cannot be read: {shown}"))
            .with_hint("`eagleray plan --show-prices` prints one to start from")
    })?;
    if file.version != VERSION {
        return Err(Error::invalid(format!(
            "expected a table of prices of version {VERSION}, found {}",
            file.version
        )));
    }
    for (name, row) in &file.instances {
        let spot = row.spot.unwrap_or(Band::ZERO);
        let wrong = |dollars: f64| !(0.0..=1e6).contains(&dollars);
        if wrong(row.on_demand.unwrap_or(0.0)) || wrong(spot.low) || wrong(spot.high) || spot.low > spot.high
        {
            return Err(Error::invalid(format!("the price of `{name}` is none"))
                .with_hint("write dollars an hour, and the smaller end of a band first"));
        }
    }
    let share = file.spot_share.unwrap_or(Band::ZERO);
    if !(0.0 <= share.low && share.low <= share.high && share.high <= 1.0) {
        return Err(Error::invalid("`spot_share` is a band from 0 to 1"));
    }
    if file.s3.as_ref().is_some_and(|s3| !(0.0..=1e6).contains(&s3.get_per_1000)) {
        return Err(Error::invalid("`s3.get_per_1000` is no price"));
    }
    Ok(file)
}
