//! How many numbers the networks of a card have, and how many operations they take: arithmetic on sizes alone, nothing is
//! loaded.
//!
//! An operation is a multiplication or an addition; those of matrix products and convolutions are counted, the rest is less
//! than a hundredth of them.

pub mod autoencoder;
pub mod flux;
pub mod sam;
pub mod text;

/// Tokens of one example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Of its pictures.
    pub image: usize,
    /// Of its words, padding included.
    pub text: usize,
}

impl Sequence {
    /// All of them.
    pub fn all(self) -> usize {
        self.image + self.text
    }

    /// Rows and columns of a picture with that many tokens, as square as can be.
    pub fn grid(self) -> [usize; 2] {
        let root = (self.image as f64).sqrt() as usize;
        let rows = (1..=root).rev().find(|rows| self.image.is_multiple_of(*rows)).unwrap_or(1);
        [rows, self.image / rows]
    }
}

/// Numbers of a part of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of matrices, which can be packed.
    pub matrices: u64,
    /// Of biases and norms, which stay as they are.
    pub vectors: u64,
}

impl Numbers {
    /// All of them.
    pub fn all(self) -> u64 {
        self.matrices + self.vectors
    }
}

#[cfg(test)]
mod tests {
    use super::Sequence;

    #[test]
    fn a_picture_is_as_square_as_can_be() {
        let grid = |image| Sequence { image, text: 0 }.grid();
        assert_eq!([grid(1024), grid(96), grid(7)], [[32, 32], [8, 12], [1, 7]]);
    }
}
