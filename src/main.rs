//! The program on the host: parse, run, exit code.

fn main() {
    // Before anything else, while there is one thread: this process may be a stage of a sandbox.
    agent::sandbox::dispatch();
}
