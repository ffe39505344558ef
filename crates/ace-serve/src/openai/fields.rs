//! The fields of a request, however they come: as JSON, or as the parts of a form. Parts come in any order, and all of them
//! are collected before anything is understood.

use crate::error::Refusal;
use ace_plus::message::Picture;
use axum::{extract::Multipart, http::StatusCode};
use serde_json::{Map, Value};

/// Fields whose text is meant as it stands: the others may be numbers, booleans or lists.
const TEXTS: [&str; 16] = [
    "prompt",
    "instruction",
    "model",
    "size",
    "quality",
    "background",
    "output_format",
    "response_format",
    "user",
    "safety_identifier",
    "task",
    "sampler",
    "schedule",
    "cache",
    "compat",
    "mask_convention",
];

/// What was sent.
#[derive(Debug, Default)]
pub struct Fields {
    /// Fields by their names; pictures that came as files are under [`Fields::files`].
    pub values: Map<String, Value>,
    /// Files in their order, by the name of their field without brackets.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Fields {
    /// Those of a JSON object.
    ///
    /// # Errors
    /// If it is none.
    pub fn of_json(bytes: &[u8]) -> Result<Self, Refusal> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(values)) => Ok(Self { values, files: Vec::new() }),
            Ok(_) => Err(Refusal::bad("the body is no JSON object")),
            Err(error) => Err(Refusal::bad(format!("the body is no JSON: {error}"))),
        }
    }

    /// Those of a form.
    ///
    /// # Errors
    /// If it is broken off, broken, or too large.
    pub async fn of_form(mut form: Multipart) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        let broken = |error: axum::extract::multipart::MultipartError| {
            let status = error.status();
            let refusal = Refusal::new(status, error.body_text());
            match status {
                StatusCode::PAYLOAD_TOO_LARGE => refusal.code("body_too_large").hint("scale the pictures down"),
                _ => refusal,
            }
        };
        while let Some(part) = form.next_field().await.map_err(broken)? {
            let name = part.name().unwrap_or_default().to_owned();
            let is_file = part.file_name().is_some();
            let bytes = part.bytes().await.map_err(broken)?;
            if is_file {
                let name = name.split('[').next().unwrap_or_default().to_owned();
                fields.files.push((name, bytes.to_vec()));
                continue;
            }
            let text = String::from_utf8(bytes.to_vec());
            let text = text.map_err(|_| Refusal::bad(format!("{name} is no UTF-8 text")).param(name.clone()))?;
            fields.put(&name, text);
        }
        Ok(fields)
    }

    /// A part of a form: `name`, `name[]` for one of a list, `name[key]` for one of an object.
    fn put(&mut self, name: &str, text: String) {
        let (field, key) = match name.split_once('[') {
            Some((field, rest)) => (field, Some(rest.trim_end_matches(']'))),
            None => (name, None),
        };
        let value = match TEXTS.contains(&field) {
            true => Value::String(text),
            false => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        };
        match key {
            None => {
                self.values.insert(field.to_owned(), value);
            }
            Some("") => match self.values.entry(field).or_insert_with(|| Value::Array(Vec::new())) {
                Value::Array(list) => list.push(value),
                other => *other = value,
            },
            Some(key) => match self.values.entry(field).or_insert_with(|| Value::Object(Map::new())) {
                Value::Object(object) => drop(object.insert(key.to_owned(), value)),
                other => *other = value,
            },
        }
    }

    /// Takes a field out, of a type that is asked for. `null` is as good as absent.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn take<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Refusal> {
        match self.values.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| Refusal::bad(format!("{name}: {error}")).param(name)),
        }
    }

    /// Takes the pictures of a field out, files first: one, or a list, of `data:` URLs or of objects with an `image_url`.
    ///
    /// # Errors
    /// If one is something else.
    pub fn pictures(&mut self, name: &str) -> Result<Vec<Picture>, Refusal> {
        let mut pictures = Vec::new();
        let mut others = Vec::new();
        for (field, bytes) in std::mem::take(&mut self.files) {
            match field == name {
                true => pictures.push(Picture(bytes)),
                false => others.push((field, bytes)),
            }
        }
        self.files = others;
        let values = match self.values.remove(name) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(values)) => values,
            Some(value) => vec![value],
        };
        for value in values {
            pictures.push(picture(value).map_err(|problem| Refusal::bad(format!("{name}: {problem}")).param(name))?);
        }
        Ok(pictures)
    }
}

fn picture(value: Value) -> Result<Picture, String> {
    let url = match value {
        Value::String(url) => url,
        Value::Object(mut object) => match (object.remove("image_url"), object.contains_key("file_id")) {
            (Some(Value::String(url)), _) => url,
            (Some(Value::Object(mut inner)), _) => match inner.remove("url") {
                Some(Value::String(url)) => url,
                _ => return Err("image_url has no url".to_owned()),
            },
            (_, true) => return Err("there are no stored files here: send the picture itself".to_owned()),
            _ => return Err("an object with image_url is expected".to_owned()),
        },
        _ => return Err("a data: URL is expected".to_owned()),
    };
    Picture::try_from(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_of_a_form_become_what_they_mean() {
        let mut fields = Fields::default();
        for (name, text) in
            [("prompt", "7"), ("n", "2"), ("stream", "true"), ("loras[]", "a"), ("loras[]", "b"), ("nest[k]", "1")]
        {
            fields.put(name, text.to_owned());
        }
        let expected = json!({"prompt": "7", "n": 2, "stream": true, "loras": ["a", "b"], "nest": {"k": 1}});
        assert_eq!(Value::Object(fields.values), expected);
    }

    #[test]
    fn pictures_come_as_files_urls_and_objects_and_none_is_fetched() {
        let url = "data:image/png;base64,AAAA";
        let mut fields = Fields::of_json(
            json!({"images": [url, {"image_url": url}, {"image_url": {"url": url}}]}).to_string().as_bytes(),
        )
        .unwrap();
        fields.files = vec![("mask".into(), vec![1]), ("images".into(), vec![2])];
        assert_eq!(fields.pictures("images").unwrap().len(), 4);
        assert_eq!(fields.files.len(), 1);
        for (sent, said) in [
            (json!("http://h/a.png"), "never fetched"),
            (json!({"file_id": "f"}), "no stored files"),
            (json!(3), "data: URL"),
        ] {
            let mut fields = Fields::of_json(json!({"images": [sent]}).to_string().as_bytes()).unwrap();
            let refusal = fields.pictures("images").unwrap_err();
            assert!(refusal.message.contains(said), "{}", refusal.message);
            assert_eq!(refusal.param.as_deref(), Some("images"));
        }
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        let mut fields = Fields::of_json(br#"{"n": "many", "seed": null}"#).unwrap();
        assert_eq!(fields.take::<u32>("n").unwrap_err().param.as_deref(), Some("n"));
        assert_eq!(fields.take::<u64>("seed").unwrap(), None);
    }
}
