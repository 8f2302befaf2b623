//! Conversations with the session machine, chosen by bytes.
//!
//! The model is that of the random test; here the bytes of the fuzzer stand for what the test draws, so that coverage
//! leads to conversations that chance does not find.

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

#[path = "../../fabric-core/tests/session/random.rs"]
#[allow(dead_code, reason = "the random test itself is not built here")]
mod random;
#[path = "../../fabric-core/tests/session/support.rs"]
#[allow(dead_code, unused_imports, reason = "words of scripted tests")]
mod support;

/// More than the longest conversation draws.
const DRAWN_MAX: usize = 128 * 1024;

/// The conversation that `data` stands for.
pub fn check(data: &[u8]) {
    let rng = TestRng::from_seed(RngAlgorithm::PassThrough, &drawn(data));
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    if let Ok(tree) = random::conversations().new_tree(&mut runner) {
        tree.current().hold();
    }
}

/// `data`, and behind it numbers that depend on it alone: out of nothing but zeros some strategies draw for ever.
fn drawn(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let mut state = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    while bytes.len() < DRAWN_MAX {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes
}
