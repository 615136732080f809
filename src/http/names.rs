//! Names to addresses without the C library: `/etc/hosts`, then the name servers of `/etc/resolv.conf`.
//!
//! A static program must never reach `getaddrinfo`: it loads the image's own modules and crashes in them. Search
//! domains, `ndots`, `timeout`, `attempts` and `rotate`-less order are resolv.conf(5)'s. There is no default name server:
//! a query never leaves for one that nobody configured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use fs_err as fs;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

mod wire;

use wire::{Answer, Question};

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nobody to ask.
    #[error("no name server is configured (`{0}`)")]
    NoServer(String),
    /// The name servers say there is none.
    #[error("the name servers know no host `{0}`")]
    Unknown(String),
    /// No name server answered usefully.
    #[error("no name server answers for `{host}`: {why}")]
    Unanswered {
        /// The name.
        host: String,
        /// The last one's failure.
        why: String,
    },
    /// It cannot be a host name.
    #[error("`{0}` is not a host name")]
    Invalid(String),
}

/// The two files that say how to resolve.
#[derive(Debug, Clone)]
pub struct Names {
    hosts: PathBuf,
    resolv: PathBuf,
}

impl Names {
    /// The system's.
    #[must_use]
    pub fn system() -> Self {
        Self { hosts: "/etc/hosts".into(), resolv: "/etc/resolv.conf".into() }
    }

    /// The addresses of a host, IPv4 first (a container seldom has an IPv6 route). Both files are read anew each
    /// time: engines rewrite them while a container runs.
    ///
    /// # Errors
    /// [`NameError`]
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        let bare = host.strip_suffix('.').unwrap_or(host);
        if let Ok(address) = bare.trim_matches(['[', ']']).parse() {
            return Ok(vec![address]);
        }
        let known = in_hosts(&fs::read_to_string(&self.hosts).unwrap_or_default(), bare);
        if !known.is_empty() {
            return Ok(known);
        }
        let lower = bare.to_ascii_lowercase();
        if lower == "localhost" || lower.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let config = Config::parse(&fs::read_to_string(&self.resolv).unwrap_or_default());
        if config.servers.is_empty() {
            return Err(NameError::NoServer(self.resolv.display().to_string()));
        }
        let mut failure = NameError::Unknown(host.to_owned());
        for candidate in config.candidates(host) {
            match config.ask(&candidate).await {
                Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
                Ok(_) => {}
                Err(error @ NameError::Invalid(_)) => return Err(error),
                Err(NameError::Unanswered { why, .. }) => {
                    failure = NameError::Unanswered { host: host.to_owned(), why };
                }
                Err(_) => {}
            }
        }
        Err(failure)
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let addresses = names.lookup(name.as_str()).await?;
            let sockets: Vec<SocketAddr> = addresses.into_iter().map(|it| SocketAddr::new(it, 0)).collect();
            Ok(Box::new(sockets.into_iter()) as Addrs)
        })
    }
}

fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else { continue };
        if words.any(|it| it.strip_suffix('.').unwrap_or(it).eq_ignore_ascii_case(host))
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

/// What `resolv.conf` says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Config {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: u32,
}

impl Config {
    fn parse(text: &str) -> Self {
        let mut config =
            Self { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout: Duration::from_secs(5), attempts: 2 };
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") if config.servers.len() < 3 => {
                    config.servers.extend(words.next().and_then(server_address));
                }
                Some("domain" | "search") => config.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|it| config.option(it)),
                _ => {}
            }
        }
        config
    }

    fn option(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else { return };
        let Ok(value) = value.parse::<u32>() else { return };
        match name {
            "ndots" => self.ndots = value.min(15) as usize,
            "timeout" => self.timeout = Duration::from_secs(u64::from(value.clamp(1, 30))),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// The full names to ask for, in order.
    fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(absolute) = host.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let searched = self.search.iter().map(|it| it.trim_end_matches('.')).filter(|it| !it.is_empty());
        let mut names: Vec<String> = searched.map(|it| format!("{host}.{it}")).collect();
        if host.matches('.').count() >= self.ndots {
            names.insert(0, host.to_owned());
        } else {
            names.push(host.to_owned());
        }
        names
    }

    /// Asks the servers in turn for both kinds of address; an empty list means that there is none.
    async fn ask(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        let questions = [Question::new(name, wire::A), Question::new(name, wire::AAAA)];
        let [Some(v4), Some(v6)] = questions else { return Err(NameError::Invalid(name.to_owned())) };
        let mut why = String::new();
        for _ in 0..self.attempts {
            for server in &self.servers {
                let (v4, v6) = tokio::join!(self.query(*server, &v4), self.query(*server, &v6));
                match (v4, v6) {
                    (Ok(Answer::Addresses(mut first)), Ok(Answer::Addresses(second))) => {
                        first.extend(second);
                        return Ok(first);
                    }
                    (Ok(Answer::NoSuchName), _) | (_, Ok(Answer::NoSuchName)) => return Ok(Vec::new()),
                    // Some servers drop or refuse questions for AAAA: an address is an address.
                    (Ok(Answer::Addresses(some)), _) | (_, Ok(Answer::Addresses(some))) if !some.is_empty() => {
                        return Ok(some);
                    }
                    (Err(error), _) | (_, Err(error)) => why = format!("{server}: {error}"),
                    (Ok(answer), _) => why = format!("{server}: {answer:?}"),
                }
            }
        }
        Err(NameError::Unanswered { host: name.to_owned(), why })
    }

    async fn query(&self, server: SocketAddr, question: &Question) -> std::io::Result<Answer> {
        let late = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time");
        let answer = tokio::time::timeout(self.timeout, over_udp(server, question)).await.map_err(late)??;
        match answer {
            Answer::Truncated => tokio::time::timeout(self.timeout, over_tcp(server, question)).await.map_err(late)?,
            answer => Ok(answer),
        }
    }
}

