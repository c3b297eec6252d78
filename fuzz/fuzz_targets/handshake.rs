//! Feeds libFuzzer's inputs to [`annulus_fuzz::handshake`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annulus_fuzz::handshake(data));
