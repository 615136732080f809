//! `agent gpus`: this machine's GPUs as its driver tells of them.

use serde_json::json;

use super::Context;
use crate::cli::gpus::GpusArgs;
use crate::error::Failure;
use crate::gpu::{self, Discovery, Inventory};
use crate::ui::{Align, Table, text};

/// Lists the GPUs.
pub(super) fn run(_: &GpusArgs, context: &Context) -> Result<u8, Failure> {
    let ui = &context.ui;
    match gpu::discover()? {
        Discovery::NoDriver(reason) if ui.is_json() => {
            ui.print_json(&json!({"driver": null, "cuda": null, "devices": [], "reason": reason}))?;
        }
        Discovery::NoDriver(reason) => ui.print(&format!("no GPUs: {reason}"))?,
        Discovery::Found(inventory) if ui.is_json() => ui.print_json(&inventory)?,
        Discovery::Found(inventory) => {
            let mut shown = format!("driver {}, CUDA up to {}\n", inventory.driver, inventory.cuda);
            if inventory.devices.is_empty() {
                shown.push_str("no GPUs: the driver sees none");
            } else {
                shown.push_str(&table(&inventory).render(ui.paint()));
            }
            ui.print(&shown)?;
        }
    }
    Ok(0)
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
    for device in &inventory.devices {
        table.row([
            device.index.to_string(),
            device.name.clone(),
            size(device.memory_total),
            size(device.memory_used),
            device.utilization.map_or_else(String::new, |it| format!("{it} %")),
            device.compute_capability.clone().unwrap_or_default(),
            device.uuid.clone(),
        ]);
        for instance in &device.instances {
            table.row([
                format!("{}:{}", device.index, instance.index),
                instance.name.clone().unwrap_or_else(|| "MIG instance".to_owned()),
                size(instance.memory_total),
                String::new(),
                String::new(),
                String::new(),
                instance.uuid.clone(),
            ]);
        }
    }
    table
}
