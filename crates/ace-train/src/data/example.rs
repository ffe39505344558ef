//! An example is an instruction, what it is given with, and the answer; a dataset is many of them.
//!
//! Examples come from files through a [`Manifest`], or are drawn by the [`World`](super::shapes::World) of shapes.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use ace_plus::{
    canvas::{self, CanvasPolicy, Inputs, Plane},
    picture,
};
use image::{GrayImage, RgbImage};
use serde::Deserialize;

/// Task of a manifest line that names none.
const UNNAMED_TASK: &str = "edit";

/// One thing to learn or to be judged on.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What kind of edit it is; scores are kept per task.
    pub task: String,
    /// The user's words.
    pub instruction: String,
    /// The picture to edit; as large as `target`.
    pub image: Option<RgbImage>,
    /// Where to edit: above [`MASK_THRESHOLD`](ace_plus::canvas::MASK_THRESHOLD) is repainted, the rest is kept. As large
    /// as `image`; without it everything may change.
    pub mask: Option<GrayImage>,
    /// Pictures to take something from.
    pub references: Vec<RgbImage>,
    /// The answer.
    pub target: RgbImage,
    /// 1 blanks what the mask covers; 0 keeps it visible to the network, in the change image.
    pub repainting_scale: f32,
}

impl Example {
    /// Its pictures without the answer, as an edit would have them.
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            image: self.image.as_ref(),
            mask: self.mask.as_ref(),
            references: &self.references,
            size: self.target.dimensions(),
            repainting_scale: self.repainting_scale,
        }
    }

    /// Every picture that sampling would encode: first the answers (one for each canvas), then canvases and change images.
    ///
    /// # Errors
    /// If the pictures do not fit each other or the policy.
    pub fn planes(&self, policy: &CanvasPolicy) -> ace_plus::Result<Vec<Plane>> {
        let inputs = self.inputs();
        let mut planes = canvas::compose_target(&self.target, &inputs, policy)?;
        if self.image.is_some() || !self.references.is_empty() {
            for canvas in canvas::compose(&inputs, policy)? {
                planes.push(canvas.image);
                planes.extend(canvas.change);
            }
        }
        Ok(planes)
    }
}

/// Examples by index.
pub trait Dataset: Send + Sync {
    /// How many examples there are; `None` when there is no end to them.
    fn len(&self) -> Option<usize>;

    /// Whether there is nothing to learn from.
    fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// The example at `index`: the same one each time. Indices past the end start over.
    ///
    /// # Errors
    /// When its pictures cannot be read.
    fn example(&self, index: u64) -> Result<Example, ExampleError>;

    /// Names of the tasks that occur.
    fn tasks(&self) -> Vec<String>;
}

/// Why there is no example.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExampleError {
    /// The manifest could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The manifest.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of the manifest cannot be used.
    #[error("{path}:{line}: {reason}")]
    Line {
        /// The manifest.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The manifest has no lines.
    #[error("{path}: no examples")]
    Empty {
        /// The manifest.
        path: PathBuf,
    },
    /// A picture could not be read.
    #[error(transparent)]
    Picture(#[from] ace_plus::Error),
    /// The world of shapes cannot be made as asked.
    #[error("shapes: {reason}")]
    World {
        /// What is wrong.
        reason: String,
    },
}

impl ExampleError {
    /// What the user can do about it, one line.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Io { .. } => Some("check the path of the manifest"),
            Self::Line { .. } => {
                Some("a line has target and instruction, and if wanted image, mask, references, task, repainting_scale")
            }
            Self::Empty { .. } => Some("write one JSON object per line"),
            Self::Picture(error) => error.hint(),
            Self::World { .. } => Some("choose 64 or 96 pixels and at least one task"),
        }
    }
}

/// A line of a manifest, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    target: PathBuf,
    image: Option<PathBuf>,
    mask: Option<PathBuf>,
    #[serde(default)]
    references: Vec<PathBuf>,
    instruction: String,
    task: Option<String>,
    repainting_scale: Option<f32>,
}

