//! How much each token counts in the loss: see [`LossRecipe`].

use super::recipe::LossRecipe;
use crate::{data::encode::Encoded, error::RecipeProblem};
use ace_plus::{Card, latents::DOWNSCALE};
use std::ops::Range;

/// Weights of tokens that are not all alike.
#[derive(Debug, Clone)]
pub struct Emphasis {
    recipe: LossRecipe,
    /// Where the mask stands in the conditions beside a token.
    mask: Option<Range<usize>>,
}

impl Emphasis {
    /// What a recipe asks for on a card; `None` if all tokens count alike.
    pub fn new(recipe: LossRecipe, card: &Card) -> Option<Self> {
        (recipe != LossRecipe::default())
            .then(|| Self { recipe, mask: card.unit.mask_columns(card.flux.out_channels, DOWNSCALE) })
    }

    /// # Errors
    /// If masks are to weigh on a card that has none.
    pub fn check(recipe: LossRecipe, card: &Card) -> Result<(), RecipeProblem> {
        match Self::new(recipe, card) {
            Some(Self { mask: None, .. }) if recipe.mask_weight != 1.0 => {
                Err(RecipeProblem::NoMasks { value: recipe.mask_weight, card: card.name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The weights of an example's tokens, 1 on average.
    pub fn of(&self, example: &Encoded) -> Vec<f32> {
        self.weigh(&example.geometry().is_reference, example.pictures.beside.as_deref())
    }

    fn weigh(&self, is_reference: &[bool], beside: Option<&[f32]>) -> Vec<f32> {
        let len = is_reference.len();
        let under_mask = |token: usize| match (&self.mask, beside) {
            (Some(columns), Some(beside)) => {
                let width = beside.len() / len;
                let mask = &beside[token * width..][columns.clone()];
                mask.iter().sum::<f32>() / mask.len() as f32
            }
            _ => 0.0,
        };
        let weights = is_reference.iter().enumerate().map(|(token, is_reference)| match is_reference {
            true => self.recipe.reference_weight,
            false => 1.0 + (self.recipe.mask_weight - 1.0) * under_mask(token),
        });
        let mut weights: Vec<f32> = weights.collect();
        let mean = weights.iter().map(|weight| f64::from(*weight)).sum::<f64>() / len as f64;
        match mean > 0.0 {
            true => weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) / mean) as f32),
            // Nothing is left that counts, as of an example that is all mask with a weight of 0: it counts as it is.
            false => weights.fill(1.0),
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_what_the_formula_says() {
        // Two features and a mask of two pixels beside each of four tokens; the first is a reference's.
        let beside = [9.0, 9.0, 1.0, 1.0, 9.0, 9.0, 0.0, 0.0, 9.0, 9.0, 1.0, 0.0, 9.0, 9.0, 1.0, 1.0];
        let is_reference = [true, false, false, false];
        let weigh = |mask_weight, reference_weight| {
            let recipe = LossRecipe { mask_weight, reference_weight };
            Emphasis { recipe, mask: Some(2..4) }.weigh(&is_reference, Some(&beside))
        };
        let times = |weights: [f32; 4], mean: f32| weights.map(|weight| weight / mean).to_vec();
        assert_eq!(weigh(3.0, 1.0), times([1.0, 1.0, 2.0, 3.0], 7.0 / 4.0));
        assert_eq!(weigh(1.0, 0.0), times([0.0, 1.0, 1.0, 1.0], 3.0 / 4.0));
        assert_eq!(weigh(5.0, 0.5), times([0.5, 1.0, 3.0, 5.0], 9.5 / 4.0));
        assert_eq!(weigh(1.0, 1.0), [1.0; 4]);
        // All that is left of this one lies under the mask.
        let recipe = LossRecipe { mask_weight: 0.0, reference_weight: 0.0 };
        assert_eq!(Emphasis { recipe, mask: Some(0..1) }.weigh(&[false, true], Some(&[1.0, 0.0])), [1.0, 1.0]);
    }

    #[test]
    fn only_cards_with_masks_weigh_them() {
        let card = Card::builtin("tiny").unwrap();
        // 64 features of the masked image, 64 of the change image, and every pixel of a token.
        assert_eq!(card.unit.mask_columns(64, DOWNSCALE), Some(128..384));
        let recipe = LossRecipe { mask_weight: 2.0, ..LossRecipe::default() };
        assert_eq!(Emphasis::check(recipe, &card), Ok(()));
        let mut words = card;
        words.unit.conditions.clear();
        let problem = Emphasis::check(recipe, &words).unwrap_err();
        assert!(problem.to_string().contains("mask_weight is 2, but the units of tiny have no masks"), "{problem}");
        assert_eq!(Emphasis::check(LossRecipe { reference_weight: 0.5, mask_weight: 1.0 }, &words), Ok(()));
        assert!(Emphasis::new(LossRecipe::default(), &words).is_none());
    }
}
