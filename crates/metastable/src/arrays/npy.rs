//! NumPy's `.npy`: headers through `npyz`, behind checks that make hostile headers harmless.

use std::path::Path;

use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};

use super::{Array, content};
use crate::error::LabError;

/// NumPy's own limit for headers it is willing to parse (`max_header_size` of `numpy.load`).
const MAX_HEADER: usize = 10_000;
/// Brackets of a header of numbers nest twice: the dictionary and the shape.
const MAX_NESTING: usize = 4;
/// Integers beyond this have no exact f64.
const MAX_EXACT: u64 = 1 << 53;

/// The bytes of a `.npy` file of little-endian f64 in C order.
///
/// # Panics
/// If the shape has another number of entries.
///
/// # Example
/// ```
/// use metastable::arrays::{npy_bytes, parse_npy};
/// let bytes = npy_bytes(&[1, 2], &[0.5, -1.0]);
/// let array = parse_npy("x.npy".as_ref(), &bytes).unwrap();
/// assert_eq!((array.shape(), array.as_slice()), (&[1, 2][..], &[0.5, -1.0][..]));
/// ```
pub fn npy_bytes(shape: &[usize], values: &[f64]) -> Vec<u8> {
    assert_eq!(shape.iter().product::<usize>(), values.len(), "a shape of all entries");
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let mut header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({sides}), }}");
    // The data start at a multiple of 64 bytes, after ten bytes of preamble and a line feed.
    header.extend(std::iter::repeat_n(' ', 63 - (10 + header.len()) % 64));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).expect("the sides of an array in memory are short").to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Reads the content of a `.npy` file: floats, integers or booleans of any byte order, C or Fortran order.
///
/// `file` is for messages. O(size).
///
/// # Errors
/// [`LabError::Content`] for anything that is not a complete array of numbers, and for integers that f64 cannot hold.
pub fn parse_npy(file: &Path, bytes: &[u8]) -> Result<Array, LabError> {
    let data_start = guard_header(file, bytes)?;
    let header = NpyHeader::from_reader(bytes)
        .map_err(|error| content(file, "an .npy header", format!("one that cannot be read ({error})")))?;
    let number = NumberType::of(&header.dtype())
        .ok_or_else(|| content(file, "real numbers (f8, f4, integers or booleans)", header.dtype().descr()))?;
    let data = &bytes[data_start..];
    let shape = checked_shape(file, header.shape(), number, data.len())?;
    let values = data.chunks_exact(number.size).map(|entry| number.decode(entry));
    let values: Vec<f64> = values
        .collect::<Option<_>>()
        .ok_or_else(|| content(file, "integers up to 2^53 in size", "a larger one, which f64 cannot hold"))?;
    Ok(match header.order() {
        Order::C => Array::new(shape, values),
        Order::Fortran => Array::new(shape.clone(), row_major(&shape, &values)),
    })
}

/// Checks magic, length and nesting of the header before a parser sees it, and answers where the data begin.
fn guard_header(file: &Path, bytes: &[u8]) -> Result<usize, LabError> {
    let expected = "an .npy file";
    if bytes.len() < 12 || !bytes.starts_with(b"\x93NUMPY") {
        return Err(content(file, expected, "no NumPy header"));
    }
    let (start, length) = match bytes[6] {
        1 => (10, usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))),
        _ => (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize),
    };
    if length > MAX_HEADER {
        return Err(content(file, format!("a header of at most {MAX_HEADER} bytes"), format!("{length} bytes")));
    }
    let text = bytes
        .get(start..start + length)
        .ok_or_else(|| content(file, format!("a header of {length} bytes"), "the end of the file"))?;
    if nesting(text) > MAX_NESTING {
        return Err(content(file, "a header of one dictionary", "deeply nested brackets"));
    }
    Ok(start + length)
}

/// The depth of brackets; those in strings count too, which no header of numbers has.
fn nesting(text: &[u8]) -> usize {
    let depth = |(depth, deepest): (usize, usize), byte: &u8| match byte {
        b'(' | b'[' | b'{' => (depth + 1, deepest.max(depth + 1)),
        b')' | b']' | b'}' => (depth.saturating_sub(1), deepest),
        _ => (depth, deepest),
    };
    text.iter().fold((0, 0), depth).1
}

