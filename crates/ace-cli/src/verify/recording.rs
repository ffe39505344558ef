//! One recording: its tensors by name, its weights in a module of ours, and how far our results are from its own.

use ace_weights::WeightFile;
use ace_weights::names::KeyMap;
use anyhow::{Context, Result, bail, ensure};
use burn::{
    module::{Module, ModuleVisitor, Param},
    prelude::*,
    tensor::{FloatDType, Gradients},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

/// A file of recorded tensors, on its way to a device. It remembers which of them were asked for.
pub struct Recording {
    file: WeightFile,
    device: Device,
    unread: RefCell<BTreeSet<String>>,
}

impl Recording {
    /// A recording whose tensors go to `device`.
    pub fn new(file: WeightFile, device: &Device) -> Result<Self> {
        let unread = RefCell::new(file.shapes()?.into_keys().collect());
        Ok(Self { file, device: device.clone(), unread })
    }

    /// Where plain results are computed.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where results with gradients are computed.
    pub fn autodiff(&self) -> Device {
        self.device.clone().autodiff()
    }

    /// What the recorded module was made with.
    pub fn config(&self) -> Result<serde_json::Value> {
        let metadata = self.file.metadata()?;
        let text = metadata.get("config").context("the header has no entry config")?;
        serde_json::from_str(text).context("the entry config is no JSON")
    }

    /// A size of the recorded module.
    pub fn size(&self, name: &str) -> Result<usize> {
        let config = self.config()?;
        let size = config.get(name).and_then(serde_json::Value::as_u64);
        Ok(size.with_context(|| format!("config has no size {name}"))? as usize)
    }

    /// `module` with the recorded weights, on the device of the argument.
    pub fn weights<M: Module>(&self, module: M, keys: &KeyMap, device: &Device) -> Result<M> {
        let module = self.file.load(module, keys, "weights.", Some(FloatDType::F32), device)?;
        // Loading is strict: every weight has found its place.
        self.unread.borrow_mut().retain(|key| !key.starts_with("weights."));
        Ok(module)
    }

    /// A recorded float tensor.
    pub fn tensor<const D: usize>(&self, key: &str) -> Result<Tensor<D>> {
        self.tensor_on(key, &self.device)
    }

    /// A recorded float tensor that gradients can reach.
    pub fn leaf<const D: usize>(&self, key: &str) -> Result<Tensor<D>> {
        Ok(self.tensor_on(key, &self.autodiff())?.require_grad())
    }

    /// A recorded float tensor on a device of choice.
    pub fn tensor_on<const D: usize>(&self, key: &str, device: &Device) -> Result<Tensor<D>> {
        self.mark_read(key);
        Ok(self.file.tensor(key, Some(FloatDType::F32), device)?)
    }

    /// Recorded integers, row by row.
    pub fn rows(&self, key: &str) -> Result<Vec<Vec<i32>>> {
        self.mark_read(key);
        let data = self.file.data(key)?;
        let [rows, columns] = *data.shape().as_slice() else { bail!("{key} has not two axes") };
        let flat: Vec<i32> = data.convert::<i32>().iter::<i32>().collect();
        ensure!(columns > 0 && flat.len() == rows * columns, "{key} is empty");
        Ok(flat.chunks(columns).map(<[i32]>::to_vec).collect())
    }

    /// Recorded positions `(unit, row, column)` of tokens.
    pub fn positions(&self, key: &str) -> Result<Vec<[f32; 3]>> {
        let rows = self.rows(key)?;
        ensure!(rows.iter().all(|row| row.len() == 3), "{key} holds no triples");
        Ok(rows.iter().map(|row| [row[0] as f32, row[1] as f32, row[2] as f32]).collect())
    }

    /// How far `ours` is from the recorded tensor.
    pub fn error<const D: usize>(&self, key: &str, ours: Tensor<D>) -> Result<f64> {
        self.error_of(key, &ours.into_data())
    }

    /// As [`Recording::error`], for values on the host.
    pub fn error_of(&self, key: &str, ours: &TensorData) -> Result<f64> {
        let mut distance = Distance::default();
        self.add(&mut distance, key, ours)?;
        Ok(distance.relative())
    }

    /// Adds one tensor of ours to a distance over several.
    pub fn add(&self, distance: &mut Distance, key: &str, ours: &TensorData) -> Result<()> {
        self.mark_read(key);
        let theirs = self.file.data(key)?;
        ensure!(ours.shape() == theirs.shape(), "{key} is {:?}, ours is {:?}", theirs.shape(), ours.shape());
        let values = |data: &TensorData| data.clone().convert::<f64>().iter::<f64>().collect::<Vec<_>>();
        for (ours, theirs) in values(ours).into_iter().zip(values(&theirs)) {
            distance.squared_difference += (ours - theirs).powi(2);
            distance.squared_length += theirs.powi(2);
        }
        Ok(())
    }

    /// How far all recorded gradients are from ours: of a module's weights, and of inputs by name.
    pub fn gradients_error<M: Module>(
        &self,
        module: &M,
        keys: &KeyMap,
        inputs: BTreeMap<&str, Option<TensorData>>,
        gradients: &Gradients,
    ) -> Result<f64> {
        let mut walk = GradientWalk { keys, gradients, path: Vec::new(), found: BTreeMap::new() };
        module.visit(&mut walk);
        let mut ours = walk.found;
        for (name, gradient) in inputs {
            ours.insert(format!("grad.input.{name}"), gradient.with_context(|| format!("{name} got no gradient"))?);
        }
        let recorded: BTreeSet<String> =
            self.file.shapes()?.into_keys().filter(|key| key.starts_with("grad.")).collect();
        if let Some(key) = recorded.iter().find(|key| !ours.contains_key(*key)) {
            bail!("{key} has no counterpart");
        }
        let mut distance = Distance::default();
        for key in &recorded {
            self.add(&mut distance, key, &ours[key])?;
        }
        Ok(distance.relative())
    }

    /// Refuses a recording of which something was not looked at.
    pub fn all_read(&self) -> Result<()> {
        match self.unread.borrow().first() {
            Some(key) => bail!("{key} was recorded but nothing was compared with it"),
            None => Ok(()),
        }
    }

    fn mark_read(&self, key: &str) {
        self.unread.borrow_mut().remove(key);
    }
}

/// `|ours − theirs| / |theirs|` over any number of tensors, as if they were one vector.
#[derive(Debug, Default)]
pub struct Distance {
    squared_difference: f64,
    squared_length: f64,
}

impl Distance {
    /// The relative distance.
    pub fn relative(&self) -> f64 {
        if self.squared_difference == 0.0 { 0.0 } else { (self.squared_difference / self.squared_length).sqrt() }
    }
}

/// Collects the gradients of a module's parameters under their checkpoint keys.
struct GradientWalk<'a> {
    keys: &'a KeyMap,
    gradients: &'a Gradients,
    path: Vec<String>,
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for GradientWalk<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            let key = format!("grad.weights.{}", self.keys.key(&self.path.join(".")));
            self.found.insert(key, gradient.into_data());
        }
    }
}
