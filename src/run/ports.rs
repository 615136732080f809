//! Published ports: as docker writes them, and moved where the machine's own are busy.
//!
//! `-p 8080:80` of two tasks on one machine cannot both be had. As the original does, a task's TCP ports that are busy or
//! outside `agent.docker_args_allowed_port_range` move to free ones next to each other; the task is told where they are
//! (`_external_host_tcp_port_mapping`, `CLEARML_AGENT_HOST_IP`).

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::engine::ContainerSpec;

/// Ports that are taken where the configuration names none.
pub const RANGE: (u16, u16) = (10_000, 60_000);

/// What `-p` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Address of the machine; empty for all.
    pub address: String,
    /// First and last port of the machine; absent: the engine chooses.
    pub outside: Option<(u16, u16)>,
    /// First and last port of the container.
    pub inside: (u16, u16),
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
}

/// A TCP port of the machine and what it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The machine's.
    pub outside: u16,
    /// The container's.
    pub inside: u16,
}

/// What is known of the machine's ports.
pub struct Ports<'a> {
    /// Whether somebody listens on a port.
    pub busy: &'a dyn Fn(u16) -> bool,
    /// The machine's address, as others reach it.
    pub address: String,
    /// Where in the range the search begins, so that tasks that start at once do not want the same ports: any number.
    pub seed: u64,
}

/// No free ports were found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {count} free ports next to each other between {} and {}", range.0, range.1)]
pub struct NoPorts {
    /// How many are needed.
    pub count: usize,
    /// Where they were looked for.
    pub range: (u16, u16),
}

impl Publish {
    /// `[[address:]port[-port]:]port[-port][/protocol]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (outer, inner) = ports.rsplit_once(':').unwrap_or(("", ports));
        let (address, outer) = outer.rsplit_once(':').unwrap_or(("", outer));
        let inside = range(inner)?;
        let outside = if outer.is_empty() { None } else { Some(range(outer)?) };
        let single = inside.0 == inside.1;
        let fits = outside.is_none_or(|it| single || length(it) == length(inside));
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        let known = bare.is_empty() || bare.parse::<std::net::IpAddr>().is_ok();
        (fits && known && ["tcp", "udp", "sctp"].contains(&protocol)).then(|| Self {
            address: bare.to_owned(),
            outside,
            inside,
            protocol: protocol.to_owned(),
        })
    }

    /// Says it to a container, a port at a time.
    pub fn add_to(&self, container: &mut ContainerSpec) {
        for (index, inside) in (self.inside.0..=self.inside.1).enumerate() {
            let outside = match self.outside {
                None => String::new(),
                // One port of the container, and any one of the machine's.
                Some(range) if self.inside.0 == self.inside.1 && length(range) > 1 => {
                    format!("{}-{}", range.0, range.1)
                }
                Some((first, _)) => (usize::from(first) + index).to_string(),
            };
            let entry = container.ports.entry(format!("{inside}/{}", self.protocol)).or_default();
            entry.push((self.address.clone(), outside));
        }
    }
}

fn length(range: (u16, u16)) -> usize {
    usize::from(range.1 - range.0) + 1
}

/// `80`, `80-90`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then_some((first, last))
}

/// Gives each TCP port of the container one of the machine's: the one that was asked for where it is free and allowed,
/// else another; notes tell which moved.
///
/// # Errors
/// [`NoPorts`]
pub fn settle(
    published: &mut [Publish],
    allowed: Option<(u16, u16)>,
    ports: &Ports<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<Mapping>, NoPorts> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for publish in published.iter_mut().filter(|it| it.protocol == "tcp") {
        let count = length(publish.inside);
        let taken = |port: u16| mappings.iter().any(|it| it.outside == port) || (ports.busy)(port);
        let may = |port: u16| allowed.is_none_or(|it| (it.0..=it.1).contains(&port)) && !taken(port);
        let all = |first: u16| (0..count).all(|it| u16::try_from(usize::from(first) + it).is_ok_and(may));
        // A wider range than is needed is a choice.
        let asked = publish.outside.and_then(|(first, last)| {
            let room = usize::from(last - first) + 1 - count;
            (0..=room).filter_map(|it| u16::try_from(usize::from(first) + it).ok()).find(|it| all(*it))
        });
        let first = match asked {
            Some(first) => first,
            None => search(allowed.unwrap_or(RANGE), count, ports.seed, &all)?,
        };
        let last = u16::try_from(usize::from(first) + count - 1).unwrap_or(u16::MAX);
        if let Some(wanted) = publish.outside.filter(|_| asked.is_none()) {
            let (from, to) = (named(wanted), named((first, last)));
            notes.push(format!(
                "port {from} is busy or not allowed here; {} of the container is at {to}",
                named(publish.inside)
            ));
        }
        publish.outside = Some((first, last));
        let pairs = (first..=last).zip(publish.inside.0..=publish.inside.1);
        let new: Vec<Mapping> = pairs.map(|(outside, inside)| Mapping { outside, inside }).collect();
        mappings.extend(new);
    }
    Ok(mappings)
}

