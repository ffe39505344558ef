//! Vision transformers as the world outside knows them: keys of transformers, as published files have them and as version 5
//! writes them.
//!
//! Source: transformers' `SiglipVisionModel`, `CLIPVisionModel`, `Dinov2Model`.

use crate::{Result, WeightFile, names::KeyMap};
use ace_nn::vit::{Vit, VitConfig};
use burn::{prelude::*, tensor::FloatDType};

/// Module path to the key of SigLIP's and CLIP's published files. Whole models hold the other tower too; SigLIP's pooling head
/// is not part of the tower here.
pub const TRANSFORMERS: KeyMap = KeyMap {
    renames: &[
        ("layers.", "vision_model.encoder.layers."),
        ("patch_embedding.", "vision_model.embeddings.patch_embedding."),
        ("class_embedding", "vision_model.embeddings.class_embedding"),
        ("position_embedding", "vision_model.embeddings.position_embedding.weight"),
        // Their spelling.
        ("pre_norm.", "vision_model.pre_layrnorm."),
        ("post_norm.", "vision_model.post_layernorm."),
    ],
    unused: &[
        "vision_model.head.",
        "vision_model.embeddings.position_ids",
        "visual_projection.weight",
        "text_projection.weight",
        "logit_scale",
        "logit_bias",
        "text_model.",
    ],
    ..KeyMap::renaming(&[])
};

/// The same as transformers 5 writes it.
pub const TRANSFORMERS_5: KeyMap = KeyMap {
    renames: &[
        ("layers.", "encoder.layers."),
        ("patch_embedding.", "embeddings.patch_embedding."),
        ("class_embedding", "embeddings.class_embedding"),
        ("position_embedding", "embeddings.position_embedding.weight"),
        ("pre_norm.", "pre_layrnorm."),
        ("post_norm.", "post_layernorm."),
    ],
    unused: &["head.", "embeddings.position_ids"],
    ..KeyMap::renaming(&[])
};

/// Module path to the key of DINOv2's published files. The token that stands for hidden patches in training is not used.
pub const DINOV2: KeyMap = KeyMap {
    renames: &[
        ("self_attn.q_proj", "attention.attention.query"),
        ("self_attn.k_proj", "attention.attention.key"),
        ("self_attn.v_proj", "attention.attention.value"),
        ("self_attn.out_proj", "attention.output.dense"),
        ("layer_norm", "norm"),
        ("layers.", "encoder.layer."),
        ("patch_embedding.", "embeddings.patch_embeddings.projection."),
        ("class_embedding", "embeddings.cls_token"),
        ("position_embedding", "embeddings.position_embeddings"),
        ("post_norm.", "layernorm."),
    ],
    unused: &["embeddings.mask_token"],
    ..KeyMap::renaming(&[])
};

/// The same as transformers 5 names it in memory.
pub const DINOV2_5: KeyMap = KeyMap {
    renames: &[
        ("self_attn.out_proj", "attention.o_proj"),
        ("self_attn.", "attention."),
        ("layer_norm", "norm"),
        ("layers.", "encoder.layer."),
        ("patch_embedding.", "embeddings.patch_embeddings.projection."),
        ("class_embedding", "embeddings.cls_token"),
        ("position_embedding", "embeddings.position_embeddings"),
        ("post_norm.", "layernorm."),
    ],
    unused: &["embeddings.mask_token"],
    ..KeyMap::renaming(&[])
};

/// Every spelling; a layer's key of one is no key of another's.
static SPELLINGS: [KeyMap; 4] = [TRANSFORMERS, TRANSFORMERS_5, DINOV2, DINOV2_5];

impl WeightFile {
    /// A vision transformer, in any spelling that transformers has had for it, at the top of the file.
    ///
    /// # Errors
    /// If the file has no such network, or not exactly its weights.
    pub fn vit(&self, config: &VitConfig, dtype: Option<FloatDType>, device: &Device) -> Result<Vit> {
        self.load(config.init(device), self.vit_keys()?, "", dtype, device)
    }

    fn vit_keys(&self) -> Result<&'static KeyMap> {
        let mark = "layers.0.self_attn.q_proj.weight";
        SPELLINGS.iter().find(|keys| self.has(&keys.key(mark))).ok_or_else(|| {
            let first = self.keys().next().map_or("nothing".to_owned(), |key| format!("{key} and others"));
            let reason = format!("no vision transformer is in this file, only {first}");
            self.misfit(reason, "SigLIP's, CLIP's and DINOv2's are read, as transformers names their weights")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{SPELLINGS, VitConfig};
    use crate::{WeightFile, write};
    use burn::{
        module::{Module, ModuleVisitor, Param},
        prelude::*,
    };
    use std::{collections::BTreeMap, path::Path};

    /// Paths and shapes of a module's parameters.
    #[derive(Default)]
    struct Walk(Vec<String>, BTreeMap<String, Vec<usize>>);

    impl ModuleVisitor for Walk {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.insert(self.0.join("."), param.lazy_shape().to_vec());
        }
    }

    #[test]
    fn every_spelling_is_read() {
        let device = Device::default();
        let sizes =
            VitConfig { image_size: 8, patch_size: 4, hidden_size: 8, intermediate_size: 8, ..VitConfig::DINOV2_SMALL };
        let config = VitConfig { num_layers: 2, num_heads: 2, pre_norm: true, ..sizes };
        let mut walk = Walk::default();
        config.init(&device).visit(&mut walk);
        let path = std::env::temp_dir().join(format!("ace-vit-{}.safetensors", std::process::id()));
        for keys in &SPELLINGS {
            let tensors: BTreeMap<String, TensorData> = (walk.1.iter())
                .map(|(path, shape)| {
                    // As DINOv2's files hold what is added to a batch.
                    let shape = if path.ends_with("embedding") { [&[1], &shape[..]].concat() } else { shape.clone() };
                    (keys.key(path), TensorData::full(shape, 0.5f32))
                })
                .collect();
            write(&path, &tensors, &[]).expect("writable");
            let vit = WeightFile::open(&path).and_then(|file| file.vit(&config, None, &device)).expect("a network");
            assert_eq!(vit.position_embedding.val().dims(), [5, 8]);
        }
        std::fs::remove_file(&path).expect("there");
        let other = write_other(&path).vit(&config, None, &device).map(drop);
        std::fs::remove_file(&path).expect("there");
        assert!(other.expect_err("no network").to_string().contains("no vision transformer is in this file, only a"));
    }

    fn write_other(path: &Path) -> WeightFile {
        let tensors = BTreeMap::from([("a".to_owned(), TensorData::full([1], 0.5f32))]);
        write(path, &tensors, &[]).expect("writable");
        WeightFile::open(path).expect("a file")
    }
}
