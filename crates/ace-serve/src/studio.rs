//! Models in memory: loaded when a job asks for them, the last few kept. An adapter on top of a model that is there shares
//! its numbers.

use crate::worker::unknown_model;
use ace_plus::{
    Ace, Error, Model, Request, Result,
    request::{LoraRequest, ModelRequest},
};
use burn::tensor::Device;
use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A model that is served.
#[derive(Debug, Clone)]
pub struct Served {
    /// By which name clients ask for it.
    pub id: String,
    /// The model.
    pub model: Model,
    /// Which it is, for what is written into its pictures.
    pub request: ModelRequest,
    /// Adapters that clients can ask for.
    pub loras: Vec<ServedLora>,
}

/// An adapter that clients can ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedLora {
    /// By which name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// How strongly it counts unless they say.
    pub weight: f64,
}

/// Model and adapters of an edit; weights as bits, which can be compared.
type Key = (String, Vec<(String, u64)>);
/// Names of a model's files with their fingerprints.
type Fingerprints = Vec<(String, String)>;

/// Models in memory.
#[derive(Debug)]
pub struct Studio {
    served: Arc<[Served]>,
    device: Device,
    device_name: String,
    /// Those used last are last.
    loaded: VecDeque<(Key, Arc<Ace>)>,
    /// Loaded models at most.
    most: usize,
    /// Pictures that are made together, at most.
    batch: usize,
    fingerprints: HashMap<String, Fingerprints>,
}

impl Studio {
    /// An empty one that keeps at most so many models, and makes at most so many pictures together.
    pub fn new(served: Arc<[Served]>, device: Device, device_name: String, [most, batch]: [usize; 2]) -> Self {
        let (loaded, fingerprints) = (VecDeque::new(), HashMap::new());
        Self { served, device, device_name, loaded, most: most.max(1), batch: batch.max(1), fingerprints }
    }

    /// Pictures that are made together, at most.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Where it computes, in words.
    pub fn device_name(&self) -> &str {
        &self.device_name
    }

    /// A model with adapters, loaded unless it is there.
    ///
    /// # Errors
    /// If nothing of these names is served, or a file is missing or does not fit.
    pub fn get(&mut self, id: &str, loras: &[(String, f64)]) -> Result<Arc<Ace>> {
        let key: Key = (id.to_owned(), loras.iter().map(|(name, weight)| (name.clone(), weight.to_bits())).collect());
        if let Some(at) = self.loaded.iter().position(|(known, _)| *known == key)
            && let Some(found) = self.loaded.remove(at)
        {
            let ace = Arc::clone(&found.1);
            self.loaded.push_back(found);
            return Ok(ace);
        }
        let Served { model, .. } = self.find(id)?;
        let mut model = model.clone();
        let mut paths = Vec::with_capacity(loras.len());
        for (name, weight) in loras {
            paths.push((self.find_lora(id, name)?.path.clone(), *weight));
        }
        // Room first: two models at once may be more than there is memory for.
        let base = self.base(id).filter(|_| !loras.is_empty());
        let is_base = |key: &Key| base.is_some() && key.0 == id && key.1.is_empty();
        while self.loaded.len() >= self.most.max(if base.is_some() { 2 } else { 1 }) {
            match self.loaded.iter().position(|(key, _)| !is_base(key)) {
                Some(at) => drop(self.loaded.remove(at)),
                None => break,
            }
        }
        let ace = match base {
            Some(base) => base.with_loras(&paths)?,
            None => {
                for (path, weight) in paths {
                    model = model.lora(path, weight);
                }
                model.load(&self.device)?
            }
        };
        let ace = Arc::new(ace);
        self.loaded.push_back((key, Arc::clone(&ace)));
        Ok(ace)
    }

    /// The model without adapters, if it is in memory whole.
    fn base(&self, id: &str) -> Option<Arc<Ace>> {
        let found = self.loaded.iter().find(|((known, loras), _)| known == id && loras.is_empty());
        found.map(|(_, ace)| Arc::clone(ace)).filter(|ace| ace.networks().is_some())
    }

    /// Notes in a request which model and adapters it is made with, and the digest of every adapter.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn stamp(&self, request: &mut Request, id: &str, loras: &[(String, f64)]) -> Result<()> {
        request.model = self.find(id)?.request.clone();
        request.model.dtype.get_or_insert("f32".to_owned());
        for (name, weight) in loras {
            let file = self.find_lora(id, name)?.path.clone().into();
            request.model.loras.push(LoraRequest { file, weight: *weight });
        }
        let mut adapters = Request { model: request.model.clone(), ..Request::default() };
        adapters.stamp(Path::new(""))?;
        request.model = adapters.model;
        Ok(())
    }

    /// Names and fingerprints of a model's files.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn fingerprints(&mut self, id: &str) -> Result<Fingerprints> {
        if let Some(known) = self.fingerprints.get(id) {
            return Ok(known.clone());
        }
        let fingerprints = self.find(id)?.model.fingerprints()?;
        self.fingerprints.insert(id.to_owned(), fingerprints.clone());
        Ok(fingerprints)
    }

    fn find(&self, id: &str) -> Result<&Served> {
        self.served.iter().find(|served| served.id == id).ok_or_else(|| unknown_model(id))
    }

    fn find_lora(&self, id: &str, name: &str) -> Result<&ServedLora> {
        let found = self.find(id)?.loras.iter().find(|lora| lora.name == name);
        found.ok_or_else(|| {
            Error::not_found(format!("there is no adapter {name:?}"), "GET /ace/v1/models lists those that are served")
        })
    }
}
