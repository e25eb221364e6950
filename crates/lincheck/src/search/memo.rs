//! Fingerprints of configurations, made of marks that are added and taken away by exclusive or (Zobrist 1970).

/// What a mark stands for.
#[derive(Clone, Copy)]
pub(crate) enum Mark {
    /// An answered operation that is in the order.
    Known = 1,
    /// A write of unknown outcome that is, with its name.
    Unknown,
    /// The operation for which such a write was taken.
    Goal,
    /// A key with what it holds.
    Cell,
}

/// 128 bits that look random, the same for the same thing.
pub(crate) fn mark(kind: Mark, one: u64, two: u64) -> u128 {
    let half = |seed: u64| mix(mix(mix(seed ^ kind as u64) ^ one) ^ two);
    u128::from(half(0x243F_6A88_85A3_08D3)) << 64 | u128::from(half(0x1319_8A2E_0370_7344))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}
