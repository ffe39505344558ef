use super::{header::Kind, *};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// Made by tests/reference/record_gguf.py, which says what is in them.
pub(crate) const RECORDED: &[u8] = include_bytes!("../../../../../tests/data/gguf/types.gguf");
pub(crate) const EXPECTED: &[u8] = include_bytes!("../../../../../tests/data/gguf/types.safetensors");

#[test]
fn every_type_has_the_numbers_that_the_gguf_package_reads() {
    let gguf = Gguf::parse(RECORDED).unwrap();
    let expected = SafeTensors::deserialize(EXPECTED).unwrap();
    let mut read: Vec<_> = gguf.tensors().values().map(|tensor| tensor.kind.name()).collect();
    for (name, tensor) in gguf.tensors() {
        let theirs = expected.tensor(name).unwrap();
        assert_eq!(tensor.shape, theirs.shape(), "{name}");
        let (chunks, _) = theirs.data().as_chunks::<4>();
        let theirs = chunks.iter().map(|&bytes| f32::from_le_bytes(bytes));
        for (index, (ours, theirs)) in tensor.values(RECORDED).unwrap().into_iter().zip(theirs).enumerate() {
            assert_eq!(ours.to_bits(), theirs.to_bits(), "{name}[{index}]: {ours} is not {theirs}");
        }
        assert_eq!(tensor.elements(), chunks.len());
    }
    assert_eq!(gguf.tensors().len(), expected.len());
    read.sort_unstable();
    read.dedup();
    let mut all = GgmlType::ALL.map(GgmlType::name);
    all.sort_unstable();
    assert_eq!(read, all);
}

#[test]
fn metadata_of_every_kind_is_read() {
    let gguf = Gguf::parse(RECORDED).unwrap();
    let value = |key: &str| gguf.metadata()[key].clone();
    assert_eq!(gguf.architecture(), Some("flux"));
    assert_eq!(value("kind.u8"), Value::Unsigned(200));
    assert_eq!(value("kind.i8"), Value::Signed(-100));
    assert_eq!(value("kind.u16"), Value::Unsigned(60000));
    assert_eq!(value("kind.i16"), Value::Signed(-30000));
    assert_eq!(value("kind.u32"), Value::Unsigned(4_000_000_000));
    assert_eq!(value("kind.i32"), Value::Signed(-2_000_000_000));
    assert_eq!(value("kind.u64"), Value::Unsigned(u64::MAX));
    assert_eq!(value("kind.i64"), Value::Signed(i64::MIN));
    assert_eq!(value("kind.f32"), Value::Float(0.1_f32.into()));
    assert_eq!(value("kind.f64"), Value::Float(0.1));
    assert_eq!(value("kind.bool"), Value::Bool(true));
    assert_eq!(value("kind.text"), Value::Text("größer".to_owned()));
    for (key, len, integers) in [
        ("comfy.gguf.orig_shape.folded", 5, Some(vec![4, 2, 2, 4, 4])),
        ("kind.texts", 3, None),
        ("kind.bools", 2, None),
        ("kind.floats", 2, None),
        ("kind.nested", 2, None),
    ] {
        let Value::Array(array) = value(key) else { panic!("{key} is no array") };
        assert_eq!((array.len(), array.integers(RECORDED)), (len, integers), "{key}");
    }
}

#[test]
fn integers_of_every_width_are_read_from_arrays() {
    for (kind, bytes, expected) in [
        (Kind::U8, vec![255], Some(255)),
        (Kind::I8, vec![255], Some(-1)),
        (Kind::U16, vec![0, 128], Some(32768)),
        (Kind::I16, vec![0, 128], Some(-32768)),
        (Kind::U32, vec![0, 0, 0, 128], Some(1 << 31)),
        (Kind::I32, vec![254, 255, 255, 255], Some(-2)),
        (Kind::U64, vec![0, 0, 0, 0, 0, 0, 0, 64], Some(1 << 62)),
        (Kind::U64, vec![0, 0, 0, 0, 0, 0, 0, 128], None),
        (Kind::I64, vec![0, 0, 0, 0, 0, 0, 0, 128], Some(i64::MIN)),
    ] {
        let array = Array { kind, len: 1, range: 0..bytes.len() };
        assert_eq!(array.integers(&bytes), expected.map(|value| vec![value]), "{kind:?} {bytes:?}");
        assert_eq!(array.integers(&[]), None);
    }
}

#[test]
fn a_type_says_how_many_bytes_its_weights_take() {
    assert_eq!(GgmlType::Q4K.bytes(512), Some(288));
    assert_eq!(GgmlType::Q4K.bytes(300), None);
    assert_eq!(GgmlType::F32.bytes(usize::MAX / 2), None);
    let error = dequantize(GgmlType::Q8_0, &[0; 34], 64).unwrap_err();
    assert_eq!(error.to_string(), "64 numbers of type Q8_0 do not stand in 34 bytes");
}

