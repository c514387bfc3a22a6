//! Repository tasks with logic.

fn main() {}
