//! How a state is cut into blocks whose errors are controlled each on its own scale.

use std::ops::Range;

/// The blocks of a state, in order, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks<'f> {
    /// All of this length.
    Equal(usize),
    /// Block i ends before variable `ends[i]`; the first begins at 0, the last ends at the state's length.
    Ends(&'f [usize]),
}

impl<'f> Blocks<'f> {
    /// The blocks of a state of `len` variables, as ranges.
    ///
    /// # Example
    /// ```
    /// use metastable_dynamics::field::Blocks;
    /// assert_eq!(Blocks::Ends(&[2, 6]).ranges(6).collect::<Vec<_>>(), [0..2, 2..6]);
    /// assert_eq!(Blocks::Equal(3).ranges(6).collect::<Vec<_>>(), [0..3, 3..6]);
    /// ```
    pub fn ranges(self, len: usize) -> impl Iterator<Item = Range<usize>> + use<'f> {
        let mut start = 0;
        let mut index = 0;
        std::iter::from_fn(move || {
            if start >= len {
                return None;
            }
            let end = match self {
                Self::Equal(block) => start + block,
                Self::Ends(ends) => ends[index],
            };
            let range = start..end;
            start = end;
            index += 1;
            Some(range)
        })
    }

    /// Whether whole, non-empty blocks fill a state of `len` variables.
    pub fn fit(self, len: usize) -> bool {
        match self {
            Self::Equal(block) => block > 0 && len.is_multiple_of(block),
            Self::Ends(ends) => {
                let grows = ends.iter().scan(0, |last, end| Some(std::mem::replace(last, *end) < *end)).all(|up| up);
                grows && ends.last().copied().unwrap_or(0) == len
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_do_not_fill_the_state_do_not_fit() {
        assert!(Blocks::Equal(2).fit(4) && Blocks::Ends(&[1, 4]).fit(4));
        for blocks in
            [Blocks::Equal(3), Blocks::Equal(0), Blocks::Ends(&[1, 3]), Blocks::Ends(&[0, 4]), Blocks::Ends(&[])]
        {
            assert!(!blocks.fit(4), "{blocks:?}");
        }
        assert!(!Blocks::Ends(&[3, 2, 4]).fit(4));
    }
}
