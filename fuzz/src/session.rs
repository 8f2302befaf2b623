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

/// The conversation that `data` stands for.
pub fn check(data: &[u8]) {
    let rng = TestRng::from_seed(RngAlgorithm::PassThrough, data);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    if let Ok(tree) = random::conversations().new_tree(&mut runner) {
        tree.current().hold();
    }
}