fn search(range: (u16, u16), count: usize, seed: u64, all: &dyn Fn(u16) -> bool) -> Result<u16, NoPorts> {
    let none = NoPorts { count, range };
    let places = length(range).checked_sub(count).map(|it| it as u64 + 1).ok_or_else(|| none.clone())?;
    let place = |index: u64| u16::try_from(u64::from(range.0) + (seed % places + index) % places).ok();
    (0..places).filter_map(place).find(|it| all(*it)).ok_or(none)
}

fn named(range: (u16, u16)) -> String {
    if range.0 == range.1 { range.0.to_string() } else { format!("{}-{}", range.0, range.1) }
}

/// The mappings as a task's runtime property `_external_host_tcp_port_mapping` has them: `outside:inside`, by commas.
#[must_use]
pub fn property(mappings: &[Mapping]) -> Option<String> {
    let pairs: Vec<String> = mappings.iter().map(|it| format!("{}:{}", it.outside, it.inside)).collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}

/// Whether somebody listens on a port of this machine.
#[must_use]
pub fn is_busy(port: u16) -> bool {
    let taken =
        |address: SocketAddr| TcpListener::bind(address).is_err_and(|it| it.kind() == std::io::ErrorKind::AddrInUse);
    taken((Ipv4Addr::UNSPECIFIED, port).into()) || taken((std::net::Ipv6Addr::UNSPECIFIED, port).into())
}

/// The address that this machine has in the network it reaches others by; nothing is sent.
#[must_use]
pub fn own_address() -> String {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(10, 255, 255, 255), 1))?;
        socket.local_addr()
    });
    found.map_or_else(|_| Ipv4Addr::LOCALHOST.to_string(), |it| it.ip().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(texts: &[&str], allowed: Option<(u16, u16)>, busy: &[u16]) -> Result<(Vec<String>, String), NoPorts> {
        let mut published: Vec<Publish> = texts.iter().map(|it| Publish::parse(it).unwrap()).collect();
        let is_busy = |port| busy.contains(&port);
        let ports = Ports { busy: &is_busy, address: String::new(), seed: 0 };
        let mappings = settle(&mut published, allowed, &ports, &mut Vec::new())?;
        let mut container = ContainerSpec::default();
        published.iter().for_each(|it| it.add_to(&mut container));
        let said = container.ports.iter().flat_map(|(inside, outside)| {
            outside.iter().map(move |(address, port)| format!("{address}:{port}:{inside}"))
        });
        Ok((said.collect(), property(&mappings).unwrap_or_default()))
    }

    #[track_caller]
    fn becomes(texts: &[&str], allowed: Option<(u16, u16)>, busy: &[u16], said: &[&str], property: &str) {
        let expected = (said.iter().map(|it| (*it).to_owned()).collect(), property.to_owned());
        assert_eq!(settled(texts, allowed, busy), Ok(expected));
    }

    #[test]
    fn free_and_allowed_ports_stay_and_others_move() {
        becomes(&["8080:80/tcp"], None, &[], &[":8080:80/tcp"], "8080:80");
        becomes(&["8080:80/tcp"], None, &[8080], &[":10000:80/tcp"], "10000:80");
        becomes(&["127.0.0.1:8080:80"], None, &[8080, 10000], &["127.0.0.1:10001:80/tcp"], "10001:80");
        becomes(&["8080:80"], Some((9000, 9100)), &[9000], &[":9001:80/tcp"], "9001:80");
        becomes(&["80"], None, &[], &[":10000:80/tcp"], "10000:80");
        becomes(&["53:53/udp"], Some((9000, 9100)), &[53], &[":53:53/udp"], "");
    }

    #[test]
    fn ranges_stay_together() {
        becomes(&["8000-8001:80-81"], None, &[8001, 10001], &[":10002:80/tcp", ":10003:81/tcp"], "10002:80,10003:81");
        // Any one of these.
        becomes(&["8000-8010:80"], None, &[8000], &[":8001:80/tcp"], "8001:80");
        becomes(&["8000:80", "8000:81"], None, &[], &[":8000:80/tcp", ":10000:81/tcp"], "8000:80,10000:81");
        let none = settled(&["1-3:1-3"], Some((9000, 9003)), &[9001]).unwrap_err();
        assert_eq!(none.to_string(), "no 3 free ports next to each other between 9000 and 9003");
        assert!(settled(&["1-9:1-9"], Some((9000, 9003)), &[]).is_err());
    }

    #[test]
    fn a_seed_spreads_the_search() {
        let all = |_| true;
        assert_eq!(search((10, 19), 2, 12, &all), Ok(13));
        let last = |port| port == 10;
        assert_eq!(search((10, 19), 2, 12, &last), Ok(10));
    }

    #[test]
    fn what_is_no_port_is_none() {
        for text in ["", "x", "0:80", "70000", "80:90-91", "1-3:1-2", "1:2:3", "80/icmp", "a.b:1:2", "2-1:2-1"] {
            assert_eq!(Publish::parse(text), None, "{text}");
        }
        let six = Publish::parse("[::1]:8080:80").unwrap();
        assert_eq!((six.address.as_str(), six.outside), ("::1", Some((8080, 8080))));
    }

    #[test]
    fn a_listener_makes_its_port_busy() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_busy(port));
        drop(listener);
        assert!(!is_busy(port));
        assert!(own_address().parse::<std::net::IpAddr>().is_ok());
    }
}
