//! `agent gpus`: this machine's GPUs as its driver tells of them.

use serde_json::json;

use super::{Context, blocking};
use crate::cli::gpus::GpusArgs;
use crate::daemon::allocate::{AllocateError, Share};
use crate::daemon::places::Places;
use crate::daemon::queues::{Fit, Queue};
use crate::daemon::settings::Slots;
use crate::error::Failure;
use crate::gpu::{self, Ask, Discovery, GpuDevice, GpuSet, Inventory};
use crate::report::SharedReporter;
use crate::run::RunId;
use crate::ui::{Align, Table, text};

/// This machine's devices that are meant. That all are and some are lost is told.
pub(super) async fn resolved(ask: Ask, reporter: &SharedReporter) -> Result<GpuSet, Failure> {
    // A driver that is broken is nothing to what does not need it.
    if ask == Ask::None {
        return Ok(GpuSet::default());
    }
    let named = matches!(ask, Ask::These(_));
    let look = move || {
        let found = gpu::discover()?;
        Ok((gpu::resolve(&ask, &found)?, found))
    };
    let (set, found) = blocking(look).await?;
    if let Discovery::Found(inventory) = found {
        for lost in inventory.lost.iter().filter(|_| !named) {
            reporter.warning(format!("GPU {} is lost and left out: {}", lost.short(), lost.reason));
        }
    }
    Ok(set)
}

/// Lists the GPUs, or says what a task would get of them.
pub(super) fn run(args: &GpusArgs, context: &Context) -> Result<u8, Failure> {
    let ui = &context.ui;
    let ask = args.gpus.as_deref().map(str::parse::<Ask>).transpose()?;
    let found = gpu::discover()?;
    let chosen = gpu::resolve(ask.as_ref().unwrap_or(&Ask::Unsaid), &found)?;
    if let Some(share) = &args.share {
        return offer(share.parse()?, &chosen, &found, context);
    }
    match found {
        Discovery::NoDriver(reason) if ui.is_json() => {
            ui.print_json(&json!({"driver": null, "cuda": null, "devices": [], "reason": reason}))?;
        }
        Discovery::NoDriver(reason) => ui.print(&format!("no GPUs: {reason}"))?,
        Discovery::Found(mut inventory) => {
            if ask.is_some() {
                inventory.devices = only(&chosen, &inventory);
            }
            if matches!(ask, Some(Ask::None | Ask::These(_))) {
                inventory.lost.clear();
            }
            if ui.is_json() {
                ui.print_json(&inventory)?;
                return Ok(0);
            }
            let mut shown = format!("driver {}, CUDA up to {}\n", inventory.driver, inventory.cuda);
            if ask == Some(Ask::None) {
                shown.push_str("no GPUs: none are asked for");
            } else if inventory.devices.is_empty() && inventory.lost.is_empty() {
                shown.push_str("no GPUs: the driver sees none");
            } else {
                shown.push_str(&table(&inventory).render(ui.paint()));
            }
            ui.print(&shown)?;
        }
    }
    Ok(0)
}

/// What a task with this share would get of the devices now, by the rules of a daemon.
fn offer(share: Share, chosen: &GpuSet, found: &Discovery, context: &Context) -> Result<u8, Failure> {
    let mut places = Places::new(Slots::Dynamic, "", "", chosen.clone())?;
    if let Discovery::Found(inventory) = found {
        places.observe(inventory, &[]);
    }
    let gpus = Some((share.least, share.most));
    let queue = Queue { id: String::new(), name: "--share".to_owned(), gpus, named: false };
    let short = |devices: &[&GpuDevice]| devices.iter().map(|it| it.short()).collect::<Vec<_>>();
    let free = short(&places.free());
    let gets = match places.fit(&queue) {
        Fit::Now => {
            let job = places.offer(RunId::new()?, "", &queue);
            Some(short(&job.gpus.devices.iter().collect::<Vec<_>>()))
        }
        Fit::Later | Fit::Foreign => None,
        Fit::Never => {
            let (queue, least, present) = (queue.name, share.least, chosen.devices.len());
            return Err(AllocateError::TooMany { queue, least, present }.into());
        }
    };
    if context.ui.is_json() {
        context.ui.print_json(&json!({"free": free, "gets": gets}))?;
        return Ok(0);
    }
    let free = if free.is_empty() { "none".to_owned() } else { free.join(", ") };
    context.ui.print(&match gets {
        Some(gets) => format!("free: {free}; a task gets {}", gets.join(", ")),
        None => format!("free: {free}; a task of {} waits", share.least),
    })?;
    Ok(0)
}

/// The devices of a set in its order; of a partitioned one the chosen instances.
fn only(chosen: &GpuSet, inventory: &Inventory) -> Vec<gpu::Gpu> {
    let mut devices: Vec<gpu::Gpu> = Vec::new();
    for device in &chosen.devices {
        let Some(gpu) = inventory.devices.iter().find(|it| it.uuid == device.uuid) else { continue };
        let instances =
            gpu.instances.iter().filter(|it| device.instance.as_ref().is_some_and(|own| own.uuid == it.uuid));
        match devices.iter_mut().find(|it| it.uuid == device.uuid) {
            Some(listed) => listed.instances.extend(instances.cloned()),
            None => devices.push(gpu::Gpu { instances: instances.cloned().collect(), ..gpu.clone() }),
        }
    }
    devices
}

fn table(inventory: &Inventory) -> Table {
    let mut table = Table::new([
        ("gpu", Align::Left),
        ("name", Align::Left),
        ("memory", Align::Right),
        ("used", Align::Right),
        ("busy", Align::Right),
        ("compute", Align::Left),
        ("uuid", Align::Left),
    ]);
    let size = |bytes: Option<u64>| bytes.map_or_else(String::new, text::size);
    let mut rows = Vec::new();
    for device in &inventory.devices {
        let row = [
            device.index.to_string(),
            device.name.clone(),
            size(device.memory_total),
            size(device.memory_used),
            device.utilization.map_or_else(String::new, |it| format!("{it} %")),
            device.compute_capability.clone().unwrap_or_default(),
            device.uuid.clone(),
        ];
        rows.push(((device.index, None), row));
        for instance in &device.instances {
            let row = [
                format!("{}:{}", device.index, instance.index),
                instance.name.clone().unwrap_or_else(|| "MIG instance".to_owned()),
                size(instance.memory_total),
                String::new(),
                String::new(),
                String::new(),
                instance.uuid.clone(),
            ];
            rows.push(((device.index, Some(instance.index)), row));
        }
    }
    for lost in &inventory.lost {
        let mut row: [String; 7] = Default::default();
        [row[0], row[1]] = [lost.short(), format!("lost: {}", lost.reason)];
        rows.push(((lost.index, lost.instance), row));
    }
    // Named ones stand as they were named, and have no lost ones beside them.
    if !inventory.lost.is_empty() {
        rows.sort_by_key(|it| it.0);
    }
    for (_, row) in rows {
        table.row(row);
    }
    table
}