/// Writes files, good and bad.
#[derive(Clone)]
struct Draft {
    version: u32,
    /// Key, kind and value as bytes.
    entries: Vec<(Vec<u8>, u32, Vec<u8>)>,
    /// Name, axes innermost first, type and offset.
    tensors: Vec<(Vec<u8>, Vec<u64>, u32, u64)>,
    alignment: usize,
    data: Vec<u8>,
}

impl Draft {
    fn new() -> Self {
        Self { version: 3, entries: Vec::new(), tensors: Vec::new(), alignment: 32, data: Vec::new() }
    }

    fn entry(mut self, key: &str, kind: u32, value: impl Into<Vec<u8>>) -> Self {
        self.entries.push((key.into(), kind, value.into()));
        self
    }

    fn tensor(mut self, name: &str, axes: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.push((name.into(), axes.to_vec(), kind, offset));
        self
    }

    fn data(mut self, len: usize) -> Self {
        self.data = (0..len).map(|byte| byte as u8).collect();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.entries {
            bytes.extend([text(key), kind.to_le_bytes().to_vec(), value.clone()].concat());
        }
        for (name, axes, kind, offset) in &self.tensors {
            bytes.extend([text(name), (axes.len() as u32).to_le_bytes().to_vec()].concat());
            bytes.extend(axes.iter().flat_map(|axis| axis.to_le_bytes()));
            bytes.extend([&kind.to_le_bytes()[..], &offset.to_le_bytes()].concat());
        }
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(&self.data);
        bytes
    }

    fn error(&self) -> String {
        Gguf::parse(&self.bytes()).unwrap_err().to_string()
    }
}

fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    [&(text.as_ref().len() as u64).to_le_bytes(), text.as_ref()].concat()
}

fn array(kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

#[test]
fn alignment_and_version_2_are_honoured() {
    let mut draft = Draft::new().entry("general.alignment", 4, 128_u32.to_le_bytes()).tensor("a", &[2], 0, 128);
    draft.alignment = 128;
    draft.version = 2;
    let bytes = draft.data(136).bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.tensors()["a"].range, 256..264);
    assert_eq!(
        gguf.tensors()["a"].values(&bytes).unwrap(),
        [f32::from_le_bytes([128, 129, 130, 131]), f32::from_le_bytes([132, 133, 134, 135])]
    );
}

#[test]
fn axes_stand_outermost_first() {
    let bytes = Draft::new().tensor("a", &[4, 3, 2], 0, 0).tensor("one", &[], 0, 96).data(100).bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.tensors()["a"].shape, [2, 3, 4]);
    assert_eq!((gguf.tensors()["one"].shape.len(), gguf.tensors()["one"].elements()), (0, 1));
}

#[test]
fn other_formats_and_versions_are_refused() {
    for bytes in [&b""[..], b"GG", b"GGML\x03\0\0\0", b"\x10\0\0\0\0\0\0\0{}"] {
        assert_eq!(Gguf::parse(bytes).unwrap_err(), GgufError::NotGguf);
    }
    for (version, expected) in [
        (0, "GGUF of version 0"),
        (1, "GGUF of version 1"),
        (4, "GGUF of version 4"),
        (3_u32.swap_bytes(), "GGUF of a big-endian machine"),
    ] {
        assert_eq!(Draft { version, ..Draft::new() }.error(), expected);
    }
}

