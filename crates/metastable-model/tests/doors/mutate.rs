//! Mutations of files, the same for the same number: bytes, lengths, pieces, numbers that mean counts.

/// SplitMix64 (G. Steele et al., 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Numbers that counts, lengths and offsets go wrong at.
const NUMBERS: [u64; 12] =
    [0, 1, 7, 31, 255, 65_535, 1 << 20, (1 << 31) - 1, u32::MAX as u64, 1 << 40, i64::MAX as u64, u64::MAX];

/// Words that stand in the JSON of these files, and words that should not.
const WORDS: [&str; 20] = [
    "null",
    "true",
    "-1",
    "0",
    "1e308",
    "1e999",
    "[]",
    "{}",
    "\"\"",
    "18446744073709551616",
    "[[[[[[[[",
    "\\ud800",
    "\"(a|b)*\"",
    "\"(?:a{1000}){1000}\"",
    "\"[\\\\d--x]\"",
    "F64",
    "I8",
    "999999999",
    "\"\\u0000\"",
    ",",
];

/// A seed after one to six mutations.
pub(crate) fn mutated(seeds: &[Vec<u8>], case: u64) -> Vec<u8> {
    let mut random = Random(case);
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        mutate(&mut bytes, seeds, &mut random);
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(9) {
        0 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        2 => bytes.truncate(at),
        3 => {
            let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)];
            for (byte, new) in bytes.iter_mut().skip(at).zip(&number[..width]) {
                *byte = *new;
            }
        }
        4 => {
            let word = WORDS[random.below(WORDS.len())];
            let end = (at + random.below(12)).min(bytes.len());
            bytes.splice(at..end, word.bytes());
        }
        5 => {
            // A piece of the file once more.
            let end = (at + random.below(200)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        6 => {
            let end = (at + random.below(40)).min(bytes.len());
            bytes.drain(at..end);
        }
        7 => {
            // The rest of another seed.
            let other = &seeds[random.below(seeds.len())];
            bytes.truncate(at);
            bytes.extend(&other[at.min(other.len())..]);
        }
        _ => {
            // A number in decimal becomes another.
            let digits = bytes.iter().skip(at).position(u8::is_ascii_digit).map(|index| index + at);
            if let Some(first) = digits {
                let end =
                    bytes[first..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |i| first + i);
                bytes.splice(first..end, NUMBERS[random.below(NUMBERS.len())].to_string().bytes());
            }
        }
    }
}
