#![no_main]
//! Arbitrary conversations with the session machine against a simple model.

use carillon_fuzz::session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| session::check(data));
