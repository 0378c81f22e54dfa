//! Parquet: the columns of the features, by name, row group after row group. A null is a missing value.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::rows::Rows;
use super::{Chunk, Decoder, Input, Source};
use crate::model::{Feature, FeatureKind, Model};

/// Most rows and most values of a chunk.
const CHUNK_ROWS: usize = 8192;
const CHUNK_VALUES: usize = 1 << 17;

/// Rows of a Parquet file; reads what it says of itself.
///
/// # Errors
/// It is no Parquet file, or a feature has no column of its kind or more than one.
pub fn parquet(model: &Model, file: File) -> Result<Input<'_>, String> {
    let reader = unpanicked(|| SerializedFileReader::new(file).map_err(|error| error.to_string()))
        .map_err(|error| format!("read the Parquet file: {error}"))?;
    let about = reader.metadata().file_metadata();
    let columns = about.schema_descr().columns();
    let wanted = model.features().iter().map(|feature| {
        let mut places = (0..columns.len()).filter(|index| columns[*index].path().parts() == [feature.name.as_str()]);
        match (places.next(), places.next()) {
            (Some(place), None) => fitting(feature, &columns[place]).map(|kind| (place, kind)),
            (None, _) => Err(format!("the input has no column {}", feature.name)),
            (Some(_), Some(_)) => Err(format!("the input has two columns {}", feature.name)),
        }
    });
    let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
    let ignored = columns.len() - wanted.len();
    let rows = u64::try_from(about.num_rows()).ok();
    let width = wanted.len();
    let source = Groups { model, reader, wanted, next_group: 0, open: Vec::new(), left: 0, read: 0 };
    Ok(Input { source: Box::new(source), decoder: Box::new(Values { width }), place: "row", ignored, rows })
}

/// How a column's values become numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Bool,
    Int32,
    UInt32,
    Int64,
    UInt64,
    Float,
    Double,
    Text,
}

/// The kind of a column, if it is one that the feature takes.
fn fitting(feature: &Feature, column: &ColumnDescriptor) -> Result<Kind, String> {
    let kind = kind_of(column).filter(|_| column.max_rep_level() == 0);
    match kind {
        Some(kind) if (kind == Kind::Text) == (feature.kind == FeatureKind::Text) => Ok(kind),
        _ => {
            let wanted = if feature.kind == FeatureKind::Text { "texts" } else { "numbers or booleans" };
            let logical = column.logical_type_ref().map(|logical| format!(" ({logical:?})")).unwrap_or_default();
            Err(format!(
                "column {} holds {}{logical}, the model takes {wanted}: cast it before",
                feature.name,
                column.physical_type()
            ))
        }
    }
}

/// What a column holds; none if it is nothing that a row could.
fn kind_of(column: &ColumnDescriptor) -> Option<Kind> {
    let signed = match (column.logical_type_ref(), column.converted_type()) {
        (Some(LogicalType::Integer(about)), _) => about.is_signed,
        (Some(LogicalType::String | LogicalType::Enum), _) => true,
        // Dates, times and decimals are no numbers as they stand.
        (Some(_), _) => return None,
        (None, ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64) => {
            false
        }
        (None, ConvertedType::INT_8 | ConvertedType::INT_16 | ConvertedType::INT_32 | ConvertedType::INT_64) => true,
        (None, ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::ENUM) => true,
        (None, _) => return None,
    };
    match (column.physical_type(), signed) {
        (Type::BOOLEAN, _) => Some(Kind::Bool),
        (Type::INT32, true) => Some(Kind::Int32),
        (Type::INT32, false) => Some(Kind::UInt32),
        (Type::INT64, true) => Some(Kind::Int64),
        (Type::INT64, false) => Some(Kind::UInt64),
        (Type::FLOAT, _) => Some(Kind::Float),
        (Type::DOUBLE, _) => Some(Kind::Double),
        (Type::BYTE_ARRAY, _) => Some(Kind::Text),
        (Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY, _) => None,
    }
}

/// The row groups of a file.
struct Groups<'a> {
    model: &'a Model,
    reader: SerializedFileReader<File>,
    /// Place and kind of each feature's column.
    wanted: Vec<(usize, Kind)>,
    next_group: usize,
    /// The columns of the open group.
    open: Vec<Box<dyn Column + 'a>>,
    /// Rows of the open group that are not read.
    left: usize,
    read: u64,
}

/// The reader panics at some damaged files, where an error is due.
fn unpanicked<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("the file is damaged".to_string()))
}

impl Source for Groups<'_> {
    fn next(&mut self, chunk: &mut Chunk) -> Result<bool, String> {
        let row = self.read + 1;
        unpanicked(|| self.next_rows(chunk)).map_err(|error| format!("row {row} of the Parquet file: {error}"))
    }
}

