//! Units against the embedded server, an engine made up for the purpose and a script in the build's place.

mod aborts;
mod away;
mod elsewhere;
mod ends;
mod forgotten;
mod refused;
mod resumed;
mod world;
