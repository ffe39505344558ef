//! Samplers: how far one answer of the network carries from a time to the next.
//!
//! | name | diffusers | evaluations of N steps |
//! |---|---|---|
//! | `euler` | `FlowMatchEulerDiscreteScheduler` | N |
//! | `heun` | `FlowMatchHeunDiscreteScheduler` | 2N − 1 |
//! | `dpmpp-2m` | `DPMSolverMultistepScheduler`, `use_flow_sigmas` | N |
//! | `dpmpp-2m-comfy` | none: ComfyUI's `dpmpp_2m` | N |
//! | `unipc` | `UniPCMultistepScheduler`, `use_flow_sigmas`, order 2, `bh2` | N |
//! | `lcm` | `FlowMatchLCMScheduler` | N |
//!
//! Two things differ on purpose: the network is asked at the time itself, where diffusers' DPM and UniPC hand it the time
//! cut to thousandths; and times are whatever schedule is chosen.

use crate::{Result, flow};
use burn::prelude::*;
use serde::{Deserialize, Serialize};

/// Which way is taken from noise to latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Sampler {
    /// Straight on.
    #[default]
    #[serde(rename = "euler")]
    Euler,
    /// The mean of the velocities at both ends of a step.
    #[serde(rename = "heun")]
    Heun,
    /// DPM-Solver++ of two steps, with `λ = ln((1−t)/t)` ([arXiv:2211.01095](https://arxiv.org/abs/2211.01095)).
    #[serde(rename = "dpmpp-2m")]
    Dpmpp2m,
    /// The same with `λ = −ln t`, as ComfyUI has it for every model.
    #[serde(rename = "dpmpp-2m-comfy")]
    Dpmpp2mComfy,
    /// UniPC of order 2: a step as above, corrected by the answer at its end
    /// ([arXiv:2302.04867](https://arxiv.org/abs/2302.04867)).
    #[serde(rename = "unipc")]
    UniPc,
    /// To the end and back with fresh noise, for networks that were distilled for it.
    #[serde(rename = "lcm")]
    Lcm,
}

impl Sampler {
    /// Every one of them by name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("euler", Self::Euler),
        ("heun", Self::Heun),
        ("dpmpp-2m", Self::Dpmpp2m),
        ("dpmpp-2m-comfy", Self::Dpmpp2mComfy),
        ("unipc", Self::UniPc),
        ("lcm", Self::Lcm),
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        // Every one is listed.
        Self::ALL.iter().find(|(_, sampler)| *sampler == self).map_or("", |(name, _)| name)
    }

    /// How often the network is asked in so many steps.
    pub fn evaluations(self, num_steps: usize) -> usize {
        match self {
            Self::Heun => (2 * num_steps).saturating_sub(1),
            _ => num_steps,
        }
    }
}

/// The velocity at some tokens and a time.
pub type Velocity<'a> = &'a mut dyn FnMut(&Tensor<3>, f32) -> Result<Tensor<3>>;

/// More noise of the tokens' shape.
pub type Fresh<'a> = &'a mut dyn FnMut() -> Tensor<3>;

/// A step that was taken.
#[derive(Debug)]
pub struct Taken {
    /// The tokens at the next time.
    pub tokens: Tensor<3>,
    /// The velocity where the step began.
    pub velocity: Tensor<3>,
}

/// A walk along times, with what a sampler remembers of the steps before.
#[derive(Debug)]
pub struct Solver {
    sampler: Sampler,
    /// Time, and where the walk would have ended from there, of the steps before; the latest last.
    before: Vec<(f64, Tensor<3>)>,
    /// What UniPC's last step began with, and of which order it was.
    begun: Option<(Tensor<3>, usize)>,
}

impl Solver {
    /// The begin of a walk.
    pub fn new(sampler: Sampler) -> Self {
        Self { sampler, before: Vec::new(), begun: None }
    }

