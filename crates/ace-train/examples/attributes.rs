//! Says what a model gets wrong: for each task, how often background, place, shape, colour, texture and size are right.
//!
//! `cargo run -p ace-train --features burn/flex --example attributes -- models/tiny 32 compose,move [sheet.png]`

use ace_plus::{Card, Model, picture::write_png};
use ace_train::{
    data::shapes::{Object, Place, Reader, Split, World, WorldTask},
    judge::{
        preview,
        sheet::{self, Row},
        verdict::judge,
    },
};
use burn::tensor::Device;
use std::{collections::BTreeMap, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "give a model folder, a number of examples, tasks (or all) and, if wanted, a PNG to write";
    let model = PathBuf::from(arguments.next().ok_or(usage)?);
    let count: u64 = arguments.next().ok_or(usage)?.parse()?;
    let names = arguments.next().ok_or(usage)?;
    let sheet = arguments.next().map(PathBuf::from);
    let tasks: Vec<WorldTask> = match names.as_str() {
        "all" => WorldTask::ALL.to_vec(),
        names => {
            names.split(',').map(WorldTask::from_name).collect::<Option<_>>().ok_or("the world has no such task")?
        }
    };

    let ace = Model::of(Card::load(&model)?, &model).load(&Device::default())?;
    let world = World::new(64, &tasks, Split::HeldOut)?;
    let reader = Reader::new(64);
    let mut rows = Vec::new();
    for task in tasks {
        let mut rates: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
        for index in 0..count {
            let example = world.example_of(task, index);
            let output =
                ace.edit(&preview::edit_of(&example).seed(index), &mut |_| std::ops::ControlFlow::Continue(()))?;
            let (wanted, drawn) = (reader.read(&example.target), reader.read(&output));
            let mut add = |name, right: bool| {
                let rate = rates.entry(name).or_default();
                *rate = (rate.0 + u32::from(right), rate.1 + 1);
            };
            add("0 judged a success", judge(&example, &output).success);
            add("1 scene", wanted == drawn);
            add("2 background", wanted.background == drawn.background);
            add("3 objects, wherever they are", same_objects(&wanted.objects, &drawn.objects));
            let places = |scene: &[(_, Object)]| scene.iter().map(|(place, _)| *place).collect::<Vec<_>>();
            add("4 places, whatever is there", places(&wanted.objects) == places(&drawn.objects));
            for (place, object) in &wanted.objects {
                let Some(other) = drawn.at(*place) else { continue };
                add("5 shape", object.shape == other.shape);
                add("6 color", object.color == other.color);
                add("7 texture", object.texture == other.texture);
                add("8 size", object.size == other.size);
            }
            if index < 12 {
                let inputs = example.references.iter().chain(&example.image);
                let row = inputs.fold(Row::new(&example.instruction), |row, input| row.with("input", input.clone()));
                rows.push(row.with("output", output).with("answer", example.target.clone()));
            }
        }
        let rates = rates
            .iter()
            .map(|(name, (right, of))| format!("{} {:.0} %", &name[2..], 100.0 * f64::from(*right) / f64::from(*of)));
        #[allow(clippy::print_stdout, reason = "an example's answer")]
        {
            println!("{:<16} {}", task.name(), rates.collect::<Vec<_>>().join(", "));
        }
    }
    if let Some(path) = sheet {
        let columns: Vec<_> = rows.chunks(12).map(sheet::sheet).collect();
        write_png(&path, &sheet::beside(&columns))?;
    }
    Ok(())
}

/// Whether two scenes have the same objects.
fn same_objects(wanted: &[(Place, Object)], drawn: &[(Place, Object)]) -> bool {
    wanted.len() == drawn.len() && wanted.iter().all(|(_, object)| drawn.iter().any(|(_, other)| object == other))
}
