//! PID 1 inside the images.

fn main() {}
