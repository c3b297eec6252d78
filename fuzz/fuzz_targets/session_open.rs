//! Feeds libFuzzer's inputs to [`annulus_fuzz::session_open`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annulus_fuzz::session_open(data));
