//! PID 1 inside the images.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::guest::main()
}
