//! Builds archives and wheels for tests, sound ones and others.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fs_err as fs;

use super::record::{self, Row};
use crate::error::Failure;
use crate::oci::inflate::deflate;
use crate::process;
use crate::sandbox::{Output, Step};

/// An entry of an archive; what is `Some` in `local` differs from the directory there.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
    pub(crate) deflated: bool,
    pub(crate) mode: u32,
    pub(crate) flags: u16,
    pub(crate) wide: bool,
    pub(crate) descriptor: bool,
    pub(crate) local_name: Option<String>,
    pub(crate) local_size: Option<u32>,
    pub(crate) crc32: Option<u32>,
    pub(crate) claimed: Option<u32>,
}

impl Member {
    pub(crate) fn new(name: &str, content: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.to_owned(),
            content: content.as_ref().to_vec(),
            deflated: true,
            mode: 0o100_644,
            flags: 0,
            wide: false,
            descriptor: false,
            local_name: None,
            local_size: None,
            crc32: None,
            claimed: None,
        }
    }
}

/// An archive of these members.
pub(crate) fn zip(members: &[Member]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    let le16 = |it: usize| u16::try_from(it).unwrap().to_le_bytes();
    let le32 = |it: usize| u32::try_from(it).unwrap().to_le_bytes();
    for it in members {
        let offset = bytes.len();
        let data = if it.deflated { deflate(&it.content) } else { it.content.clone() };
        let size = it.claimed.map_or(it.content.len(), |it| it as usize);
        let crc32 = it.crc32.unwrap_or_else(|| crc32fast::hash(&it.content));
        let flags = it.flags | if it.descriptor { 8 } else { 0 };
        let mut shared = Vec::new();
        shared.extend(le16(45));
        shared.extend(flags.to_le_bytes());
        shared.extend(le16(if it.deflated { 8 } else { 0 }));
        shared.extend([0, 0, 0x21, 0]);
        let (mut local, mut central) = (shared.clone(), shared);
        let mut wide_extra = vec![1, 0, 16, 0];
        wide_extra.extend((size as u64).to_le_bytes());
        wide_extra.extend((data.len() as u64).to_le_bytes());
        let sizes = |header: &mut Vec<u8>, crc: u32, compressed: usize, size: usize| {
            header.extend(crc.to_le_bytes());
            if it.wide {
                header.extend([0xff; 8]);
            } else {
                header.extend(le32(compressed));
                header.extend(le32(size));
            }
        };
        sizes(&mut central, crc32, data.len(), size);
        if it.descriptor && !it.wide {
            sizes(&mut local, 0, 0, 0);
        } else {
            sizes(&mut local, crc32, data.len(), it.local_size.map_or(size, |it| it as usize));
        }
        let local_name = it.local_name.as_ref().unwrap_or(&it.name);
        let extra = if it.wide { wide_extra } else { Vec::new() };
        bytes.extend(b"PK\x03\x04");
        bytes.extend(local);
        bytes.extend(le16(local_name.len()));
        bytes.extend(le16(extra.len()));
        bytes.extend(local_name.as_bytes());
        bytes.extend(&extra);
        bytes.extend(&data);
        if it.descriptor {
            bytes.extend(b"PK\x07\x08");
            bytes.extend(crc32.to_le_bytes());
            for size in [data.len(), size] {
                if it.wide { bytes.extend((size as u64).to_le_bytes()) } else { bytes.extend(le32(size)) }
            }
        }
        directory.extend(b"PK\x01\x02");
        directory.extend(le16(0x0314));
        directory.extend(central);
        directory.extend(le16(it.name.len()));
        directory.extend(le16(extra.len()));
        directory.extend([0; 6]);
        directory.extend((it.mode << 16).to_le_bytes());
        directory.extend(le32(offset));
        directory.extend(it.name.as_bytes());
        directory.extend(&extra);
    }
    let (start, size) = (bytes.len(), directory.len());
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(le16(members.len()));
    bytes.extend(le16(members.len()));
    bytes.extend(le32(size));
    bytes.extend(le32(start));
    bytes.extend([0, 0]);
    bytes
}

/// The members of a sound wheel: `files`, with WHEEL, METADATA and RECORD added.
pub(crate) fn wheel_members(name: &str, version: &str, mut files: Vec<Member>) -> Vec<Member> {
    let dist_info = format!("{}-{version}.dist-info", name.replace('-', "_"));
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    files.push(Member::new(&format!("{dist_info}/METADATA"), metadata));
    files.push(Member::new(
        &format!("{dist_info}/WHEEL"),
        "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    ));
    let record = format!("{dist_info}/RECORD");
    let mut rows: Vec<Row> = files
        .iter()
        .filter(|it| !it.name.ends_with('/'))
        .map(|it| Row { path: it.name.clone(), hash: record::hash(&it.content), size: it.content.len().to_string() })
        .collect();
    rows.push(Row { path: record.clone(), hash: String::new(), size: String::new() });
    files.push(Member::new(&record, record::write(rows)));
    files
}

/// Writes an archive as a wheel of that name and version.
pub(crate) fn write_wheel(dir: &Path, name: &str, version: &str, members: &[Member]) -> PathBuf {
    let path = dir.join(format!("{}-{version}-py3-none-any.whl", name.replace('-', "_")));
    fs::write(&path, zip(members)).unwrap();
    path
}

/// This machine's own Python: executable and version.
pub(crate) fn host_python() -> (String, String) {
    let script = "import os, platform, sys; print(os.path.realpath(sys.executable), platform.python_version())";
    let output = process::run(Command::new("python3").args(["-c", script]), Duration::from_secs(60)).unwrap();
    let text = output.text();
    let (executable, version) = text.trim().split_once(' ').unwrap();
    (executable.to_owned(), version.to_owned())
}

/// Runs a step of a build on this machine with its paths rewritten, in place of a sandbox.
pub(crate) fn run_here(step: &Step) -> Result<Output, Failure> {
    let here = |text: &str| {
        step.binds.iter().fold(text.to_owned(), |text, bind| text.replace(&bind.target, &bind.source.to_string_lossy()))
    };
    let call = step.binds[0].source.join("call.json");
    fs::write(&call, here(&fs::read_to_string(&call).unwrap())).unwrap();
    let mut command = Command::new(here(&step.argv[0]));
    command.args(step.argv[1..].iter().map(|it| here(it))).envs(&step.env);
    let output = process::run(&mut command, Duration::from_secs(600)).unwrap();
    Ok(Output { code: process::exit_code(output.status), stdout: output.stdout, stderr: output.stderr })
}