fn checked_shape(file: &Path, shape: &[u64], number: NumberType, found: usize) -> Result<Vec<usize>, LabError> {
    let sides: Option<Vec<usize>> = shape.iter().map(|&side| usize::try_from(side).ok()).collect();
    let entries = shape.iter().try_fold(1, |product: u64, &side| product.checked_mul(side));
    let expected = entries.and_then(|entries| entries.checked_mul(number.size as u64));
    match (sides, expected) {
        (Some(sides), Some(expected)) if expected == found as u64 => Ok(sides),
        (_, Some(expected)) => {
            Err(content(file, format!("{expected} bytes of data for shape {shape:?}"), format!("{found} bytes")))
        }
        _ => Err(content(file, "a shape that fits the file", format!("shape {shape:?}"))),
    }
}

/// Reorders entries of Fortran order (first index fastest) into row-major order.
fn row_major(shape: &[usize], values: &[f64]) -> Vec<f64> {
    let mut index = vec![0; shape.len()];
    let mut ordered = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        let offset = index.iter().zip(shape).rev().fold(0, |offset, (&i, &side)| offset * side + i);
        ordered.push(values[offset]);
        for (i, &side) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < side {
                break;
            }
            *i = 0;
        }
    }
    ordered
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Float,
    Signed,
    Unsigned,
}

/// How one entry is stored.
#[derive(Debug, Clone, Copy)]
struct NumberType {
    kind: Kind,
    size: usize,
    big_endian: bool,
}

impl NumberType {
    fn of(dtype: &DType) -> Option<Self> {
        let DType::Plain(text) = dtype else { return None };
        let kind = match text.type_char() {
            TypeChar::Float => Kind::Float,
            TypeChar::Int => Kind::Signed,
            TypeChar::Uint | TypeChar::Bool => Kind::Unsigned,
            _ => return None,
        };
        let size = text.num_bytes()?;
        let fits = match kind {
            Kind::Float => matches!(size, 4 | 8),
            _ => matches!(size, 1 | 2 | 4 | 8),
        };
        fits.then_some(Self { kind, size, big_endian: text.endianness() == Endianness::Big })
    }

