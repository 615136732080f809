//! What images require of the driver: `NVIDIA_REQUIRE_CUDA` and its like, as nvidia-container-cli reads them.
//!
//! A value is alternatives separated by blanks, each a list of conditions separated by commas that all have to hold:
//! `cuda>=12.4 brand=tesla,driver>=470,driver<471`. Several variables all have to hold, for every device of the run.

use std::cmp::Ordering;

use super::{PreflightError, Warning};
use crate::gpu::{Gpu, GpuSet, Inventory};

/// A condition: property, operator, value.
#[derive(Debug, PartialEq, Eq)]
struct Condition<'a> {
    property: &'a str,
    operator: &'a str,
    value: &'a str,
}

/// Longer ones first: `>=` is not `>` and `=…`.
const OPERATORS: [&str; 7] = ["==", "!=", "<=", ">=", "=", "<", ">"];

/// Checks all `NVIDIA_REQUIRE_…` of an image. Whether there was one that says something of CUDA.
pub(super) fn check<'a>(
    variables: impl Iterator<Item = (&'a str, &'a str)>,
    gpus: &GpuSet,
    inventory: &Inventory,
    warnings: &mut Vec<Warning>,
) -> Result<bool, PreflightError> {
    let mut required = false;
    for (name, value) in variables.filter(|it| it.0.starts_with("NVIDIA_REQUIRE_") && !it.1.trim().is_empty()) {
        let alternatives = match parse(value) {
            Ok(alternatives) => alternatives,
            Err(part) => {
                let text = format!("The image's {name} is left aside: `{part}` in it cannot be read.");
                warnings.push(Warning(text));
                continue;
            }
        };
        required |= alternatives.iter().flatten().any(|it| it.property == "cuda");
        for device in &gpus.devices {
            let Some(gpu) = inventory.devices.iter().find(|it| it.uuid == device.uuid) else { continue };
            if !alternatives.iter().any(|all| all.iter().all(|it| it.holds(gpu, inventory))) {
                return Err(PreflightError::Driver {
                    variable: name.to_owned(),
                    requirement: value.to_owned(),
                    device: device.short(),
                    present: described(gpu, inventory),
                });
            }
        }
    }
    Ok(required)
}

/// The alternatives; the part that cannot be read.
fn parse(value: &str) -> Result<Vec<Vec<Condition<'_>>>, &str> {
    value.split_whitespace().map(|all| all.split(',').map(condition).collect()).collect()
}

fn condition(text: &str) -> Result<Condition<'_>, &str> {
    let at = text.find(['=', '!', '<', '>']).ok_or(text)?;
    let (property, rest) = text.split_at(at);
    let operator = OPERATORS.iter().find(|it| rest.starts_with(**it)).ok_or(text)?;
    let value = &rest[operator.len()..];
    let known = ["cuda", "driver", "brand", "arch"].contains(&property);
    // A brand has no order, and what is compared by size is a version.
    let fits = if property == "brand" {
        operator.contains('=') && !operator.contains(['<', '>'])
    } else {
        version(value).is_some()
    };
    if known && fits && !value.is_empty() { Ok(Condition { property, operator, value }) } else { Err(text) }
}

impl Condition<'_> {
    fn holds(&self, gpu: &Gpu, inventory: &Inventory) -> bool {
        let present = match self.property {
            "cuda" => inventory.cuda.as_str(),
            "driver" => inventory.driver.as_str(),
            "arch" => gpu.compute_capability.as_deref().unwrap_or("0"),
            _ => {
                let same = gpu.brand.as_deref().unwrap_or("unknown").eq_ignore_ascii_case(self.value);
                return same != (self.operator == "!=");
            }
        };
        let (Some(present), Some(wanted)) = (version(present), version(self.value)) else { return false };
        let order = compare(&present, &wanted);
        match self.operator {
            "<" => order == Ordering::Less,
            "<=" => order != Ordering::Greater,
            ">" => order == Ordering::Greater,
            ">=" => order != Ordering::Less,
            "!=" => order != Ordering::Equal,
            _ => order == Ordering::Equal,
        }
    }
}

/// `550.54.14` as numbers.
fn version(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|it| it.parse().ok()).collect()
}

/// Compares versions; what one lacks at its end counts as zero.
fn compare(one: &[u32], other: &[u32]) -> Ordering {
    let at = |it: &[u32], place: usize| it.get(place).copied().unwrap_or(0);
    let places = 0..one.len().max(other.len());
    places.map(|it| at(one, it).cmp(&at(other, it))).find(|it| it.is_ne()).unwrap_or(Ordering::Equal)
}

fn described(gpu: &Gpu, inventory: &Inventory) -> String {
    let mut text = format!("driver {}, CUDA up to {}", inventory.driver, inventory.cuda);
    if let Some(capability) = &gpu.compute_capability {
        text.push_str(&format!(", compute capability {capability}"));
    }
    text + &format!(", brand {}", gpu.brand.as_deref().unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_alternatives_of_conditions() {
        let read = parse("cuda>=12.4 brand=tesla,driver>=470,driver<471").unwrap();
        let shown: Vec<Vec<String>> = read
            .iter()
            .map(|all| all.iter().map(|it| format!("{} {} {}", it.property, it.operator, it.value)).collect())
            .collect();
        assert_eq!(shown, [vec!["cuda >= 12.4"], vec!["brand = tesla", "driver >= 470", "driver < 471"]]);
        for (value, part) in [
            ("cuda", "cuda"),
            ("cuda>=x", "cuda>=x"),
            ("cuda>=1 colour=red", "colour=red"),
            ("brand<tesla", "brand<tesla"),
            ("cuda>=", "cuda>="),
        ] {
            assert_eq!(parse(value).unwrap_err(), part, "{value}");
        }
    }

    #[test]
    fn versions_compare_by_number_with_missing_parts_as_zero() {
        for (one, other, expected) in [
            ("12.10", "12.9", Ordering::Greater),
            ("12", "12.0", Ordering::Equal),
            ("550.54.14", "550", Ordering::Greater),
            ("470.1", "471", Ordering::Less),
        ] {
            assert_eq!(compare(&version(one).unwrap(), &version(other).unwrap()), expected, "{one} {other}");
        }
    }
}
