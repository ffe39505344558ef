//! Stopping inside a forward: a network asks between its blocks whether to go on.
//!
//! A forward of a large network takes seconds. Each network has a form that is given a [`Poll`] and calls it before
//! every block; `Break` leaves the forward at once, and `Break` is what the caller gets.

use std::ops::ControlFlow;

/// Asked between blocks: `Continue` to go on, `Break` to cancel.
pub type Poll<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

/// Runs a form that polls with a question that is always answered `Continue`.
pub fn to_the_end<T>(run: impl FnOnce(Poll<'_>) -> ControlFlow<(), T>) -> T {
    match run(&mut || ControlFlow::Continue(())) {
        ControlFlow::Continue(value) => value,
        ControlFlow::Break(()) => unreachable!("a forward breaks only where its poll does"),
    }
}

#[cfg(test)]
mod tests {
    use super::Poll;
    use crate::testing::{autoencoder, clip, device, flux, flux_input, random, t5, token_ids};
    use burn::prelude::*;
    use std::ops::ControlFlow;

    /// A network's forward is asked `questions` times, gives the plain form's answer, and is left at each of them.
    fn check<const N: usize>(
        name: &str,
        questions: usize,
        plain: Tensor<N>,
        polled: impl Fn(Poll<'_>) -> ControlFlow<(), Tensor<N>>,
    ) {
        let mut asked = 0;
        let answer = polled(&mut || {
            asked += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(asked, questions, "{name}");
        let answer = answer.continue_value().expect("nothing broke");
        assert_eq!(answer.into_data(), plain.into_data(), "{name}");
        for stop in 1..=questions {
            let mut asked = 0;
            let answer = polled(&mut || {
                asked += 1;
                if asked == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(answer.is_break() && asked == stop, "{name}: asked {asked} times, broke at {stop}");
        }
    }

    #[test]
    fn every_network_can_be_left_before_each_of_its_blocks() {
        let flux = flux(&device());
        let input = flux_input(&flux, &device());
        check("flux", 2 + 3, flux.forward(input.clone()), |poll| flux.forward_polled(input.clone(), poll));

        let (t5, ids) = (t5(), token_ids());
        check("t5", 2, t5.forward(ids.clone()), |poll| t5.forward_polled(ids.clone(), poll));

        let clip = clip();
        let plain = clip.forward(ids.clone(), &[4, 3]);
        check("clip", 2, plain, |poll| clip.forward_polled(ids.clone(), &[4, 3], poll));

        // Three levels, the middle's three parts, the last convolution of the decoder.
        let (autoencoder, image) = (autoencoder(), random([1, 3, 16, 24], 5));
        let plain = autoencoder.encode(image.clone());
        let latents = plain.clone();
        check("encode", 3 + 3, plain, |poll| autoencoder.encode_polled(image.clone(), poll));
        let plain = autoencoder.decode(latents.clone());
        check("decode", 3 + 3 * 2 + 1, plain, |poll| autoencoder.decode_polled(latents.clone(), poll));
    }
}
