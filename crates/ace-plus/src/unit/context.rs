//! Pictures as the context of a picture that is made: tokens behind those of the noise, as in FLUX.1 Kontext.
//!
//! One picture stands at `(1, row, column)` from the origin, whatever size the made one has
//! (`prepare_kontext` in <https://github.com/black-forest-labs/flux>, diffusers' `FluxKontextPipeline`). Where several
//! stand was not trained; both ways that are in use are ComfyUI's ("index" and "offset", `comfy/ldm/flux/model.py`).

use super::{Encode, Positions, Units};
use crate::{
    canvas::Canvas,
    latents::{self, PATCH},
};
use burn::prelude::*;
use std::ops::ControlFlow;

/// Encodes all canvases but the last, which has only the size of what is made.
pub(super) fn encode(
    canvases: &[Canvas],
    positions: Positions,
    cell: usize,
    encode: Encode<'_>,
) -> ControlFlow<(), Units> {
    let grid = |canvas: &Canvas| [canvas.image.height / cell, canvas.image.width / cell];
    let (made, shown) = match canvases.split_last() {
        Some((made, shown)) => (grid(made), shown),
        None => ([0, 0], canvases),
    };
    let (mut behind, mut behind_ids) = (Vec::with_capacity(shown.len()), Vec::new());
    let mut places = Places::new(positions);
    for canvas in shown {
        let tokens = grid(canvas).map(|cells| cells / PATCH);
        let [unit, top, left] = places.next(tokens);
        behind.extend(encode(&[&canvas.image])?.into_iter().map(latents::pack));
        behind_ids.extend(
            latents::ids(tokens, unit)
                .into_iter()
                .map(|[unit, row, column]| [unit, row + top as f32, column + left as f32]),
        );
    }
    let tokens = made.map(|cells| cells / PATCH);
    let mut ids = latents::ids(tokens, 0);
    let is_reference = vec![false; ids.len()];
    ids.extend(behind_ids);
    let behind = (!behind.is_empty()).then(|| Tensor::cat(behind, 1));
    ControlFlow::Continue(Units { beside: None, behind, ids, grids: vec![made], is_reference })
}

/// Where one picture after the other stands.
struct Places {
    positions: Positions,
    /// Pictures so far.
    count: usize,
    /// Rows and columns that all so far reach.
    reach: [usize; 2],
}

impl Places {
    fn new(positions: Positions) -> Self {
        Self { positions, count: 0, reach: [0, 0] }
    }

    /// Unit, first row and first column of the next picture, of so many rows and columns.
    fn next(&mut self, [rows, columns]: [usize; 2]) -> [usize; 3] {
        self.count += 1;
        if self.positions == Positions::Index {
            return [self.count, 0, 0];
        }
        let [height, width] = self.reach;
        let (top, left) = if rows + height > columns + width { (0, width) } else { (height, 0) };
        self.reach = [height.max(rows + top), width.max(columns + left)];
        [1, top, left]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_picture_stands_at_the_origin_and_several_do_not_overlap() {
        let placed = |positions, sizes: &[[usize; 2]]| {
            let mut places = Places::new(positions);
            sizes.iter().map(|size| places.next(*size)).collect::<Vec<_>>()
        };
        for positions in [Positions::Index, Positions::Offset] {
            assert_eq!(placed(positions, &[[5, 7]]), [[1, 0, 0]]);
        }
        let sizes = [[4, 6], [4, 6], [8, 3]];
        assert_eq!(placed(Positions::Index, &sizes), [[1, 0, 0], [2, 0, 0], [3, 0, 0]]);
        // Below a wide one, then right of both, for they are 8 by 6.
        assert_eq!(placed(Positions::Offset, &sizes), [[1, 0, 0], [1, 4, 0], [1, 0, 6]]);
    }
}
