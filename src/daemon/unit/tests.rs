//! Units against the embedded server, an engine made up for the purpose and a script in the build's place.

mod aborts;
mod ends;
mod resumed;
mod world;
