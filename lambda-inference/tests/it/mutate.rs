//! Random changes of texts: what every test run tries without being guided by coverage, as `fuzz/` is.

use crate::builder::Random;

/// Changes a text at up to three places. `tokens` are what may be put into it.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>, tokens: &[&str]) {
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(8)).min(bytes.len());
        match random.below(7) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..end, random.pick(tokens).bytes())),
            2 => drop(bytes.splice(at..at, random.pick(tokens).bytes())),
            3 => {
                let piece = bytes[at..end].to_vec();
                let target = random.below(bytes.len() + 1);
                drop(bytes.splice(target..target, piece));
            }
            4 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            // Digits become other digits, which mostly stays valid.
            _ => {
                if let Some(digit) = bytes[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *digit = b'0' + random.below(10) as u8;
                }
            }
        }
    }
}
