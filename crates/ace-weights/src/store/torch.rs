//! PyTorch's files (`.pth`, `.pt`, `.ckpt`, `.bin`), as `torch.save` writes them since version 1.6: an archive whose parts lie
//! in it uncompressed.
//!
//! ```text
//! NAME/data.pkl        what is there, as a pickle: read by [`super::pickle`], which runs nothing
//! NAME/byteorder       "little"; older files have none and are little
//! NAME/data/0, 1 …     the numbers of one storage each; several tensors may lie in one
//! ```
//!
//! The numbers stay where they are, as those of every other weight file. The archive is read here because the offset of a part
//! is all that is needed of it; the `zip` crate gives readers, and brings four kinds of compression.

use super::{
    header::Declared,
    pickle::{Pickle, Tensor},
};
use std::{collections::BTreeMap, ops::Range};

/// What an archive begins with.
pub(super) const MARK: &[u8] = b"PK\x03\x04";
/// What files begin with that torch wrote before version 1.6: a pickle of a number that marks them.
pub(super) const OLD: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19";
/// A part's own header, which stands before its bytes, without name and extra field.
const LOCAL: usize = 30;
/// An entry of the list of parts.
const ENTRY: &[u8] = b"PK\x01\x02";
/// The end of the list, at the end of the file, without a remark.
const END: &[u8] = b"PK\x05\x06";
const END_LENGTH: usize = 22;
/// The longest remark behind the list's end.
const MAX_REMARK: usize = 1 << 16;
/// The largest description of what is there; a network of a thousand tensors has 100 KB.
const MAX_PICKLE: usize = 64 << 20;

/// Where every part of an archive is, by its name.
fn parts(bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>, String> {
    let cut = || "the archive's list of parts is cut".to_owned();
    let first = bytes.len().saturating_sub(END_LENGTH + MAX_REMARK);
    let tail = bytes.get(first..).unwrap_or_default();
    let end = (tail.windows(END.len()).rposition(|window| window == END)).ok_or("the archive has no end")?;
    let end = tail.get(end..end + END_LENGTH).ok_or_else(cut)?;
    let (count, mut at) = (short(end, 10)?, long(end, 16)?);
    if count == usize::from(u16::MAX) || at == u32::MAX as usize {
        return Err("it has more than 4 GB, or 65535 parts".into());
    }
    let mut parts = BTreeMap::new();
    for _ in 0..count {
        let entry = bytes.get(at..).filter(|entry| entry.starts_with(ENTRY)).ok_or_else(cut)?;
        let (method, packed, length) = (short(entry, 10)?, long(entry, 20)?, long(entry, 24)?);
        let (named, extra, remark, local) = (short(entry, 28)?, short(entry, 30)?, short(entry, 32)?, long(entry, 42)?);
        let name = entry.get(46..46 + named).ok_or_else(cut)?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| "a part's name is no text")?;
        if method != 0 || packed != length {
            return Err(format!("{name} is compressed, which torch.save does not do"));
        }
        let header = bytes.get(local..).filter(|header| header.starts_with(MARK)).ok_or_else(cut)?;
        let begin = local + LOCAL + short(header, 26)? + short(header, 28)?;
        let range = begin..begin.checked_add(length).ok_or_else(cut)?;
        if range.end > bytes.len() {
            return Err(format!("{name} ends behind the file"));
        }
        if parts.insert(name.clone(), range).is_some() {
            return Err(format!("{name} is there twice"));
        }
        at += 46 + named + extra + remark;
    }
    Ok(parts)
}

fn short(bytes: &[u8], at: usize) -> Result<usize, String> {
    let number = bytes.get(at..at + 2).and_then(|number| number.try_into().ok()).map(u16::from_le_bytes);
    number.map(usize::from).ok_or_else(|| "the archive is cut".into())
}

fn long(bytes: &[u8], at: usize) -> Result<usize, String> {
    let number = bytes.get(at..at + 4).and_then(|number| number.try_into().ok()).map(u32::from_le_bytes);
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| "the archive is cut".into())
}

