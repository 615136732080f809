//! What the machine is doing: processor, memory, disk and network, read from `/proc` and reported as the original agent
//! reports it (`machine_stats` of `workers.status_report`).
//!
//! Rates are differences between two [`Sample`]s, so nothing has to tick in between. Figures are the whole machine's,
//! also inside a container, as the original's are. What cannot be read is left out; nothing here fails.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err as fs;
use serde_json::{Map, Value, json};

pub mod cgroup;

const MEGABYTE: f64 = 1024.0 * 1024.0;
/// The unit of `/proc/diskstats` (Documentation/admin-guide/iostats.rst), whatever the disk's own.
const SECTOR: f64 = 512.0;

/// Drivers of the sensors of processors (hwmon).
const PROCESSORS: [&str; 3] = ["coretemp", "k10temp", "zenpower"];

/// Counters at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    at: Instant,
    /// Busy and all ticks of all processors.
    cpu: Option<(u64, u64)>,
    /// Bytes received and sent.
    network: Option<(u64, u64)>,
    /// Bytes read and written.
    disk: Option<(f64, f64)>,
}

/// Where the figures come from.
#[derive(Debug, Clone)]
pub struct Machine {
    proc: PathBuf,
    sys: PathBuf,
    home: PathBuf,
}

impl Machine {
    /// This machine; `home` is the directory whose disk counts.
    #[must_use]
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), home: home.into() }
    }

    /// The counters now.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let read = |name: &str| fs::read_to_string(self.proc.join(name)).ok();
        Sample {
            at: Instant::now(),
            cpu: read("stat").and_then(|it| cpu_ticks(&it)),
            network: read("net/dev").map(|it| network_bytes(&it)),
            disk: read("diskstats").map(|it| disk_bytes(&it, &|name| is_whole_disk(name))),
        }
    }

    /// `machine_stats` for the time between `before` and `after`, and what memory and disk are now.
    #[must_use]
    pub fn report(&self, before: &Sample, after: &Sample) -> Value {
        let mut stats = Map::new();
        let seconds = after.at.saturating_duration_since(before.at).max(Duration::from_millis(1)).as_secs_f64();
        let mut set = |name: &str, value: f64| stats.insert(name.to_owned(), json!((value * 1000.0).round() / 1000.0));
        if let (Some(then), Some(now)) = (before.network, after.network) {
            set("network_rx", now.0.saturating_sub(then.0) as f64 / MEGABYTE / seconds);
            set("network_tx", now.1.saturating_sub(then.1) as f64 / MEGABYTE / seconds);
        }
        if let (Some(then), Some(now)) = (before.disk, after.disk) {
            set("disk_read", (now.0 - then.0).max(0.0) / MEGABYTE / seconds);
            set("disk_write", (now.1 - then.1).max(0.0) / MEGABYTE / seconds);
        }
        if let Some((used, free)) = fs::read_to_string(self.proc.join("meminfo")).ok().and_then(|it| memory(&it)) {
            set("memory_used", used);
            set("memory_free", free);
        }
        if let Some(percent) = disk_free(&self.home) {
            set("disk_free_home", percent);
        }
        if let (Some(then), Some(now)) = (before.cpu, after.cpu) {
            let (busy, all) = (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1));
            let usage = if all == 0 { 0.0 } else { 100.0 * busy as f64 / all as f64 };
            stats.insert("cpu_usage".to_owned(), json!([(usage * 10.0).round() / 10.0]));
        }
        if let Some(degrees) = self.temperature() {
            stats.insert("cpu_temperature".to_owned(), json!([degrees]));
        }
        Value::Object(stats)
    }

    /// The hottest sensor of the processors, in degrees Celsius.
    fn temperature(&self) -> Option<f64> {
        let monitors = fs::read_dir(self.sys.join("class/hwmon")).ok()?.flatten();
        let named = |path: &Path| fs::read_to_string(path.join("name")).unwrap_or_default();
        let ours = monitors.map(|it| it.path()).filter(|it| PROCESSORS.contains(&named(it).trim()));
        let files = ours.filter_map(|it| fs::read_dir(it).ok()).flatten().flatten();
        let inputs = files.filter(|it| {
            let name = it.file_name();
            let name = name.to_string_lossy();
            name.starts_with("temp") && name.ends_with("_input")
        });
        let milli = inputs.filter_map(|it| fs::read_to_string(it.path()).ok()?.trim().parse::<f64>().ok());
        milli.map(|it| it / 1000.0).reduce(f64::max)
    }
}

fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find(|it| it.starts_with("cpu "))?;
    // user nice system idle iowait irq softirq steal; guest times are part of user.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).map_while(|it| it.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
    let all = ticks.iter().sum::<u64>();
    Some((all.saturating_sub(idle), all))
}

fn network_bytes(text: &str) -> (u64, u64) {
    let mut sums = (0_u64, 0_u64);
    for line in text.lines() {
        let Some((name, figures)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let figures: Vec<u64> = figures.split_whitespace().map_while(|it| it.parse().ok()).collect();
        sums.0 = sums.0.wrapping_add(figures.first().copied().unwrap_or(0));
        sums.1 = sums.1.wrapping_add(figures.get(8).copied().unwrap_or(0));
    }
    sums
}

fn disk_bytes(text: &str, counts: &dyn Fn(&str) -> bool) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let figure = |index: usize| words.get(index).and_then(|it| it.parse::<f64>().ok()).unwrap_or(0.0);
        if words.get(2).is_some_and(|it| counts(it)) {
            sums.0 += figure(5) * SECTOR;
            sums.1 += figure(9) * SECTOR;
        }
    }
    sums
}

/// Partitions, and devices made of others, would count the same bytes twice.
fn is_whole_disk(name: &str) -> bool {
    let stacked = ["loop", "ram", "dm-", "md", "zram", "sr"].iter().any(|it| name.starts_with(it));
    !stacked && Path::new("/sys/block").join(name).exists()
}

fn memory(text: &str) -> Option<(f64, f64)> {
    let field = |name: &str| {
        let line = text.lines().find(|it| it.starts_with(name) && it[name.len()..].starts_with(':'))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|it| it / 1024.0)
    };
    let (total, free) = (field("MemTotal")?, field("MemAvailable").or_else(|| field("MemFree"))?);
    Some((total - free, free))
}

/// Free per cent, as the original reports under this name.
fn disk_free(home: &Path) -> Option<f64> {
    let there = home.ancestors().find(|it| it.exists()).unwrap_or(Path::new("/"));
    let disk = rustix::fs::statvfs(there).ok()?;
    let used = disk.f_blocks.saturating_sub(disk.f_bfree) as f64;
    let usable = used + disk.f_bavail as f64;
    (usable > 0.0).then(|| 100.0 - 100.0 * used / usable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_the_kernel_writes_them() {
        let stat = "cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 1 1 1\n";
        assert_eq!(cpu_ticks(stat), Some((150, 1000)));
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 9 1 0 0 0 0 0 0 9 1 0\n  eth0:1000 2 0 0 0 0 0 0 300 4 0\n";
        assert_eq!(network_bytes(dev), (1000, 300));
        let disks = "   8 0 sda 1 0 8 0 1 0 4 0 0 0 0\n   8 1 sda1 1 0 8 0 1 0 4 0 0 0 0\n";
        assert_eq!(disk_bytes(disks, &|it| it == "sda"), (4096.0, 2048.0));
        assert_eq!(memory("MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 512 kB\n"), Some((1.5, 0.5)));
    }

    #[test]
    fn the_hottest_sensor_of_a_processor_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for (number, name, figures) in [(0, "nvme", &[90_000][..]), (1, "coretemp", &[41_000, 63_500])] {
            let monitor = dir.path().join(format!("class/hwmon/hwmon{number}"));
            fs::create_dir_all(&monitor).unwrap();
            fs::write(monitor.join("name"), format!("{name}\n")).unwrap();
            for (index, figure) in figures.iter().enumerate() {
                fs::write(monitor.join(format!("temp{}_input", index + 1)), format!("{figure}\n")).unwrap();
                fs::write(monitor.join(format!("temp{}_max", index + 1)), "100000\n").unwrap();
            }
        }
        let machine = Machine { sys: dir.path().to_owned(), ..Machine::new("/") };
        let sample = machine.sample();
        assert_eq!(machine.report(&sample, &sample)["cpu_temperature"], json!([63.5]));
    }

    #[test]
    fn a_report_has_the_originals_fields() {
        let machine = Machine::new("/nonexistent/home");
        let before = machine.sample();
        let report = machine.report(&before, &machine.sample());
        for field in ["cpu_usage", "memory_used", "memory_free", "network_rx", "network_tx", "disk_free_home"] {
            assert!(report.get(field).is_some(), "{field} in {report}");
        }
        let percent = report["disk_free_home"].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&percent));
        let nowhere = Machine { proc: "/nonexistent".into(), sys: "/nonexistent".into(), home: "/".into() };
        let empty = nowhere.sample();
        assert!(nowhere.report(&empty, &empty).get("cpu_usage").is_none());
    }
}
