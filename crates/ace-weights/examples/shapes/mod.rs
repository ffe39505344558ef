//! The parameters that a file of random weights needs.

use ace_weights::network::flux::BFL;
use burn::{
    module::{ModuleVisitor, Param},
    prelude::*,
};

/// Keys and shapes of a module's parameters, in its own order.
#[derive(Default)]
pub struct Shapes {
    path: Vec<String>,
    pub all: Vec<(String, Vec<usize>)>,
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.all.push((BFL.key(&self.path.join(".")), param.lazy_shape().to_vec()));
    }
}
