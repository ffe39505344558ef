//! OpenAI's images API, as its official clients speak it, with our own fields beside theirs.

mod fields;
mod mask;
mod reply;

use crate::{
    app::App,
    error::Refusal,
    guard::Client,
    jobs::Shown,
    native,
    submit::{self, Order},
    watch::{self, Attended, Watch},
};
use ace_plus::{
    Message,
    message::{NamedLora, Picture},
};
use axum::{
    Extension, Json,
    body::Bytes,
    extract::{FromRequest, Multipart, Path, Request, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use fields::Fields;
use mask::Convention;
use reply::{Format, Kind, Reply, Told};
use serde_json::{Value, json};
use std::sync::Arc;

/// Fields of theirs that ask for nothing which could be done otherwise here.
const HARMLESS: [&str; 4] = ["user", "safety_identifier", "moderation", "style"];
/// Words by which a field says that it asks for nothing.
const INDIFFERENT: [&str; 2] = ["auto", "standard"];
/// Previews of one stream at most, as they have it.
const MOST_PARTIALS: u32 = 3;

/// Models, as they list them.
pub async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.served.iter().map(|served| entry(&app, &served.id)).collect();
    Json(json!({ "object": "list", "data": data }))
}

/// One model.
pub async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    match app.served.iter().any(|served| served.id == id) {
        true => Ok(Json(entry(&app, &id))),
        false => Err(Refusal::missing(format!("there is no model {id:?}")).code("model_not_found").param("model")),
    }
}

fn entry(app: &App, id: &str) -> Value {
    json!({ "id": id, "object": "model", "created": app.started, "owned_by": "ace" })
}

/// A picture of words.
pub async fn generations(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    make(app, client, &headers, Kind::Generation, Fields::of_json(&body)?).await
}

