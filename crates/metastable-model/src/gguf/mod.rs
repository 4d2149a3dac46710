//! GGUF, the file format of ggml and llama.cpp: metadata, a directory of tensors, and their blocks.
//!
//! Everything is validated when a file is opened: counts against the bytes that are left, names against each other,
//! byte ranges of tensors against the file and against each other. [`blocks`] turns quantised numbers into f32.
//!
//! # References
//! `docs/gguf.md` of ggml, version 3 \[2nd\]; block layouts as the Python package `gguf` reads them \[code\], which the
//! golden values of the tests come from.

pub(crate) mod blocks;
mod metadata;
mod reader;

use std::ops::Range;

pub(crate) use metadata::{Metadata, Value};
use reader::{Broken, Reader};

use blocks::BlockKind;

/// An opened file.
#[derive(Debug, Clone)]
pub(crate) struct Gguf<'a> {
    pub(crate) metadata: Metadata<'a>,
    pub(crate) tensors: Vec<TensorInfo<'a>>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub(crate) struct TensorInfo<'a> {
    pub(crate) name: &'a str,
    /// Slowest side first, as everywhere here; the file has it the other way round.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: BlockKind,
    /// In the file.
    pub(crate) bytes: Range<usize>,
}

/// The first bytes of a file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// Where tensors start: at multiples of this, unless the metadata says otherwise.
const ALIGNMENT: u64 = 32;

/// Tensors have at most so many sides.
const MOST_SIDES: u32 = 4;

impl<'a> Gguf<'a> {
    /// Reads and validates everything but the numbers. O(metadata + directory).
    ///
    /// # Errors
    /// What is broken, and where.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Broken> {
        let mut reader = Reader::new(bytes);
        if reader.take(4, "a magic number")? != MAGIC {
            return Err("another magic number than GGUF".into());
        }
        let version = reader.u32("a version")?;
        if !(2..=3).contains(&version) {
            return Err(format!("version {version}, of which 2 and 3 are read (little-endian)"));
        }
        // A tensor takes at least a name, sides, a type and an offset; an entry a name, a type and a byte.
        let tensor_count = reader.count(24, "tensors")?;
        let entry_count = reader.count(13, "metadata entries")?;
        let metadata = Metadata::read(&mut reader, entry_count)?;
        let alignment = metadata.integer("general.alignment").unwrap_or(ALIGNMENT);
        if alignment == 0 || !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(format!("general.alignment = {alignment}, which is no power of two up to 2^20"));
        }
        let mut written = Vec::new();
        for index in 0..tensor_count {
            written.push(Written::read(&mut reader, index)?);
        }
        let start = (reader.position() as u64).next_multiple_of(alignment);
        let place = |tensor: Written<'a>| tensor.place(start, alignment, bytes.len() as u64);
        let tensors = written.into_iter().map(place).collect::<Result<Vec<_>, _>>()?;
        disjoint(&tensors)?;
        Ok(Self { metadata, tensors })
    }
}

/// A tensor as the directory has it.
struct Written<'a> {
    name: &'a str,
    sides: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl<'a> Written<'a> {
    fn read(reader: &mut Reader<'a>, index: u64) -> Result<Self, Broken> {
        let name = reader.text(&format!("the name of tensor {index}"))?;
        let what = format!("tensor `{name}`");
        let count = reader.u32(&what)?;
        if count > MOST_SIDES {
            return Err(format!("tensor `{name}` with {count} sides"));
        }
        let mut sides = Vec::new();
        for _ in 0..count {
            sides.push(reader.u64(&what)?);
        }
        Ok(Self { name, sides, kind: reader.u32(&what)?, offset: reader.u64(&what)? })
    }

    fn place(self, start: u64, alignment: u64, file: u64) -> Result<TensorInfo<'a>, Broken> {
        let Self { name, sides, kind, offset } = self;
        let kind = BlockKind::from_code(kind).ok_or_else(|| {
            format!("tensor `{name}` of {}, expected {}", blocks::name_of_code(kind), BlockKind::NAMES)
        })?;
        let numbers = sides.iter().try_fold(1_u64, |product, side| product.checked_mul(*side));
        let per_block = kind.numbers() as u64;
        let bytes = numbers.and_then(|numbers| (numbers / per_block).checked_mul(kind.bytes() as u64));
        let bytes = bytes.ok_or_else(|| format!("tensor `{name}` with more numbers than 64 bits can count"))?;
        if !sides.first().copied().unwrap_or(1).is_multiple_of(per_block) {
            return Err(format!("tensor `{name}` with rows of {} numbers in blocks of {per_block}", sides[0]));
        }
        if !offset.is_multiple_of(alignment) {
            return Err(format!("tensor `{name}` at offset {offset}, which is no multiple of {alignment}"));
        }
        let first = start.checked_add(offset);
        let range = first.and_then(|first| Some((first, first.checked_add(bytes)?))).filter(|(_, end)| *end <= file);
        let (first, end) = range.ok_or_else(|| {
            format!("tensor `{name}` of {bytes} bytes at offset {offset}, beyond the end of the file")
        })?;
        let shape = sides.iter().rev().map(|side| *side as usize).collect();
        Ok(TensorInfo { name, shape, kind, bytes: first as usize..end as usize })
    }
}

/// No name twice, no byte in two tensors.
fn disjoint(tensors: &[TensorInfo<'_>]) -> Result<(), Broken> {
    let mut sorted: Vec<&TensorInfo<'_>> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| tensor.name);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(format!("two tensors `{}`", pair[0].name));
    }
    sorted.sort_by_key(|tensor| (tensor.bytes.start, tensor.bytes.end));
    match sorted.windows(2).find(|pair| pair[0].bytes.end > pair[1].bytes.start) {
        Some(pair) => Err(format!("tensors `{}` and `{}` that overlap", pair[0].name, pair[1].name)),
        None => Ok(()),
    }
}
