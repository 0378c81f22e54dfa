//! Answers of the Runtime API, well made and not.

use crate::builder::Random;
use crate::corpus;
use crate::mutate::mutate;
use crate::oracle::answers::withstands;

const TOKENS: [&str; 20] = [
    "\r\n",
    "\n",
    "\r\n\r\n",
    ":",
    " ",
    "0",
    "1",
    "9",
    "f",
    ";",
    "HTTP/1.0 ",
    "HTTP/1.1 ",
    "200",
    "099",
    "content-length: 2\r\n",
    "transfer-encoding: chunked\r\n",
    "connection: close\r\n",
    "18446744073709551616",
    "ffffffffffffffff",
    "\u{e4}",
];

#[test]
fn random_answers_are_understood_the_same_in_any_pieces() {
    let kept = corpus::kept("answers");
    let mut random = Random(41);
    let mut understood = [0; 2];
    for _ in 0..10_000 {
        let mut bytes = kept[random.below(kept.len())].1.clone();
        mutate(&mut random, &mut bytes, &TOKENS);
        understood[withstands(&bytes).min(1)] += 1;
    }
    println!("{} random answers refused, {} understood", understood[0], understood[1]);
    assert!(understood.iter().all(|count| *count > 2_000), "{understood:?}");
}
