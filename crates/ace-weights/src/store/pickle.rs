//! What `torch.save` says is in a file, out of its pickle.
//!
//! A pickle is a program for a small machine with a stack, and Python's machine calls whatever function a pickle names: that is
//! how a weight file may run code. This machine calls nothing. It knows four names: an ordered dictionary, `torch`'s storages,
//! and the function that makes a tensor of one, which here only notes where its numbers are. A pickle that names anything else
//! is refused and the name is said; so is one with an instruction that `torch.save` has no use for.
//!
//! Everything that is made lies in one list and is referred to by number, so that nothing is copied, and nothing that refers to
//! itself is followed for ever.

use super::Stored;
use std::{collections::BTreeMap, rc::Rc};

/// Things that a pickle may make; a network of a thousand tensors has some tens of thousands.
const MOST_THINGS: usize = 4 << 20;
/// Dictionaries in dictionaries.
const MOST_DEEP: usize = 8;
/// Entries of dictionaries, those of one that is in two counted twice.
const MOST_ENTRIES: usize = 1 << 20;

/// One thing on the stack.
#[derive(Debug, Clone)]
enum Value {
    /// A number that is no integer, a truth, or nothing: what is of no use here.
    Plain,
    Integer(i64),
    Text(Rc<str>),
    Name(Name),
    /// Numbers of a list or a tuple in `Machine::lists`.
    List(usize),
    /// Number of a dictionary in `Machine::dictionaries`.
    Dictionary(usize),
    /// Number in `Machine::storages`.
    Storage(usize),
    /// Number in `Machine::tensors`.
    Tensor(usize),
}

/// What a pickle may name.
#[derive(Debug, Clone, Copy)]
enum Name {
    OrderedDict,
    RebuildTensor,
    /// Numbers of a kind, and the bytes of one.
    Storage(Stored, usize),
}

impl Name {
    fn of(module: &str, name: &str) -> Result<Self, String> {
        let storage = |stored, size| Ok(Self::Storage(stored, size));
        match (module, name) {
            ("collections", "OrderedDict") => Ok(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Self::RebuildTensor),
            ("torch", "DoubleStorage") => storage(Stored::F64, 8),
            ("torch", "FloatStorage") => storage(Stored::F32, 4),
            ("torch", "HalfStorage") => storage(Stored::F16, 2),
            ("torch", "BFloat16Storage") => storage(Stored::BF16, 2),
            ("torch", "LongStorage") => storage(Stored::I64, 8),
            ("torch", "IntStorage") => storage(Stored::I32, 4),
            ("torch", "ShortStorage") => storage(Stored::Other("I16"), 2),
            ("torch", "CharStorage") => storage(Stored::Other("I8"), 1),
            ("torch", "ByteStorage") => storage(Stored::Other("U8"), 1),
            ("torch", "BoolStorage") => storage(Stored::Other("BOOL"), 1),
            _ => Err(format!("it wants {module}.{name}, which is not known to be harmless")),
        }
    }
}

/// Where the numbers of a tensor are.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    /// What they are.
    pub stored: Stored,
    /// Bytes of one.
    pub size: usize,
    /// Outermost axis first.
    pub shape: Vec<usize>,
    /// The part of the archive, by its name.
    pub storage: Rc<str>,
    /// Numbers before the first.
    pub offset: usize,
}

/// A tensor, and whether its rows follow each other.
#[derive(Debug)]
struct Made {
    tensor: Tensor,
    is_in_order: bool,
}

#[derive(Debug)]
struct Storage {
    stored: Stored,
    size: usize,
    name: Rc<str>,
}

/// What a pickle made.
#[derive(Debug)]
pub(super) struct Pickle {
    machine: Machine,
    result: Value,
}

/// The stack, and what was made.
#[derive(Debug, Default)]
struct Machine {
    stack: Vec<Value>,
    /// Heights of the stack at which something begins.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value>,
    lists: Vec<Vec<Value>>,
    dictionaries: Vec<Vec<(Value, Value)>>,
    storages: Vec<Storage>,
    tensors: Vec<Made>,
    things: usize,
}

/// What is read of a pickle.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or("its description is cut")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.bytes(N)?.try_into().expect("as many as were asked for"))
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn length(&mut self) -> Result<usize, String> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.0.iter().position(|byte| *byte == b'\n').ok_or("its description is cut")?;
        let line = self.bytes(end)?;
        self.bytes(1)?;
        str::from_utf8(line).map_err(|_| "a name in it is no text".into())
    }

    fn text(&mut self, length: usize) -> Result<Value, String> {
        let text = str::from_utf8(self.bytes(length)?).map_err(|_| "a text in it is no text")?;
        Ok(Value::Text(text.into()))
    }
}

