//! Hostile input for property tests: what was right once, changed at random.

use proptest::prelude::*;

/// A change: where, as a part of the whole; how many bytes go; what comes.
type Change = (u16, u8, Vec<u8>);

fn changed(sample: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for (place, gone, come) in changes {
        let start = usize::from(*place) * bytes.len() / (usize::from(u16::MAX) + 1);
        let end = bytes.len().min(start + usize::from(*gone % 24));
        bytes.splice(start..end, come.iter().copied());
    }
    bytes
}

/// One of the samples with up to eight changes; `alphabet` is what comes in, besides any byte.
pub(crate) fn mangled(samples: &[&str], alphabet: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let samples: Vec<Vec<u8>> = samples.iter().map(|it| it.as_bytes().to_vec()).collect();
    let alphabet = alphabet.as_bytes().to_vec();
    let byte = prop_oneof![8 => prop::sample::select(alphabet), 1 => any::<u8>()];
    let change = (any::<u16>(), any::<u8>(), prop::collection::vec(byte, 0..12));
    (prop::sample::select(samples), prop::collection::vec(change, 0..8))
        .prop_map(|(sample, changes)| changed(&sample, &changes))
}

/// The same as text.
pub(crate) fn mangled_text(samples: &[&str], alphabet: &str) -> impl Strategy<Value = String> + use<> {
    mangled(samples, alphabet).prop_map(|it| String::from_utf8_lossy(&it).into_owned())
}
