//! The traits through which logic meets time and chance.

/// Time, as the rim hands it down.
pub trait Clock: Send + Sync {
    /// Microseconds since the Unix epoch.
    fn now_us(&self) -> u64;
}

/// Chance, as the rim hands it down.
pub trait Rng: Send {
    /// 64 uniform bits.
    fn next_u64(&mut self) -> u64;
}
