//! What wheels tell by their names: the architecture and the CUDA version they are made for.
//!
//! CUDA's minor versions are compatible since 11: what is made for 12.6 runs on a driver of 12.2, save what compiles at run
//! time from PTX. Its major versions are not.

use std::fmt;

use super::{PreflightError, Warning};
use crate::gpu::Inventory;
use crate::lock::{Distribution, PythonPart};

/// A CUDA version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cuda {
    major: u32,
    /// Absent where a name tells only the first.
    minor: Option<u32>,
}

impl Cuda {
    /// `12.4`, `12.4.1`, `12`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next().and_then(|it| it.parse().ok()) })
    }

    /// `cu121`, `cu12`, `cuda12x`: what stands behind `cu` or `cuda`.
    fn tag(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("cuda").or_else(|| text.strip_prefix("cu"))?.trim_end_matches('x');
        if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
            return None;
        }
        // One digit for the minor version behind two for the major, or one for those before 10: cu92.
        let at = if digits.len() > 2 || digits.starts_with(['8', '9']) { digits.len() - 1 } else { digits.len() };
        if at == 0 {
            return Some(Self { major: digits.parse().ok()?, minor: None });
        }
        Some(Self { major: digits[..at].parse().ok()?, minor: digits[at..].parse().ok() })
    }
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(f, "{}.{minor}", self.major),
            None => write!(f, "{}", self.major),
        }
    }
}

/// The CUDA version that a distribution is made for, where its name or version tells.
fn cuda(name: &str, version: &str) -> Option<Cuda> {
    if let Some(tagged) = version.split_once('+').and_then(|it| it.1.split('.').find_map(Cuda::tag)) {
        return Some(tagged);
    }
    let tagged = name.split('-').find_map(Cuda::tag);
    // The runtime's own version is CUDA's, exactly; since 13 without a tag in its name.
    if name == "nvidia-cuda-runtime" || (name.starts_with("nvidia-cuda-runtime-cu") && tagged.is_some()) {
        return Cuda::parse(version).or(tagged);
    }
    tagged
}

/// All distributions of the environment: name, version, CUDA version.
fn made_for(python: &PythonPart) -> impl Iterator<Item = (&str, &str, Cuda)> {
    let own = python.distributions.iter().map(|it| (it.name.as_str(), it.version.as_str()));
    let base = python.base_distributions.iter().map(|it| (it.name.as_str(), it.version.as_str()));
    own.chain(base).filter_map(|(name, version)| Some((name, version, cuda(name, version)?)))
}

/// Compares the wheels with the driver. `own`: the CUDA version of an image that brings what it needs on this driver.
pub(super) fn check(
    python: &PythonPart,
    inventory: &Inventory,
    own: Option<Cuda>,
    warnings: &mut Vec<Warning>,
) -> Result<(), PreflightError> {
    let Some(driver) = Cuda::parse(&inventory.cuda) else { return Ok(()) };
    let present = own.map_or(driver, |it| it.max(driver));
    let Some((name, version, newest)) = made_for(python).max_by_key(|it| it.2) else {
        cpu_only(python, warnings);
        return Ok(());
    };
    let wheel = format!("{name} {version}");
    if newest.major > present.major {
        return Err(PreflightError::Cuda {
            wheel,
            wanted: newest.to_string(),
            driver: inventory.driver.clone(),
            present: driver.to_string(),
        });
    }
    if newest.major == present.major && newest.minor > present.minor {
        warnings.push(Warning(format!(
            "{wheel} is made for CUDA {newest}, and driver {} runs CUDA up to {driver}: kernels that are compiled at run \
             time (PTX) will fail.",
            inventory.driver
        )));
    }
    Ok(())
}

/// A run with GPUs whose PyTorch is made for none.
fn cpu_only(python: &PythonPart, warnings: &mut Vec<Warning>) {
    let torch = python.distributions.iter().find(|it| it.name == "torch" && it.version.ends_with("+cpu"));
    if let Some(Distribution { name, version, .. }) = torch {
        warnings.push(Warning(format!("{name} {version} is made without CUDA: the GPUs of this run will idle.")));
    }
}

/// A run without GPUs whose wheels bring CUDA.
pub(super) fn unused(python: &PythonPart, warnings: &mut Vec<Warning>) {
    let nvidia = python.distributions.iter().filter(|it| it.name.starts_with("nvidia-"));
    let (count, bytes) = nvidia.fold((0, 0_u64), |sum, it| (sum.0 + 1, sum.1.saturating_add(it.size)));
    if count > 0 {
        warnings.push(Warning(format!(
            "This run sees no GPU, and its environment has {count} wheels of CUDA libraries ({bytes} bytes)."
        )));
    }
}

/// What architecture a wheel is made for, when it is not this one.
pub(super) fn foreign<'a>(file: &'a str, architecture: &str) -> Option<&'a str> {
    let own = match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "i686",
        other => other,
    };
    let platforms = file.strip_suffix(".whl")?.rsplit_once('-')?.1;
    let fits = |tag: &str| {
        tag == "any"
            || (tag.ends_with(own)
                && (tag.starts_with("linux") || tag.contains("linux_") || tag.starts_with("manylinux")))
    };
    (!platforms.split('.').any(fits)).then_some(platforms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_tell_what_wheels_are_made_for() {
        for (name, version, expected) in [
            ("torch", "2.4.0+cu121", Some("12.1")),
            ("torch", "1.4.0+cu92", Some("9.2")),
            ("torch", "2.9.0+cu130", Some("13.0")),
            ("torch", "2.4.0+cpu", None),
            ("torch", "2.4.0", None),
            ("torch", "2.6.0a0+ecf3bae40a.nv25.01", None),
            ("nvidia-cublas-cu12", "12.4.5.8", Some("12")),
            ("nvidia-cuda-runtime-cu12", "12.4.127", Some("12.4")),
            ("nvidia-cuda-runtime", "13.0.96", Some("13.0")),
            ("nvidia-cudnn-cu11", "9.1.0.70", Some("11")),
            ("cupy-cuda12x", "13.0.0", Some("12")),
            ("jax-cuda13-plugin", "0.7.0", Some("13")),
            ("cu2qu", "1.6.7", None),
            ("numpy", "2.0.0", None),
        ] {
            assert_eq!(cuda(name, version).map(|it| it.to_string()).as_deref(), expected, "{name} {version}");
        }
    }

    #[test]
    fn platforms_of_wheels_are_those_of_images_by_another_name() {
        for (file, architecture, expected) in [
            ("x-1-py3-none-any.whl", "arm64", None),
            ("x-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "amd64", None),
            ("x-1-cp311-cp311-manylinux_2_17_x86_64.whl", "arm64", Some("manylinux_2_17_x86_64")),
            ("x-1-cp311-cp311-musllinux_1_2_aarch64.whl", "arm64", None),
            ("x-1-cp311-cp311-linux_x86_64.whl", "amd64", None),
            ("x-1-cp311-cp311-macosx_11_0_arm64.whl", "arm64", Some("macosx_11_0_arm64")),
            ("x-1.tar.gz", "amd64", None),
        ] {
            assert_eq!(foreign(file, architecture), expected, "{file} {architecture}");
        }
    }
}
