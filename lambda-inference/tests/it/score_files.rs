//! `score` as a program: files and streams of any size, threads, what is left behind when something fails, and usage.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::builder::Random;
use crate::place::{GOOD, HEADER, NO, OTHER, Place, Scored, YES, names};

#[test]
fn files_and_standard_streams() {
    let place = Place::new();
    let rows = format!("{HEADER}2,90000,1,1\n");
    let expected = format!("prediction,probability\n{YES}");
    fs::write(place.path("rows.csv"), &rows).unwrap();
    place.run(&["--model", "model.bin", "--input", "-", "--output", "-"], rows.as_bytes()).is(&expected);
    place.run(&["--model=model.bin", "--input=rows.csv"], b"").is(&expected);
    place.run(&["--model", "model.bin", "--input", "rows.csv", "--output", "out.csv"], b"").is("");
    assert_eq!(fs::read_to_string(place.path("out.csv")).unwrap(), expected);
    for (arguments, reason) in [
        (["--input", "absent.csv"], "open absent.csv"),
        (["--input", "."], "Is a directory"),
        (["--output", "absent/out.csv"], "create absent/out.csv"),
    ] {
        place.run(&[&["--model", "model.bin"][..], &arguments].concat(), rows.as_bytes()).fails(1, reason);
    }
    let same = ["--model", "model.bin", "--input", "rows.csv", "--output", "./rows.csv"];
    place.run(&same, b"").fails(1, "input and output are the same file");
    assert_eq!(fs::read_to_string(place.path("rows.csv")).unwrap(), rows);
}

#[test]
fn wrong_usage_exits_with_2() {
    let place = Place::new();
    for (arguments, reason) in [
        (&[][..], "--model is missing"),
        (&["--model"], "--model"),
        (&["--model", "model.bin", "rows.csv"], "rows.csv"),
        (&["--model", "model.bin", "--explain=yes"], "--explain"),
        (&["--model", "model.bin", "--format", "xml"], "unknown format `xml`"),
        (&["--model", "model.bin", "--describe=yes"], "--describe"),
        (&["--model", "model.bin", "--threads", "0"], "--threads takes 1 to 1024"),
        (&["--model", "model.bin", "--threads", "1025"], "--threads takes 1 to 1024"),
        (&["--model", "model.bin", "--threads", "many"], "many"),
        (&["-x"], "-x"),
    ] {
        let scored = place.run(arguments, b"");
        scored.fails(2, reason);
        scored.fails(2, "usage: score");
        assert_eq!(scored.out, "");
    }
    let help = place.run(&["--help"], b"");
    assert!(help.code == 0 && help.out.starts_with("usage: score") && help.err.is_empty());
}

#[test]
fn the_model_is_described() {
    let place = Place::new();
    place.run(&["--model", "model.bin", "--describe"], b"").is("{\"family\":\"decision tree\"}\n");
}

#[test]
fn a_model_that_is_absent_or_changed_is_refused() {
    let place = Place::new();
    place.run(&["--model", "absent.bin"], HEADER.as_bytes()).fails(1, "read the model absent.bin");
    let mut bytes = fs::read(place.path("model.bin")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(place.path("model.bin"), &bytes).unwrap();
    for arguments in [&["--model", "model.bin"][..], &["--model", "model.bin", "--describe"]] {
        let scored = place.run(arguments, format!("{HEADER}2,90000,1,1\n").as_bytes());
        scored.fails(1, "refuse the model model.bin: the file was changed");
        assert_eq!(scored.out, "");
    }
}

#[test]
fn a_full_device_is_an_error() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let place = Place::new();
    let rows = format!("{HEADER}{}", "2,90000,1,1\n".repeat(50_000));
    fs::write(place.path("rows.csv"), &rows).unwrap();
    fs::write(place.path("one.csv"), format!("{HEADER}2,90000,1,1\n")).unwrap();
    for arguments in [&["--input", "rows.csv"][..], &["--input", "one.csv"], &["--describe"]] {
        let arguments = [&["--model", "model.bin"][..], arguments].concat();
        let to_device = || Stdio::from(File::options().write(true).open(full).unwrap());
        let output = place.command(&arguments).stdout(to_device()).output().unwrap();
        Scored::of(output).fails(1, "write: No space left on device");
        // With nobody to tell the reason to.
        let status = place.command(&arguments).stdout(to_device()).stderr(to_device()).status().unwrap();
        assert_eq!(status.code(), Some(1));
    }
    place.run(&["--model", "model.bin", "--input", "one.csv", "--output", "/dev/full"], b"").fails(1, "No space left");
}

