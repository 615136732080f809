//! Sizes as people write them.

use super::{Session, UsageError};
use crate::error::Failure;

/// How large the store may grow where nobody says.
const STORE: u64 = 50 << 30;

/// How large the store may grow: `cache.max_bytes`, or no limit where that is `unlimited`.
///
/// # Errors
/// [`UsageError`] for what is no size, [`crate::config::ConfigError`]
pub fn store_bound(session: &Session) -> Result<u64, Failure> {
    match session.config()?.store_bound()?.as_deref() {
        None => Ok(STORE),
        Some("unlimited") => Ok(u64::MAX),
        Some(text) => parse(text).map_err(|_| {
            let wrong = format!("`cache.max_bytes` is `{text}`, which is no size");
            UsageError::new(wrong, "Write a number of bytes, one with K, M, G or T such as 50G, or `unlimited`.").into()
        }),
    }
}

/// Bytes of `20G`, `512M`, `1024`; the letters stand for powers of 1024.
///
/// # Errors
/// [`UsageError`] for anything else, also for more than 64 bits hold.
pub fn parse(text: &str) -> Result<u64, UsageError> {
    let error =
        || UsageError::new(format!("`{text}` is no size"), "Write a number of bytes, or one with K, M, G or T: 20G.");
    let upper = text.trim().to_ascii_uppercase();
    let upper = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    let (digits, shift) = match upper.chars().last() {
        Some('K') => (&upper[..upper.len() - 1], 10),
        Some('M') => (&upper[..upper.len() - 1], 20),
        Some('G') => (&upper[..upper.len() - 1], 30),
        Some('T') => (&upper[..upper.len() - 1], 40),
        _ => (upper, 0),
    };
    let number: u64 = digits.trim().parse().map_err(|_| error())?;
    number.checked_mul(1 << shift).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("1024", 1024), ("20G", 20 << 30), ("512 m", 512 << 20), ("1KiB", 1024), ("2tb", 2 << 40)]
        {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "G", "-1", "1.5G", "x", "99999999999T"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
