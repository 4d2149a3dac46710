//! Numbers in blocks: a few bits each, with a scale (and a minimum) that a block or a part of it shares.

use half::{bf16, f16};
use rayon::prelude::*;

/// How numbers are stored. Names and layouts are ggml's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub(crate) enum BlockKind {
    F32,
    F16,
    BF16,
    /// d·(q - 8), q of 4 bits.
    Q4_0,
    /// d·q + m, q of 4 bits.
    Q4_1,
    /// d·(q - 16), q of 5 bits.
    Q5_0,
    /// d·q + m, q of 5 bits.
    Q5_1,
    /// d·q, q of 8 bits.
    Q8_0,
    /// d·s·q - m·t in parts of 32; q of 4 bits, s and t of 6.
    Q4_K,
    /// As [`BlockKind::Q4_K`] with q of 5 bits.
    Q5_K,
    /// d·s·(q - 32) in parts of 16; q of 6 bits, s of 8.
    Q6_K,
}

/// Decoded by one task; a multiple of every block's length.
const TASK: usize = 1 << 14;

impl BlockKind {
    /// What can be read, for messages.
    pub(crate) const NAMES: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K";

    /// By ggml's number.
    pub(super) fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// Numbers in a block.
    pub(crate) fn numbers(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// All numbers of whole blocks, in f32. Parallel over blocks.
    pub(crate) fn decode(self, data: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; data.len() / self.bytes() * self.numbers()];
        let task = TASK / self.numbers() * self.bytes();
        values.par_chunks_mut(TASK).zip(data.par_chunks(task)).for_each(|(values, data)| {
            let blocks = values.chunks_exact_mut(self.numbers()).zip(data.chunks_exact(self.bytes()));
            match self {
                Self::F32 => blocks.for_each(|(y, b)| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
                Self::F16 => blocks.for_each(|(y, b)| y[0] = half_at(b, 0)),
                Self::BF16 => blocks.for_each(|(y, b)| y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
                Self::Q4_0 => blocks.for_each(|(y, b)| q4_0(y, b)),
                Self::Q4_1 => blocks.for_each(|(y, b)| q4_1(y, b)),
                Self::Q5_0 => blocks.for_each(|(y, b)| q5_0(y, b)),
                Self::Q5_1 => blocks.for_each(|(y, b)| q5_1(y, b)),
                Self::Q8_0 => blocks.for_each(|(y, b)| q8_0(y, b)),
                Self::Q4_K => blocks.for_each(|(y, b)| q4_k(y, b)),
                Self::Q5_K => blocks.for_each(|(y, b)| q5_k(y, b)),
                Self::Q6_K => blocks.for_each(|(y, b)| q6_k(y, b)),
            }
        });
        values
    }
}

/// What ggml calls the types that are not read here, as far as they are common.
pub(super) fn name_of_code(code: u32) -> String {
    match code {
        9 => "type Q8_1".into(),
        10 => "type Q2_K".into(),
        11 => "type Q3_K".into(),
        15 => "type Q8_K".into(),
        16..=23 | 29 => format!("an IQ type ({code})"),
        24..=27 => "an integer type".into(),
        28 => "type F64".into(),
        _ => format!("unknown type {code}"),
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Low halves of 16 bytes are numbers 0-15, high halves numbers 16-31.
fn nibbles(quants: &[u8]) -> impl Iterator<Item = u8> {
    quants.iter().map(|q| q & 15).chain(quants.iter().map(|q| q >> 4))
}

/// The fifth bits of 32 numbers.
fn fifth(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn q4_0(y: &mut [f32], block: &[u8]) {
    let d = half_at(block, 0);
    y.iter_mut().zip(nibbles(&block[2..])).for_each(|(y, q)| *y = d * (f32::from(q) - 8.0));
}

fn q4_1(y: &mut [f32], block: &[u8]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    y.iter_mut().zip(nibbles(&block[4..])).for_each(|(y, q)| *y = d * f32::from(q) + m);
}

fn q5_0(y: &mut [f32], block: &[u8]) {
    let (d, high) = (half_at(block, 0), fifth(block, 2));
    for (i, (y, q)) in y.iter_mut().zip(nibbles(&block[6..])).enumerate() {
        *y = d * (f32::from(q | ((high >> i & 1) as u8) << 4) - 16.0);
    }
}

fn q5_1(y: &mut [f32], block: &[u8]) {
    let (d, m, high) = (half_at(block, 0), half_at(block, 2), fifth(block, 4));
    for (i, (y, q)) in y.iter_mut().zip(nibbles(&block[8..])).enumerate() {
        *y = d * f32::from(q | ((high >> i & 1) as u8) << 4) + m;
    }
}

fn q8_0(y: &mut [f32], block: &[u8]) {
    let d = half_at(block, 0);
    y.iter_mut().zip(&block[2..]).for_each(|(y, q)| *y = d * f32::from(*q as i8));
}

/// The scale and the minimum of part j, 6 bits each, out of 12 bytes.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

fn q4_k(y: &mut [f32], block: &[u8]) {
    let (d, m, packed) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    for (j, part) in y.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(packed, j);
        let (d, m, shift) = (d * scale, m * minimum, 4 * (j % 2));
        for (y, q) in part.iter_mut().zip(&block[16 + 32 * (j / 2)..]) {
            *y = d * f32::from(q >> shift & 15) - m;
        }
    }
}

fn q5_k(y: &mut [f32], block: &[u8]) {
    let (d, m, packed) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    for (j, part) in y.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(packed, j);
        let (d, m, shift) = (d * scale, m * minimum, 4 * (j % 2));
        for ((y, q), high) in part.iter_mut().zip(&block[48 + 32 * (j / 2)..]).zip(&block[16..48]) {
            *y = d * f32::from(q >> shift & 15 | (high >> j & 1) << 4) - m;
        }
    }
}

fn q6_k(y: &mut [f32], block: &[u8]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (i, y) in y.iter_mut().enumerate() {
        // Halves of 128 numbers; quarters of 32 share bytes of `low` in pairs and bytes of `high` in fours.
        let (half, quarter, l) = (i / 128, i / 32 % 4, i % 32);
        let q = low[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
        let q = q | (high[32 * half + l] >> (2 * quarter) & 3) << 4;
        *y = d * f32::from(scales[i / 16] as i8) * (f32::from(q) - 32.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    /// Random blocks and what the Python package `gguf` makes of them (tests/golden/gguf.md).
    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/blocks.safetensors");

    #[test]
    fn blocks_of_every_type_decode_to_the_numbers_of_the_reference() {
        let golden = SafeTensors::deserialize(GOLDEN).unwrap();
        for code in [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30] {
            let kind = BlockKind::from_code(code).unwrap();
            let name = format!("{kind:?}");
            let bytes = golden.tensor(&format!("{name}.bytes")).unwrap();
            let expected = golden.tensor(&format!("{name}.values")).unwrap();
            let found = kind.decode(bytes.data());
            assert_eq!(bytes.data().len() % kind.bytes(), 0, "{name}");
            assert_eq!(found.len(), expected.data().len() / 4, "{name}");
            for (i, (found, expected)) in found.iter().zip(expected.data().chunks_exact(4)).enumerate() {
                // The same products and sums of f32 in the same order: not one bit differs.
                let expected = f32::from_le_bytes(expected.try_into().unwrap());
                assert_eq!(found.to_bits(), expected.to_bits(), "{name}, number {i}: {found} {expected}");
            }
        }
    }

    #[test]
    fn long_tensors_are_decoded_in_tasks_without_a_seam() {
        let golden = SafeTensors::deserialize(GOLDEN).unwrap();
        let block = &golden.tensor("Q5_K.bytes").unwrap().data()[..BlockKind::Q5_K.bytes()];
        let one = BlockKind::Q5_K.decode(block);
        let many = BlockKind::Q5_K.decode(&block.repeat(200));
        assert!(many.len() > 3 * TASK && many.chunks_exact(256).all(|block| block == one));
    }
}
