//! Answers of the Runtime API.
#![no_main]

use lambda_inference_fuzz::oracle::answers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    answers::withstands(bytes);
});
