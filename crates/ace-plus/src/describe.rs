//! What someone who is to use a model may know of it: what it does, what it must be given, and what it does unless told.

use crate::{
    Card,
    card::Need,
    sample::{Sampler, Schedule},
};
use serde::Serialize;

/// A model as its users see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// What it is called where it is served.
    pub id: String,
    /// What it does well, one line.
    pub description: String,
    /// Under which licence its weights are.
    pub licence: String,
    /// Width and height of a picture that is made from nothing, in pixels.
    pub size: (u32, u32),
    /// Steps from noise to latents.
    pub num_steps: usize,
    /// Guidance that is embedded.
    pub guidance: f32,
    /// How a step is taken.
    pub sampler: Sampler,
    /// How the times of the steps are spread.
    pub schedule: Schedule,
    /// Kinds of edit.
    pub tasks: Vec<TaskDescription>,
    /// Adapters that can be added.
    pub loras: Vec<LoraDescription>,
    /// Words that stand for pictures.
    pub placeholders: Vec<String>,
    /// What pictures it knows, if not all kinds.
    pub about: Option<String>,
    /// Longest side of such a picture, in pixels.
    pub max_side: Option<u32>,
}

/// A kind of edit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskDescription {
    /// What it is called.
    pub name: String,
    /// What the user gives and gets, one line.
    pub about: String,
    /// What must be given beside the words; one named twice, two of it.
    pub needs: Vec<Need>,
    /// What is blanked under the mask: 1 hides it from the network, 0 shows it.
    pub repainting_scale: f32,
}

/// An adapter that can be added.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraDescription {
    /// What it is called where it is served.
    pub name: String,
}

impl Description {
    /// Of a card that is served as `id` with adapters of these names.
    pub fn of<'a>(id: &str, card: &Card, loras: impl IntoIterator<Item = &'a str>) -> Self {
        let tasks = card.task.iter().map(|task| TaskDescription {
            name: task.name.clone(),
            about: task.about.clone(),
            needs: task.needs.clone(),
            repainting_scale: task.repainting_scale,
        });
        let sampling = &card.sampling;
        Self {
            id: id.to_owned(),
            description: card.description.clone(),
            licence: card.licence.clone(),
            size: sampling.size,
            num_steps: sampling.num_steps,
            guidance: sampling.guidance,
            sampler: sampling.sampler,
            schedule: sampling.schedule,
            tasks: tasks.collect(),
            loras: loras.into_iter().map(|name| LoraDescription { name: name.to_owned() }).collect(),
            placeholders: card.text.placeholders.clone(),
            about: card.domain.as_ref().map(|domain| domain.about.clone()),
            max_side: card.domain.as_ref().and_then(|domain| domain.max_side),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_miniature_says_what_its_tasks_need() {
        let card = Card::builtin("tiny").unwrap();
        let text = serde_json::to_value(Description::of("tiny", &card, ["subject"])).unwrap();
        let recolor = text["tasks"].as_array().unwrap().iter().find(|task| task["name"] == "recolor").unwrap();
        assert_eq!(recolor["needs"], serde_json::json!(["image", "mask"]));
        assert_eq!((&text["loras"][0]["name"], &text["max_side"]), (&"subject".into(), &64.into()));
    }
}
