//! `agent execute`: a task without a queue, in each engine, against the embedded server.

mod away;
mod build;
mod console;
mod ends;
mod outage;
mod parameters;
mod prebuilt;
mod store;
mod survives;
mod task;

/// Runs a test's body in each engine.
macro_rules! in_each_engine {
    ($name:ident) => {
        mod $name {
            #[test]
            fn docker() {
                super::$name(&super::IN_DOCKER);
            }

            #[test]
            fn podman() {
                super::$name(&super::IN_PODMAN);
            }

            #[test]
            fn natively() {
                super::$name(&super::NATIVELY);
            }
        }
    };
}

pub(crate) use in_each_engine;
