//! Files into modules: strict, tensor by tensor, straight into the module's own parameters.
//!
//! First every key and shape is checked against the file's header, then the weights are read: a file that does not fit is
//! refused in milliseconds. A weight is read once, into the memory that the device gets: bf16 stays bf16 if that is asked
//! for, anything else is converted on the way.

use crate::{
    Error, Result, WeightFile,
    names::KeyMap,
    quantize::{Matrices, is_in_block},
    store::{FLOATS, Values, place},
};
use ace_nn::{flux::is_modulation, limit, lora::Linears, weight::Weight};
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    prelude::*,
    tensor::{DType, FloatDType},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
};

impl WeightFile {
    /// One tensor: as the file has it, in bf16 where the file has fewer bits.
    ///
    /// # Errors
    /// If the key is missing or its dtype has no place here.
    pub fn data(&self, key: &str) -> Result<TensorData> {
        self.join(&[key], None)
    }

    /// One float tensor on a device, in `dtype` (or as [`WeightFile::data`] has it).
    ///
    /// # Errors
    /// As [`WeightFile::data`], or if the rank is not `D`.
    pub fn tensor<const D: usize>(&self, key: &str, dtype: Option<FloatDType>, device: &Device) -> Result<Tensor<D>> {
        if let Some(axes) = self.shape(key).map(<[usize]>::len).filter(|axes| *axes != D) {
            return Err(self.misfit(format!("{key} has {axes} axes, expected {D}"), "another network"));
        }
        Ok(place(self.join(&[key], dtype.map(DType::from))?, device))
    }

    /// Some rows of a matrix, in `dtype` (or as [`WeightFile::data`] has it): the others are not read.
    ///
    /// # Errors
    /// As [`WeightFile::data`], or if it is no matrix or has no such row.
    pub(crate) fn rows_of(&self, key: &str, rows: &[i64], dtype: Option<DType>) -> Result<TensorData> {
        let (raw, shape) = (self.raw(key)?, self.shape(key).unwrap_or_default());
        let (&[count, columns], Some(own)) = (shape, raw.stored.dtype()) else {
            return Err(self.misfit(format!("{key} is no matrix of numbers"), FLOATS));
        };
        let (dtype, size) = (dtype.unwrap_or(own), raw.bytes.len() / count.max(1));
        // A block that reached over the end of a row would belong to two.
        if size * count != raw.bytes.len() {
            return Err(self.misfit(format!("{key}: its rows are not whole"), FLOATS));
        }
        let values = Values::new(dtype, (raw.scale == 1.0).then_some(raw.stored), rows.len() * columns);
        let mut values = values.ok_or_else(|| self.misfit(format!("{key} does not become {dtype:?}"), FLOATS))?;
        for row in rows {
            let at = usize::try_from(*row).ok().filter(|row| *row < count);
            let at = at.ok_or_else(|| self.misfit(format!("{key} has no row {row}"), "another tokenizer"))?;
            let read = raw.stored.read(&raw.bytes[at * size..(at + 1) * size], raw.scale, &mut values);
            read.map_err(|reason| self.misfit(format!("{key}: {reason}"), FLOATS))?;
        }
        let data = values.into_data(vec![rows.len(), columns], dtype);
        data.ok_or_else(|| self.misfit(format!("{key} is not all there"), "get the file again"))
    }

    /// One float tensor's numbers in f32.
    ///
    /// # Errors
    /// As [`WeightFile::data`], or if they are no floats.
    pub(crate) fn floats(&self, key: &str) -> Result<Vec<f32>> {
        let values = self.data(key)?.try_into_vec_as::<f32>();
        values.map_err(|source| self.misfit(format!("{key}: {source}"), "save it in f32, f16 or bf16"))
    }

    /// Fills every parameter of `module` from the rows that `keys` names for it, under `prefix`, in `dtype` (or the
    /// file's own; bf16 where the file has fewer bits).
    ///
    /// # Errors
    /// If a parameter is missing, a key under `prefix` is left over, or a shape differs; the first of each is named.
    pub fn load<M: Module>(
        &self,
        module: M,
        keys: &KeyMap,
        prefix: &str,
        dtype: Option<FloatDType>,
        device: &Device,
    ) -> Result<M> {
        let origins = self.origins(&module, keys, prefix)?;
        let mut filler = Filler::new(self, &origins, dtype, device);
        let module = module.map(&mut filler);
        filler.error.map_or(Ok(module), Err)
    }

