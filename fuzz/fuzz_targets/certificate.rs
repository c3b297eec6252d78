//! Feeds libFuzzer's inputs to [`annulus_fuzz::certificate`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annulus_fuzz::certificate(data));
