//! One target as a program of libFuzzer; the environment variable FUZZ_TARGET names it.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names the target");
        let found = raftmap_fuzz::TARGETS.into_iter().find(|target| target.0 == name);
        found.expect("FUZZ_TARGET names one of raftmap_fuzz::TARGETS").1
    });
    target(bytes);
});
