//! What Python a base has: looked up once per chain of layers, by reading its tars.

use std::collections::BTreeMap;
use std::io;

use super::Workshop;
use crate::base::Base;
use crate::base::rootfs::{self, NodeKind, Rootfs};
use crate::digest::{Digest, Hasher};
use crate::error::{During, Failure};
use crate::python::inspect::{Inspection, Node, Tree, inspect};
use crate::store::Table;

/// Names what is looked for; part of what it is remembered under.
const LOOKED_FOR: u32 = 1;

/// Looks into a base, or remembers having looked.
pub(super) fn look(shop: &Workshop, base: &Base) -> Result<Inspection, Failure> {
    if let Some(known) = remembered(shop, base) {
        return Ok(known);
    }
    let environment: BTreeMap<String, String> = base.env().into_iter().collect();
    let rootfs = shop.wait(rootfs::open(&shop.around, base)).during(|| "cannot look into the base image".to_owned())?;
    let found = inspect(&Files(&rootfs), &environment).during(|| "cannot look into the base image".to_owned())?;
    shop.around.store.remember(Table::Bases, &key(base), &found)?;
    Ok(found)
}

/// What was found when somebody looked.
pub(super) fn remembered(shop: &Workshop, base: &Base) -> Option<Inspection> {
    shop.around.store.record(Table::Bases, &key(base))
}

fn key(base: &Base) -> Digest {
    let mut key = Hasher::new();
    key.field("inspection").field(LOOKED_FOR.to_le_bytes()).field(base.chain_id().bytes());
    for (name, value) in base.env().into_iter().collect::<BTreeMap<_, _>>() {
        key.field(name).field(value);
    }
    key.finish()
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