/// Every tensor of a file by its name; those of a dictionary in a dictionary have both names with a dot between.
///
/// # Errors
/// If it is cut, compressed, holds anything but tensors, plain values and dictionaries of these, or a tensor whose numbers do
/// not follow each other.
pub(super) fn tensors(bytes: &[u8]) -> Result<BTreeMap<String, Declared>, String> {
    let parts = parts(bytes)?;
    let (pickle, folder) = (parts.iter())
        .find_map(|(name, range)| Some((range.clone(), name.strip_suffix("data.pkl")?)))
        .ok_or("no data.pkl is in it: torch.save did not write this archive")?;
    if let Some(order) = parts.get(&format!("{folder}byteorder"))
        && bytes[order.clone()] != *b"little"
    {
        return Err("its numbers begin with their largest byte".into());
    }
    if pickle.len() > MAX_PICKLE {
        return Err(format!("its description has {} bytes", pickle.len()));
    }
    let place = |(name, tensor): (String, Tensor)| {
        let Tensor { stored, size, shape, storage, offset } = tensor;
        let part = parts.get(&format!("{folder}data/{storage}")).ok_or_else(|| format!("{name} has no numbers"))?;
        let count = shape.iter().try_fold(1usize, |count, side| count.checked_mul(*side));
        let range = count.and_then(|count| {
            let begin = part.start.checked_add(offset.checked_mul(size)?)?;
            Some(begin..begin.checked_add(count.checked_mul(size)?)?)
        });
        let range =
            range.filter(|range| range.end <= part.end).ok_or_else(|| format!("{name} ends behind its numbers"))?;
        Ok((name, Declared { stored, shape, range }))
    };
    Pickle::read(&bytes[pickle])?.tensors()?.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use crate::{Error, WeightFile};
    use std::path::PathBuf;

    /// A file that torch wrote, or what is in it.
    fn recorded(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/torch").join(name)
    }

    fn refusal(name: &str) -> String {
        let error = WeightFile::open(&recorded(name)).expect_err("refused");
        assert!(matches!(error, Error::Format { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn what_torch_saved_is_what_is_read() {
        for name in ["plain", "nested"] {
            let [ours, theirs] = ["pth", "safetensors"].map(|ending| {
                WeightFile::open(&recorded(&format!("{name}.{ending}"))).expect("a file that torch wrote")
            });
            assert_eq!(ours.shapes().expect("read"), theirs.shapes().expect("read"), "{name}");
            for key in theirs.keys() {
                assert_eq!(ours.stored(key), theirs.stored(key), "{name}: {key}");
                assert_eq!(ours.data(key).expect("numbers"), theirs.data(key).expect("numbers"), "{name}: {key}");
            }
        }
    }

    #[test]
    fn a_pickle_that_wants_a_function_called_is_refused_by_name() {
        let reason = refusal("code.pth");
        assert!(reason.contains("posix.system, which is not known to be harmless"), "{reason}");
    }

    #[test]
    fn what_cannot_be_read_as_it_lies_says_why() {
        let reason = refusal("transposed.pth");
        assert!(reason.contains("turned is not stored row after row"), "{reason}");
        let reason = refusal("legacy.pth");
        assert!(reason.contains("torch before version 1.6"), "{reason}");
    }

    #[test]
    fn damage_is_an_error_wherever_it_is() {
        let whole = std::fs::read(recorded("plain.pth")).expect("recorded");
        let name = PathBuf::from("damaged.pth");
        for end in (4..whole.len()).step_by(7) {
            assert!(WeightFile::from_bytes(&name, whole[..end].to_vec()).is_err(), "{end} of {} bytes", whole.len());
        }
        // Whatever a byte becomes, the reader answers: with tensors that lie in the file, or with an error.
        for at in 0..whole.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= change;
                if let Ok(file) = WeightFile::from_bytes(&name, damaged) {
                    for key in file.keys() {
                        let _ = file.data(key);
                    }
                }
            }
        }
    }
}
