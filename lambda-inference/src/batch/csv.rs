//! CSV: a line of column names, then a record a row. Quoted fields may hold commas, doubled quotes and line ends.

use std::io::Read;

use memchr::{memchr, memchr_iter};

use super::chunks::{Chunks, last_record_end};
use super::rows::Rows;
use super::values::value_of;
use super::{Chunk, Decoder, Input, Source};
use crate::model::{Feature, Model};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Rows of a CSV; reads as far as the column names.
///
/// # Errors
/// The input cannot be read or is empty, or a feature has no column or more than one.
pub fn csv<'a>(model: &'a Model, input: impl Read + Send + 'a) -> Result<Input<'a>, String> {
    let mut source = Chunks::new(input, last_record_end);
    let header = header(&mut source)?;
    let columns = model.features().iter().map(|feature| column(&header, feature)).collect::<Result<Vec<_>, _>>()?;
    let ignored = header.len() - columns.len();
    let decoder = Records { model, columns, fields: header.len() };
    Ok(Input { source: Box::new(source), decoder: Box::new(decoder), place: "line", ignored, rows: None })
}

/// Takes the column names off the start of the input.
fn header(source: &mut Chunks<impl Read + Send>) -> Result<Vec<Vec<u8>>, String> {
    let mut chunk = Chunk::default();
    loop {
        if !source.next(&mut chunk)? {
            return Err("the input is empty: a CSV begins with a line of column names".to_string());
        }
        if chunk.bytes.starts_with(BYTE_ORDER_MARK) {
            // As it stands a quote after it would open no field.
            chunk.bytes.drain(..BYTE_ORDER_MARK.len());
        }
        let mut reader = reader_of(&chunk.bytes);
        let mut record = csv::ByteRecord::new();
        if !reader.read_byte_record(&mut record).map_err(|error| format!("read the header: {error}"))? {
            continue;
        }
        let end = usize::try_from(reader.position().byte() - 1).unwrap_or(chunk.bytes.len()).min(chunk.bytes.len());
        source.give_back(&chunk, end);
        let mut header: Vec<Vec<u8>> = record.iter().map(<[u8]>::to_vec).collect();
        if let Some(last) = header.last_mut() {
            last.truncate(last.strip_suffix(b"\r").unwrap_or(last).len());
        }
        return Ok(header);
    }
}

/// With `\n` as the only end of a record the reader knows its line; a `\r` before it is taken off by who uses the field. A blank
/// line goes before the bytes, because a byte order mark would be taken off the start of any chunk.
fn reader_of(bytes: &[u8]) -> csv::Reader<impl Read> {
    let mut builder = csv::ReaderBuilder::new();
    builder.has_headers(false).flexible(true).terminator(csv::Terminator::Any(b'\n')).from_reader(b"\n".chain(bytes))
}

/// The place of a feature's column.
fn column(header: &[Vec<u8>], feature: &Feature) -> Result<usize, String> {
    let mut places = header.iter().enumerate().filter(|(_, name)| name.as_slice() == feature.name.as_bytes());
    match (places.next(), places.next()) {
        (Some((column, _)), None) => Ok(column),
        (None, _) => Err(format!("the input has no column {}", feature.name)),
        (Some(_), Some(_)) => Err(format!("the input has two columns {}", feature.name)),
    }
}

/// The records below the column names.
struct Records<'a> {
    model: &'a Model,
    /// The column of each feature.
    columns: Vec<usize>,
    /// Fields of a record.
    fields: usize,
}

impl Decoder for Records<'_> {
    fn decode(&self, chunk: &Chunk, rows: &mut Rows<'_>) {
        if memchr(b'"', &chunk.bytes).is_none() {
            self.decode_unquoted(chunk, rows);
        } else {
            self.decode_quoted(chunk, rows);
        }
    }
}

impl Records<'_> {
    /// Without a quote every line is a record and every comma ends a field.
    fn decode_unquoted(&self, chunk: &Chunk, rows: &mut Rows<'_>) {
        let mut fields = Vec::with_capacity(self.fields);
        let mut row = vec![0.0; self.columns.len()];
        let mut start = 0;
        let ends = memchr_iter(b'\n', &chunk.bytes).chain([chunk.bytes.len()]);
        for (line, end) in (chunk.first..).zip(ends) {
            let record = &chunk.bytes[start..end];
            start = end + 1;
            if record.is_empty() || record == b"\r" {
                continue;
            }
            fields.clear();
            fields.extend(record.split(|byte| *byte == b','));
            let filled = self.fill(fields.len(), |column| fields[column], &mut row);
            rows.take(line, filled.map(|()| row.as_slice()));
        }
    }

    fn decode_quoted(&self, chunk: &Chunk, rows: &mut Rows<'_>) {
        let mut reader = reader_of(&chunk.bytes);
        let mut record = csv::ByteRecord::new();
        let mut row = vec![0.0; self.columns.len()];
        let mut before = 2;
        // Bytes in memory, taken as they are, are always read.
        while reader.read_byte_record(&mut record).unwrap_or(false) {
            let after = reader.position().line();
            if record.len() > 1 || record.as_slice() != b"\r" {
                // Blank lines lie before the record, and line ends within it.
                let within = memchr_iter(b'\n', record.as_slice()).count() as u64;
                let ended =
                    u64::from(reader.position().byte() <= chunk.bytes.len() as u64 || chunk.bytes.ends_with(b"\n"));
                let line = before.max(after.saturating_sub(ended + within));
                let filled = self.fill(record.len(), |column| &record[column], &mut row);
                rows.take(chunk.first + line - 2, filled.map(|()| row.as_slice()));
            }
            before = after;
        }
    }

    /// Makes a row of a record's fields.
    fn fill<'f>(&self, count: usize, field: impl Fn(usize) -> &'f [u8], row: &mut [f64]) -> Result<(), String> {
        if count != self.fields {
            return Err(format!("{count} fields, the header has {}", self.fields));
        }
        for ((value, column), feature) in row.iter_mut().zip(&self.columns).zip(self.model.features()) {
            *value = value_of(feature, field(*column))?;
        }
        Ok(())
    }
}
