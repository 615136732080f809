//! `--gpus`: its grammar, and which devices of this machine it means.
//!
//! A list of items separated by commas: an index (`0`), a range (`0-3`), an instance of a partitioned device (`0:1` or
//! `0.1`, in ranges too: `0:0-2`), a UUID (`GPU-…`, `MIG-…`) or its beginning where only one fits. `all` and `none` stand
//! alone. A partitioned device as a whole means all its instances, as NVIDIA's own tools have it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Discovery, Gpu, GpuDevice, GpuError, GpuInstance, GpuSet, Inventory, LostGpu, MigInstance};

/// More devices than any machine has: a longer range is a slip of the pen.
const MOST: u32 = 4096;

/// Which GPUs are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Nothing was said: all there are, none where there is no driver.
    #[default]
    Unsaid,
    /// `--cpu-only`, `--gpus none`.
    None,
    /// `--gpus all`.
    All,
    /// These: indices, `0:1` for instances, UUIDs; ranges undone.
    These(Vec<String>),
}

impl FromStr for Ask {
    type Err = GpuError;

    fn from_str(text: &str) -> Result<Self, GpuError> {
        match text.trim().to_ascii_lowercase().as_str() {
            "all" => return Ok(Self::All),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let wrong = |reason: String| GpuError::Grammar { asked: text.to_owned(), reason };
        let mut items = Vec::new();
        for item in text.split(',').map(str::trim) {
            items.extend(undone(item).map_err(wrong)?);
            if items.len() > MOST as usize {
                return Err(wrong(format!("it has more than {MOST} devices")));
            }
        }
        Ok(Self::These(items))
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsaid => f.write_str("whatever there is"),
            Self::None => f.write_str("none"),
            Self::All => f.write_str("all"),
            Self::These(items) => f.write_str(&items.join(",")),
        }
    }
}

/// An item with its range undone.
fn undone(item: &str) -> Result<Vec<String>, String> {
    if item.is_empty() {
        return Err("an item is empty".to_owned());
    }
    if item.starts_with("GPU-") || item.starts_with("MIG-") {
        return Ok(vec![item.to_owned()]);
    }
    if ["all", "none"].contains(&item.to_ascii_lowercase().as_str()) {
        return Err(format!("`{item}` stands alone"));
    }
    let number = |it: &str| it.parse::<u32>().map_err(|_| format!("`{item}` is no index, range, instance or UUID"));
    let (prefix, range) = match item.split_once([':', '.']) {
        Some((device, instances)) => (format!("{}:", number(device)?), instances),
        None => (String::new(), item),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(range)?, number(range)?),
    };
    if first > last {
        return Err(format!("`{item}` ends before it begins"));
    }
    if last - first >= MOST {
        return Err(format!("`{item}` has more than {MOST} devices"));
    }
    Ok((first..=last).map(|it| format!("{prefix}{it}")).collect())
}

/// The devices of this machine that are meant, in the order they were named.
///
/// # Errors
/// [`GpuError`]: no driver, no such device or instance, one device twice.
pub fn resolve(ask: &Ask, found: &Discovery) -> Result<GpuSet, GpuError> {
    let inventory = match (ask, found) {
        (Ask::None, _) | (Ask::Unsaid, Discovery::NoDriver(_)) => return Ok(GpuSet::default()),
        (_, Discovery::NoDriver(reason)) => {
            return Err(GpuError::NoDriver { asked: ask.to_string(), reason: reason.clone() });
        }
        (_, Discovery::Found(inventory)) => inventory,
    };
    let Ask::These(items) = ask else {
        let devices: Vec<GpuDevice> = inventory.devices.iter().flat_map(usable).collect();
        return match (ask, inventory.lost.first()) {
            (Ask::All, Some(lost)) if devices.is_empty() => Err(gone(lost)),
            (Ask::All, None) if devices.is_empty() => Err(GpuError::NoDevices { asked: ask.to_string() }),
            _ => Ok(GpuSet { devices }),
        };
    };
    let mut named: Vec<(&str, GpuDevice)> = Vec::new();
    for item in items {
        for device in chosen(item, inventory)? {
            if let Some((first, _)) = named.iter().find(|it| it.1 == device) {
                let (first, second) = ((*first).to_owned(), item.clone());
                return Err(GpuError::Twice { device: device.short(), first, second });
            }
            named.push((item, device));
        }
    }
    Ok(GpuSet { devices: named.into_iter().map(|it| it.1).collect() })
}

/// What of a device something can run on: itself, or its instances where it is partitioned.
fn usable(gpu: &Gpu) -> Vec<GpuDevice> {
    if gpu.mig { gpu.instances.iter().map(|it| part(gpu, it)).collect() } else { vec![whole(gpu)] }
}

