//! Files of CSV.
#![no_main]

use std::sync::LazyLock;

use lambda_inference::Model;
use lambda_inference_fuzz::oracle::builder::{Tree, credit};
use lambda_inference_fuzz::oracle::rows;

static CREDIT: LazyLock<(Model, Tree)> = LazyLock::new(|| (credit().0.model(), credit().1));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rows::agrees(&CREDIT.0, &CREDIT.1, true, bytes);
});
