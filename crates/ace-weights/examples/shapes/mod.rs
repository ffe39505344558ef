//! The parameters that a file of random weights needs.

use ace_weights::names::KeyMap;
use burn::{
    module::{Module, ModuleVisitor, Param},
    prelude::*,
};

/// Keys and shapes of a module's parameters, in its own order.
pub type Shapes = Vec<(String, Vec<usize>)>;

struct Walk<'a> {
    keys: &'a KeyMap,
    path: Vec<String>,
    all: Shapes,
}

/// Keys and shapes of a module's parameters, in its own order.
pub fn shapes<M: Module>(module: &M, keys: &KeyMap) -> Shapes {
    let mut walk = Walk { keys, path: Vec::new(), all: Vec::new() };
    module.visit(&mut walk);
    walk.all
}

impl ModuleVisitor for Walk<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.all.push((self.keys.key(&self.path.join(".")), param.lazy_shape().to_vec()));
    }
}