    /// As [`WeightFile::load`]; matrices of linear layers are packed if the file was told so, and those that are to be
    /// fetched later stay absent.
    ///
    /// # Errors
    /// As [`WeightFile::load`].
    pub(crate) fn load_network<M: Module + Linears>(
        &self,
        module: M,
        origins: &Origins,
        dtype: Option<FloatDType>,
        without: Without,
        device: &Device,
    ) -> Result<M> {
        let mut filler = Filler::new(self, origins, dtype, device);
        (filler.matrices, filler.without) = (self.matrices(), without);
        let mut module = module.map(&mut filler);
        if let Some(error) = filler.error {
            return Err(error);
        }
        let mut held = filler.held;
        module.each_weight(&mut |own| {
            if let Some(weight) = own.id().and_then(|id| held.remove(&id)) {
                *own = weight;
            }
        });
        // A matrix that was forgotten there would be one of zeros.
        assert!(held.is_empty(), "`each_weight` reaches every matrix of a network that is no parameter");
        Ok(module)
    }

    /// One matrix as a network holds it, frozen, from its place in the file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn weight(
        &self,
        origins: &Origins,
        path: &[String],
        dtype: Option<FloatDType>,
        device: &Device,
    ) -> Result<Weight> {
        let mut filler = Filler::new(self, origins, dtype, device);
        filler.matrices = self.matrices();
        path.clone_into(&mut filler.path);
        let missing = || self.misfit(format!("{} is missing", path.join(".")), "get the file again");
        match filler.read_packed()? {
            Some(packed) => Ok(packed),
            None => Ok(match divided(filler.read()?.ok_or_else(missing)?, device) {
                Ok(parts) => Weight::Split(parts),
                Err(whole) => Param::from_tensor(place::<2>(whole, device)).set_require_grad(false).into(),
            }),
        }
    }

    /// Where each parameter of `module` is in the file; nothing is read.
    ///
    /// # Errors
    /// As [`WeightFile::load`].
    pub(crate) fn origins<M: Module>(&self, module: &M, keys: &KeyMap, prefix: &str) -> Result<Origins> {
        let mut checker = Checker::new(self, keys, prefix);
        module.visit(&mut checker);
        checker.finish()
    }

    /// The numbers under `keys`, rows behind each other, in `dtype` or their own.
    ///
    /// # Errors
    /// If a key is missing, the tensors differ in width (or, without `dtype`, in dtype), or their dtype has no place
    /// here.
    pub(crate) fn join(&self, keys: &[&str], dtype: Option<DType>) -> Result<TensorData> {
        self.join_swapped(keys, false, dtype)
    }

    fn join_swapped(&self, keys: &[&str], swapped: bool, dtype: Option<DType>) -> Result<TensorData> {
        let raw = keys.iter().map(|key| self.raw(key)).collect::<Result<Vec<_>>>()?;
        let name = keys[0];
        let (first, shape) = (raw[0], self.joined_shape(keys)?);
        let own = first.stored.dtype().ok_or_else(|| {
            self.misfit(
                format!("{name} has dtype {}", first.stored),
                "supported are F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32 and GGUF's types",
            )
        })?;
        let is_alike = raw.iter().all(|raw| raw.stored == first.stored && raw.scale == 1.0);
        if dtype.is_none() && raw.iter().any(|raw| raw.stored.dtype() != Some(own)) {
            return Err(self.misfit(format!("{name} and its siblings differ in dtype"), "get the file again"));
        }
        // Integers, which no network has, are converted as a whole.
        let wanted = if first.stored.is_float() { dtype.unwrap_or(own) } else { own };
        let elements = shape.iter().product();
        let values = Values::new(wanted, is_alike.then_some(first.stored), elements);
        let mut values = values.ok_or_else(|| self.misfit(format!("{name} does not become {wanted:?}"), FLOATS))?;
        for (key, raw) in keys.iter().zip(&raw) {
            let Some(scales) = self.row_scales(key)? else {
                self.each_piece(key, raw.stored.block_bytes(), &mut |bytes| {
                    raw.stored.read(bytes, raw.scale, &mut values)
                })?;
                continue;
            };
            let (width, mut scales) = (raw.bytes.len() / scales.len(), scales.into_iter());
            self.each_piece(key, width, &mut |bytes| {
                let rows = bytes.chunks(width).zip(scales.by_ref());
                rows.into_iter().try_for_each(|(row, scale)| raw.stored.read(row, scale, &mut values))
            })?;
        }
        if swapped {
            values.swap_halves();
        }
        let data = values.into_data(shape, wanted);
        let data = data.ok_or_else(|| self.misfit(format!("{name} is not all there"), "get the file again"))?;
        match dtype {
            Some(dtype) if dtype != wanted => {
                data.try_cast(dtype).map_err(|source| self.misfit(format!("{name}: {source}"), FLOATS))
            }
            _ => Ok(data),
        }
    }

    /// The shape of tensors whose rows stand behind each other.
    pub(crate) fn joined_shape(&self, keys: &[&str]) -> Result<Vec<usize>> {
        let shapes: Vec<&[usize]> = keys.iter().filter_map(|key| self.shape(key)).collect();
        let mut shape = shapes.first().map_or_else(Vec::new, |shape| shape.to_vec());
        if let [_, rest @ ..] = &shapes[..]
            && !rest.is_empty()
        {
            if shape.is_empty() || rest.iter().any(|other| other.get(1..) != shape.get(1..)) {
                let reason = format!("{} and its siblings differ in width", keys[0]);
                return Err(self.misfit(reason, "get the file again"));
            }
            shape[0] = shapes.iter().map(|shape| shape[0]).sum();
        }
        Ok(shape)
    }
}

