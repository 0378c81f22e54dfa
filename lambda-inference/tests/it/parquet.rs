//! Scoring Parquet files, written here column by column.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;

use crate::builder::{self, Random, credit};
use crate::oracle::rows::SETTINGS;
use crate::place::{NO, Place, YES};

const ANY: f64 = f64::INFINITY;
/// The credit model's columns in the types that a data frame has, and one that the model does not have.
const SCHEMA: &str = "message rows {
    optional binary Note (STRING);
    optional int64 Num_Children;
    optional double Income;
    required boolean Own_Car;
    optional int32 Own_Housing (INTEGER(8, true));
}";

/// Values of a column; only an optional one may have nulls.
enum Column {
    Bool(Vec<Option<bool>>),
    Int32(Vec<Option<i32>>),
    Int64(Vec<Option<i64>>),
    Float(Vec<Option<f32>>),
    Double(Vec<Option<f64>>),
    Text(Vec<Option<&'static str>>),
}

impl Column {
    fn write(&self, writer: SerializedColumnWriter<'_>) {
        match self {
            Column::Bool(values) => write::<BoolType>(writer, values),
            Column::Int32(values) => write::<Int32Type>(writer, values),
            Column::Int64(values) => write::<Int64Type>(writer, values),
            Column::Float(values) => write::<FloatType>(writer, values),
            Column::Double(values) => write::<DoubleType>(writer, values),
            Column::Text(values) => {
                let values: Vec<_> = values.iter().map(|text| text.map(ByteArray::from)).collect();
                write::<ByteArrayType>(writer, &values);
            }
        }
    }
}

fn write<T: DataType>(mut writer: SerializedColumnWriter<'_>, values: &[Option<T::T>]) {
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<T::T> = values.iter().flatten().cloned().collect();
    writer.typed::<T>().write_batch(&values, Some(&levels), None).expect("write a column");
    writer.close().expect("close a column");
}

/// Writes a file of row groups.
fn write_file(path: &Path, schema: &str, compression: Compression, groups: &[Vec<Column>]) {
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = WriterProperties::builder().set_compression(compression).set_data_page_row_count_limit(1000);
    let properties = Arc::new(properties.set_write_batch_size(100).build());
    let mut writer = SerializedFileWriter::new(File::create(path).expect("write a Parquet file"), schema, properties)
        .expect("write a Parquet file");
    for columns in groups {
        let mut group = writer.next_row_group().expect("write a Parquet file");
        for column in columns {
            column.write(group.next_column().expect("write a Parquet file").expect("a column"));
        }
        group.close().expect("write a Parquet file");
    }
    writer.close().expect("write a Parquet file");
}

/// Rows of the schema above, each one the good or the other one.
fn rows(good: &[bool]) -> Vec<Column> {
    let pick = |good: bool| (if good { 2 } else { 0 }, if good { 9e4 } else { 1.0 });
    vec![
        Column::Text(good.iter().map(|good| good.then_some("a note")).collect()),
        Column::Int64(good.iter().map(|good| Some(pick(*good).0)).collect()),
        Column::Double(good.iter().map(|good| Some(pick(*good).1)).collect()),
        Column::Bool(good.iter().map(|good| Some(*good)).collect()),
        Column::Int32(good.iter().map(|good| Some(i32::from(*good))).collect()),
    ]
}

#[test]
fn row_groups_are_scored_in_order_by_any_number_of_threads() {
    let place = Place::new();
    let mut random = Random(21);
    let groups: Vec<Vec<bool>> =
        [9_000, 0, 1, 8_192, 3_000].map(|count| (0..count).map(|_| random.below(2) == 0).collect()).to_vec();
    let expected: String = groups.iter().flatten().map(|good| if *good { YES } else { NO }).collect();
    let columns: Vec<Vec<Column>> = groups.iter().map(|good| rows(good)).collect();
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::LZ4_RAW,
        Compression::ZSTD(Default::default()),
    ] {
        write_file(&place.path("rows.parquet"), SCHEMA, compression, &columns);
        let threads: &[&str] = if compression == Compression::SNAPPY { &["1", "2", "7"] } else { &["3"] };
        for threads in threads {
            let scored = place
                .run(&["--model", "model.bin", "--input", "rows.parquet", "--threads", threads, "--progress"], b"");
            scored.is(&format!("prediction,probability\n{expected}"));
            assert!(scored.err.contains("ignored columns, which the model does not have: 1"), "{}", scored.err);
            assert!(scored.err.contains("20193 rows in"), "{}", scored.err);
        }
    }
    let wrong = place.run(&["--model", "model.bin", "--format", "parquet"], b"PAR1");
    wrong.fails(1, "name a file with --input");
}

#[test]
fn nulls_are_missing_and_every_type_of_number_is_read() {
    let (file, tree) = credit();
    let place = Place::with(&file);
    let schema = "message rows {
        optional int32 Num_Children (INTEGER(32, false));
        optional float Income;
        optional int64 Own_Car (INTEGER(64, false));
        optional double Own_Housing;
    }";
    let columns = vec![
        Column::Int32(vec![Some(2), None, Some(-1), Some(0)]),
        Column::Float(vec![None, Some(9e4), Some(f32::NAN), Some(1.0)]),
        Column::Int64(vec![Some(1), Some(1), None, Some(-1)]),
        Column::Double(vec![Some(1.0), None, Some(-0.0), Some(1e-300)]),
    ];
    let nan = f64::NAN;
    let values = [
        [2.0, nan, 1.0, 1.0],
        [nan, 9e4, 1.0, nan],
        [4_294_967_295.0, nan, nan, -0.0],
        [0.0, 1.0, 18_446_744_073_709_551_615.0, 1e-300],
    ];
    let expected = values.iter().fold("prediction,probability\n".to_string(), |text, row| {
        let probabilities = tree.probabilities(row);
        text + &format!("{},{:?}\n", u8::from(probabilities[1] > probabilities[0]), probabilities[1])
    });
    write_file(&place.path("rows.parquet"), schema, Compression::SNAPPY, &[columns]);
    place.run(&["--model", "model.bin", "--input", "rows.parquet"], b"").is(&expected);
}

