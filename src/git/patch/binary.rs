//! `GIT binary patch`: base85 lines of a zlib stream, a whole content or a delta in the form packs use.

/// No content or delta in a diff may be larger than this when unpacked (1 GiB).
const LIMIT: usize = 1 << 30;

const ALPHABET: &[u8; 85] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";

/// One line: its length as a letter, then groups of five digits for four bytes.
pub(super) fn decode_line(line: &[u8], into: &mut Vec<u8>) -> Result<(), &'static str> {
    let (&first, digits) = line.split_first().ok_or("an empty line of binary data")?;
    let length = match first {
        b'A'..=b'Z' => usize::from(first - b'A') + 1,
        b'a'..=b'z' => usize::from(first - b'a') + 27,
        _ => return Err("a line of binary data without its length"),
    };
    if digits.len() != length.div_ceil(4) * 5 {
        return Err("a line of binary data of the wrong length");
    }
    let end = into.len() + length;
    for group in digits.chunks_exact(5) {
        let value = group.iter().try_fold(0_u64, |value, digit| {
            let at = ALPHABET.iter().position(|it| it == digit)?;
            Some(value * 85 + at as u64)
        });
        let value = value.and_then(|it| u32::try_from(it).ok()).ok_or("binary data with characters that cannot be")?;
        into.extend_from_slice(&value.to_be_bytes());
    }
    into.truncate(end);
    Ok(())
}

/// Unpacks a zlib stream that must be `size` bytes.
pub(super) fn inflate(packed: &[u8], size: usize) -> Result<Vec<u8>, &'static str> {
    if size > LIMIT {
        return Err("binary data of more than 1 GiB");
    }
    // A byte more than promised, so that a longer stream is seen to be longer.
    let mut bytes = vec![0; size + 1];
    let outcome = gix::zlib::Inflate::default().once(packed, &mut bytes);
    match outcome {
        Ok((gix::zlib::Status::StreamEnd, _, written)) if written == size => {
            bytes.truncate(size);
            Ok(bytes)
        }
        _ => Err("damaged binary data"),
    }
}

/// Applies a pack delta.
pub(super) fn apply_delta(base: &[u8], delta: &[u8]) -> Result<Vec<u8>, &'static str> {
    const DAMAGED: &str = "a damaged delta";
    let mut rest = delta;
    if varint(&mut rest).ok_or(DAMAGED)? != base.len() {
        return Err("a delta for a content of another size");
    }
    let size = varint(&mut rest).ok_or(DAMAGED)?;
    if size > LIMIT {
        return Err("binary data of more than 1 GiB");
    }
    let mut result = Vec::with_capacity(size);
    while let Some((&code, tail)) = rest.split_first() {
        rest = tail;
        let piece = if code & 0x80 != 0 {
            let mut number = |bits: u8, first: u8| {
                (0..bits).filter(|bit| code & 1 << (first + bit) != 0).try_fold(0_usize, |value, bit| {
                    let (&byte, tail) = rest.split_first()?;
                    rest = tail;
                    Some(value | usize::from(byte) << (8 * bit))
                })
            };
            let offset = number(4, 0).ok_or(DAMAGED)?;
            let length = number(3, 4).ok_or(DAMAGED)?;
            let length = if length == 0 { 0x10000 } else { length };
            base.get(offset..offset + length).ok_or(DAMAGED)?
        } else if code != 0 {
            let (literal, tail) = rest.split_at_checked(usize::from(code)).ok_or(DAMAGED)?;
            rest = tail;
            literal
        } else {
            return Err(DAMAGED);
        };
        if result.len() + piece.len() > size {
            return Err(DAMAGED);
        }
        result.extend_from_slice(piece);
    }
    if result.len() == size { Ok(result) } else { Err(DAMAGED) }
}

fn varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0_usize;
    for shift in (0..57).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_data_is_refused_without_panic() {
        assert!(decode_line(b"", &mut Vec::new()).is_err());
        assert!(decode_line(b"B0000", &mut Vec::new()).is_err());
        assert!(decode_line(b"D~~~~~", &mut Vec::new()).is_err());
        assert!(inflate(b"nonsense", 4).is_err());
        assert!(inflate(b"", usize::MAX).is_err());
        for delta in [&b""[..], b"\x04", b"\x04\x04\x00", b"\x04\x04\xff", b"\x04\x02\x04abcd", b"\x04\x04\x91\x03\x04"]
        {
            assert!(apply_delta(b"base", delta).is_err(), "{delta:?}");
        }
        assert_eq!(apply_delta(b"base", b"\x04\x05\x01x\x90\x04").unwrap(), b"xbase");
    }
}
