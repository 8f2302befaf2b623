#![no_main]
//! Arbitrary bytes as MQTT 3.1 and 3.1.1 from a terminal.

use carillon_fuzz::decode;
use fabric_core::mqtt::ProtocolVersion;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| decode::check(data, &[ProtocolVersion::V31, ProtocolVersion::V311]));
