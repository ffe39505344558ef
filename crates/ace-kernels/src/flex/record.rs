//! Our own operations with gradients: what each keeps for its backward pass, and that pass.

use super::{
    Activation, Branch, Maybe, Own, RowInputs, activation, attend, attention, attention_sizes, heads, in_heads,
    linear::{self, Base, Kept},
    memory::{New, numbers},
    norm, rope, streams,
};
use burn::backend::{
    Autodiff, Flex,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, NodeGuard, Ops, OpsKind},
    },
    tensor::FloatTensor,
};
use burn_flex::FlexTensor;
use std::fmt::Debug;

type Tracked<C> = FloatTensor<Autodiff<Flex, C>>;

/// From what was kept, the output's gradient and which inputs want a gradient, their gradients.
type Pass<S, const N: usize> = fn(S, FlexTensor, [bool; N]) -> [Option<FlexTensor>; N];

/// An operation's backward pass.
struct By<S, const N: usize>(Pass<S, N>);

impl<S, const N: usize> Debug for By<S, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("By")
    }
}

impl<S: Clone + Send + Debug + 'static, const N: usize> Backward<Flex, N> for By<S, N> {
    type State = S;

    fn backward(self, ops: Ops<S, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let wants = ops.parents.each_ref().map(Option::is_some);
        let inputs = (self.0)(ops.state, gradient, wants);
        for (parent, gradient) in ops.parents.into_iter().zip(inputs) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// Computes the output, and keeps what the backward pass needs if any input has a gradient.
fn record<C: CheckpointStrategy, S: Clone + Send + Debug + 'static, const N: usize>(
    inputs: [NodeGuard; N],
    forward: impl FnOnce() -> (FlexTensor, S),
    backward: Pass<S, N>,
) -> Tracked<C> {
    match By(backward).prepare::<C>(inputs).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (output, kept) = forward();
            prep.finish(kept, output)
        }
        OpsKind::UnTracked(prep) => prep.finish(forward().0),
    }
}

impl<C: CheckpointStrategy> Own for Autodiff<Flex, C> {
    fn activate(x: Tracked<C>, kind: Activation) -> Tracked<C> {
        let (x, node) = x.into_parts();
        record::<C, _, 1>(
            [node],
            || (Flex::activate(x.clone(), kind), (x, kind)),
            |(x, kind), gradient, _| [Some(activation::backward(kind, x, gradient))],
        )
    }

    fn modulate(x: Tracked<C>, shift: Tracked<C>, scale: Tracked<C>, epsilon: f64) -> Tracked<C> {
        let ((x, a), (shift, b), (scale, c)) = (x.into_parts(), shift.into_parts(), scale.into_parts());
        record::<C, _, 3>(
            [a, b, c],
            || (Flex::modulate(x.clone(), shift, scale.clone(), epsilon), (x, scale, epsilon as f32)),
            |(x, scale, epsilon), gradient, wants| norm::modulate_backward(x, scale, epsilon, gradient, wants),
        )
    }

    fn root_norm(x: Tracked<C>, scale: Tracked<C>, epsilon: f64) -> Tracked<C> {
        let ((x, a), (scale, b)) = (x.into_parts(), scale.into_parts());
        record::<C, _, 2>(
            [a, b],
            || (Flex::root_norm(x.clone(), scale.clone(), epsilon), (x, scale, epsilon as f32)),
            |(x, scale, epsilon), gradient, wants| norm::rms_norm_backward(x, scale, epsilon, gradient, wants),
        )
    }

    fn gate_add(x: Tracked<C>, gate: Tracked<C>, y: Tracked<C>) -> Tracked<C> {
        // Only the gate's gradient needs y.
        let learns = gate.is_tracked();
        let ((x, a), (gate, b), (y, c)) = (x.into_parts(), gate.into_parts(), y.into_parts());
        record::<C, _, 3>(
            [a, b, c],
            || (Flex::gate_add(x, gate.clone(), y.clone()), (gate, learns.then_some(y))),
            |(gate, y), gradient, [x, wants @ ..]| {
                let [dgate, dy] = norm::gate_add_backward(gate, y, gradient.clone(), wants);
                [x.then_some(gradient), dgate, dy]
            },
        )
    }

    fn turn(x: Tracked<C>, cos: Tracked<C>, sin: Tracked<C>) -> Tracked<C> {
        let (x, node) = x.into_parts();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        record::<C, _, 1>(
            [node],
            || (Flex::turn(x, cos.clone(), sin.clone()), (cos, sin)),
            |(cos, sin), gradient, _| [Some(rope::turn(gradient, cos, sin, true))],
        )
    }

