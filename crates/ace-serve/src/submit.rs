//! From a message to a job: everything that can be wrong with an edit is found here, before it waits and before a weight
//! is read.

use crate::{
    app::App,
    error::Refusal,
    guard::Client,
    job::Job,
    jobs::{Ask, Shown, now},
    studio::Served,
};
use ace_plus::{
    Error, Message, Shape, picture,
    plan::{self, Extent},
};
use axum::http::StatusCode;
use std::{path::Path, sync::Arc};
use uuid::Uuid;

/// References of one edit at most.
pub const MOST_REFERENCES: usize = 16;
/// Pictures of one job at most.
pub const MOST_PICTURES: u32 = 10;
/// Letters of a key under which a client asks again.
const LONGEST_KEY: usize = 256;

/// A message with what its way says of it.
#[derive(Debug)]
pub struct Order {
    /// What is asked.
    pub message: Message,
    /// What of the way is shown.
    pub shown: Shown,
    /// Whether the client waits in an open connection.
    pub attended: bool,
    /// Under which words the client would ask for the same job again.
    pub key: Option<String>,
    /// Who asks.
    pub client: Client,
}

/// Makes a job of an order and lets it wait.
///
/// # Errors
/// If it cannot be made, or there is no room.
pub async fn submit(app: &Arc<App>, order: Order) -> Result<Arc<Job>, Refusal> {
    let checking = Arc::clone(app);
    // Pictures are decoded to see whether they can be.
    let checked = tokio::task::spawn_blocking(move || check(&checking, order)).await;
    let bug = |_| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server has a bug"));
    let (ask, files) = checked.unwrap_or_else(bug)?;
    app.desk.submit(ask, files).await
}

/// What is asked, with names and bytes of its pictures.
type Checked = (Ask, Vec<(String, Vec<u8>)>);

fn check(app: &App, Order { mut message, shown, attended, key, client }: Order) -> Result<Checked, Refusal> {
    if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > LONGEST_KEY) {
        return Err(Refusal::bad(format!("the Idempotency-Key has not 1 to {LONGEST_KEY} letters")));
    }
    let served = find(app, message.model.take().as_deref())?;
    let loras = loras(served, &mut message)?;
    let count = message.n.take().unwrap_or(1);
    if !(1..=MOST_PICTURES).contains(&count) {
        return Err(Refusal::bad(format!("n is {count}")).param("n").hint(format!("choose 1 to {MOST_PICTURES}")));
    }
    let counts = [("references", message.references.len()), ("picture_prompts", message.picture_prompts.len())];
    if let Some((field, many)) = counts.into_iter().find(|(_, many)| *many > MOST_REFERENCES) {
        let refusal = Refusal::bad(format!("there are {many} {field}")).param(field);
        return Err(refusal.hint(format!("send at most {MOST_REFERENCES}")));
    }
    if let Some((width, height)) = message.size {
        check_pixels(app.limits.max_pixels, "size", width, height)?;
    }
    // A client that says none wants another picture each time; what was taken is told.
    message.seed.get_or_insert_with(any_seed);
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let request = message.into_request(&mut |what, bytes| {
        files.push((what.to_owned(), bytes));
        Ok(what.into())
    })?;
    for (what, bytes) in &files {
        let (width, height) = picture::size_from_bytes(Path::new(what), bytes)?;
        check_pixels(app.limits.max_pixels, what, width, height)?;
    }
    let mut notes = Vec::new();
    let mut read = |name: &Path| {
        let found = files.iter().find(|(known, _)| Path::new(known) == name);
        let nothing = || Error::not_found(format!("there is no {}", name.display()), "report it");
        found.map(|(_, bytes)| bytes.clone()).ok_or_else(nothing)
    };
    let edit = request.edit_from(&mut read, &mut |note| notes.push(note.to_owned()))?;
    let card = served.model.card();
    edit.check(card)?;
    let shape = Shape::of(&edit, card)?.map(|shape| shape.text().to_owned());
    let bytes = plan::work::denoise(&card.flux, Extent::of(&edit, card)?.sequence, served.model.holds_in().into());
    let bytes = bytes.into_iter().max().unwrap_or_default();
    let id = Uuid::now_v7().simple().to_string();
    let (Client(client), model, created) = (client, served.id.clone(), now());
    let ask = Ask { id, client, key, attended, created, model, loras, request, count, shape, bytes, shown, notes };
    Ok((ask, files))
}

fn find<'a>(app: &'a App, name: Option<&str>) -> Result<&'a Served, Refusal> {
    let found = match name {
        None => app.served.first(),
        Some(name) => app.served.iter().find(|served| served.id == name),
    };
    found.ok_or_else(|| {
        let known: Vec<_> = app.served.iter().map(|served| served.id.as_str()).collect();
        let what = format!("there is no model {:?}", name.unwrap_or_default());
        Refusal::missing(what).code("model_not_found").param("model").hint(format!("served are: {}", known.join(", ")))
    })
}

/// The adapters that are asked for, by names and weights.
fn loras(served: &Served, message: &mut Message) -> Result<Vec<(String, f64)>, Refusal> {
    let mut loras = Vec::new();
    for asked in std::mem::take(&mut message.loras) {
        let Some(known) = served.loras.iter().find(|lora| lora.name == asked.name) else {
            let names: Vec<_> = served.loras.iter().map(|lora| lora.name.as_str()).collect();
            let hint = match names.is_empty() {
                true => format!("{} is served without adapters", served.id),
                false => format!("served are: {}", names.join(", ")),
            };
            return Err(Refusal::bad(format!("there is no adapter {:?}", asked.name)).param("loras").hint(hint));
        };
        let weight = asked.weight.unwrap_or(known.weight);
        if !weight.is_finite() {
            return Err(Refusal::bad(format!("the weight of {} is {weight}", asked.name)).param("loras"));
        }
        loras.push((asked.name, weight));
    }
    Ok(loras)
}

/// Refuses a picture of more than `most` pixels.
///
/// # Errors
/// If it has more.
pub fn check_pixels(most: u64, what: &str, width: u32, height: u32) -> Result<(), Refusal> {
    match u64::from(width) * u64::from(height) > most {
        true => {
            let refusal = Refusal::bad(format!("{what} has {width}×{height} pixels")).code("too_many_pixels");
            Err(refusal.param(what).hint(format!("at most {most} pixels are taken here: scale it down")))
        }
        false => Ok(()),
    }
}

/// A seed that nobody chose. Programs in JavaScript can repeat it: it has 32 bits.
fn any_seed() -> u64 {
    let (_, low) = Uuid::now_v7().as_u64_pair();
    low & u64::from(u32::MAX)
}