/// Examples on disk: JSON lines that name picture files, relative to the manifest's folder.
///
/// Pictures and masks are read by [`ace_plus::picture`], as for an edit: turned upright, transparent parts on white, 16
/// bits rounded to 8, a mask's white repainted.
///
/// ```json
/// {"target": "after.png", "image": "before.png", "mask": "where.png", "instruction": "remove the boat"}
/// ```
///
/// Optional: `image`, `mask` (needs `image`), `references` (a list), `task` (default `edit`), `repainting_scale`
/// (default 1, in 0..1).
#[derive(Debug)]
pub struct Manifest {
    lines: Vec<Line>,
}

impl Manifest {
    /// Reads and checks every line and the size of every picture; pictures are decoded when asked for.
    ///
    /// # Errors
    /// At the first line that cannot be used, with its number.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ExampleError> {
        let path = path.as_ref();
        let io = |source| ExampleError::Io { path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut lines = Vec::new();
        for (index, text) in BufReader::new(fs::File::open(path).map_err(io)?).lines().enumerate() {
            let text = text.map_err(io)?;
            if text.trim().is_empty() {
                continue;
            }
            let line = Line::parse(&text, folder);
            let line = line.map_err(|reason| ExampleError::Line { path: path.to_owned(), line: index + 1, reason })?;
            lines.push(line);
        }
        if lines.is_empty() {
            return Err(ExampleError::Empty { path: path.to_owned() });
        }
        Ok(Self { lines })
    }
}

impl Dataset for Manifest {
    fn len(&self) -> Option<usize> {
        Some(self.lines.len())
    }

    fn example(&self, index: u64) -> Result<Example, ExampleError> {
        let line = &self.lines[(index % self.lines.len() as u64) as usize];
        Ok(Example {
            task: line.task().to_owned(),
            instruction: line.instruction.trim().to_owned(),
            image: line.image.as_deref().map(picture::read_rgb).transpose()?,
            mask: line.mask.as_deref().map(picture::read_mask).transpose()?,
            references: line.references.iter().map(|path| picture::read_rgb(path)).collect::<Result<_, _>>()?,
            target: picture::read_rgb(&line.target)?,
            repainting_scale: line.repainting_scale.unwrap_or(1.0),
        })
    }

    fn tasks(&self) -> Vec<String> {
        let mut tasks: Vec<String> = self.lines.iter().map(|line| line.task().to_owned()).collect();
        tasks.sort_unstable();
        tasks.dedup();
        tasks
    }
}

impl Line {
    /// The line with its paths joined to `folder`, or what is wrong with it.
    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let mut line: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let paths = [Some(&mut line.target), line.image.as_mut(), line.mask.as_mut()];
        for path in paths.into_iter().flatten().chain(&mut line.references) {
            *path = folder.join(&*path);
        }

        if line.instruction.trim().is_empty() {
            return Err("instruction is empty".to_owned());
        }
        if let Some(scale) = line.repainting_scale.filter(|scale| !(0.0..=1.0).contains(scale)) {
            return Err(format!("repainting_scale is {scale}, expected 0 to 1"));
        }
        let target = size("target", &line.target)?;
        for reference in &line.references {
            size("references", reference)?;
        }
        let image = line.image.as_deref().map(|path| size("image", path)).transpose()?;
        let mask = line.mask.as_deref().map(|path| size("mask", path)).transpose()?;
        match (image, mask) {
            (None, Some(_)) => Err("mask without image".to_owned()),
            (Some(image), Some(mask)) if image != mask => Err(differ("mask", mask, "image", image)),
            (Some(image), _) if image != target => Err(differ("target", target, "image", image)),
            _ => Ok(line),
        }
    }

    fn task(&self) -> &str {
        self.task.as_deref().unwrap_or(UNNAMED_TASK)
    }
}

/// Width and height of a picture; the error begins with the field of the manifest that names it.
fn size(field: &str, path: &Path) -> Result<(u32, u32), String> {
    picture::read_size(path).map_err(|error| format!("{field} {error}"))
}

