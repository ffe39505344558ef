//! Eight-bit floats of weight files: `F8_E4M3` and `F8_E5M2` to `f32` and back.
//!
//! The arithmetic is that of the `float8` crate, which burn brings along anyway; what is here is the agreement with
//! torch 2.15 where the two differ: beyond E5M2's largest number torch makes an infinity, the crate its largest number.
//! In E4M3, which has no infinity, both saturate (earlier torch versions made a NaN).

use ::float8::{F8E4M3, F8E5M2};

/// A format of eight bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float8 {
    /// torch's `float8_e4m3fn`: 4 bits of exponent, 3 of mantissa, at most 448, no infinity, NaN is 0x7f and 0xff.
    E4M3,
    /// torch's `float8_e5m2`: 5 bits of exponent, 2 of mantissa, at most 57344, infinities and NaN as in IEEE 754.
    E5M2,
}

/// What each code stands for, by code.
static E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = F8E4M3::from_bits(code as u8).to_f32();
        code += 1;
    }
    table
};

/// As [`E4M3`].
static E5M2: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = F8E5M2::from_bits(code as u8).to_f32();
        code += 1;
    }
    table
};

/// From here on E5M2 rounds to infinity: halfway between its largest number, 57344, and the 65536 that would follow.
const E5M2_OVERFLOW: f32 = 61440.0;

impl Float8 {
    /// The 256 numbers of the format, by code. Every one is exact in `f32`, and in `bf16` and `f16` too.
    pub fn table(self) -> &'static [f32; 256] {
        match self {
            Self::E4M3 => &E4M3,
            Self::E5M2 => &E5M2,
        }
    }

    /// The numbers behind `codes`, one byte each, in their order.
    pub fn decode(self, codes: &[u8]) -> Vec<f32> {
        let table = self.table();
        codes.iter().map(|&code| table[usize::from(code)]).collect()
    }

    /// The code of the nearest number, of two as near that with an even mantissa. Too large a number becomes 448 in
    /// E4M3 (infinity as well) and infinity in E5M2; the sign stays, that of zero and NaN too.
    pub fn code(self, value: f32) -> u8 {
        match self {
            Self::E4M3 => F8E4M3::from_f32(value).to_bits(),
            Self::E5M2 => {
                let sign = if value.is_sign_negative() { 0x80 } else { 0 };
                if value.is_nan() {
                    sign | 0x7f
                } else if value.abs() >= E5M2_OVERFLOW {
                    sign | 0x7c
                } else {
                    F8E5M2::from_f32(value).to_bits()
                }
            }
        }
    }

    /// [`Float8::code`] of each value, in their order.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        values.iter().map(|&value| self.code(value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    /// Made by tests/reference/record_float8.py.
    const RECORDED: &[u8] = include_bytes!("../../../../tests/data/float8/torch.safetensors");

    fn floats(file: &SafeTensors, key: &str) -> Vec<f32> {
        let (chunks, _) = file.tensor(key).unwrap().data().as_chunks::<4>();
        chunks.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    #[test]
    fn every_code_stands_for_what_torch_says() {
        let file = SafeTensors::deserialize(RECORDED).unwrap();
        for (format, name) in [(Float8::E4M3, "e4m3"), (Float8::E5M2, "e5m2")] {
            let expected = floats(&file, &format!("{name}.decoded"));
            let codes: Vec<u8> = (0..=255).collect();
            for (code, (ours, theirs)) in format.decode(&codes).into_iter().zip(&expected).enumerate() {
                let same = ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan();
                assert!(same, "{name} {code:#04x}: {ours} is not {theirs}");
            }
            assert_eq!(expected.len(), 256);
        }
    }

    #[test]
    fn every_number_gets_the_code_that_torch_gives() {
        let file = SafeTensors::deserialize(RECORDED).unwrap();
        for (format, name) in [(Float8::E4M3, "e4m3"), (Float8::E5M2, "e5m2")] {
            let values = floats(&file, &format!("{name}.values"));
            let expected = file.tensor(&format!("{name}.encoded")).unwrap();
            for ((value, ours), theirs) in values.iter().zip(format.encode(&values)).zip(expected.data()) {
                assert_eq!(ours, *theirs, "{name} of {value:e} ({:#010x})", value.to_bits());
            }
            assert!(values.len() > 4000);
        }
    }

    #[test]
    fn a_code_survives_the_way_there_and_back() {
        for format in [Float8::E4M3, Float8::E5M2] {
            for code in 0..=255 {
                let value = format.table()[usize::from(code)];
                assert!(value.is_nan() || format.code(value) == code, "{format:?} {code:#04x} is {value}");
            }
        }
    }
}