#[test]
fn texts_are_looked_up_and_refused_rows_are_told_by_their_number() {
    let mut file = builder::File::empty(&[("size", 0, -ANY, ANY), ("town", 0, -ANY, ANY)], &[0, 1], 1);
    file.texts(&["Bonn", "a,b"]);
    let coded = file.step([6, 0, 1, 1, 1, 0, 0, 0], &[0.0, 1.0, 0.25, 0.75, 0.5, 0.0], &[2, 2, 0, 0]);
    let pair = file.step([17, 0, coded, 1, 2, 0, 0, 0], &[], &[]);
    (file.model[1], file.model[4]) = (pair, pair);
    let place = Place::with(&file);
    let schema = "message rows { required double size; optional binary town (STRING); }";
    let mut towns = vec![Some("Bonn"), Some("a,b"), None, Some("bonn")];
    towns.extend(vec![Some("Bonn"); 10_000]);
    towns.push(Some(""));
    let sizes = vec![Some(1.0); towns.len()];
    write_file(
        &place.path("rows.parquet"),
        schema,
        Compression::SNAPPY,
        &[vec![Column::Double(sizes), Column::Text(towns)]],
    );
    let scored = place.run(&["--model", "model.bin", "--input", "rows.parquet"], b"");
    assert!(
        scored.out.starts_with("prediction,probability\n0,0.25\n1,0.75\n0,0.5\n,\n0,0.25\n"),
        "{:.200}",
        scored.out
    );
    assert!(scored.out.ends_with("0,0.25\n,\n") && scored.out.lines().count() == 10_006);
    scored.fails(1, "row 4: town is none of the values that the model knows");
    scored.fails(1, "row 10005: town is none of the values that the model knows");
}

#[test]
fn columns_that_do_not_fit_are_refused() {
    let place = Place::new();
    let number = || Column::Int32(vec![Some(1)]);
    let double = || Column::Double(vec![Some(1.0)]);
    let whole = "required int32 Num_Children; required double Income; required boolean Own_Car;";
    for (last, column, reason) in [
        ("required int32 other;", number(), "no column Own_Housing"),
        ("required group a { required int32 Own_Housing; }", number(), "no column Own_Housing"),
        (
            "required binary Own_Housing (STRING);",
            Column::Text(vec![Some("1")]),
            "Own_Housing holds BYTE_ARRAY (String)",
        ),
        (
            "required binary Own_Housing;",
            Column::Text(vec![Some("1")]),
            "Own_Housing holds BYTE_ARRAY, the model takes",
        ),
        ("required int32 Own_Housing (DECIMAL(5, 2));", number(), "Own_Housing holds INT32 (Decimal"),
        ("required int32 Own_Housing (DATE);", number(), "Own_Housing holds INT32 (Date"),
    ] {
        let schema = format!("message rows {{ {whole} {last} }}");
        let columns = vec![number(), double(), Column::Bool(vec![Some(true)]), column];
        write_file(&place.path("rows.parquet"), &schema, Compression::SNAPPY, &[columns]);
        let scored = place.run(&["--model", "model.bin", "--input", "rows.parquet"], b"");
        scored.fails(1, reason);
        assert_eq!(scored.out, "");
    }
    let twice = format!("message rows {{ {whole} required int32 Own_Housing; required int32 Own_Housing; }}");
    let columns = vec![number(), double(), Column::Bool(vec![Some(true)]), number(), number()];
    write_file(&place.path("rows.parquet"), &twice, Compression::SNAPPY, &[columns]);
    place.run(&["--model", "model.bin", "--input", "rows.parquet"], b"").fails(1, "two columns Own_Housing");
}

#[test]
fn a_damaged_file_is_an_error_or_answered_but_no_crash() {
    let place = Place::new();
    write_file(&place.path("rows.parquet"), SCHEMA, Compression::SNAPPY, &[rows(&[true; 3000]), rows(&[false; 10])]);
    let bytes = fs::read(place.path("rows.parquet")).unwrap();
    let mut random = Random(22);
    let model = credit().0.model();
    for round in 0..400 {
        let mut damaged = bytes.clone();
        match round % 4 {
            0 => damaged.truncate(random.below(bytes.len())),
            _ => (0..1 + random.below(3)).for_each(|_| {
                let at = random.below(bytes.len());
                damaged[at] ^= 1 << random.below(8);
            }),
        }
        fs::write(place.path("damaged.parquet"), &damaged).unwrap();
        let file = File::open(place.path("damaged.parquet")).unwrap();
        let Ok(mut input) = lambda_inference::batch::parquet(&model, file) else { continue };
        let mut output = Vec::new();
        let _ = lambda_inference::batch::score(&model, &mut input, &mut output, SETTINGS, &mut |_| {});
    }
    fs::write(place.path("damaged.parquet"), &bytes[..bytes.len() / 2]).unwrap();
    place.run(&["--model", "model.bin", "--input", "damaged.parquet"], b"").fails(1, "read the Parquet file");
}