/// Where the rows of a parameter are in a file.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// Keys whose rows follow each other.
    pub keys: Vec<String>,
    /// Whether the second half of the rows comes first.
    pub swapped: bool,
    /// The parameter's shape.
    pub shape: Vec<usize>,
}

/// Origins by the parameters' paths.
pub(crate) type Origins = BTreeMap<String, Origin>;

/// Walks a module and looks for each parameter in the file.
struct Checker<'a> {
    file: &'a WeightFile,
    keys: &'a KeyMap,
    prefix: &'a str,
    path: Vec<String>,
    origins: Origins,
    left: BTreeSet<&'a str>,
    missing: Vec<String>,
    misshapen: Vec<String>,
    error: Option<Error>,
}

impl<'a> Checker<'a> {
    fn new(file: &'a WeightFile, keys: &'a KeyMap, prefix: &'a str) -> Self {
        Self {
            file,
            keys,
            prefix,
            path: Vec::new(),
            origins: BTreeMap::new(),
            left: file.keys().filter(|key| key.starts_with(prefix)).collect(),
            missing: Vec::new(),
            misshapen: Vec::new(),
            error: None,
        }
    }

    /// The file's name for each part of a parameter, or the key that is not there; all of its names are taken off
    /// `left`.
    fn find(&mut self, parts: &[String]) -> std::result::Result<Vec<String>, String> {
        let mut found = Vec::with_capacity(parts.len());
        for key in parts {
            let names = self.keys.names(key).map(|key| format!("{}{key}", self.prefix));
            let names: Vec<String> = names.filter(|name| self.left.remove(name.as_str())).collect();
            found.push(names.into_iter().next().ok_or_else(|| format!("{}{key}", self.prefix))?);
        }
        Ok(found)
    }

    /// Says what was missing, misshapen or left over, if anything.
    fn finish(mut self) -> Result<Origins> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let more = |count: usize| if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        if let Some(first) = self.misshapen.first() {
            let reason = format!("{first}{}", more(self.misshapen.len()));
            return Err(self.file.misfit(reason, "this file fits a card of other sizes"));
        }
        if let Some(first) = self.missing.first() {
            let reason = format!("{first} is missing{}", more(self.missing.len()));
            return Err(self.file.misfit(reason, "this file belongs to another network or is incomplete"));
        }
        self.left.retain(|key| !self.keys.is_unused(&key[self.prefix.len()..]));
        if let Some(first) = self.left.first() {
            let reason = format!("{first} has no place in the network{}", more(self.left.len()));
            return Err(self.file.misfit(reason, "this file belongs to another or a larger network"));
        }
        Ok(self.origins)
    }
}

impl ModuleVisitor for Checker<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let rows = self.keys.rows(&path);
        let found = match self.find(&rows.keys) {
            Ok(found) => found,
            Err(missing) => return self.missing.push(missing),
        };
        let names: Vec<&str> = found.iter().map(String::as_str).collect();
        let given = match self.file.joined_shape(&names) {
            Ok(given) => given,
            Err(error) => {
                self.error.get_or_insert(error);
                return;
            }
        };
        let wanted = param.lazy_shape().to_vec();
        // A 1×1 convolution is a linear layer to some writers: the same numbers without the two last axes.
        let is_flat = wanted.len() > given.len()
            && wanted.starts_with(&given)
            && wanted[given.len()..].iter().all(|side| *side == 1);
        // A table or a vector that is added to a batch has sides of one in front for some writers.
        let is_deep = given.len() > wanted.len()
            && given.ends_with(&wanted)
            && given[..given.len() - wanted.len()].iter().all(|side| *side == 1);
        if wanted != given && !is_flat && !is_deep {
            self.misshapen.push(format!("{} has shape {given:?}, expected {wanted:?}", found[0]));
            return;
        }
        self.origins.insert(path, Origin { keys: found, swapped: rows.swapped, shape: wanted });
    }
}

