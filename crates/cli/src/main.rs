//! The native binary `eagleray`.

fn main() {}
