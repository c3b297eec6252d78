//! Feeds libFuzzer's inputs to [`annulus_fuzz::node`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annulus_fuzz::node(data));