/// What of a network stays in its file, to be fetched when it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    /// All of it is read.
    Nothing,
    /// Matrices of its blocks, and the table of words.
    Blocks,
    /// Matrices of the modulations of its blocks.
    Modulations,
}

impl Without {
    /// Whether the matrix at `path` of a module is left out.
    fn leaves(self, path: &[String]) -> bool {
        match self {
            Self::Nothing => false,
            Self::Blocks => is_in_block(path),
            Self::Modulations => is_in_block(path) && is_modulation_at(path),
        }
    }
}

/// Whether a matrix at `path` of a module, `double_blocks.3.img_mod.lin.weight`, belongs to a modulation.
pub(crate) fn is_modulation_at(path: &[String]) -> bool {
    path.split_last().is_some_and(|(_, layer)| is_modulation(&layer.join(".")))
}

/// Walks a module and replaces each parameter by the file's.
struct Filler<'a> {
    file: &'a WeightFile,
    origins: &'a Origins,
    dtype: Option<DType>,
    device: &'a Device,
    matrices: Matrices,
    /// What is left out.
    without: Without,
    path: Vec<String>,
    /// The type of what the last entered field belongs to.
    container: String,
    /// What stands in the place of a matrix that is no parameter.
    held: HashMap<ParamId, Weight>,
    error: Option<Error>,
}

/// T5's table of words, by its path.
pub(crate) const TABLE: &str = "shared";

/// What burn calls the type whose matrices may be packed: [`ace_nn::lora::Linear`].
const LINEAR: &str = "Struct:Linear";

impl<'a> Filler<'a> {
    /// Widens everything.
    fn new(file: &'a WeightFile, origins: &'a Origins, dtype: Option<FloatDType>, device: &'a Device) -> Self {
        Self {
            file,
            origins,
            dtype: dtype.map(DType::from),
            device,
            matrices: Matrices::Wide,
            without: Without::Nothing,
            path: Vec::new(),
            container: String::new(),
            held: HashMap::new(),
            error: None,
        }
    }

    /// Where the parameter at `path` is, and the file's names for it.
    fn origin(&self) -> Option<(&'a Origin, Vec<&'a str>)> {
        let origin = self.origins.get(&self.path.join("."))?;
        Some((origin, origin.keys.iter().map(String::as_str).collect()))
    }

    /// The matrix at `path`, if it is to be packed.
    fn read_packed(&self) -> Result<Option<Weight>> {
        let Some((origin, keys)) = self.origin().filter(|(origin, _)| !origin.swapped) else { return Ok(None) };
        let &[rows, columns] = &origin.shape[..] else { return Ok(None) };
        let packed = self.file.join_packed(&keys, [rows, columns], self.matrices, &self.path, self.device)?;
        Ok(packed.map(Weight::from))
    }

    /// The matrix at `path`, if it is one that is no parameter.
    fn read_held(&self, shape: &[usize]) -> Result<Option<Weight>> {
        match *shape {
            _ if self.container != LINEAR => Ok(None),
            [rows, columns] if self.without.leaves(&self.path) => Ok(Some(Weight::Absent([rows, columns]))),
            _ => self.read_packed(),
        }
    }

    fn read(&self) -> Result<Option<TensorData>> {
        let Some((origin, keys)) = self.origin() else { return Ok(None) };
        let (bytes, _, dtype) = self.file.join_swapped(&keys, origin.swapped, self.dtype)?.into_parts();
        Ok(Some(TensorData::from_bytes(bytes, origin.shape.clone(), dtype)))
    }

    /// The parameter with the file's numbers; nothing if it is held otherwise.
    fn filled<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<Option<Param<Tensor<D>>>> {
        if let Some(weight) = self.read_held(&param.lazy_shape())? {
            self.held.insert(param.id, weight);
            return Ok(None);
        }
        let Some(data) = self.read()? else { return Ok(None) };
        let data = match divided(data, self.device) {
            Ok(parts) => {
                self.held.insert(param.id, Weight::Split(parts));
                return Ok(None);
            }
            Err(data) => data,
        };
        Ok(Some({
            let mut filled = Param::from_tensor(place(data, self.device));
            filled.id = param.id;
            filled
        }))
    }
}

