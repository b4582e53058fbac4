//! Parses arguments and calls `cli`; nothing else.

fn main() {}