/// A picture of pictures and words.
pub async fn edits(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Refusal> {
    let headers = request.headers().clone();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let fields = match kind.starts_with("multipart/form-data") {
        true => {
            let form = Multipart::from_request(request, &app).await;
            Fields::of_form(form.map_err(|error| Refusal::new(error.status(), error.body_text()))?).await?
        }
        false => {
            let body = Bytes::from_request(request, &app).await;
            Fields::of_json(&body.map_err(|error| Refusal::new(error.status(), error.body_text()))?)?
        }
    };
    make(app, client, &headers, Kind::Edit, fields).await
}

async fn make(
    app: Arc<App>,
    client: Client,
    headers: &HeaderMap,
    kind: Kind,
    fields: Fields,
) -> Result<Response, Refusal> {
    let Asked { message, reply, partials } = understand(kind, fields)?;
    let shown = if reply.streams && partials > 0 { Shown::Times(partials) } else { Shown::Nothing };
    let order = Order { message, shown, attended: true, key: native::key(headers), client };
    let job = submit::submit(&app, order).await?;
    let mut watch = Watch::new(&app, Arc::clone(&job));
    let attended = Attended::new(app.desk.clone(), job);
    let mut about = reply.headers(&attended.job);
    if reply.streams {
        return Ok((about, watch::sse(Told::new(reply, attended, watch))).into_response());
    }
    while let Some(event) = watch.next().await {
        event?;
    }
    let status = attended.job.status();
    if let Some(problem) = status.error {
        return Err(problem.into());
    }
    let body = reply.body(&attended).await?;
    // Their name for the time that was computed.
    let ms = (1e3 * status.seconds.unwrap_or_default()).round() as u64;
    about.insert("openai-processing-ms", ms.into());
    Ok((about, Json(body)).into_response())
}

/// What a request asks for.
struct Asked {
    message: Message,
    reply: Reply,
    partials: u32,
}

/// Fields of theirs and of ours, told apart.
fn understand(kind: Kind, mut fields: Fields) -> Result<Asked, Refusal> {
    let streams = fields.take("stream")?.unwrap_or(false);
    let partials: u32 = fields.take("partial_images")?.unwrap_or(0);
    if partials > MOST_PARTIALS {
        let refusal = Refusal::bad(format!("partial_images is {partials}")).param("partial_images");
        return Err(refusal.hint(format!("choose 0 to {MOST_PARTIALS}")));
    }
    let format = Format::of(fields.take("output_format")?, fields.take("output_compression")?)?;
    let as_url = match fields.take::<String>("response_format")?.as_deref() {
        None | Some("b64_json") => false,
        Some("url") => true,
        Some(other) => {
            let refusal = Refusal::bad(format!("response_format is {other:?}")).param("response_format");
            return Err(refusal.hint("choose b64_json or url"));
        }
    };
    let asked = fields.take::<String>("mask_convention")?.map(|name| {
        let refusal = || Refusal::bad(format!("mask_convention is {name:?}")).param("mask_convention");
        Convention::from_name(&name).ok_or_else(|| refusal().hint("choose alpha or white"))
    });
    let size = size(&mut fields)?;
    let instruction: Option<String> = fields.take("prompt")?.or(fields.take("instruction")?);
    let Some(instruction) = instruction.filter(|words| !words.trim().is_empty()) else {
        return Err(Refusal::bad("the prompt is missing").param("prompt").hint("say what should be seen or changed"));
    };
    let mut pictures = fields.pictures("image")?;
    pictures.extend(fields.pictures("images")?);
    if kind == Kind::Edit && pictures.is_empty() {
        let refusal = Refusal::bad("the image is missing").param("image");
        return Err(refusal.hint("send the picture to edit, or ask /v1/images/generations for one from words alone"));
    }
    let mut pictures = pictures.into_iter();
    let image = pictures.next();
    let mut references: Vec<Picture> = pictures.collect();
    references.extend(fields.pictures("references")?);
    let (mask, convention) = match fields.pictures("mask")?.pop() {
        Some(Picture(bytes)) => {
            let (mask, convention) = mask::read(&bytes, asked.transpose()?)?;
            (Some(Picture(mask)), Some(convention))
        }
        None => (None, None),
    };
    let map = fields.pictures("map")?.pop();
    let loras = fields.take::<Vec<Value>>("loras")?.unwrap_or_default();
    let loras = loras.into_iter().map(lora).collect::<Result<Vec<_>, _>>()?;
    if let Some((field, _)) = fields.files.first() {
        return Err(Refusal::bad(format!("there is no field {field:?} for a picture")).param(field.clone()));
    }
    let (own, ignored) = tell_apart(fields);
    let own: Message = serde_json::from_value(own).map_err(|error| Refusal::bad(error.to_string()))?;
    let instruction = Some(instruction);
    // A picture that is edited keeps its size.
    let (asked_size, is_edit) = (size, image.is_some());
    let message = Message { instruction, image, mask, references, map, loras, size: size.filter(|_| !is_edit), ..own };
    let ignored = match (asked_size, is_edit) {
        (Some(_), true) => [vec!["size".to_owned()], ignored].concat(),
        _ => ignored,
    };
    let reply = Reply { kind, format, as_url, streams, convention, ignored };
    Ok(Asked { message, reply, partials })
}

/// `WIDTHxHEIGHT`, ours `[WIDTH, HEIGHT]`, or none.
fn size(fields: &mut Fields) -> Result<Option<(u32, u32)>, Refusal> {
    let refused = |value: &Value| {
        let refusal = Refusal::bad(format!("size is {value}")).param("size");
        refusal.hint("say it as 1024x768, width first, or auto")
    };
    match fields.values.remove("size") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text == "auto" => Ok(None),
        Some(Value::String(text)) => {
            let sides =
                text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
            sides.map(Some).ok_or_else(|| refused(&text.into()))
        }
        Some(value) => serde_json::from_value(value.clone()).map(Some).map_err(|_| refused(&value)),
    }
}