/// A matrix in as few runs of rows as the device takes it in, on the device without gradients; the numbers as they are if one
/// tensor holds them, or if they are no matrix.
fn divided(data: TensorData, device: &Device) -> std::result::Result<Vec<Tensor<2>>, TensorData> {
    let &[rows, columns] = &data.shape()[..] else { return Err(data) };
    let (dtype, inner) = (data.dtype(), device.clone().inner());
    let row = columns * dtype.size();
    let runs = limit::runs(rows, row, &inner);
    if runs.len() < 2 {
        return Err(data);
    }
    let part = |rows: Range<usize>| {
        let bytes = data.as_bytes()[rows.start * row..rows.end * row].to_vec();
        place(TensorData::from_bytes_vec(bytes, [rows.len(), columns], dtype), &inner)
    };
    Ok(runs.into_iter().map(part).collect())
}

impl ModuleMapper for Filler<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_owned());
        container.clone_into(&mut self.container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // What is wrong with one weight is wrong with the file: no more of it is read.
        if self.error.is_some() {
            return param;
        }
        // Nothing is allocated for a table whose rows are fetched.
        if self.without == Without::Blocks && self.path == [TABLE] {
            return param;
        }
        match self.filled(&param) {
            Ok(filled) => filled.unwrap_or(param),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{clip::TRANSFORMERS as CLIP, t5::TRANSFORMERS as T5};
    use ace_nn::{
        clip::{Activation, ClipConfig},
        t5::T5Config,
    };
    use burn::tensor::Distribution;
    use limit::within;
    use std::path::Path;

    /// Fills parameters with random numbers.
    struct Fill;

    impl ModuleMapper for Fill {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let shape: [usize; D] = param.lazy_shape().dims();
            param.map(|value| Tensor::random(shape, Distribution::Uniform(-0.5, 0.5), &value.device()))
        }
    }

    fn file<M: Module>(name: &str, module: &M, keys: &KeyMap) -> WeightFile {
        let path = std::env::temp_dir().join(format!("ace-load-{name}-{}.safetensors", std::process::id()));
        crate::write(&path, &crate::collect(module, keys, "", None), &[]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        WeightFile::from_bytes(Path::new(name), bytes).unwrap()
    }

    #[test]
    fn a_file_is_read_in_parts_where_a_device_takes_no_more_and_computes_the_same() {
        let (device, ids) = (Device::default(), |device| Tensor::<2, Int>::from_data([[0, 29, 7, 15, 16]], device));
        let config = T5Config {
            vocab_size: 30,
            d_model: 12,
            d_kv: 4,
            d_ff: 20,
            num_layers: 2,
            num_heads: 2,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
        };
        let t5 = config.init(&device).map(&mut Fill);
        let file_of_t5 = file("t5", &t5, &T5);
        // Sixteen rows of twelve numbers: the table and the wide layers of the feed-forward have more.
        let mut read = within(16 * 12 * 4, || file_of_t5.t5(&config, None, &device)).unwrap();
        assert!(matches!(&read.shared, Weight::Split(parts) if parts.iter().all(|part| part.dims() == [15, 12])));
        let mut split = 0;
        read.each_weight(&mut |weight| split += usize::from(matches!(weight, Weight::Split(_))));
        assert_eq!(split, 1 + 2 * 3);
        let [ours, whole] = [&read, &t5].map(|t5| t5.forward(ids(&device)).into_data());
        ours.assert_approx_eq::<f32>(&whole, burn::tensor::Tolerance::relative(1e-5));
        // As strict as ever.
        let error = within(16 * 12 * 4, || file_of_t5.t5(&T5Config { num_layers: 1, ..config }, None, &device));
        assert!(error.unwrap_err().to_string().contains("has no place in the network"));

        let config = ClipConfig {
            vocab_size: 30,
            hidden_size: 12,
            intermediate_size: 20,
            num_layers: 1,
            num_heads: 2,
            max_position_embeddings: 7,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        };
        let clip = config.init(&device).map(&mut Fill);
        let read = within(16 * 12 * 4, || file("clip", &clip, &CLIP).clip(&config, None, &device)).unwrap();
        assert!(matches!(read.token_embedding, Weight::Split(_)));
        let [ours, whole] = [&read, &clip].map(|clip| clip.forward(ids(&device), &[3]).into_data());
        ours.assert_approx_eq::<f32>(&whole, burn::tensor::Tolerance::relative(1e-5));
    }
}
