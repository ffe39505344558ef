//! The engine as JavaScript sees it. Errors are `Error`s with `hint` and `code`; a panic ends the engine, and what it said is
//! left in the global `aceFailure`.

use crate::engine::{self, Files};
use ace_plus::{Error, ErrorKind, Message};
use burn::tensor::Device;
use js_sys::{Array, Float32Array, Function, Object, Reflect, Uint8Array};
use serde_json::Value;
use std::panic;
use wasm_bindgen::prelude::*;

/// What a function in here gives to JavaScript.
type Answer<T> = Result<T, JsValue>;

/// A model in the making: its files, one after the other.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Loading(Files);

#[wasm_bindgen]
impl Loading {
    /// Without any file yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        panic::set_hook(Box::new(|panic| {
            // Nobody is left to be told if this fails.
            let _ = Reflect::set(&js_sys::global(), &"aceFailure".into(), &panic.to_string().into());
        }));
        Self::default()
    }

    /// A file by its name in the folder of the model.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.add(name, bytes);
    }

    /// Loads the model; `adapters` can be asked for, and their files added later.
    ///
    /// # Errors
    /// If a file is missing or does not fit.
    pub fn open(self, adapters: Vec<String>) -> Answer<Engine> {
        Ok(Engine(engine::Engine::open(self.0, &adapters, &Device::flex()).map_err(explained)?))
    }
}

/// A model in memory.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Engine(engine::Engine);

#[wasm_bindgen]
impl Engine {
    /// The file of an adapter.
    #[wasm_bindgen(js_name = addAdapter)]
    pub fn add_adapter(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.add_adapter(name, bytes);
    }

    /// JSON of what it can do.
    pub fn models(&self) -> String {
        self.0.models().to_string()
    }

    /// JSON of a first edit, if there is one.
    pub fn example(&self) -> Option<String> {
        self.0.example().map(Value::to_string)
    }

    /// JSON of what made a picture.
    ///
    /// # Errors
    /// If it does not say.
    pub fn provenance(&self, bytes: &[u8]) -> Answer<String> {
        Ok(engine::Engine::provenance(bytes).map_err(explained)?.to_string())
    }

    /// Makes what a message in JSON asks for. `tell` is called with the name and the JSON of each event.
    ///
    /// The answer has `pictures` (PNG), `latents` (of each, 16 channels), `seed` and `notes`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn run(&mut self, message: &str, tell: &Function) -> Answer<Object> {
        let message: Message = serde_json::from_str(message).map_err(|problem| {
            explained(Error::input(format!("the message is not understood: {problem}"), "change it"))
        })?;
        let made = self.0.run(message, &mut |progress| {
            for (name, data) in progress.events() {
                // What a listener throws is its own business.
                let _ = tell.call2(&JsValue::NULL, &name.into(), &data.to_string().into());
            }
        });
        let made = made.map_err(explained)?;
        let pictures: Array = made.pictures.iter().map(|bytes| Uint8Array::from(bytes.as_slice())).collect();
        let latents: Array = made.latents.iter().map(|numbers| Float32Array::from(numbers.as_slice())).collect();
        let notes: Array = made.notes.iter().map(JsValue::from).collect();
        let answer = Object::new();
        let seed = JsValue::from(made.seed as f64);
        for (name, value) in
            [("pictures", pictures.into()), ("latents", latents.into()), ("notes", notes.into()), ("seed", seed)]
        {
            Reflect::set(&answer, &name.into(), &value)?;
        }
        Ok(answer)
    }
}

/// An error as JavaScript has them.
fn explained(error: Error) -> JsValue {
    let code = match error.kind() {
        ErrorKind::Input => "invalid_request",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Cancelled => "cancelled",
        _ => "internal",
    };
    let thrown = js_sys::Error::new(&error.to_string());
    let hint = error.hint().map_or(JsValue::NULL, JsValue::from);
    for (name, value) in [("hint", hint), ("code", code.into())] {
        // An `Error` takes any property.
        let _ = Reflect::set(&thrown, &name.into(), &value);
    }
    thrown.into()
}
