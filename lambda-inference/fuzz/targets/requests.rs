//! Events of the function.
#![no_main]

use std::sync::LazyLock;

use lambda_inference::Model;
use lambda_inference_fuzz::oracle::builder::{Tree, credit};
use lambda_inference_fuzz::oracle::requests;

static CREDIT: LazyLock<(Model, Tree)> = LazyLock::new(|| (credit().0.model(), credit().1));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    requests::agrees(&CREDIT.0, &CREDIT.1, &String::from_utf8_lossy(bytes));
});