fn server_address(text: &str) -> Option<SocketAddr> {
    if let Some((address, zone)) = text.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        let path = format!("/sys/class/net/{zone}/ifindex");
        let scope = zone.parse().ok().or_else(|| fs::read_to_string(path).ok()?.trim().parse().ok())?;
        return Some(std::net::SocketAddrV6::new(address, 53, 0, scope).into());
    }
    // A port (`127.0.0.1:5353`) is not resolv.conf's, but tests and some generators use it.
    text.parse::<IpAddr>().ok().map(|it| SocketAddr::new(it, 53)).or_else(|| text.parse().ok())
}

async fn over_udp(server: SocketAddr, question: &Question) -> std::io::Result<Answer> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = random_id()?;
    socket.send(&question.message(id)).await?;
    let mut buffer = [0; 4096];
    loop {
        let size = socket.recv(&mut buffer).await?;
        // Anything that is no answer to this question is somebody else's, or forged.
        if let Some(answer) = question.read(id, &buffer[..size]) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Question) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random_id()?;
    let message = question.message(id);
    let length = u16::try_from(message.len()).unwrap_or_default();
    stream.write_all(&[&length.to_be_bytes(), message.as_slice()].concat()).await?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidData, "an answer to another question");
    question.read(id, &bytes).ok_or_else(invalid)
}

fn random_id() -> std::io::Result<u16> {
    let mut bytes = [0; 2];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_files_are_read_with_comments_and_case() {
        let text = "127.0.0.1 localhost # here\n::1 localhost\n10.0.0.7\tapi.local API\n#1.2.3.4 api\nnonsense api\n";
        assert_eq!(in_hosts(text, "api"), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(in_hosts(text, "LOCALHOST").len(), 2);
        assert!(in_hosts(text, "here").is_empty());
    }

    #[test]
    fn search_domains_follow_ndots() {
        let config = Config::parse(
            "; a comment\nnameserver 10.0.0.1\nnameserver fe80::1%1\nnameserver nope\nsearch a.local b.local.\n\
             options ndots:2 timeout:1 attempts:9 rotate\n",
        );
        assert_eq!(config.servers.len(), 2);
        assert_eq!((config.timeout.as_secs(), config.attempts), (1, 5));
        assert_eq!(config.candidates("api"), ["api.a.local", "api.b.local", "api"]);
        assert_eq!(config.candidates("x.y.z"), ["x.y.z", "x.y.z.a.local", "x.y.z.b.local"]);
        assert_eq!(config.candidates("api."), ["api"]);
    }

    /// Answers one UDP question per item, then over TCP once.
    async fn name_server(answers: Vec<&'static str>) -> SocketAddr {
        // The port that TCP gives may be taken for UDP: try until one is free for both.
        let (listener, socket) = loop {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, socket);
            }
        };
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (size, from) = socket.recv_from(&mut buffer).await.unwrap();
                let reply = wire::test_reply(&buffer[..size], &answers);
                // A forged answer with another id comes first and must be ignored.
                let mut forged = reply.clone();
                forged[0] ^= 0xff;
                socket.send_to(&forged, from).await.unwrap();
                socket.send_to(&reply, from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut bytes).await.unwrap();
                let reply = wire::test_reply(&bytes, &["10.1.1.1"; 60]);
                stream.write_u16(reply.len() as u16).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
        address
    }

    async fn names(dir: &tempfile::TempDir, resolv: &str) -> Names {
        let names = Names { hosts: dir.path().join("hosts"), resolv: dir.path().join("resolv.conf") };
        fs::write(&names.resolv, resolv).unwrap();
        names
    }

    #[tokio::test]
    async fn a_name_is_asked_for_with_its_search_domains_and_long_answers_come_over_tcp() {
        let dir = tempfile::tempdir().unwrap();
        let server = name_server(vec!["10.0.0.9", "fd00::9"]).await;
        let names = names(&dir, &format!("nameserver {server}\nsearch known.test\n")).await;
        let found = names.lookup("host").await.unwrap();
        assert_eq!(found, ["10.0.0.9".parse::<IpAddr>().unwrap(), "fd00::9".parse().unwrap()]);
        assert_eq!(names.lookup("nowhere.other.").await, Err(NameError::Unknown("nowhere.other.".to_owned())));
        assert_eq!(names.lookup("long.known.test").await.unwrap()[0], "10.1.1.1".parse::<IpAddr>().unwrap());
    }

    #[tokio::test]
    async fn without_a_configured_server_nobody_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names { hosts: dir.path().join("hosts"), resolv: dir.path().join("none") };
        assert!(matches!(names.lookup("example.org").await, Err(NameError::NoServer(_))));
        assert_eq!(names.lookup("localhost").await.unwrap()[0], Ipv4Addr::LOCALHOST);
        assert_eq!(names.lookup("[::1]").await.unwrap(), [Ipv6Addr::LOCALHOST]);
    }
}
