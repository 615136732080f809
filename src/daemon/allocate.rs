//! Who has which GPUs (`--dynamic-gpus`), and how many a queue's tasks get: nothing here asks the driver.
//!
//! A [`Pool`] holds the worker's devices, whole ones or instances, and who has them. It is told what is seen
//! ([`Pool::observe`]: programs on a device, workers the server knows). Devices are held for a run ([`Pool::hold`]) *before*
//! its task is taken from the queue, so that nobody is given them meanwhile; if the queue turns out empty, or when the run
//! has ended, they come back ([`Pool::release`]).
//!
//! The rules ([`super::places::Places`], [`super::queues::choose`]). A task gets its queue's most, or what is free if that is
//! less, but never less than the queue's least; the lowest indices first. Queues are asked by priority, or in turns. A queue
//! whose least is not free, but would be once our own runs end, keeps all that is free: nothing behind it is served, or small
//! tasks would keep large ones out for ever. One that waits for somebody else's programs, or asks for more than there is,
//! keeps nobody waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use crate::error::{Explain, Kind};
use crate::gpu::{GpuDevice, GpuSet, Inventory};
use crate::run::RunId;

/// GPUs for each task of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Fewer than this is not worth starting.
    pub least: u32,
    /// More than this it does not get.
    pub most: u32,
}

/// Why dynamic GPUs cannot be had as they were asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// Part of a GPU.
    #[error("queue share `{text}`: parts of a GPU are not given, whole GPUs and MIG instances are")]
    Fraction {
        /// As it was asked.
        text: String,
    },
    /// No share.
    #[error("queue share `{text}` is neither a number of GPUs nor a range of such: {reason}")]
    Share {
        /// As it was asked.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// More than there is.
    #[error("queue `{queue}` asks for at least {least} GPUs for a task, and this worker has {present}")]
    TooMany {
        /// The queue.
        queue: String,
        /// Its least.
        least: u32,
        /// All devices of the worker.
        present: usize,
    },
    /// There are none.
    #[error("dynamic GPUs are asked for, and this worker has none")]
    NoDevices,
}

impl Explain for AllocateError {
    fn kind(&self) -> Kind {
        match self {
            Self::Fraction { .. } | Self::Share { .. } => Kind::Usage,
            Self::TooMany { .. } => Kind::Unsatisfiable,
            Self::NoDevices => Kind::NotFound,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Fraction { .. } => {
                "To let tasks share a device, partition it (`nvidia-smi mig`) and name its instances: `--gpus 0:0-6`."
            }
            Self::Share { .. } => {
                "Say a number, or `1-4` for from one to four: `--queue NAME=1-4` for a daemon, `--share 1-4` for `agent gpus`."
            }
            Self::TooMany { .. } => "Ask for fewer, or give the worker more with `--gpus`.",
            Self::NoDevices => "`agent gpus` lists what there is; `--gpus` names what the worker gets.",
        };
        vec![hint.to_owned()]
    }
}

impl FromStr for Share {
    type Err = AllocateError;

    /// `2`, `1-4`.
    fn from_str(text: &str) -> Result<Self, AllocateError> {
        if text.split('-').any(|it| it.contains('.') && it.trim().parse::<f64>().is_ok()) {
            return Err(AllocateError::Fraction { text: text.to_owned() });
        }
        let wrong = |reason| AllocateError::Share { text: text.to_owned(), reason };
        let number = |it: &str| it.trim().parse::<u32>().map_err(|_| wrong("it is not a whole number"));
        let (least, most) = match text.split_once('-') {
            Some((least, most)) => (number(least)?, number(most)?),
            None => (number(text)?, number(text)?),
        };
        if least == 0 {
            return Err(wrong("a task gets at least one"));
        }
        if most < least {
            return Err(wrong("it ends before it begins"));
        }
        Ok(Self { least, most })
    }
}

/// The devices of a worker and who has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    devices: Vec<GpuDevice>,
    /// Places of the devices that runs of ours have.
    held: BTreeMap<RunId, BTreeSet<usize>>,
    /// Places of the devices that somebody else uses.
    foreign: BTreeSet<usize>,
}

impl Pool {
    /// The devices of a worker, all free as far as is known.
    ///
    /// # Errors
    /// [`AllocateError::NoDevices`]
    pub fn new(set: &GpuSet) -> Result<Self, AllocateError> {
        if set.is_empty() {
            return Err(AllocateError::NoDevices);
        }
        Ok(Self { devices: set.devices.clone(), ..Self::default() })
    }

    /// Takes note of who else uses the devices: programs with a compute context, and workers that the server lists (short
    /// names of their devices). A device that a run of ours has is that run's, whatever runs on it; after the run it is
    /// free once nothing runs on it any more.
    pub fn observe(&mut self, inventory: &Inventory, others: &BTreeSet<String>) {
        let busy = |device: &GpuDevice| -> bool {
            let Some(gpu) = inventory.devices.iter().find(|it| it.uuid == device.uuid) else { return true };
            let processes = match &device.instance {
                None => Some(&gpu.processes),
                Some(instance) => gpu.instances.iter().find(|it| it.uuid == instance.uuid).map(|it| &it.processes),
            };
            // A device that the driver lists no more can serve nobody.
            processes.is_none_or(|it| !it.is_empty()) || others.contains(&device.short())
        };
        let held: BTreeSet<usize> = self.held.values().flatten().copied().collect();
        let places = self.devices.iter().enumerate().filter(|(place, it)| !held.contains(place) && busy(it));
        self.foreign = places.map(|it| it.0).collect();
    }

    /// Gives devices to a run; those of a run that was found again after a restart, too. `false`, and nothing is changed,
    /// when one is not this worker's or is another run's.
    #[must_use]
    pub fn hold(&mut self, run: &RunId, gpus: &GpuSet) -> bool {
        let places: Option<BTreeSet<usize>> =
            gpus.devices.iter().map(|it| self.devices.iter().position(|own| own.id() == it.id())).collect();
        let Some(places) = places else { return false };
        let taken = |it: &usize| self.held.iter().any(|(other, held)| other != run && held.contains(it));
        if places.iter().any(taken) {
            return false;
        }
        self.foreign.retain(|it| !places.contains(it));
        self.held.insert(run.clone(), places);
        true
    }

    /// Takes a run's devices back. One that has none is no error.
    pub fn release(&mut self, run: &RunId) {
        self.held.remove(run);
    }

    /// The free devices, by index.
    #[must_use]
    pub fn free(&self) -> Vec<&GpuDevice> {
        let taken: BTreeSet<usize> = self.held.values().flatten().chain(&self.foreign).copied().collect();
        let mut free: Vec<&GpuDevice> =
            self.devices.iter().enumerate().filter(|it| !taken.contains(&it.0)).map(|it| it.1).collect();
        free.sort_by_key(|it| (it.index, it.instance.as_ref().map(|it| it.index)));
        free
    }

    /// The worker's runtime property `available_gpus`: its free devices as the original agent writes them, the fraction
    /// that is left behind an underscore, empty for a whole one: `0_,2_`.
    #[must_use]
    pub fn available(&self) -> String {
        self.free().iter().map(|it| format!("{}_", it.short())).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests;
