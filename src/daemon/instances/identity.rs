//! Worker ids, made as the original makes them, so that dashboards and `--stop` know them.

use serde::{Deserialize, Serialize};

/// What a worker's id is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The worker's name, the host's by default.
    pub name: String,
    /// An id that was named as a whole.
    pub explicit: Option<String>,
    /// The devices it was given: `0,1`, `all`, `none`; absent where nothing was said.
    pub gpus: Option<String>,
    /// Whether it shares them among tasks.
    pub dynamic: bool,
}

impl Identity {
    /// The worker's id in a slot: as it was named, `name:gpu0,1` (`name:dgpu0,1` where they are shared), `name:cpu:0`, or
    /// `name:0`.
    #[must_use]
    pub fn worker_id(&self, slot: usize) -> String {
        self.fixed().unwrap_or_else(|| match self.gpus {
            Some(_) => format!("{}:cpu:{slot}", self.name),
            None => format!("{}:{slot}", self.name),
        })
    }

    /// Whether a daemon of that identity is what flags of this one describe: the same id where it is fixed, else the same
    /// name and kind.
    #[must_use]
    pub fn describes(&self, other: &Self) -> bool {
        match self.fixed() {
            Some(id) => other.fixed().as_ref() == Some(&id),
            None => {
                other.name == self.name && other.fixed().is_none() && (self.gpus.is_none() || other.gpus == self.gpus)
            }
        }
    }

    /// The id, where it does not depend on the slot.
    fn fixed(&self) -> Option<String> {
        let devices = self.gpus.as_deref().filter(|it| *it != "none");
        let of = |devices: &str| {
            let kind = if self.dynamic { "dgpu" } else { "gpu" };
            format!("{}:{kind}{}", self.name, devices.replace(':', "."))
        };
        self.explicit.clone().or_else(|| devices.map(of))
    }
}