#[test]
fn counts_beyond_the_file_are_refused() {
    let mut bytes = Draft::new().bytes();
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let error = Gguf::parse(&bytes).unwrap_err().to_string();
    assert_eq!(error, format!("damaged GGUF header: {} tensors cannot follow byte 16, there is room for 0", u64::MAX));
    for (kind, value) in [(8, u64::MAX.to_le_bytes().to_vec()), (9, array(0, 1 << 60, &[])), (9, array(8, 3, &[]))] {
        let error = Draft::new().entry("k", kind, value).error();
        assert!(error.starts_with(r#"damaged GGUF metadata, "k": "#) && error.contains("cannot follow"), "{error}");
    }
}

#[test]
fn bad_metadata_is_refused() {
    for (kind, value, expected) in [
        (13, vec![], "there is no kind of value number 13"),
        (7, vec![2], "2 is neither true nor false"),
        (9, array(7, 2, &[1, 3]), "3 is neither true nor false"),
        (8, text(b"\xff\xfe"), "is not UTF-8"),
        (9, array(8, 1, &text(b"\xc3")), "is not UTF-8"),
        (9, array(77, 0, &[]), "there is no kind of value number 77"),
        (9, array(9, 1, &array(9, 1, &array(9, 1, &array(9, 1, &array(0, 0, &[]))))), "more than 4 deep"),
        (10, vec![1, 2, 3], "the file ends inside it"),
    ] {
        let mut draft = Draft::new().entry("k", kind, value);
        draft.alignment = 1;
        let error = draft.error();
        assert!(error.starts_with(r#"damaged GGUF metadata, "k": "#) && error.contains(expected), "{error}");
    }
    let nested = array(9, 1, &array(9, 1, &array(9, 1, &array(0, 1, &[5]))));
    assert!(Gguf::parse(&Draft::new().entry("k", 9, nested).bytes()).is_ok());
    let twice = Draft::new().entry("k", 0, [1]).entry("k", 0, [2]).error();
    assert_eq!(twice, r#"damaged GGUF metadata, "k": the key stands there twice"#);
    let long = Draft::new().entry(&"k".repeat(1025), 0, [1]).error();
    assert!(long.contains("key 0: the name at byte 24 has 1025 bytes"), "{long}");
    for (kind, value) in [(4, 0_u32.to_le_bytes()), (4, 24_u32.to_le_bytes()), (5, 32_u32.to_le_bytes())] {
        let error = Draft::new().entry("general.alignment", kind, value).error();
        assert_eq!(error, r#"damaged GGUF metadata, "general.alignment": it is no power of two"#);
    }
    let huge = Draft::new().entry("general.alignment", 10, (1_u64 << 63).to_le_bytes()).tensor("a", &[1], 0, 0).error();
    assert!(huge.contains("are not in the file"), "{huge}");
}

#[test]
fn bad_tensors_are_refused() {
    let one = |axes: &[u64], kind, offset| Draft::new().tensor("a", axes, kind, offset).data(64).error();
    for (error, expected) in [
        (one(&[17], 0, 0), "68 bytes at 0 from byte 64 are not in the file, which has 128"),
        (one(&[1], 0, 64), "4 bytes at 64 from byte 64 are not in the file"),
        (one(&[1], 0, !31), "are not in the file"),
        (one(&[1], 0, 4), "its offset 4 is no multiple of 32"),
        (one(&[u64::MAX, 2], 0, 0), "is not of this world"),
        (one(&[1 << 62], 0, 0), "is not of this world"),
        (one(&[0], 0, 0), "shape [0] is not of this world"),
        (one(&[33], 8, 0), "shape [33] does not divide into blocks of 32 (Q8_0)"),
        (one(&[16, 2], 8, 0), "shape [2, 16] does not divide into blocks of 32 (Q8_0)"),
        (one(&[1; 5], 0, 0), "5 axes, more than 4"),
    ] {
        assert!(error.starts_with(r#"damaged GGUF tensor "a": "#) && error.contains(expected), "{error}");
    }
    let twice = Draft::new().tensor("a", &[1], 0, 0).tensor("a", &[1], 0, 32).data(64).error();
    assert_eq!(twice, r#"damaged GGUF tensor "a": the name stands there twice"#);
    let overlap = Draft::new().tensor("b", &[9], 0, 0).tensor("a", &[1], 0, 32).data(64).error();
    assert_eq!(overlap, r#"damaged GGUF tensor "a": it overlaps with "b""#);
}

#[test]
fn a_type_that_is_not_read_is_named() {
    assert_eq!(Draft::new().tensor("a", &[32], 20, 0).error(), r#"GGUF tensor "a" has type IQ4_NL"#);
    assert_eq!(Draft::new().tensor("a", &[32], 99, 0).error(), r#"GGUF tensor "a" has type number 99"#);
    let error = Gguf::parse(&Draft::new().tensor("a", &[32], 20, 0).bytes()).unwrap_err().of("x.gguf".as_ref());
    assert_eq!(error.to_string(), r#"x.gguf: GGUF tensor "a" has type IQ4_NL"#);
    assert!(error.hint().unwrap().starts_with("supported are F32, F16, BF16, Q8_0, Q6_K"));
}

#[test]
fn a_folded_tensor_gets_its_shape_back_only_if_the_numbers_fit() {
    let folded = |kind, len, elements: &[u8]| {
        let shape = array(kind, len, elements);
        Draft::new().entry("comfy.gguf.orig_shape.a", 9, shape).tensor("a", &[6], 0, 0).data(24)
    };
    let gguf = Gguf::parse(&folded(0, 3, &[3, 1, 2]).bytes()).unwrap();
    assert_eq!(gguf.tensors()["a"].shape, [3, 1, 2]);
    for (draft, expected) in [
        (folded(0, 2, &[2, 2]), "shape [6] cannot be the stored form of [2, 2]"),
        (folded(1, 2, &[0xfd, 0xfe]), "is no list of at most 8 lengths"),
        (folded(7, 2, &[1, 0]), "is no list of at most 8 lengths"),
        (folded(0, 9, &[1; 9]), "is no list of at most 8 lengths"),
    ] {
        assert!(draft.error().contains(expected), "{}", draft.error());
    }
}

thread_local! {
    /// Bytes that this thread holds, and the most it held since that was last set.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, which counts along for the test below.
struct Counting;

fn count(bytes: isize) {
    // A thread that ends has given up its counter already, and nobody reads it any more.
    let _ = HELD.try_with(|held| {
        let now = held.get().0 + bytes;
        held.set((now, now.max(held.get().1)));
    });
}

// SAFETY: every call is passed on unchanged; the counter allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `f` gives, and how much memory it took at most.
pub(crate) fn measured<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let given = f();
    (given, (HELD.get().1 - before).cast_unsigned())
}

/// Parses, and reads every tensor; says whether the file was accepted and how much memory that took at most.
fn walk(bytes: &[u8]) -> (bool, usize) {
    measured(|| {
        let parsed = Gguf::parse(bytes);
        if let Ok(gguf) = &parsed {
            for tensor in gguf.tensors().values() {
                assert_eq!(tensor.values(bytes).unwrap().len(), tensor.elements());
            }
            for value in gguf.metadata().values() {
                if let Value::Array(array) = value {
                    array.integers(bytes);
                }
            }
        }
        parsed.is_ok()
    })
}

/// Changes a few bytes somewhere, mostly before `header`, with a liking for numbers at the edges.
pub(crate) fn mutate(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, header: usize) {
    const EDGES: [u64; 12] =
        [0, 1, 0x7f, 0x80, 0xff, 0xffff, 1 << 31, u32::MAX as u64, 1 << 36, i64::MAX as u64, 1 << 63, u64::MAX];
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let end = if rng.random_bool(0.9) { bytes.len().min(header) } else { bytes.len() };
        let at = rng.random_range(0..end);
        let some = at..bytes.len().min(at + rng.random_range(1..20));
        match rng.random_range(0..8) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 | 3 => {
                let edge = EDGES[rng.random_range(0..EDGES.len())].wrapping_add(rng.random_range(0..2));
                let width = [1, 4, 8][rng.random_range(0..3)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&edge.to_le_bytes()[..width]);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(some)),
            6 => {
                let copy = bytes[some].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let noise: Vec<u8> = (0..some.len()).map(|_| rng.random()).collect();
                bytes.splice(at..at, noise);
            }
        }
    }
}

#[test]
fn no_damage_panics_or_takes_memory() {
    // Small, with every kind and type, so that most damage hits something that matters.
    let mut small = Draft::new();
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        let (key, number) = (format!("{kind:?}"), number as u32);
        small = match kind {
            Kind::Text => small.entry(&key, number, text("flux")),
            Kind::Array => small.entry(&key, number, array(9, 1, &array(8, 2, &[text("a"), text("b")].concat()))),
            other => small.entry(&key, number, vec![1; other.least_bytes()]),
        };
    }
    small = small.entry("general.alignment", 4, 8_u32.to_le_bytes());
    small = small.entry("comfy.gguf.orig_shape.0", 9, array(5, 2, &[2, 0, 0, 0, 1, 0, 0, 0]));
    small.alignment = 8;
    let mut offset = 0;
    for number in [0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 30] {
        let kind = GgmlType::of(number).unwrap();
        let axes = if number == 0 { [2, 1] } else { [kind.block_len() as u64, 1] };
        small = small.tensor(&number.to_string(), &axes, number, offset as u64);
        offset = (offset + 2 * kind.block_bytes()).next_multiple_of(8);
    }
    let small = small.data(offset).bytes();
    let header = small.len() - offset;

    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for (original, header, variants) in [(&small[..], header, 20_000), (RECORDED, 1376, 2_000)] {
        assert!(walk(original).0);
        let mut accepted = 0;
        for variant in 0..variants {
            let mut bytes = original.to_vec();
            mutate(&mut rng, &mut bytes, header);
            let (whole, memory) = walk(&bytes);
            accepted += usize::from(whole);
            // Q2_K makes 1024 bytes of 84; the lists of names take the rest.
            assert!(memory < 16 * bytes.len() + 16_384, "variant {variant}: {memory} bytes for {}", bytes.len());
        }
        // Damage to names and numbers goes unnoticed, so both roads are walked.
        assert!((variants / 50..variants / 2).contains(&accepted), "{accepted} of {variants} accepted");
    }
}
