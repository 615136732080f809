//! Values of switches, as docker writes them: sizes, times, addresses, pairs, GPUs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use super::{ArgumentError, bad, value};
use crate::engine::DeviceRequest;
use crate::switches::Switch;

const SIZE: &str = "a size such as 512m or 8g";

pub(super) fn number<T: FromStr>(switch: &Switch, expected: &'static str) -> Result<T, ArgumentError> {
    value(switch).trim().parse().map_err(|_| bad(switch, expected))
}

/// `512m`, `8g`, `1024`, `1.5GiB`.
pub(super) fn bytes(switch: &Switch, text: &str) -> Result<u64, ArgumentError> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let digits = lower.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(bad(switch, SIZE)),
    };
    let number: f64 = digits.trim_end().parse().map_err(|_| bad(switch, SIZE))?;
    let size = number * f64::from(shift).exp2();
    if !(size.is_finite() && (0.0..1e18).contains(&size)) {
        return Err(bad(switch, SIZE));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range was looked at")]
    let size = size as u64;
    Ok(size)
}

/// A size, or -1 for any.
pub(super) fn signed_bytes(switch: &Switch) -> Result<i64, ArgumentError> {
    match value(switch).trim() {
        "-1" => Ok(-1),
        text => bytes(switch, text)?.try_into().map_err(|_| bad(switch, SIZE)),
    }
}

pub(super) fn cpus(switch: &Switch) -> Result<u64, ArgumentError> {
    let number: f64 = number(switch, "a number of processors")?;
    if !(number > 0.0 && number < 1e6) {
        return Err(bad(switch, "a number of processors"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range was looked at")]
    let nano = (number * 1e9) as u64;
    Ok(nano)
}

/// `30s`, `1m30s`, `500ms`, in nanoseconds.
pub(super) fn nanoseconds(switch: &Switch) -> Result<i64, ArgumentError> {
    let wrong = || bad(switch, "a time such as 30s or 1m30s");
    let mut rest = value(switch).trim();
    let mut total = 0.0;
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|it: char| it.is_ascii_digit() || it == '.').len();
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|it: char| it.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return Err(wrong()),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    if !(0.0..9e18).contains(&total) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, reason = "its range was looked at")]
    let total = total as i64;
    Ok(total)
}

/// `name=value` into a map; a name alone is one without a value.
pub(super) fn pair(map: &mut BTreeMap<String, String>, switch: &Switch) -> Result<(), ArgumentError> {
    match value(switch).split_once('=') {
        Some((name, value)) if !name.is_empty() => map.insert(name.to_owned(), value.to_owned()),
        _ => return Err(bad(switch, "name=value")),
    };
    Ok(())
}

/// An address, without brackets.
pub(super) fn address(switch: &Switch) -> Result<String, ArgumentError> {
    let text = value(switch).trim_matches(['[', ']']);
    let found = text.parse::<IpAddr>().map_err(|_| bad(switch, "an IP address"))?;
    Ok(found.to_string())
}

/// `name:address`, also written `name=address`.
pub(super) fn host(switch: &Switch) -> Result<String, ArgumentError> {
    let text = value(switch);
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    match parts {
        Some((name, address)) if !name.is_empty() => {
            let address = address.trim_matches(['[', ']']);
            let known = address == "host-gateway" || address.parse::<IpAddr>().is_ok();
            known.then(|| format!("{name}:{address}")).ok_or_else(|| bad(switch, "name:address"))
        }
        _ => Err(bad(switch, "name:address")),
    }
}

/// `80`, `80-90`, `53/udp`.
pub(super) fn exposed(switch: &Switch) -> Result<Vec<String>, ArgumentError> {
    let wrong = || bad(switch, "port[-port][/protocol]");
    let (ports, protocol) = value(switch).split_once('/').unwrap_or((value(switch), "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |it: &str| it.parse::<u16>().map_err(|_| wrong());
    let (first, last) = (port(first)?, port(last)?);
    if first > last || !["tcp", "udp", "sctp"].contains(&protocol) {
        return Err(wrong());
    }
    Ok((first..=last).map(|it| format!("{it}/{protocol}")).collect())
}

/// Lines of a file of variables or labels: without comments, blank lines and white space around.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_start).filter(|it| !it.is_empty() && !it.starts_with('#'))
}

/// `all`, a number, or fields such as `device=0,1` and `capabilities=utility`, quoted where they have commas.
pub(super) fn gpus(switch: &Switch) -> Result<DeviceRequest, ArgumentError> {
    let wrong = || bad(switch, "all, a number or device=LIST");
    let mut request = DeviceRequest { driver: "nvidia".to_owned(), ids: Vec::new(), capabilities: Vec::new() };
    let mut of_device = false;
    for field in fields(value(switch)) {
        match field.split_once('=') {
            Some(("device", list)) => {
                of_device = true;
                request.ids.extend(list.split(',').map(str::to_owned));
            }
            Some(("driver", name)) => request.driver = name.to_owned(),
            Some(("capabilities", list)) => request.capabilities.extend(list.split(',').map(str::to_owned)),
            Some(("count", count)) => count_gpus(&mut request, count).ok_or_else(wrong)?,
            // `device=0,1` without quotes.
            None if of_device => request.ids.push(field),
            None => count_gpus(&mut request, &field).ok_or_else(wrong)?,
            Some(_) => return Err(wrong()),
        }
    }
    if request.ids.iter().any(String::is_empty) {
        return Err(wrong());
    }
    if !request.capabilities.iter().any(|it| it == "gpu") {
        request.capabilities.insert(0, "gpu".to_owned());
    }
    Ok(request)
}

fn count_gpus(request: &mut DeviceRequest, count: &str) -> Option<()> {
    if count != "all" && count != "-1" {
        request.ids = (0..count.parse::<u8>().ok().filter(|it| *it > 0)?).map(|it| it.to_string()).collect();
    }
    Some(())
}

/// A line of comma-separated values, with quotes around those that have commas.
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quote = None;
    for c in text.trim().chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(end)) if c == end => quote = None,
            (',', None) => fields.push(String::new()),
            (c, _) => {
                if let Some(last) = fields.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    fields
}
