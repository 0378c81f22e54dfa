//! `println!` and its relatives as this program needs them: a reader that has seen enough (`cargo xtask status | head`) ends no
//! work, where those of the standard library would panic in the middle of a deployment. They take their places in every module.

use std::fmt::Arguments;
use std::io::{ErrorKind, Result, Write, stderr, stdout};

/// Writes to standard output, whether anybody still reads it or not.
///
/// # Panics
/// The text could not be written for another reason, such as a full disk: a result that is lost must not look like one.
pub fn out(text: Arguments) {
    written(stdout().write_fmt(text), "output");
}

/// Writes to standard error as [`out`] does to standard output.
pub fn err(text: Arguments) {
    written(stderr().write_fmt(text), "error");
}

fn written(result: Result<()>, stream: &str) {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("write to standard {stream}: {error}"),
        _ => {}
    }
}

macro_rules! print {
    ($($text:tt)*) => { $crate::printing::out(format_args!($($text)*)) };
}

macro_rules! println {
    () => { $crate::printing::out(format_args!("\n")) };
    ($($text:tt)*) => { $crate::printing::out(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! eprint {
    ($($text:tt)*) => { $crate::printing::err(format_args!($($text)*)) };
}

macro_rules! eprintln {
    () => { $crate::printing::err(format_args!("\n")) };
    ($($text:tt)*) => { $crate::printing::err(format_args!("{}\n", format_args!($($text)*))) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_left_ends_nothing() {
        written(Err(ErrorKind::BrokenPipe.into()), "output");
    }

    #[test]
    #[should_panic(expected = "write to standard output")]
    fn a_full_disk_is_no_success() {
        written(Err(ErrorKind::StorageFull.into()), "output");
    }
}