    /// The next step: from `x` at `t` to `t_next`, which is 0 at the last.
    ///
    /// # Errors
    /// Those of `velocity`.
    pub fn step(
        &mut self,
        x: &Tensor<3>,
        [t, t_next]: [f32; 2],
        velocity: Velocity<'_>,
        fresh: Fresh<'_>,
    ) -> Result<Taken> {
        if self.sampler == Sampler::UniPc {
            return self.unipc(x, [t, t_next], velocity);
        }
        let v = velocity(x, t)?;
        let tokens = match self.sampler {
            Sampler::Heun if t_next > 0.0 => {
                let there = velocity(&flow::euler(x.clone(), v.clone(), t, t_next), t_next)?;
                flow::euler(x.clone(), (v.clone() + there) * 0.5, t, t_next)
            }
            Sampler::Dpmpp2m | Sampler::Dpmpp2mComfy => {
                let lambda = if self.sampler == Sampler::Dpmpp2m { half_log_snr } else { minus_log };
                let end = flow::euler(x.clone(), v.clone(), t, 0.0);
                let [t, t_next] = [t, t_next].map(f64::from);
                let before = self.before.pop();
                let next = dpmpp_2m(x.clone(), [t, t_next], end.clone(), before, lambda);
                self.before.push((t, end));
                next
            }
            Sampler::Lcm => {
                let end = flow::euler(x.clone(), v.clone(), t, 0.0);
                if t_next > 0.0 { end * (1.0 - t_next) + fresh() * t_next } else { end }
            }
            _ => flow::euler(x.clone(), v.clone(), t, t_next),
        };
        Ok(Taken { tokens, velocity: v })
    }

    /// A step of UniPC: the answer at its begin first corrects how the step before ended.
    fn unipc(&mut self, x: &Tensor<3>, [t, t_next]: [f32; 2], velocity: Velocity<'_>) -> Result<Taken> {
        // λ is −∞ at 1.
        let t = t.min(1.0 - 1e-6);
        let v = velocity(x, t)?;
        let end = flow::euler(x.clone(), v.clone(), t, 0.0);
        let [t, t_next] = [t, t_next].map(f64::from);
        let x = match self.begun.take() {
            Some((begun, order)) => unipc_correct(begun, &self.before, order, (t, end.clone())),
            None => x.clone(),
        };
        if self.before.len() == 2 {
            self.before.remove(0);
        }
        self.before.push((t, end));
        let order = if t_next > 0.0 { self.before.len() } else { 1 };
        let tokens = unipc_predict(x.clone(), &self.before, order, t_next);
        self.begun = Some((x, order));
        Ok(Taken { tokens, velocity: v })
    }
}

/// `ln((1−t)/t)`: half the logarithm of the signal's share over the noise's.
fn half_log_snr(t: f64) -> f64 {
    ((1.0 - t) / t).ln()
}

/// `−ln t`.
fn minus_log(t: f64) -> f64 {
    -t.ln()
}

/// `x·t'/t + (1 − t'/t)·D`, where `D` is the end of the walk, led on in a straight line over `λ` from `before` to the end
/// of this step; without a step before, and at the last, `D` is the end itself.
fn dpmpp_2m(
    x: Tensor<3>,
    [t, t_next]: [f64; 2],
    end: Tensor<3>,
    before: Option<(f64, Tensor<3>)>,
    lambda: fn(f64) -> f64,
) -> Tensor<3> {
    let kept = t_next / t;
    let led = match before {
        Some((t_before, end_before)) if t_next > 0.0 => {
            let ratio = (lambda(t) - lambda(t_before)) / (lambda(t_next) - lambda(t));
            let ahead = (2.0 * ratio).recip();
            end * (1.0 + ahead) - end_before * ahead
        }
        _ => end,
    };
    x * kept + led * (1.0 - kept)
}

/// What a step over `h` in `λ` to `t_next` makes of `x` if the walk's end stays where it is.
fn unipc_first(x: Tensor<3>, (t, end): &(f64, Tensor<3>), t_next: f64, phi: f64) -> Tensor<3> {
    x * (t_next / t) - end.clone() * ((1.0 - t_next) * phi)
}

/// How fast the end moves per step, from the two last; their distance in steps of `h` too.
fn unipc_slope(before: &[(f64, Tensor<3>)], h: f64) -> Option<(f64, Tensor<3>)> {
    let [.., (t_old, end_old), (t, end)] = before else { return None };
    let ratio = (half_log_snr(*t_old) - half_log_snr(*t)) / h;
    Some((ratio, (end_old.clone() - end.clone()) * ratio.recip()))
}