fn differ(one: &str, a: (u32, u32), other: &str, b: (u32, u32)) -> String {
    format!("{one} is {}x{} but {other} is {}x{}", a.0, a.1, b.0, b.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ace_plus::{Card, canvas::Canvas};
    use image::Luma;

    /// A folder of pictures with a manifest, gone at the end of the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, manifest: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ace-train-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            RgbImage::from_pixel(8, 4, image::Rgb([9, 9, 9])).save(path.join("wide.png")).unwrap();
            RgbImage::from_pixel(4, 4, image::Rgb([200, 200, 200])).save(path.join("light.png")).unwrap();
            RgbImage::from_pixel(4, 4, image::Rgb([50, 60, 70])).save(path.join("dark.png")).unwrap();
            fs::write(path.join("manifest.jsonl"), manifest).unwrap();
            Self(path)
        }

        fn open(&self) -> Result<Manifest, ExampleError> {
            Manifest::open(self.0.join("manifest.jsonl"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn complaint(name: &str, line: &str) -> String {
        Folder::new(name, &format!("\n{line}\n")).open().unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_gives_the_pictures_it_names() {
        let lines = r#"{"target": "dark.png", "instruction": " a dog "}
{"target": "dark.png", "image": "light.png", "mask": "light.png", "references": ["wide.png"], "instruction": "x", "task": "swap", "repainting_scale": 0}"#;
        let folder = Folder::new("good", lines);
        let manifest = folder.open().unwrap();
        assert_eq!((manifest.len(), manifest.is_empty()), (Some(2), false));
        assert_eq!(manifest.tasks(), ["edit", "swap"]);

        let plain = manifest.example(0).unwrap();
        assert_eq!((plain.instruction.as_str(), plain.repainting_scale), ("a dog", 1.0));
        assert_eq!(plain.target.get_pixel(0, 0).0, [50, 60, 70]);
        let edit = manifest.example(3).unwrap();
        assert_eq!(edit.mask.unwrap().get_pixel(0, 0).0, [200]);
        assert_eq!((edit.references[0].dimensions(), edit.repainting_scale), ((8, 4), 0.0));
    }

    #[test]
    fn a_complaint_names_the_line_and_the_fault() {
        let cases = [
            (r#"{"target": "dark.png", "instruction": "x", "prompt": "y"}"#, "unknown field `prompt`"),
            (r#"{"target": "gone.png", "instruction": "x"}"#, "gone.png"),
            (r#"{"target": "dark.png", "instruction": "  "}"#, "instruction is empty"),
            (r#"{"target": "dark.png", "instruction": "x", "mask": "dark.png"}"#, "mask without image"),
            (
                r#"{"target": "dark.png", "instruction": "x", "image": "dark.png", "mask": "wide.png"}"#,
                "mask is 8x4 but image is 4x4",
            ),
            (r#"{"target": "dark.png", "instruction": "x", "image": "wide.png"}"#, "target is 4x4 but image is 8x4"),
            (r#"{"target": "dark.png", "instruction": "x", "repainting_scale": 2}"#, "repainting_scale is 2"),
        ];
        for (index, (line, fault)) in cases.into_iter().enumerate() {
            let complaint = complaint(&format!("bad{index}"), line);
            assert!(complaint.contains("manifest.jsonl:2: ") && complaint.contains(fault), "{complaint}");
        }
    }

    #[test]
    fn a_manifest_without_lines_is_refused() {
        assert!(complaint("empty", "").contains("no examples"));
    }

    /// Picture files of every kind, which the sampler's reader is tested with too.
    fn shipped(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/pictures").join(name)
    }

    /// The example of a line with these files, and the canvases that an edit with the same files sees.
    fn trained_and_sampled(image: &Path, mask: &Path, reference: &Path) -> ([Vec<Canvas>; 2], [Example; 2]) {
        let policy = Card::builtin("tiny").unwrap().canvas;
        let line = serde_json::json!({
            "target": image, "image": image, "mask": mask, "references": [reference], "instruction": "x",
        });
        let folder = Folder::new(&format!("same-{}", mask.file_stem().unwrap().display()), &line.to_string());
        let trained = folder.open().unwrap().example(0).unwrap();
        let image = picture::read_rgb(image).unwrap();
        let sampled = Example {
            target: image.clone(),
            image: Some(image),
            mask: Some(picture::read_mask(mask).unwrap()),
            references: vec![picture::read_rgb(reference).unwrap()],
            ..trained.clone()
        };
        let compose = |example: &Example| canvas::compose(&example.inputs(), &policy).unwrap();
        ([compose(&trained), compose(&sampled)], [trained, sampled])
    }

    #[test]
    fn pictures_mean_in_training_what_they_mean_in_sampling() {
        let files = ["orientation-6.jpg", "orientation-6.png", "orientation-5-late.png", "rgba.png", "rgb16.png"];
        for name in files.into_iter().chain(["palette.png", "cmyk.jpg", "lossy.webp"]) {
            // A mask of the same size, right half to be repainted.
            let (width, height) = picture::read_rgb(&shipped(name)).unwrap().dimensions();
            let mask = GrayImage::from_fn(width, height, |x, _| Luma([if x < width / 2 { 0 } else { 255 }]));
            let path = std::env::temp_dir().join(format!("ace-train-half-{name}-{}.png", std::process::id()));
            mask.save(&path).unwrap();
            let (canvases, [trained, sampled]) = trained_and_sampled(&shipped(name), &path, &shipped("rgba.png"));
            fs::remove_file(&path).unwrap();
            assert_eq!(trained, sampled, "{name}");
            assert!(canvases[0] == canvases[1], "{name}");
        }
        // What the cases are for: a picture that was taken on its side is learned upright.
        let sideways = serde_json::json!({"target": shipped("orientation-6.png"), "instruction": "x"});
        let upright = Folder::new("upright", &sideways.to_string()).open().unwrap().example(0).unwrap();
        assert_eq!(upright.target.dimensions(), (16, 24));
    }

    #[test]
    fn a_picture_on_its_side_has_the_size_of_an_upright_one() {
        let [side, flat] = [shipped("orientation-6.png"), shipped("rgb16.png")];
        let line = serde_json::json!({"target": flat, "image": side, "instruction": "x"});
        let complaint = complaint("sideways", &line.to_string());
        assert!(complaint.ends_with("manifest.jsonl:2: target is 24x16 but image is 16x24"), "{complaint}");
    }

    #[test]
    fn masks_mean_in_training_what_they_mean_in_sampling() {
        let image = shipped("rgb16.png");
        for name in ["white-brush", "black-brush", "red-brush", "la-brush", "inked", "grey", "opaque", "colours"] {
            let mask = shipped(&format!("mask-{name}.png"));
            let (canvases, [trained, sampled]) = trained_and_sampled(&image, &mask, &image);
            assert_eq!(trained, sampled, "{name}");
            assert!(canvases[0] == canvases[1], "{name}");
        }
        // Three columns of greys around the threshold: 128 is kept, as an edit keeps it.
        let greys = std::env::temp_dir().join(format!("ace-train-greys-{}.png", std::process::id()));
        let (width, height) = picture::read_size(&image).unwrap();
        GrayImage::from_fn(width, height, |x, _| Luma([127 + (x * 3 / width) as u8])).save(&greys).unwrap();
        let (canvases, [trained, sampled]) = trained_and_sampled(&image, &greys, &image);
        fs::remove_file(&greys).unwrap();
        assert_eq!(trained, sampled);
        assert!(canvases[0] == canvases[1]);
        let mask = Plane::from_mask(trained.mask.as_ref().unwrap());
        let third = width as usize / 3;
        assert_eq!([mask.data[0], mask.data[third], mask.data[2 * third]], [0.0, 0.0, 1.0]);
    }
}