fn gone(lost: &LostGpu) -> GpuError {
    GpuError::Lost { device: lost.short(), reason: lost.reason.clone() }
}

fn whole(gpu: &Gpu) -> GpuDevice {
    GpuDevice { index: gpu.index, uuid: gpu.uuid.clone(), instance: None }
}

fn part(gpu: &Gpu, instance: &MigInstance) -> GpuDevice {
    let instance = GpuInstance { index: instance.index, uuid: instance.uuid.clone() };
    GpuDevice { instance: Some(instance), ..whole(gpu) }
}

/// What one item means.
fn chosen(item: &str, inventory: &Inventory) -> Result<Vec<GpuDevice>, GpuError> {
    let absent = |present: String| GpuError::Absent { asked: item.to_owned(), present };
    if item.starts_with("GPU-") || item.starts_with("MIG-") {
        return by_uuid(item, inventory);
    }
    let number = |it: &str| {
        let reason = format!("`{it}` is no number");
        it.parse::<u32>().map_err(|_| GpuError::Grammar { asked: item.to_owned(), reason })
    };
    let (index, instance) = match item.split_once([':', '.']) {
        Some((index, instance)) => (number(index)?, Some(number(instance)?)),
        None => (number(item)?, None),
    };
    let lost = |instance| inventory.lost.iter().find(|it| (it.index, it.instance) == (index, instance)).map(gone);
    let there = || listed(inventory.devices.iter().map(|it| it.index.to_string()).collect(), "no device");
    let gpu = inventory.devices.iter().find(|it| it.index == index);
    let gpu = gpu.ok_or_else(|| lost(None).unwrap_or_else(|| absent(there())))?;
    let Some(instance) = instance else { return every(gpu) };
    if !gpu.mig {
        return Err(absent(format!("is no instance: GPU {index} is not partitioned (MIG)")));
    }
    let found = gpu.instances.iter().find(|it| it.index == instance);
    let names = || gpu.instances.iter().map(|it| format!("{index}:{}", it.index)).collect();
    let found = found.ok_or_else(|| lost(Some(instance)).unwrap_or_else(|| absent(listed(names(), "no instance"))))?;
    Ok(vec![part(gpu, found)])
}

fn every(gpu: &Gpu) -> Result<Vec<GpuDevice>, GpuError> {
    let devices = usable(gpu);
    if devices.is_empty() { Err(GpuError::NoInstance { index: gpu.index }) } else { Ok(devices) }
}

fn by_uuid(item: &str, inventory: &Inventory) -> Result<Vec<GpuDevice>, GpuError> {
    let fits = |uuid: &str| uuid.starts_with(item);
    let mut devices: Vec<(&str, Vec<GpuDevice>)> = Vec::new();
    for gpu in &inventory.devices {
        if fits(&gpu.uuid) {
            devices.push((&gpu.uuid, usable(gpu)));
        }
        let instances = gpu.instances.iter().filter(|it| fits(&it.uuid));
        devices.extend(instances.map(|it| (it.uuid.as_str(), vec![part(gpu, it)])));
    }
    if let Some(exact) = devices.iter().position(|it| it.0 == item) {
        devices = vec![devices.swap_remove(exact)];
    }
    if devices.len() > 1 {
        let candidates = devices.iter().map(|it| it.0).collect::<Vec<_>>().join(", ");
        return Err(GpuError::Ambiguous { asked: item.to_owned(), candidates });
    }
    let Some((uuid, found)) = devices.pop() else {
        let instances = inventory.devices.iter().flat_map(|it| &it.instances).map(|it| it.uuid.clone());
        let all = inventory.devices.iter().map(|it| it.uuid.clone()).chain(instances).collect();
        let mut present = listed(all, "no device");
        // The driver does not tell the UUID of one that it has lost.
        if !inventory.lost.is_empty() {
            let lost = inventory.lost.iter().map(LostGpu::short).collect::<Vec<_>>().join(", ");
            present = format!("{present}, and lost: {lost}");
        }
        return Err(GpuError::Absent { asked: item.to_owned(), present });
    };
    if found.is_empty() {
        let index = inventory.devices.iter().find(|it| it.uuid == uuid).map_or(0, |it| it.index);
        return Err(GpuError::NoInstance { index });
    }
    Ok(found)
}

/// `are 0, 1 and 2`, `is 0`, `is no device`.
fn listed(mut names: Vec<String>, nothing: &str) -> String {
    match (names.pop(), names.is_empty()) {
        (None, _) => format!("is {nothing}"),
        (Some(last), true) => format!("is {last}"),
        (Some(last), false) => format!("are {} and {last}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests;