    fn attend(q: Tracked<C>, k: Tracked<C>, v: Tracked<C>) -> Tracked<C> {
        let ((q, a), (k, b), (v, c)) = (q.into_parts(), k.into_parts(), v.into_parts());
        record::<C, _, 3>(
            [a, b, c],
            || {
                let inputs = [q, k, v].map(in_heads);
                let (out, lse) = attend(inputs.each_ref());
                (out.clone(), (inputs, out, lse))
            },
            |(inputs, out, lse), gradient, wants| {
                let [q, k, v] = inputs.each_ref();
                let gradient = in_heads(gradient);
                let mut room = inputs.each_ref().map(|input| New::of(input.layout().num_elements()));
                attention::backward(
                    attention_sizes(q, k, v),
                    [q, k, v].map(heads),
                    heads(&out),
                    numbers(&lse),
                    heads(&gradient),
                    room.each_mut().map(New::all),
                );
                let mut room = room.into_iter().zip([q, k, v]);
                wants.map(|wanted| {
                    room.next().filter(|_| wanted).map(|(new, input)| new.tensor(input.layout().shape().clone()))
                })
            },
        )
    }

    fn attend_rows(
        first: Tracked<C>,
        query_scale: Tracked<C>,
        key_scale: Tracked<C>,
        second: Maybe<Self>,
        second_query_scale: Maybe<Self>,
        second_key_scale: Maybe<Self>,
        cos: Tracked<C>,
        sin: Tracked<C>,
        heads: usize,
        epsilon: f64,
    ) -> Tracked<C> {
        let ((first, a), (query, b), (key, c)) = (first.into_parts(), query_scale.into_parts(), key_scale.into_parts());
        // What is missing is a constant in the graph.
        let missing = || FloatTensor::<Self>::new(query.clone()).into_parts();
        let there = |maybe: Maybe<Self>| maybe.get().map(|tensor| tensor.into_parts());
        let second = there(second).zip(there(second_query_scale).zip(there(second_key_scale)));
        let (second, more) = match second {
            Some(((fused, d), ((query, e), (key, f)))) => (Some([fused, query, key]), [d, e, f]),
            None => (None, [missing().1, missing().1, missing().1]),
        };
        let [d, e, f] = more;
        let turn = [cos.into_primitive(), sin.into_primitive()];
        record::<C, _, 6>(
            [a, b, c, d, e, f],
            || {
                let inputs = RowInputs::new([first, query, key], second, turn, heads, epsilon);
                let (out, lse) = streams::forward(&inputs.streams(), inputs.common());
                (out.clone(), (inputs, out, lse))
            },
            |(inputs, out, lse), gradient, wants| {
                let gradient = super::dense(gradient);
                let [a, b, c, d, e, f] = wants;
                let wants = [[a, b, c], [d, e, f]];
                let all = streams::backward(&inputs.streams(), inputs.common(), [&out, &lse, &gradient], &wants);
                let mut all = all.into_iter().flatten();
                std::array::from_fn(|_| all.next().flatten())
            },
        )
    }

    fn project(
        x: Tracked<C>,
        base: Tracked<C>,
        kind: Base,
        bias: Maybe<Self>,
        a: Maybe<Self>,
        b: Maybe<Self>,
        scale: f64,
    ) -> Tracked<C> {
        let weighs = kind == Base::Weight;
        let (moves, learns) = (x.is_tracked(), weighs && base.is_tracked());
        let ((x, x_node), (base, base_node)) = (x.into_parts(), base.into_parts());
        let missing = || FloatTensor::<Self>::new(x.clone()).into_parts().1;
        let split = |maybe: Maybe<Self>| match maybe.get() {
            Some(tensor) => {
                let tracked = tensor.is_tracked();
                let (tensor, node) = tensor.into_parts();
                (Some(tensor), node, tracked)
            }
            None => (None, missing(), false),
        };
        let ((bias, bias_node, _), (a, a_node, a_learns), (b, b_node, _)) = (split(bias), split(a), split(b));
        let branch = a.zip(b).map(|(a, b)| Branch { a, b, scale: scale as f32 });
        record::<C, _, 5>(
            [x_node, base_node, bias_node, a_node, b_node],
            || {
                let shape = x.layout().shape().to_vec();
                let dtype = base.dtype();
                let weight = (weighs && moves).then(|| base.clone());
                let x_kept = (learns || a_learns).then(|| x.clone());
                let (output, low) = linear::forward(x, (kind, base), bias, branch.clone());
                let kept = Kept { x: x_kept, base: kind, weight, dtype, branch, low, shape };
                (output, kept)
            },
            linear::backward,
        )
    }
}