/// The predictor: where `x` is at `t_next`.
fn unipc_predict(x: Tensor<3>, before: &[(f64, Tensor<3>)], order: usize, t_next: f64) -> Tensor<3> {
    let Some(last) = before.last() else { return x };
    let h = half_log_snr(t_next) - half_log_snr(last.0);
    let phi = (-h).exp_m1();
    let first = unipc_first(x, last, t_next, phi);
    match unipc_slope(before, h).filter(|_| order == 2) {
        Some((_, slope)) => first - slope * (0.5 * (1.0 - t_next) * phi),
        None => first,
    }
}

/// The corrector: the step again from where it began, now that the walk's end as seen from its own end is known.
fn unipc_correct(x: Tensor<3>, before: &[(f64, Tensor<3>)], order: usize, (t, end): (f64, Tensor<3>)) -> Tensor<3> {
    let Some(last) = before.last() else { return x };
    let h = half_log_snr(t) - half_log_snr(last.0);
    let phi = (-h).exp_m1();
    let first = unipc_first(x, last, t, phi);
    let moved = end - last.1.clone();
    let share = match unipc_slope(before, h).filter(|_| order == 2) {
        Some((ratio, slope)) => {
            // Two unknowns: their sum is `b[0]`, the first times `ratio` and the second make `b[1]`.
            let phi_2 = phi / -h - 1.0;
            let b = [phi_2 / phi, 2.0 * (phi_2 / -h - 0.5) / phi];
            let of_slope = (b[0] - b[1]) / (1.0 - ratio);
            slope * of_slope + moved * (b[0] - of_slope)
        }
        None => moved * 0.5,
    };
    first - share * ((1.0 - t) * phi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Schedule, Shift};

    fn values(x: &Tensor<3>) -> Vec<f32> {
        x.clone().into_data().iter::<f32>().collect()
    }

    fn one(value: f32) -> Tensor<3> {
        Tensor::from_data([[[value]]], &Device::default())
    }

    /// Walks along the velocity, and counts how often it was asked.
    fn walk(sampler: Sampler, steps: usize, velocity: impl Fn(f32, f32) -> f32) -> (f32, usize) {
        let times = Schedule::Flux.times(steps, 256, &Shift::fixed(1.0));
        let (mut solver, mut x, mut asked) = (Solver::new(sampler), one(0.8), 0);
        for pair in times.windows(2) {
            let mut of = |x: &Tensor<3>, t: f32| {
                asked += 1;
                Ok(one(velocity(values(x)[0], t)))
            };
            x = solver.step(&x, [pair[0], pair[1]], &mut of, &mut || one(0.1)).unwrap().tokens;
        }
        (values(&x)[0], asked)
    }

    #[test]
    fn every_sampler_asks_as_often_as_it_says() {
        for (name, sampler) in Sampler::ALL {
            for steps in [1, 2, 7] {
                assert_eq!(walk(sampler, steps, |x, t| x * t).1, sampler.evaluations(steps), "{name}");
            }
        }
    }

    #[test]
    fn one_step_is_the_same_in_all_of_them() {
        let euler = walk(Sampler::Euler, 1, |x, t| x * t + 0.3).0;
        for (name, sampler) in Sampler::ALL {
            assert!((walk(sampler, 1, |x, t| x * t + 0.3).0 - euler).abs() < 1e-5, "{name}");
        }
    }

    #[test]
    fn a_straight_line_is_walked_exactly() {
        for (name, sampler) in Sampler::ALL.into_iter().filter(|(_, sampler)| *sampler != Sampler::Lcm) {
            let (end, _) = walk(sampler, 9, |_, _| 1.7);
            assert!((end - (0.8 - 1.7)).abs() < 1e-5, "{name}: {end}");
        }
    }

    #[test]
    fn samplers_of_the_second_order_err_less_and_lose_their_error_faster() {
        let field = |x: f32, t: f32| (2.0 * x + t).sin() + t * t;
        let exact = walk(Sampler::Heun, 512, field).0;
        let errors = |sampler| [16, 32].map(|steps| (walk(sampler, steps, field).0 - exact).abs());
        let euler = errors(Sampler::Euler);
        for sampler in [Sampler::Heun, Sampler::Dpmpp2m, Sampler::Dpmpp2mComfy, Sampler::UniPc] {
            let [few, many] = errors(sampler);
            assert!(few < 0.5 * euler[0] && many < 0.4 * few, "{sampler:?}: {few}, {many} beside {euler:?}");
        }
    }
}
