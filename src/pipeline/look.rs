//! What Python a base has: looked up once per chain of layers, by reading its tars.

use std::collections::BTreeMap;
use std::io;

use super::Workshop;
use crate::base::Base;
use crate::base::rootfs::{self, NodeKind, Rootfs};
use crate::digest::Hasher;
use crate::error::{During, Failure};
use crate::python::inspect::{Inspection, Node, Tree, inspect};
use crate::store::Table;

/// Names what is looked for; part of what it is remembered under.
const LOOKED_FOR: u32 = 1;

/// Looks into a base, or remembers having looked.
pub(super) fn look(shop: &Workshop, base: &Base) -> Result<Inspection, Failure> {
    let environment: BTreeMap<String, String> = base.env().into_iter().collect();
    let mut key = Hasher::new();
    key.field("inspection").field(LOOKED_FOR.to_le_bytes()).field(base.chain_id().bytes());
    for (name, value) in &environment {
        key.field(name).field(value);
    }
    let key = key.finish();
    let store = &shop.around.store;
    if let Some(known) = store.record(Table::Bases, &key) {
        return Ok(known);
    }
    let rootfs = shop.wait(rootfs::open(&shop.around, base)).during(|| "cannot look into the base image".to_owned())?;
    let found = inspect(&Files(&rootfs), &environment).during(|| "cannot look into the base image".to_owned())?;
    store.remember(Table::Bases, &key, &found)?;
    Ok(found)
}

/// A base's files, as the Python rules read them.
struct Files<'a>(&'a Rootfs);

impl Tree for Files<'_> {
    fn node(&self, path: &str) -> Option<Node> {
        let node = self.0.lstat(path)?;
        Some(match node.kind {
            NodeKind::Dir => Node::Dir,
            NodeKind::File | NodeKind::Hardlink => Node::File,
            NodeKind::Symlink => Node::Link(node.target.clone().unwrap_or_default()),
            NodeKind::Other => Node::Other,
        })
    }

    fn names(&self, dir: &str) -> Vec<String> {
        self.0.list(dir).into_iter().map(str::to_owned).collect()
    }

    fn read_all(&self, paths: &[&str]) -> io::Result<Vec<Vec<u8>>> {
        let found = self.0.read_all(paths).map_err(io::Error::other)?;
        let absent = |path: &str| io::Error::new(io::ErrorKind::NotFound, format!("`{path}` is not in the base image"));
        found.into_iter().zip(paths).map(|(bytes, path)| bytes.ok_or_else(|| absent(path))).collect()
    }
}
