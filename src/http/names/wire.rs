//! DNS messages (RFC 1035, section 4): one question out, addresses back. Every byte that comes in is hostile.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Record type of an IPv4 address.
pub(super) const A: u16 = 1;
/// Record type of an IPv6 address (RFC 3596).
pub(super) const AAAA: u16 = 28;

const HEADER: usize = 12;

/// A question for one record type of one name, encoded.
#[derive(Debug, Clone)]
pub(super) struct Question {
    bytes: Vec<u8>,
    kind: u16,
}

/// What a name server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The addresses, none if the name has none of that type.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
    /// Too long for a datagram.
    Truncated,
    /// The server cannot or will not answer (response code).
    Refused(u8),
}

impl Question {
    /// `None` for a text that is no host name.
    pub(super) fn new(name: &str, kind: u16) -> Option<Self> {
        let mut bytes = Vec::with_capacity(name.len() + 6);
        for label in name.split('.') {
            let length = u8::try_from(label.len()).ok().filter(|it| (1..=63).contains(it))?;
            if !label.bytes().all(|it| it.is_ascii_graphic()) {
                return None;
            }
            bytes.push(length);
            bytes.extend(label.bytes());
        }
        bytes.push(0);
        if bytes.len() > 255 {
            return None;
        }
        bytes.extend(kind.to_be_bytes());
        bytes.extend(1_u16.to_be_bytes());
        Some(Self { bytes, kind })
    }

    /// The whole message: recursion desired, one question.
    pub(super) fn message(&self, id: u16) -> Vec<u8> {
        let mut message = id.to_be_bytes().to_vec();
        message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(&self.bytes);
        message
    }

    /// Reads an answer; `None` if it is not one to this question.
    pub(super) fn read(&self, id: u16, message: &[u8]) -> Option<Answer> {
        let end = HEADER + self.bytes.len();
        let asked = message.get(HEADER..end)?;
        let is_response = message.get(2)? & 0x80 != 0;
        if message[..2] != id.to_be_bytes() || !is_response || !asked.eq_ignore_ascii_case(&self.bytes) {
            return None;
        }
        let code = message[3] & 0x0f;
        if message[2] & 0x02 != 0 {
            return Some(Answer::Truncated);
        }
        match code {
            0 => {}
            3 => return Some(Answer::NoSuchName),
            code => return Some(Answer::Refused(code)),
        }
        let count = u16::from_be_bytes([message[6], message[7]]);
        // An answer that breaks off in the middle counts as far as it goes.
        let mut addresses = Vec::new();
        let mut at = end;
        for _ in 0..count {
            let Some((kind, data, next)) = record(message, at) else { break };
            match (kind == self.kind).then_some(data) {
                Some(data) if kind == A => {
                    addresses.extend(<[u8; 4]>::try_from(data).ok().map(|it| IpAddr::from(Ipv4Addr::from(it))));
                }
                Some(data) => {
                    addresses.extend(<[u8; 16]>::try_from(data).ok().map(|it| IpAddr::from(Ipv6Addr::from(it))));
                }
                None => {}
            }
            at = next;
        }
        Some(Answer::Addresses(addresses))
    }
}

/// The type and data of the record at `at`, and where the next one begins.
fn record(message: &[u8], at: usize) -> Option<(u16, &[u8], usize)> {
    let at = skip_name(message, at)?;
    let fixed = message.get(at..at + 10)?;
    let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
    let data = message.get(at + 10..at + 10 + length)?;
    Some((u16::from_be_bytes([fixed[0], fixed[1]]), data, at + 10 + length))
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            // A pointer ends the name (RFC 1035, 4.1.4); where it points is of no interest here.
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length if length < 64 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// A name server for tests: names under `known.test` have `addresses`, `long.` ones are truncated over UDP, others are
/// unknown. A CNAME stands in front, as real servers send it.
#[cfg(test)]
pub(super) fn test_reply(question: &[u8], addresses: &[&str]) -> Vec<u8> {
    let text = String::from_utf8_lossy(question).into_owned();
    let kind = u16::from_be_bytes([question[question.len() - 4], question[question.len() - 3]]);
    let mut reply = question.to_vec();
    reply[2] |= 0x80;
    if text.contains("long") && addresses.len() < 60 {
        reply[2] |= 0x02;
        return reply;
    }
    if !text.contains("known\u{4}test") {
        reply[3] |= 3;
        return reply;
    }
    let mut records = vec![(5_u16, vec![3, b'w', b'w', b'w', 0xc0, 12])];
    for address in addresses {
        match address.parse().unwrap() {
            IpAddr::V4(it) if kind == A => records.push((A, it.octets().to_vec())),
            IpAddr::V6(it) if kind == AAAA => records.push((AAAA, it.octets().to_vec())),
            _ => {}
        }
    }
    reply[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    for (kind, data) in records {
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 60]);
        reply.extend((data.len() as u16).to_be_bytes());
        reply.extend(data);
    }
    reply
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_are_none_are_refused() {
        for bad in ["", "a..b", ".", &"x".repeat(64), "a b.c", "ü.de", &["abcdefgh"; 40].join(".")] {
            assert!(Question::new(bad, A).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(tail in prop::collection::vec(any::<u8>(), 0..200), count in any::<u16>()) {
            let question = Question::new("a.known.test", AAAA).unwrap();
            let mut message = question.message(7);
            message[2] |= 0x80;
            message[6..8].copy_from_slice(&count.to_be_bytes());
            message.extend(tail);
            for cut in 0..message.len() {
                let _ = question.read(7, &message[..cut]);
            }
        }
    }
}
