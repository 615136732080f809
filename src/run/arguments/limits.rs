//! Switches that limit a container, and those that tell whether it is well.

use super::values::{bytes, cpus, nanoseconds, number, signed_bytes};
use super::{ArgumentError, bad, value};
use crate::engine::ContainerSpec;
use crate::switches::Switch;

/// Sets what a switch of this kind asks for.
pub(super) fn set(spec: &mut ContainerSpec, switch: &Switch) -> Result<(), ArgumentError> {
    let text = || Some(value(switch).to_owned());
    match switch.name() {
        "shm-size" => spec.shm_size = Some(bytes(switch, value(switch))?),
        "memory" => spec.memory = Some(bytes(switch, value(switch))?),
        "cpus" => spec.nano_cpus = Some(cpus(switch)?),
        "cpuset-cpus" => spec.cpuset = text(),
        "ulimit" => spec.ulimits.push(ulimit(switch)?),
        "stop-timeout" => spec.stop_timeout = Some(number(switch, "a number of seconds")?),
        name if name.starts_with("health-") => health(spec, switch)?,
        _ => limit(spec, switch)?,
    }
    Ok(())
}

fn limit(spec: &mut ContainerSpec, switch: &Switch) -> Result<(), ArgumentError> {
    let limits = &mut spec.limits;
    let whole = || number(switch, "a whole number");
    match switch.name() {
        "memory-swap" => limits.memory_swap = Some(signed_bytes(switch)?),
        "memory-reservation" => limits.memory_reservation = Some(bytes(switch, value(switch))?),
        "memory-swappiness" => limits.swappiness = Some(whole()?),
        "cpu-shares" => limits.cpu_shares = Some(whole()?),
        "cpu-period" => limits.cpu_period = Some(whole()?),
        "cpu-quota" => limits.cpu_quota = Some(whole()?),
        "cpu-rt-period" => limits.realtime_period = Some(whole()?),
        "cpu-rt-runtime" => limits.realtime_runtime = Some(whole()?),
        "cpuset-mems" => limits.cpuset_mems = Some(value(switch).to_owned()),
        "pids-limit" => limits.pids = Some(whole()?),
        "oom-score-adj" => limits.oom_score = Some(whole()?),
        "blkio-weight" => limits.io_weight = Some(number(switch, "a number from 10 to 1000")?),
        "blkio-weight-device" => {
            let (path, rate) = of_device(switch)?;
            limits.io_weights.push((path, rate.parse().map_err(|_| bad(switch, "path:weight"))?));
        }
        "device-read-bps" => limits.read_bytes.push(byte_rate(switch)?),
        "device-write-bps" => limits.write_bytes.push(byte_rate(switch)?),
        "device-read-iops" => limits.reads.push(rate(switch)?),
        "device-write-iops" => limits.writes.push(rate(switch)?),
        // The table says of everything else that it is not followed.
        _ => return Err(bad(switch, "nothing is known of this switch")),
    }
    Ok(())
}

fn health(spec: &mut ContainerSpec, switch: &Switch) -> Result<(), ArgumentError> {
    let health = spec.health.get_or_insert_default();
    match switch.name() {
        "health-cmd" => health.test = vec!["CMD-SHELL".to_owned(), value(switch).to_owned()],
        "health-retries" => health.retries = Some(number(switch, "a whole number")?),
        "health-interval" => health.interval = Some(nanoseconds(switch)?),
        "health-timeout" => health.timeout = Some(nanoseconds(switch)?),
        "health-start-period" => health.start_period = Some(nanoseconds(switch)?),
        _ => health.start_interval = Some(nanoseconds(switch)?),
    }
    Ok(())
}

fn of_device(switch: &Switch) -> Result<(String, &str), ArgumentError> {
    let found = value(switch).rsplit_once(':').filter(|it| it.0.starts_with('/'));
    found.map(|(path, rest)| (path.to_owned(), rest)).ok_or_else(|| bad(switch, "path:number, with an absolute path"))
}

fn byte_rate(switch: &Switch) -> Result<(String, u64), ArgumentError> {
    let (path, rate) = of_device(switch)?;
    Ok((path, bytes(switch, rate)?))
}

fn rate(switch: &Switch) -> Result<(String, u64), ArgumentError> {
    let (path, rate) = of_device(switch)?;
    Ok((path, rate.parse().map_err(|_| bad(switch, "path:number"))?))
}

fn ulimit(switch: &Switch) -> Result<(String, i64, i64), ArgumentError> {
    let wrong = || bad(switch, "name=soft[:hard]");
    let (name, limits) = value(switch).split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |it: &str| it.parse::<i64>().map_err(|_| wrong());
    Ok((name.to_owned(), number(soft)?, number(hard)?))
}
