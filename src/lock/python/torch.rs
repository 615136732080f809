//! Which builds of PyTorch a task gets: they differ by CUDA version, and an index of their own has them.

use super::{PythonError, name_of};
use crate::lock::requirements::Gathered;
use crate::python::inspect::Installed;
use crate::python::name::normalise;
use crate::python::resolve::{self, Request, Resolution, ResolveError};
use crate::python::uv::Uv;
use crate::report::SharedReporter;
use crate::store::Store;

/// The CUDA versions that PyTorch has or had an index for, newest first.
const CUDA: [u32; 18] = [132, 130, 129, 128, 126, 125, 124, 123, 122, 121, 120, 118, 117, 116, 115, 113, 111, 102];
/// How many CUDA versions are tried, from the base's down.
const CUDA_STEPS: usize = 6;
/// The distributions whose builds differ by CUDA version.
const TORCH: [&str; 5] = ["torch", "torchvision", "torchaudio", "torchcsprng", "torchtext"];

/// Which builds of PyTorch are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Torch {
    /// Those of any other package: the index's own (`pytorch_resolve: none`).
    Plain,
    /// Those without CUDA.
    Cpu,
    /// Those for this CUDA version (10 × major + minor), or the newest below it.
    Cuda(u32),
}

/// Tries one build of PyTorch after the other.
pub(super) fn resolve_torch(
    store: &Store,
    uv: &Uv,
    request: &Request<'_>,
    backends: &[Option<String>],
    reporter: &SharedReporter,
) -> Result<Resolution, PythonError> {
    let mut first: Option<ResolveError> = None;
    for (index, backend) in backends.iter().enumerate() {
        // When PyTorch's own index does not answer, only the ordinary one is left to ask.
        if matches!(first, Some(ResolveError::Unreachable { .. })) && backend.is_some() {
            continue;
        }
        match resolve::resolve(uv, store, &Request { torch: backend.as_deref(), ..*request }) {
            Ok(resolution) => {
                if index > 0 {
                    let wanted = backends[0].as_deref().unwrap_or("the index's own");
                    let got = backend.as_deref().unwrap_or("the index's own");
                    reporter.warning(format!("PyTorch: no build `{wanted}` fits, `{got}` is used"));
                }
                return Ok(resolution);
            }
            Err(error @ (ResolveError::Unsatisfiable { .. } | ResolveError::Unreachable { .. })) => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match first {
        Some(error) => Err(error.into()),
        None => Ok(resolve::resolve(uv, store, request)?),
    }
}

/// The builds of PyTorch to try, best first.
pub(super) fn backends(gathered: &Gathered, torch: Torch, installed: &[Installed]) -> Vec<Option<String>> {
    let named: Vec<(&str, String)> = gathered
        .requirements
        .iter()
        .map(|line| (line.as_str(), normalise(name_of(line))))
        .filter(|(_, name)| TORCH.contains(&name.as_str()))
        .collect();
    let in_base = named.iter().any(|(_, name)| installed.iter().any(|it| it.name == *name));
    // A task that names an index of its own knows where its PyTorch comes from.
    if named.is_empty() || in_base || !gathered.indexes.is_empty() {
        return vec![None];
    }
    // `torch==2.1.0+cu118` says it itself.
    let local = named
        .iter()
        .find_map(|(line, _)| line.split_once('+'))
        .map(|(_, rest)| rest.chars().take_while(char::is_ascii_alphanumeric).collect::<String>());
    if let Some(local) = local {
        let known = local == "cpu" || CUDA.iter().any(|it| local == format!("cu{it}"));
        return vec![known.then_some(local)];
    }
    match torch {
        // Whoever names its digest means one build.
        _ if named.iter().any(|it| gathered.hashes.contains_key(&it.1)) => vec![None],
        Torch::Plain => vec![None],
        Torch::Cpu => vec![Some("cpu".to_owned()), None],
        Torch::Cuda(version) => {
            let fitting = CUDA.iter().filter(|it| **it <= version).take(CUDA_STEPS);
            fitting.map(|it| Some(format!("cu{it}"))).chain([None]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(requirements: &[&str]) -> Gathered {
        Gathered { requirements: requirements.iter().map(|it| (*it).to_owned()).collect(), ..Gathered::default() }
    }

    #[test]
    fn pytorch_comes_for_the_bases_cuda_unless_somebody_knows_better() {
        let torch = gathered(&["torch==2.1.0", "numpy"]);
        let some = |it: &str| Some(it.to_owned());
        let steps = backends(&torch, Torch::Cuda(124), &[]);
        assert_eq!(
            (steps[0].clone(), steps[1].clone(), steps.last().cloned()),
            (some("cu124"), some("cu123"), Some(None))
        );
        assert_eq!(backends(&torch, Torch::Cpu, &[]), [some("cpu"), None]);
        assert_eq!(backends(&torch, Torch::Plain, &[]), [None]);
        assert_eq!(backends(&gathered(&["torch==2.1.0+cu118"]), Torch::Cpu, &[]), [some("cu118")]);
        assert_eq!(backends(&gathered(&["numpy"]), Torch::Cpu, &[]), [None]);
        let own = Gathered { indexes: vec![crate::secret::Secret::new("https://h.example")], ..torch.clone() };
        assert_eq!(backends(&own, Torch::Cpu, &[]), [None]);
    }
}
