//! `agent server`: the program itself, what it survives, and the public clients that use it unchanged.

mod agent;
mod kill;
mod program;
mod sdk;
