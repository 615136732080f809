//! GPUs without a GPU: a stand-in for NVIDIA's driver, from listing its devices to a program that computes on them.

mod engines;
mod listing;
mod native;
mod preflight;
mod script;
