//! The local layer: projects of the repository that requirements name by path, installed into the environment.
//!
//! One layer for each, from the wheel its build gave. Files that the build left beside the sources of a project in
//! place stand below [`launch::CODE`], as if the code layer had them. Its key is what its build is remembered by and
//! the owner of the code; see [`crate::python::project`].

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::Digest;
use crate::error::Failure;
use crate::git::Checkout;
use crate::launch;
use crate::layer::code::Owner;
use crate::layer::python::{PythonLayerError, write_tree};
use crate::layer::{BuiltLayer, LayerKind, find_or_write, key};
use crate::lock::Project;
use crate::oci::{LayerWriter, Meta};
use crate::python::build::Bench;
use crate::python::install::{Target, install};
use crate::python::project::{BuiltProject, ProjectRequest, rebuild};
use crate::python::wheel::Wheel;
use crate::store::{Store, StoreError};

/// Has what a lock pins of a project, built again where it must be, and finds or writes its layer.
///
/// # Errors
/// A [`Failure`]: the project cannot be built, or is another than the lock's.
pub fn local(
    bench: &Bench<'_>,
    checkout: &Checkout,
    project: &Project,
    (target, owner): (&Target, Owner),
) -> Result<BuiltLayer, Failure> {
    let request =
        ProjectRequest { path: project.path.clone(), editable: project.editable, extras: project.extras.clone() };
    let built = rebuild(bench, checkout, &request, (project.built, &project.tools))?;
    let mut inputs: Vec<Vec<u8>> = vec![
        built.wheel.wheel.bytes().to_vec(),
        target.python.clone().into_bytes(),
        [owner.uid.to_le_bytes(), owner.gid.to_le_bytes()].concat(),
    ];
    for (path, (digest, executable)) in &built.added {
        inputs.push(format!("{path}\n{digest}\n{executable}").into_bytes());
    }
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let title = format!("{} {}", built.wheel.name, built.wheel.version);
    let layer = find_or_write(bench.store, (LayerKind::Local, key(LayerKind::Local, &inputs)), title, |writer| {
        write(writer, bench.store, &built, target, owner)
    });
    Ok(layer?)
}

fn write(
    writer: &mut LayerWriter<'_>,
    store: &Store,
    built: &BuiltProject,
    target: &Target,
    owner: Owner,
) -> Result<(), PythonLayerError> {
    let wheel = Wheel::open(&store.blob_path(&built.wheel.wheel), &built.wheel.file)?;
    let files = install(&wheel, target)?;
    let entries = files.into_iter().map(|(path, file)| (path, (0, file))).collect();
    write_tree(writer, &BTreeMap::new(), &[wheel], &entries)?;
    let root = launch::CODE.trim_start_matches('/');
    let dirs: BTreeSet<&str> =
        built.added.keys().flat_map(|path| path.match_indices('/').map(|(at, _)| &path[..at])).collect();
    if !built.added.is_empty() {
        writer.dir(root, &Meta::dir().owned_by(owner.uid, owner.gid))?;
    }
    for dir in dirs {
        writer.dir(&format!("{root}/{dir}"), &Meta::dir().owned_by(owner.uid, owner.gid))?;
    }
    for (path, (digest, executable)) in &built.added {
        let meta = if *executable { Meta::executable() } else { Meta::file() };
        let bytes = bytes(store, digest)?;
        writer.file(&format!("{root}/{path}"), &meta.owned_by(owner.uid, owner.gid), &bytes)?;
    }
    Ok(())
}

fn bytes(store: &Store, digest: &Digest) -> Result<Vec<u8>, StoreError> {
    store.read_blob(digest)
}
