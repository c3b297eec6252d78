//! Feeds libFuzzer's inputs to [`annulus_fuzz::two_nodes`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annulus_fuzz::two_nodes(data));