    /// One entry; none if f64 cannot hold it.
    fn decode(self, entry: &[u8]) -> Option<f64> {
        let mut little = [0; 8];
        little[..self.size].copy_from_slice(entry);
        if self.big_endian {
            little[..self.size].reverse();
        }
        let bits = u64::from_le_bytes(little);
        // Shifting up and back down repeats the sign of shorter integers.
        let unused = 64 - 8 * self.size as u32;
        match self.kind {
            Kind::Float if self.size == 4 => Some(f64::from(f32::from_bits(bits as u32))),
            Kind::Float => Some(f64::from_bits(bits)),
            Kind::Unsigned => (bits <= MAX_EXACT).then_some(bits as f64),
            Kind::Signed => {
                let integer = ((bits << unused) as i64) >> unused;
                (integer.unsigned_abs() <= MAX_EXACT).then_some(integer as f64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file of version 1 with the given header text.
    fn file_with(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn header(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
    }

    fn refusal(bytes: &[u8]) -> String {
        parse_npy(Path::new("x.npy"), bytes).unwrap_err().to_string()
    }

    fn parsed(descr: &str, shape: &str, data: &[u8]) -> Array {
        parse_npy(Path::new("x.npy"), &file_with(&header(descr, "False", shape), data)).unwrap()
    }

    #[test]
    fn every_number_type_is_read_in_either_byte_order() {
        assert_eq!(parsed("<f8", "(1,)", &(-1.5f64).to_le_bytes()).as_slice(), [-1.5]);
        assert_eq!(parsed(">f8", "(1,)", &(-1.5f64).to_be_bytes()).as_slice(), [-1.5]);
        assert_eq!(parsed("<f4", "(1,)", &(0.25f32).to_le_bytes()).as_slice(), [0.25]);
        assert_eq!(parsed(">i2", "(2,)", &[0xff, 0xfe, 0x01, 0x00]).as_slice(), [-2.0, 256.0]);
        assert_eq!(parsed("|i1", "(2,)", &[0xff, 0x7f]).as_slice(), [-1.0, 127.0]);
        assert_eq!(parsed("<u4", "(1,)", &[0xff; 4]).as_slice(), [4294967295.0]);
        assert_eq!(parsed("<i8", "(1,)", &(-(1i64 << 53)).to_le_bytes()).as_slice(), [-9007199254740992.0]);
        assert_eq!(parsed("|b1", "(2,)", &[0, 1]).as_slice(), [0.0, 1.0]);
    }

    #[test]
    fn fortran_order_is_the_transposed_c_order() {
        let data: Vec<u8> = (0..6).flat_map(|i| f64::from(i).to_le_bytes()).collect();
        let bytes = file_with(&header("<f8", "True", "(2, 3)"), &data);
        let array = parse_npy(Path::new("x.npy"), &bytes).unwrap();
        assert_eq!(array.shape(), [2, 3]);
        assert_eq!(array.as_slice(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    }

    #[test]
    fn integers_that_f64_cannot_hold_are_refused() {
        let bytes = file_with(&header("<i8", "False", "(1,)"), &((1i64 << 53) + 1).to_le_bytes());
        assert!(refusal(&bytes).contains("integers up to 2^53"));
    }

    #[test]
    fn objects_strings_records_and_complex_numbers_are_refused() {
        for descr in ["|O", "<U3", "<c16", "|S8", "<f2", "<M8[s]"] {
            let message = refusal(&file_with(&header(descr, "False", "(1,)"), &[0; 16]));
            assert!(message.contains("expected real numbers"), "{descr}: {message}");
        }
        let record = "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }\n";
        assert!(refusal(&file_with(record, &[0; 8])).contains("expected real numbers"));
    }

    #[test]
    fn truncated_and_overlong_data_are_refused_with_both_sizes() {
        let whole = header("<f8", "False", "(2, 2)");
        for length in [0, 31, 33] {
            let message = refusal(&file_with(&whole, &vec![0; length]));
            let expected = format!("expected 32 bytes of data for shape [2, 2], found {length} bytes");
            assert!(message.ends_with(&expected), "{message}");
        }
    }

    #[test]
    fn shapes_beyond_any_memory_are_refused_without_taking_it() {
        for shape in ["(1000000000000, 1000000)", "(18446744073709551615, 2)", "(99999999999999999999,)", "(-1,)"] {
            refusal(&file_with(&header("<f8", "False", shape), &[0; 8]));
        }
    }

    #[test]
    fn headers_that_lie_about_their_length_are_refused() {
        assert!(refusal(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").contains("at most 10000 bytes"));
        assert!(refusal(b"\x93NUMPY\x01\x00\x50\x00{}").contains("the end of the file"));
        assert!(refusal(b"").contains("no NumPy header"));
        assert!(refusal(b"\x93NUMPY\x09\x00\x00\x00\x00\x00").contains("cannot be read"));
    }

    #[test]
    fn deeply_nested_headers_do_not_exhaust_the_stack() {
        let nested = format!("{{'descr': {}", "(".repeat(9000));
        assert!(refusal(&file_with(&nested, &[])).contains("deeply nested"));
    }

    proptest! {
        #[test]
        fn what_numpy_writes_is_read(rows in 0usize..6, columns in 1usize..6, seed in any::<u64>()) {
            let values: Vec<f64> = (0..rows * columns).map(|i| f64::from_bits(seed.wrapping_mul(i as u64 + 1))).collect();
            let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let array = parsed("<f8", &format!("({rows}, {columns})"), &data);
            prop_assert_eq!(array.shape(), [rows, columns]);
            let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(array.as_slice()), bits(&values));
        }

        #[test]
        fn random_bytes_after_the_magic_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut file = b"\x93NUMPY".to_vec();
            file.extend(bytes);
            let _ = parse_npy(Path::new("x.npy"), &file);
        }

        #[test]
        fn random_header_texts_never_panic(text in "[ -~]{0,80}", data in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_npy(Path::new("x.npy"), &file_with(&text, &data));
        }

        #[test]
        fn mutated_headers_never_panic(position in 0usize..60, byte in any::<u8>()) {
            let mut bytes = file_with(&header("<f8", "False", "(1, 1)"), &[0; 8]);
            bytes[10 + position] = byte;
            let _ = parse_npy(Path::new("x.npy"), &bytes);
        }
    }
}