/// `NAME`, `NAME:WEIGHT`, or an object with both.
fn lora(value: Value) -> Result<NamedLora, Refusal> {
    if let Value::String(text) = &value {
        let weighted = text.rsplit_once(':').and_then(|(name, weight)| Some((name, weight.parse().ok()?)));
        return Ok(match weighted {
            Some((name, weight)) => NamedLora { name: name.to_owned(), weight: Some(weight) },
            None => NamedLora { name: text.clone(), weight: None },
        });
    }
    serde_json::from_value(value).map_err(|error| Refusal::bad(format!("loras: {error}")).param("loras"))
}

/// Fields that are ours, and the names of those that nobody here understands.
fn tell_apart(fields: Fields) -> (Value, Vec<String>) {
    let known = serde_json::to_value(Message::default()).unwrap_or_default();
    let (own, others): (serde_json::Map<_, _>, Vec<_>) =
        fields.values.into_iter().fold((serde_json::Map::new(), Vec::new()), |(mut own, mut others), (name, value)| {
            match known.get(&name) {
                Some(_) => drop(own.insert(name, value)),
                None => others.push((name, value)),
            }
            (own, others)
        });
    let asks = |(name, value): &(String, Value)| {
        let is_indifferent = value.as_str().is_some_and(|word| INDIFFERENT.contains(&word));
        !HARMLESS.contains(&name.as_str()) && !is_indifferent
    };
    let ignored = others.into_iter().filter(asks).map(|(name, _)| name).collect();
    (Value::Object(own), ignored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: Kind, body: Value) -> Result<Asked, Refusal> {
        understand(kind, Fields::of_json(body.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn fields_of_ours_and_theirs_go_together_and_unknown_ones_are_told() {
        let body = json!({
            "prompt": "a cat", "model": "tiny", "n": 2, "size": "64x32", "user": "u", "quality": "auto",
            "seed": 3, "num_steps": 4, "loras": ["a:0.5", {"name": "b"}], "colour_of_the_future": 1, "background": "transparent",
        });
        let Asked { message, reply, partials } = asked(Kind::Generation, body).unwrap();
        assert_eq!(
            (message.size, message.n, message.seed, message.num_steps),
            (Some((64, 32)), Some(2), Some(3), Some(4))
        );
        assert_eq!(message.loras[0], NamedLora { name: "a".into(), weight: Some(0.5) });
        assert_eq!(message.loras[1].weight, None);
        assert_eq!(reply.ignored, ["background", "colour_of_the_future"]);
        assert_eq!((reply.streams, partials), (false, 0));
    }

    #[test]
    fn the_first_picture_is_edited_and_the_others_are_references() {
        let url = |byte: u8| String::from(Picture(vec![byte]));
        let body =
            json!({"prompt": "p", "images": [{"image_url": url(1)}, url(2)], "references": [url(3)], "size": "8x8"});
        let Asked { message, reply, .. } = asked(Kind::Edit, body).unwrap();
        assert_eq!(
            (message.image, message.references),
            (Some(Picture(vec![1])), vec![Picture(vec![2]), Picture(vec![3])])
        );
        assert_eq!((message.size, reply.ignored), (None, vec!["size".to_owned()]));
    }

    #[test]
    fn what_is_wrong_names_its_field() {
        for (body, param) in [
            (json!({}), "prompt"),
            (json!({"prompt": " "}), "prompt"),
            (json!({"prompt": "p", "size": "large"}), "size"),
            (json!({"prompt": "p", "partial_images": 9}), "partial_images"),
            (json!({"prompt": "p", "response_format": "tape"}), "response_format"),
            (json!({"prompt": "p", "output_format": "gif"}), "output_format"),
            (json!({"prompt": "p", "stream": "perhaps"}), "stream"),
            (json!({"prompt": "p", "loras": [3]}), "loras"),
        ] {
            let refusal = asked(Kind::Generation, body).err().unwrap();
            assert_eq!(refusal.param.as_deref(), Some(param), "{}", refusal.message);
        }
        assert_eq!(asked(Kind::Edit, json!({"prompt": "p"})).err().unwrap().param.as_deref(), Some("image"));
    }
}