impl Pickle {
    /// Runs the machine until it stops.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let (mut machine, mut reader) = (Machine::default(), Reader(bytes));
        loop {
            let code = reader.byte()?;
            if code == b'.' {
                let result = machine.pop()?;
                return Ok(Self { machine, result });
            }
            machine.step(code, &mut reader)?;
        }
    }

    /// Every tensor of the result by its name.
    pub fn tensors(self) -> Result<Vec<(String, Tensor)>, String> {
        let Value::Dictionary(top) = self.result else {
            return Err("it is no dictionary of tensors".into());
        };
        let (mut found, mut left) = (Vec::new(), MOST_ENTRIES);
        self.machine.collect(top, "", 0, &mut left, &mut found)?;
        match found.is_empty() {
            true => Err("there are no tensors in it".into()),
            false => Ok(found),
        }
    }
}

impl Machine {
    fn step(&mut self, code: u8, reader: &mut Reader<'_>) -> Result<(), String> {
        self.things += 1;
        if self.things > MOST_THINGS {
            return Err("its description does not end".into());
        }
        let value = match code {
            // The version of the format.
            0x80 => return reader.byte().map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            b'q' => return self.keep(u32::from(reader.byte()?)),
            b'r' => return self.keep(u32::from_le_bytes(reader.array()?)),
            b'h' => self.kept(u32::from(reader.byte()?))?,
            b'j' => self.kept(u32::from_le_bytes(reader.array()?))?,
            b'N' | 0x88 | 0x89 => Value::Plain,
            b'G' => reader.array::<8>().map(|_| Value::Plain)?,
            b'K' => Value::Integer(i64::from(reader.byte()?)),
            b'M' => Value::Integer(i64::from(u16::from_le_bytes(reader.array()?))),
            b'J' => Value::Integer(i64::from(i32::from_le_bytes(reader.array()?))),
            0x8a => long(reader)?,
            b'X' => {
                let length = reader.length()?;
                reader.text(length)?
            }
            b'c' => Value::Name(Name::of(reader.line()?, reader.line()?)?),
            b'}' => self.dictionary(Vec::new()),
            b']' | b')' => self.list(Vec::new()),
            b't' => {
                let items = self.since_mark()?;
                self.list(items)
            }
            0x85..=0x87 => {
                let items = self.last(usize::from(code - 0x84))?;
                self.list(items)
            }
            b'a' => {
                let item = self.pop()?;
                return self.append(vec![item]);
            }
            b'e' => {
                let items = self.since_mark()?;
                return self.append(items);
            }
            b's' => {
                let items = self.last(2)?;
                return self.set(items);
            }
            b'u' => {
                let items = self.since_mark()?;
                return self.set(items);
            }
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            // What an ordered dictionary carries beside its entries.
            b'b' => return self.pop().map(drop),
            other => {
                return Err(format!("its description has the instruction {other:#04x}, which torch.save does not use"));
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => Ok(self.stack.pop().expect("there is one above the mark")),
            false => Err("its description takes what is not there".into()),
        }
    }

    fn last(&mut self, count: usize) -> Result<Vec<Value>, String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("its description ends what it did not begin")?;
        Ok(self.stack.split_off(mark))
    }

    fn keep(&mut self, place: u32) -> Result<(), String> {
        let value = self.stack.last().ok_or("its description keeps nothing")?.clone();
        self.memo.insert(place, value);
        Ok(())
    }

    fn kept(&self, place: u32) -> Result<Value, String> {
        self.memo.get(&place).cloned().ok_or_else(|| "its description recalls what it did not keep".into())
    }

    fn list(&mut self, items: Vec<Value>) -> Value {
        self.lists.push(items);
        Value::List(self.lists.len() - 1)
    }

    fn dictionary(&mut self, items: Vec<(Value, Value)>) -> Value {
        self.dictionaries.push(items);
        Value::Dictionary(self.dictionaries.len() - 1)
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        match self.stack.last() {
            Some(Value::List(list)) => self.lists[*list].extend(items),
            _ => return Err("its description lengthens what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dictionary(dictionary)) = self.stack.last() else {
            return Err("its description fills what is no dictionary".into());
        };
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            let value = items.next().ok_or("its description has a key without a value")?;
            self.dictionaries[*dictionary].push((key, value));
        }
        Ok(())
    }

