//! What the fuzz targets ask: the same questions as the tests.

#[path = "../../tests/oracle/mod.rs"]
pub mod oracle;
