//! The six stages, a file each. Every one offers `run`, reads the records of earlier stages and writes its own last.

pub mod build;
pub mod deploy;
pub mod gate;
pub mod monitor;
pub mod scan;
pub mod test;
