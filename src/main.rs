//! The program on the host: parse, run, exit code.

fn main() {}
