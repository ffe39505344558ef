use super::WeightFile;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// A whole file by hand.
fn file(header: &str, body: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![1; body]].concat()
}

fn open(bytes: Vec<u8>) -> Result<WeightFile, String> {
    WeightFile::from_bytes(Path::new("trial"), bytes).map_err(|error| {
        assert!(error.hint().is_some(), "{error} has no hint");
        error.to_string()
    })
}

const TWO: &str = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;

#[test]
fn what_a_header_cannot_mean_is_refused_with_its_reason() {
    assert!(open(file(TWO, 32)).is_ok());
    let tensor = |rest: &str| format!(r#"{{"a":{{"dtype":"F32",{rest}}}}}"#);
    for (header, body, reason) in [
        (TWO.to_owned(), 31, "the file has"),
        (TWO.to_owned(), 33, "the tensors end at byte"),
        (TWO.replace("[24,32]", "[16,24]"), 32, "overlaps with the tensor before it"),
        (TWO.replace("[24,32]", "[28,36]"), 36, "follows a gap"),
        (TWO.replace("\"b\"", "\"a\""), 32, "a stands there twice"),
        (tensor(r#""shape":[2],"data_offsets":[8,0]"#), 8, "does not fit"),
        (tensor(r#""shape":[18446744073709551615,3],"data_offsets":[0,8]"#), 8, "does not fit"),
        (tensor(r#""shape":[4294967296,4294967296],"data_offsets":[0,0]"#), 0, "does not fit"),
        (tensor(r#""shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]"#), 4, "does not fit"),
        (tensor(r#""shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]"#), 4, "9 axes"),
        (tensor(r#""shape":[-1],"data_offsets":[0,4]"#), 4, "its header"),
        (tensor(r#""shape":[1.5],"data_offsets":[0,4]"#), 4, "its header"),
        (tensor(r#""shape":"x","data_offsets":[0,4]"#), 4, "its header"),
        (r#"{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#.to_owned(), 4, "its header"),
        ("[".repeat(100_000), 0, "its header"),
        (format!(r#"{{"a":{}"#, r#"{"a":"#.repeat(100_000)), 0, "its header"),
        ("{".to_owned(), 0, "its header"),
        (
            format!(r#"{{"{}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#, "k".repeat(5000)),
            4,
            "a key has 5000",
        ),
        (r#"{"__metadata__":{"a":"b","a":"c"}}"#.to_owned(), 0, "a stands there twice"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#.to_owned(), 0, "the metadata stands there twice"),
    ] {
        let said = open(file(&header, body)).expect_err(reason);
        assert!(said.contains(reason) && said.len() < 600, "{said}");
    }
    for length in [100_000_001, u64::MAX, u64::MAX - 7, 1 << 63] {
        let said = open([&length.to_le_bytes()[..], b"{}"].concat()).expect_err("too long");
        assert!(said.contains("is longer than"), "{said}");
    }
    assert!(open([&99_999_999u64.to_le_bytes()[..], b"{}"].concat()).expect_err("cut short").contains("the file ends"));
    for short in [&[][..], &[1, 2, 3]] {
        assert!(open(short.to_vec()).expect_err("too short").contains("it has"));
    }
}

/// Changed files are refused or read to the end; none panics, and none is read beyond its end.
#[test]
fn twenty_thousand_changed_files_are_refused_or_read() {
    let whole = file(TWO, 32);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut refused, mut read) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..4) {
                0 => bytes[at] = rng.random(),
                1 => bytes[at] ^= 1 << rng.random_range(0..8),
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, rng.random()),
            }
        }
        match open(bytes) {
            Ok(file) => {
                for key in file.keys() {
                    // Numbers of no known meaning are an error, not a panic.
                    let elements = file.shape(key).map(|shape| shape.iter().product::<usize>());
                    if let Ok(data) = file.data(key) {
                        assert_eq!(Some(data.num_elements()), elements);
                    }
                }
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert_eq!(refused + read, 20_000);
    assert!(refused > 5_000 && read > 500, "{refused} refused, {read} read");
}