    /// The storage that `("storage", kind, name, where it was, how many)` stands for.
    fn storage(&mut self) -> Result<Value, String> {
        let Value::List(list) = self.pop()? else { return Err("a storage has no description".into()) };
        match &self.lists[list][..] {
            [
                Value::Text(word),
                Value::Name(Name::Storage(stored, size)),
                Value::Text(name),
                Value::Text(_),
                Value::Integer(_),
            ] if &**word == "storage" => {
                let storage = Storage { stored: *stored, size: *size, name: name.clone() };
                self.storages.push(storage);
                Ok(Value::Storage(self.storages.len() - 1))
            }
            _ => Err("a storage is described otherwise than torch.save does".into()),
        }
    }

    /// What the name under the arguments would make of them.
    fn call(&mut self) -> Result<Value, String> {
        let (arguments, name) = (self.pop()?, self.pop()?);
        let (Value::List(list), Value::Name(name)) = (arguments, name) else {
            return Err("its description calls what is no name".into());
        };
        match name {
            Name::OrderedDict if self.lists[list].is_empty() => Ok(self.dictionary(Vec::new())),
            Name::RebuildTensor => self.tensor(list),
            _ => Err("its description calls a name in a way that torch.save does not".into()),
        }
    }

    /// The tensor of `(storage, offset, shape, strides, …)`.
    fn tensor(&mut self, list: usize) -> Result<Value, String> {
        let wrong = || "a tensor is described otherwise than torch.save does".to_owned();
        let [Value::Storage(storage), Value::Integer(offset), Value::List(shape), Value::List(strides), ..] =
            &self.lists[list][..]
        else {
            return Err(wrong());
        };
        let number = |value: &Value| match value {
            Value::Integer(number) => usize::try_from(*number).map_err(|_| wrong()),
            _ => Err(wrong()),
        };
        let numbers = |list: &usize| self.lists[*list].iter().map(number).collect::<Result<Vec<_>, _>>();
        let (shape, strides, Storage { stored, size, name }) =
            (numbers(shape)?, numbers(strides)?, &self.storages[*storage]);
        if shape.len() != strides.len() {
            return Err(wrong());
        }
        let offset = usize::try_from(*offset).map_err(|_| wrong())?;
        let mut next = Some(1usize);
        // Of an axis of one the stride says nothing.
        let is_in_order = shape.iter().zip(&strides).rev().all(|(side, stride)| {
            let fits = *side <= 1 || Some(*stride) == next;
            next = next.and_then(|next| next.checked_mul(*side));
            fits
        });
        let tensor = Tensor { stored: *stored, size: *size, shape, storage: name.clone(), offset };
        self.tensors.push(Made { tensor, is_in_order });
        Ok(Value::Tensor(self.tensors.len() - 1))
    }

    /// Adds the tensors of a dictionary, and of those in it.
    fn collect(
        &self,
        dictionary: usize,
        prefix: &str,
        depth: usize,
        left: &mut usize,
        found: &mut Vec<(String, Tensor)>,
    ) -> Result<(), String> {
        if depth > MOST_DEEP {
            return Err(format!("there are more than {MOST_DEEP} dictionaries in each other"));
        }
        for (key, value) in &self.dictionaries[dictionary] {
            *left = left.checked_sub(1).ok_or_else(|| format!("there are more than {MOST_ENTRIES} entries"))?;
            let name = match key {
                Value::Text(text) => format!("{prefix}{text}"),
                Value::Integer(number) => format!("{prefix}{number}"),
                _ => continue,
            };
            match value {
                Value::Dictionary(inner) => self.collect(*inner, &format!("{name}."), depth + 1, left, found)?,
                Value::Tensor(tensor) => {
                    let Made { tensor, is_in_order } = &self.tensors[*tensor];
                    if !is_in_order {
                        return Err(format!("{name} is not stored row after row: save it with .contiguous()"));
                    }
                    found.push((name, tensor.clone()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// An integer of up to eight bytes.
fn long(reader: &mut Reader<'_>) -> Result<Value, String> {
    let length = usize::from(reader.byte()?);
    let bytes = reader.bytes(length)?;
    let sign = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
    let mut all = [sign; 8];
    all.get_mut(..length).ok_or("an integer in it has more than 64 bits")?.copy_from_slice(bytes);
    Ok(Value::Integer(i64::from_le_bytes(all)))
}