impl Groups<'_> {
    fn next_rows(&mut self, chunk: &mut Chunk) -> Result<bool, String> {
        while self.left == 0 {
            if self.next_group == self.reader.num_row_groups() {
                return Ok(false);
            }
            self.open_group().map_err(|error| format!("open row group {}: {error}", self.next_group))?;
            self.next_group += 1;
        }
        let width = self.wanted.len();
        let rows = self.left.min(CHUNK_ROWS).min((CHUNK_VALUES / width).max(1));
        chunk.values.clear();
        chunk.values.resize(rows * width, f64::NAN);
        for (place, (column, feature)) in self.open.iter_mut().zip(self.model.features()).enumerate() {
            let read = column.read(rows, chunk.values[place..].iter_mut().step_by(width));
            if read.map_err(|error| format!("read column {}: {error}", feature.name))? < rows {
                return Err(format!("column {} ends before its row group", feature.name));
            }
        }
        self.left -= rows;
        chunk.first = self.read + 1;
        self.read += rows as u64;
        chunk.read = self.read;
        Ok(true)
    }

    fn open_group(&mut self) -> Result<(), ParquetError> {
        let group = self.reader.get_row_group(self.next_group)?;
        self.open.clear();
        for (feature, (place, kind)) in self.model.features().iter().zip(&self.wanted) {
            self.open.push(column(feature, *kind, group.get_column_reader(*place)?)?);
        }
        self.left = usize::try_from(group.metadata().num_rows())
            .map_err(|_| ParquetError::General("its number of rows is negative".to_string()))?;
        Ok(())
    }
}

/// A column of a row group, whose values are read as numbers.
trait Column: Send {
    /// Reads so many rows, and sets `values` where they are not null; gives the number of rows that there were.
    fn read(&mut self, rows: usize, values: Strided<'_>) -> Result<usize, ParquetError>;
}

/// The places of a column in rows that lie one after the other.
type Strided<'a> = std::iter::StepBy<std::slice::IterMut<'a, f64>>;

fn column<'a>(feature: &'a Feature, kind: Kind, reader: ColumnReader) -> Result<Box<dyn Column + 'a>, ParquetError> {
    use ColumnReader::*;
    Ok(match (reader, kind) {
        (BoolColumnReader(reader), Kind::Bool) => typed(reader, |value| f64::from(u8::from(*value))),
        (Int32ColumnReader(reader), Kind::Int32) => typed(reader, |value| f64::from(*value)),
        (Int32ColumnReader(reader), Kind::UInt32) => typed(reader, |value| f64::from(value.cast_unsigned())),
        (Int64ColumnReader(reader), Kind::Int64) => typed(reader, |value| *value as f64),
        (Int64ColumnReader(reader), Kind::UInt64) => typed(reader, |value| value.cast_unsigned() as f64),
        (FloatColumnReader(reader), Kind::Float) => typed(reader, |value| f64::from(*value)),
        (DoubleColumnReader(reader), Kind::Double) => typed(reader, |value| *value),
        (ByteArrayColumnReader(reader), Kind::Text) => {
            typed(reader, |text| feature.code(&String::from_utf8_lossy(text.data())))
        }
        _ => return Err(ParquetError::General(format!("column {} changes its type", feature.name))),
    })
}

fn typed<'a, T: DataType>(
    reader: ColumnReaderImpl<T>,
    number: impl Fn(&T::T) -> f64 + Send + 'a,
) -> Box<dyn Column + 'a> {
    Box::new(Typed::new(reader, number))
}

/// A column with the memory for its values.
struct Typed<T: DataType, F> {
    reader: ColumnReaderImpl<T>,
    number: F,
    values: Vec<T::T>,
    levels: Vec<i16>,
}

impl<T: DataType, F: Fn(&T::T) -> f64 + Send> Typed<T, F> {
    fn new(reader: ColumnReaderImpl<T>, number: F) -> Typed<T, F> {
        Typed { reader, number, values: Vec::new(), levels: Vec::new() }
    }
}

impl<T: DataType, F: Fn(&T::T) -> f64 + Send> Column for Typed<T, F> {
    fn read(&mut self, rows: usize, places: Strided<'_>) -> Result<usize, ParquetError> {
        self.values.clear();
        self.levels.clear();
        let (read, ..) = self.reader.read_records(rows, Some(&mut self.levels), None, &mut self.values)?;
        let numbers = self.values.iter().map(&self.number);
        if self.levels.is_empty() {
            // A column without nulls has no levels.
            places.zip(numbers).for_each(|(place, number)| *place = number);
        } else {
            let there = places.zip(&self.levels).filter(|(_, level)| **level > 0);
            there.zip(numbers).for_each(|((place, _), number)| *place = number);
        }
        Ok(read)
    }
}

/// Rows that the source has read already.
struct Values {
    width: usize,
}

impl Decoder for Values {
    fn decode(&self, chunk: &Chunk, rows: &mut Rows<'_>) {
        for (row, values) in (chunk.first..).zip(chunk.values.chunks_exact(self.width)) {
            rows.take(row, Ok(values));
        }
    }
}
