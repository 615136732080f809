//! Wheels into layers, against the least that any such work can take: inflating once and hashing twice.
//!
//! `cargo bench --bench wheel_layers -- DIRECTORY [RUNS]` takes the wheels of a directory. Both sides run on as many
//! threads as there are processors, and read wheels that are in the page cache. The last line is for `ci/bench`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench tells its figures, and stops at what is wrong")]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agent::digest::{Digest, Hasher};
use agent::layer::python;
use agent::lock::{Distribution, PythonPart};
use agent::python::fetch;
use agent::python::name::{WheelName, normalise};
use agent::python::wheel::Wheel;
use agent::report::silent;
use agent::store::Store;

fn main() {
    // Cargo adds options of its own.
    let mut words = std::env::args().skip(1).filter(|it| !it.starts_with("--"));
    let Some(directory) = words.next() else {
        println!("usage: cargo bench --bench wheel_layers -- DIRECTORY [RUNS]");
        return;
    };
    let runs = words.next().map_or(5, |it| it.parse().unwrap());
    let mut wheels: Vec<PathBuf> = fs_err::read_dir(&directory).unwrap().map(|it| it.unwrap().path()).collect();
    wheels.retain(|it| it.extension().is_some_and(|it| it == "whl"));
    let place = tempfile::tempdir_in(&directory).unwrap();
    let store = Store::open(place.path()).unwrap();
    let part = part(&store, &wheels);
    // Plans and the page cache are made by the first of each.
    let bytes = least(&store, &part);
    layers(&store, &part);
    let (least, ours): (Vec<_>, Vec<_>) = (0..runs)
        .map(|_| {
            let clock = Instant::now();
            self::least(&store, &part);
            let least = clock.elapsed();
            let clock = Instant::now();
            layers(&store, &part);
            (least, clock.elapsed())
        })
        .unzip();
    let (least, ours) = (middle(least), middle(ours));
    let rate = |it: Duration| bytes as f64 / 1e6 / it.as_secs_f64();
    println!("{} wheels, {:.0} MB inflated, {runs} runs, the middle one", part.distributions.len(), bytes as f64 / 1e6);
    println!("inflate once, hash twice  {:.3} s  {:.0} MB/s", least.as_secs_f64(), rate(least));
    println!("layers                    {:.3} s  {:.0} MB/s", ours.as_secs_f64(), rate(ours));
    println!("ratio {:.2}", ours.as_secs_f64() / least.as_secs_f64());
}

/// A lock's Python part that has these wheels and nothing else.
fn part(store: &Store, wheels: &[PathBuf]) -> PythonPart {
    let distribution = |path: &PathBuf| {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let name = WheelName::parse(&file).unwrap();
        let (sha256, size) = fetch::adopt(store, path, &file).unwrap();
        Distribution {
            name: normalise(&name.name),
            version: name.version.clone(),
            file,
            sha256,
            size,
            url: None,
            direct: false,
            built_from: None,
            path: None,
        }
    };
    let mut distributions: Vec<Distribution> = wheels.iter().map(distribution).collect();
    distributions.sort_by(|a, b| a.name.cmp(&b.name));
    PythonPart {
        version: "3.11.2".to_owned(),
        executable: "/usr/bin/python3.11".to_owned(),
        libc: "glibc 2.36".to_owned(),
        digest: Digest::of("no interpreter takes part"),
        site_packages: true,
        extra_paths: Vec::new(),
        indexes: Vec::new(),
        distributions,
        base_distributions: Vec::new(),
        projects: Vec::new(),
    }
}

/// Writes all layers anew.
fn layers(store: &Store, part: &PythonPart) {
    python::layers(&store.forgetful(), part, None, &silent()).unwrap();
}

/// Inflates every file once, hashes what comes out, and hashes the wheels; bytes that came out.
fn least(store: &Store, part: &PythonPart) -> u64 {
    let (queue, bytes) = (Mutex::new(part.distributions.iter()), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                loop {
                    let Some(distribution) = queue.lock().unwrap().next() else { break };
                    let path = store.blob_path(&distribution.sha256);
                    bytes.fetch_add(least_of(&path, &distribution.file), Ordering::Relaxed);
                }
            });
        }
    });
    bytes.into_inner()
}

fn least_of(path: &Path, file: &str) -> u64 {
    let wheel = Wheel::open(path, file).unwrap();
    let (mut inflated, mut bytes) = (Hasher::new(), 0);
    for entry in wheel.archive().entries() {
        wheel
            .archive()
            .content(entry, &mut |piece| {
                inflated.update(piece);
                bytes += piece.len() as u64;
            })
            .unwrap();
    }
    let stored = agent::digest::digest_reader(fs_err::File::open(path).unwrap()).unwrap();
    assert!(inflated.finish() != stored.0);
    bytes
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
