//! Feeds libFuzzer's inputs to [`annulus_fuzz::wire`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annulus_fuzz::wire(data));
