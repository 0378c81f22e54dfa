//! Model files.
#![no_main]

use lambda_inference_fuzz::oracle::models;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    models::withstands(bytes);
});