#[test]
fn a_reader_that_closes_early_is_no_crash() {
    let place = Place::new();
    fs::write(place.path("rows.csv"), format!("{HEADER}{}", "2,90000,1,1\n".repeat(100_000))).unwrap();
    let mut command = place.command(&["--model", "model.bin", "--input", "rows.csv"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let mut start = [0; 10];
    pipe.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"prediction");
    drop(pipe);
    Scored::of(child.wait_with_output().unwrap()).fails(1, "write: Broken pipe");
}

/// An input of many chunks, what it is answered, and where its bad rows are.
#[derive(Default)]
struct Large {
    input: String,
    expected: String,
    bad: Vec<(usize, String)>,
}

impl Large {
    /// Rows of all sorts, until the input has so many bytes. A row is told apart by its text, not by its number of lines.
    fn csv(size: usize, ending: &str) -> Large {
        let mut random = Random(11);
        let header = format!("note,{}", HEADER.trim_end());
        let mut large = Large { input: format!("{header}{ending}"), ..Large::default() };
        let mut line = 2;
        while large.input.len() < size {
            let note = match random.below(50) {
                0 => format!("\"{}\"", "x\n\"\"\n,".repeat(random.below(300))),
                1 => "\"\"".to_string(),
                2 => "a\"b".to_string(),
                3 => "x".repeat(random.below(3_000)),
                _ => random.below(10_000).to_string(),
            };
            // Only the first bad ones are told: none in the first half, so that their lines are counted over chunks.
            let sort = random.below(40) + if large.input.len() < size / 2 { 2 } else { 0 };
            let (row, answer) = match sort {
                0 => ("2,90000,1,one".to_string(), Err("Own_Housing is \"one\", not a number")),
                1 => ("2,90000,1".to_string(), Err("4 fields, the header has 5")),
                2..20 => (OTHER.to_string(), Ok(NO)),
                _ => (GOOD.to_string(), Ok(YES)),
            };
            if let Err(reason) = answer {
                large.bad.push((line, reason.to_string()));
            }
            large.expected += answer.unwrap_or(",\n");
            large.input += &format!("{note},{row}{ending}");
            line += 1 + note.matches('\n').count();
            for _ in 0..random.below(20).saturating_sub(17) {
                large.input += ending;
                line += 1;
            }
        }
        large
    }

    fn ndjson(size: usize) -> Large {
        let mut random = Random(12);
        let mut large = Large::default();
        let mut line = 1;
        while large.input.len() < size {
            let padding = " ".repeat(random.below(200));
            let sort = random.below(40) + if large.input.len() < size / 2 { 1 } else { 0 };
            let (row, answer) = match sort {
                0 => (r#"{"Num_Children": 2, "Own_Car": 1, "Own_Housing": 1}"#, Err("Income is missing")),
                1 => ("", Ok("")),
                2..20 => (r#"{"Num_Children": 0, "Income": 1, "Own_Car": 0, "Own_Housing": 0}"#, Ok(NO)),
                _ => (r#"{"Num_Children": 2, "Income": 90000, "Own_Car": 1, "Own_Housing": 1}"#, Ok(YES)),
            };
            if let Err(reason) = answer {
                large.bad.push((line, reason.to_string()));
            }
            large.expected += answer.unwrap_or(",\n");
            large.input += &format!("{row}{padding}\n");
            line += 1;
        }
        large
    }

    /// Scores it with several numbers of threads, from a file and from a pipe.
    #[track_caller]
    fn check(&self, name: &str) {
        let place = Place::new();
        fs::write(place.path(name), &self.input).expect("write the rows");
        let format = name.split_once('.').expect("an ending").1;
        let expected = format!("prediction,probability\n{}", self.expected);
        let told: Vec<String> =
            self.bad.iter().take(20).map(|(line, reason)| format!("score: line {line}: {reason}")).collect();
        for threads in ["1", "2", "7"] {
            let arguments = ["--model", "model.bin", "--threads", threads, "--format", format];
            for scored in [
                place.run(&[&arguments[..], &["--input", name]].concat(), b""),
                place.run(&arguments, self.input.as_bytes()),
            ] {
                assert!(scored.out == expected, "{threads} threads answer something else");
                let lines: Vec<&str> = scored.err.lines().filter(|line| line.starts_with("score: line")).collect();
                assert_eq!(lines, told, "{threads} threads");
                scored.fails(1, &format!("rows that could not be read: {}", self.bad.len()));
            }
        }
    }
}

#[test]
fn large_csvs_are_answered_alike_by_any_number_of_threads() {
    for ending in ["\n", "\r\n"] {
        let large = Large::csv(2_000_000, ending);
        assert!(large.bad.len() > 100, "{}", large.bad.len());
        large.check("rows.csv");
    }
}

#[test]
fn large_ndjson_is_answered_alike_by_any_number_of_threads() {
    let large = Large::ndjson(2_000_000);
    assert!(large.bad.len() > 100, "{}", large.bad.len());
    large.check("rows.ndjson");
}

#[test]
fn lines_longer_than_a_chunk_are_whole() {
    let place = Place::new();
    let long = "x".repeat(1_000_000);
    let rows = format!("note,{HEADER}{long},{GOOD}\n\"{long}\n{long}\",{OTHER}\ny,{GOOD}\ny,x,1,1,1");
    let scored = place.csv(&rows);
    assert_eq!(scored.out, format!("prediction,probability\n{YES}{NO}{YES},\n"));
    scored.fails(1, "line 6: Num_Children");
    let scored = place.ndjson(&format!(
        "{{\"note\": \"{long}\", {}\n\nx",
        &r#"{"Num_Children": 2, "Income": 9e4, "Own_Car": 1, "Own_Housing": 1}"#[1..]
    ));
    assert_eq!(scored.out, format!("prediction,probability\n{YES},\n"));
    scored.fails(1, "line 3: no JSON object");
}

#[test]
fn what_stands_before_an_error_of_the_input_is_answered_on_standard_output_only() {
    let place = Place::new();
    let rows = format!("{HEADER}{GOOD}\n{OTHER}\n\"{}", "y\n".repeat(20 << 20));
    let scored = place.csv(&rows);
    assert_eq!(scored.out, format!("prediction,probability\n{YES}{NO}"));
    scored.fails(1, "line 4: a record longer than 16 MiB");
    fs::write(place.path("out.csv"), "kept").unwrap();
    place.run(&["--model", "model.bin", "--output", "out.csv"], rows.as_bytes()).fails(1, "line 4: a record longer");
    assert_eq!(fs::read_to_string(place.path("out.csv")).unwrap(), "kept");
    assert_eq!(names(&place), ["model.bin", "out.csv"]);
}

#[test]
fn an_output_file_appears_only_when_it_is_complete() {
    let place = Place::new();
    let large = format!("{HEADER}{}", format!("{GOOD}\n").repeat(100_000));
    fs::write(place.path("rows.csv"), &large).unwrap();
    // A file may not grow beyond 50 blocks, and the signal that says so is ignored.
    let limited = r#"trap '' XFSZ; ulimit -f 50; exec "$0" --model model.bin --input rows.csv --output out.csv"#;
    for before in [None, Some("kept")] {
        if let Some(before) = before {
            fs::write(place.path("out.csv"), before).unwrap();
        }
        let mut command = Command::new("sh");
        command.current_dir(place.folder.path()).args(["-c", limited, env!("CARGO_BIN_EXE_score")]);
        Scored::of(command.output().unwrap()).fails(1, "write: File too large");
        assert_eq!(fs::read_to_string(place.path("out.csv")).ok().as_deref(), before);
        assert_eq!(names(&place).len(), 2 + usize::from(before.is_some()));
    }
    // Bad rows have their lines, so that the file is complete.
    let arguments = ["--model", "model.bin", "--output", "out.csv"];
    place.run(&arguments, format!("{HEADER}{GOOD}\nx\n").as_bytes()).fails(1, "could not be read: 1");
    assert_eq!(fs::read_to_string(place.path("out.csv")).unwrap(), format!("prediction,probability\n{YES},\n"));
    place.run(&arguments, b"Income\n1\n").fails(1, "no column Num_Children");
    assert_eq!(fs::read_to_string(place.path("out.csv")).unwrap(), format!("prediction,probability\n{YES},\n"));
    assert_eq!(names(&place), ["model.bin", "out.csv", "rows.csv"]);
}

#[cfg(unix)]
#[test]
fn links_permissions_and_pipes_stay_what_they_are() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let place = Place::new();
    let rows = format!("{HEADER}{GOOD}\n");
    let expected = format!("prediction,probability\n{YES}");
    fs::write(place.path("real.csv"), "before").unwrap();
    fs::set_permissions(place.path("real.csv"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("real.csv", place.path("link.csv")).unwrap();
    place.run(&["--model", "model.bin", "--output", "link.csv"], rows.as_bytes()).is("");
    assert!(place.path("link.csv").is_symlink());
    assert_eq!(fs::read_to_string(place.path("real.csv")).unwrap(), expected);
    assert_eq!(fs::metadata(place.path("real.csv")).unwrap().permissions().mode() & 0o777, 0o640);
    place.run(&["--model", "model.bin", "--output", "/dev/stdout"], rows.as_bytes()).is(&expected);
}

#[test]
fn progress_is_told_when_it_is_asked_for() {
    let place = Place::new();
    let rows = format!("{HEADER}{GOOD}\n{GOOD}\n");
    let scored = place.run(&["--model", "model.bin", "--progress"], rows.as_bytes());
    scored.is(&format!("prediction,probability\n{YES}{YES}"));
    assert!(scored.err.starts_with("score: 2 rows in 0.") && scored.err.ends_with(" rows/s)\n"), "{}", scored.err);
    assert_eq!(place.csv(&rows).err, "");
}

#[cfg(not(feature = "parquet"))]
#[test]
fn without_parquet_the_error_names_the_command_that_brings_it() {
    let place = Place::new();
    fs::write(place.path("rows.parquet"), "PAR1").unwrap();
    place.run(&["--model", "model.bin", "--input", "rows.parquet"], b"").fails(1, "--features parquet");
}
