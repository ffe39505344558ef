//! Blocks of a transformer that come from a file when they run, and go: two of them are in memory.
//!
//! ```text
//! this thread    │ block 0 computes │ block 1 computes │ block 2 computes │ …
//! another thread │ reads block 1    │ reads block 2    │ reads block 3    │ …
//! ```
//!
//! Only the matrices travel. What is small (biases, norms) and what learns (branches) stays in the network, so a fetched
//! block is the network's own with its matrices put in.
//!
//! The next block is the next one in the direction of the last step: a forward pass asks for 0, 1, 2 …, a backward pass
//! after it for …, 2, 1, 0, beginning with the block that the forward pass ended with.

use crate::{
    Error, Result, WeightFile,
    load::{Origins, TABLE, is_modulation_at},
    network::{Network, flux::BFL},
    store::place,
};
use ace_nn::{
    flux::{Blocks, DoubleBlock, FluxConfig, SingleBlock, is_modulation},
    lora::Linear,
    t5::{Layer, Layers, T5Config},
    weight::{PackedMatrix, Packing, Weight},
};
use burn::{
    prelude::*,
    tensor::{DType, FloatDType},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Fetches the blocks of a transformer, one ahead.
///
/// A clone shares the file, and what is kept of it, but not the blocks in memory.
#[derive(Debug)]
pub struct Streamed {
    source: Arc<SourceOfBlocks>,
    /// The block that was asked for last, and its place in the order.
    last: Option<(usize, Fetched)>,
    ahead: Option<(usize, JoinHandle<Result<Fetched>>)>,
    /// Whether the blocks are also walked through backwards, so that the last is followed by the last but one.
    turns: bool,
    held: Arc<Held>,
}

/// The matrices of one block, in the order of its linear layers.
#[derive(Debug)]
struct Fetched {
    weights: Vec<Weight>,
    held: Arc<Held>,
}

/// Counts blocks in memory.
#[derive(Debug, Default)]
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// Where the matrices of every block are.
#[derive(Debug)]
struct SourceOfBlocks {
    file: WeightFile,
    origins: Origins,
    /// Paths of every block's matrices: double blocks, then single blocks.
    blocks: Vec<Vec<Vec<String>>>,
    depth: usize,
    /// Whether modulations are left out, because what they say was computed before.
    without_modulations: bool,
    dtype: Option<FloatDType>,
    device: Device,
    /// Blocks that were packed when the file was opened, because the file has them wider.
    packed: Vec<Vec<Option<Kept>>>,
}

/// A packed matrix in the memory of the host.
#[derive(Debug)]
struct Kept {
    packing: Packing,
    shape: [usize; 2],
    words: Vec<i32>,
    scales: Vec<f32>,
}

impl Streamed {
    /// The blocks of the transformer in `file`, in `dtype` (or the file's own) on `device`. A file that is to be packed
    /// ([`WeightFile::packed`]) and is wider is packed now, once, and its blocks are kept on the host.
    ///
    /// # Errors
    /// If the file has no such network, or not exactly its weights.
    pub fn open(file: WeightFile, config: &FluxConfig, dtype: Option<FloatDType>, device: &Device) -> Result<Self> {
        Self::open_some(file, config, dtype, device, false)
    }

    /// As [`Streamed::open`], the modulations of blocks left out: [`Streamed::modulations`] fetches these.
    ///
    /// # Errors
    /// As [`Streamed::open`].
    pub fn open_without_modulations(
        file: WeightFile,
        config: &FluxConfig,
        dtype: Option<FloatDType>,
        device: &Device,
    ) -> Result<Self> {
        Self::open_some(file, config, dtype, device, true)
    }

    fn open_some(
        file: WeightFile,
        config: &FluxConfig,
        dtype: Option<FloatDType>,
        device: &Device,
        without_modulations: bool,
    ) -> Result<Self> {
        // Blocks are constants to whatever learns.
        let device = device.clone().inner();
        let (mut flux, found) = (config.init(&device), file.find(Network::Flux)?);
        let origins = file.origins(&flux, &found.keys, &found.prefix)?;
        let mut blocks = vec![Vec::new(); config.depth + config.depth_single_blocks];
        flux.for_each_linear(&mut |path, _| {
            let path: Vec<String> = BFL.path(&format!("{path}.weight")).split('.').map(str::to_owned).collect();
            let index = path.get(1).and_then(|index| index.parse::<usize>().ok());
            match (path[0].as_str(), index) {
                _ if without_modulations && is_modulation_at(&path) => {}
                ("double_blocks", Some(index)) => blocks[index].push(path),
                ("single_blocks", Some(index)) => blocks[config.depth + index].push(path),
                _ => {}
            }
        });
        let depth = config.depth;
        let packed = Vec::new();
        let mut source = SourceOfBlocks { file, origins, blocks, depth, without_modulations, dtype, device, packed };
        source.keep_packed()?;
        Ok(Self::of(Arc::new(source)))
    }

    /// The matrices of the modulations, from the same file.
    pub fn modulations(&self) -> ModulationSource {
        ModulationSource(self.source.clone())
    }

    fn of(source: Arc<SourceOfBlocks>) -> Self {
        Self { source, last: None, ahead: None, turns: false, held: Arc::default() }
    }

    /// The most blocks that were in memory at a time.
    pub fn most_held(&self) -> usize {
        self.held.most.load(Ordering::Relaxed)
    }

    /// Puts the matrices of the block at `place` of the order into its linear layers.
    fn put(&mut self, place: usize, each_linear: impl FnOnce(&mut dyn FnMut(&str, &mut Linear))) {
        // The networks' forwards know no errors; whoever runs them turns a panic into one.
        let fetched = self.fetched(place).unwrap_or_else(|error| panic!("block {place}: {error}"));
        let weights = fetched.weights.clone();
        let mut weights = weights.iter();
        let leaves_out = self.source.without_modulations;
        each_linear(&mut |path, linear| {
            if leaves_out && is_modulation(path) {
                return;
            }
            if let Some(weight) = weights.next() {
                linear.weight = weight.clone();
            }
        });
    }

    fn fetched(&mut self, place: usize) -> Result<&Fetched> {
        let before = self.last.as_ref().map(|(before, _)| *before);
        if before != Some(place) {
            let ahead = match self.ahead.take() {
                Some((next, thread)) => Some((next, thread.join().unwrap_or_else(|_| Err(lost(&self.source.file)))?)),
                None => None,
            };
            // The block before is done with, and so is one that was fetched for nothing.
            self.last = None;
            let fetched = match ahead {
                Some((next, fetched)) if next == place => fetched,
                other => {
                    drop(other);
                    self.source.fetch(place, &self.held)?
                }
            };
            self.last = Some((place, fetched));
            self.turns |= before == Some(place + 1);
            self.fetch_ahead(before, place);
        } else {
            // Asked for twice: a pass ended here and another begins, the other way.
            self.turns = true;
        }
        match &self.last {
            Some((_, fetched)) => Ok(fetched),
            None => Err(lost(&self.source.file)),
        }
    }

    /// Begins to read the block that is probably asked for next.
    fn fetch_ahead(&mut self, before: Option<usize>, place: usize) {
        let count = self.source.blocks.len();
        let goes_back = before == Some(place + 1);
        let next = match (goes_back, place) {
            (true, 0) => 1,
            (true, _) => place - 1,
            (false, _) if place + 1 < count => place + 1,
            (false, _) if self.turns => place.saturating_sub(1),
            (false, _) => 0,
        };
        if next == place || next >= count {
            return;
        }
        let (source, held) = (self.source.clone(), self.held.clone());
        self.ahead = Some((next, thread::spawn(move || source.fetch(next, &held))));
    }
}

/// What there is to say when a thread ended without an answer.
fn lost(file: &WeightFile) -> Error {
    file.misfit("a block of it was not read to the end", "try again")
}

impl Clone for Streamed {
    fn clone(&self) -> Self {
        let mut clone = Self::of(self.source.clone());
        clone.turns = self.turns;
        clone
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // Nobody waits for it, but a thread should not outlive what it reads for.
        if let Some((_, thread)) = self.ahead.take() {
            drop(thread.join());
        }
    }
}

impl Blocks for Streamed {
    /// # Panics
    /// If the file can no longer be read.
    fn double(&mut self, index: usize, own: &DoubleBlock) -> DoubleBlock {
        let mut block = own.clone();
        self.put(index, |f| block.for_each_linear(f));
        block
    }

    /// # Panics
    /// If the file can no longer be read.
    fn single(&mut self, index: usize, own: &SingleBlock) -> SingleBlock {
        let mut block = own.clone();
        self.put(self.source.depth + index, |f| block.for_each_linear(f));
        block
    }
}

/// Fetches the matrices of a transformer's modulations, one at a time.
///
/// A clone shares the file.
#[derive(Debug, Clone)]
pub struct ModulationSource(Arc<SourceOfBlocks>);

impl ModulationSource {
    /// The modulations of the transformer in `file`, in `dtype` (or the file's own) on `device`.
    ///
    /// # Errors
    /// If the file has no such network, or not exactly its weights.
    pub fn open(file: WeightFile, config: &FluxConfig, dtype: Option<FloatDType>, device: &Device) -> Result<Self> {
        let device = device.clone().inner();
        let (flux, found) = (config.init(&device), file.find(Network::Flux)?);
        let origins = file.origins(&flux, &found.keys, &found.prefix)?;
        let (blocks, packed) = (Vec::new(), Vec::new());
        let source =
            SourceOfBlocks { file, origins, blocks, depth: 0, without_modulations: false, dtype, device, packed };
        Ok(Self(Arc::new(source)))
    }

    /// The matrix of the linear layer at a BFL path, `double_blocks.3.img_mod.lin`.
    ///
    /// # Panics
    /// If the file can no longer be read, or the network has no such layer.
    pub fn fetch(&self, path: &str) -> Weight {
        let SourceOfBlocks { file, origins, dtype, device, .. } = &*self.0;
        let parts: Vec<String> = path.split('.').chain(["weight"]).map(str::to_owned).collect();
        // As for blocks: a forward knows no errors.
        file.weight(origins, &parts, *dtype, device).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

/// Fetches the layers of T5, one ahead, and the rows of its table that some words need.
///
/// A clone shares the file, and what is kept of it, but not the layers in memory.
#[derive(Debug, Clone)]
pub struct StreamedT5 {
    layers: Streamed,
    /// What the file calls the table of words.
    table: Arc<str>,
}

impl StreamedT5 {
    /// T5 in `file`, in `dtype` (or the file's own) on `device`; packed as [`Streamed::open`] does.
    ///
    /// # Errors
    /// If the file has no such network, or not exactly its weights.
    pub fn open(file: WeightFile, config: &T5Config, dtype: Option<FloatDType>, device: &Device) -> Result<Self> {
        let device = device.clone().inner();
        let (mut t5, found) = (config.init(&device), file.find(Network::T5)?);
        let origins = file.origins(&t5, &found.keys, &found.prefix)?;
        let table = origins.get(TABLE).and_then(|table| table.keys.first()).cloned();
        let table = table.ok_or_else(|| file.misfit("it has no table of words", "another file"))?;
        let mut blocks = Vec::new();
        for (index, layer) in t5.layers.iter_mut().enumerate() {
            let mut paths = Vec::new();
            layer.for_each_linear(&mut |path, _| {
                let path = format!("layers.{index}.{path}.weight");
                paths.push(path.split('.').map(str::to_owned).collect());
            });
            blocks.push(paths);
        }
        let (depth, packed) = (blocks.len(), Vec::new());
        let mut source =
            SourceOfBlocks { file, origins, blocks, depth, without_modulations: false, dtype, device, packed };
        source.keep_packed()?;
        Ok(Self { layers: Streamed::of(Arc::new(source)), table: table.into() })
    }

    /// The most layers that were in memory at a time.
    pub fn most_held(&self) -> usize {
        self.layers.most_held()
    }
}

impl Layers for StreamedT5 {
    /// # Panics
    /// If the file can no longer be read, or the table has no such row.
    fn rows(&mut self, ids: &[i64]) -> Tensor<2> {
        let SourceOfBlocks { file, dtype, device, .. } = &*self.layers.source;
        let rows = file.rows_of(&self.table, ids, dtype.map(DType::from));
        place(rows.unwrap_or_else(|error| panic!("words of T5: {error}")), device)
    }

    /// # Panics
    /// If the file can no longer be read.
    fn layer(&mut self, index: usize, own: &Layer) -> Layer {
        let mut layer = own.clone();
        self.layers.put(index, |f| layer.for_each_linear(f));
        layer
    }
}

impl SourceOfBlocks {
    /// The matrices of one block.
    fn fetch(&self, place: usize, held: &Arc<Held>) -> Result<Fetched> {
        // Counted from the first byte on.
        let mut fetched = Fetched::new(held.clone());
        for (at, path) in self.blocks[place].iter().enumerate() {
            fetched.weights.push(match self.packed.get(place).and_then(|block| block[at].as_ref()) {
                Some(kept) => kept.place(&self.device).exactly(self.file.is_exact()).into(),
                None => self.file.weight(&self.origins, path, self.dtype, &self.device)?,
            });
        }
        Ok(fetched)
    }

    /// Packs what the file has wider than it is to be.
    fn keep_packed(&mut self) -> Result<()> {
        let block = |block: &Vec<Vec<String>>| {
            block.iter().map(|path| self.file.repacked(&self.origins, path)).collect::<Result<Vec<_>>>()
        };
        let packed = self.blocks.iter().map(block).collect::<Result<Vec<_>>>()?;
        self.packed =
            packed.into_iter().map(|block| block.into_iter().map(|kept| kept.map(Kept::of)).collect()).collect();
        Ok(())
    }
}

impl Kept {
    fn of((packing, shape, (words, scales)): (Packing, [usize; 2], (Vec<i32>, Vec<f32>))) -> Self {
        Self { packing, shape, words, scales }
    }

    fn place(&self, device: &Device) -> PackedMatrix {
        PackedMatrix::new(self.packing, self.shape, self.words.clone(), self.scales.clone(), device)
    }
}

impl Fetched {
    fn new(held: Arc<Held>) -> Self {
        let now = held.now.fetch_add(1, Ordering::Relaxed) + 1;
        held.most.fetch_max(now, Ordering::Relaxed);
        Self { weights: Vec::new(), held }
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        self.held.now.fetch_sub(1, Ordering::Relaxed);
    }
}
