//! Asks a server for a job, follows it, and fetches its picture.

// An example speaks to whoever runs it.
#![allow(clippy::print_stdout)]

use serde_json::Value;
use std::{
    error::Error,
    io::{BufRead, BufReader},
};

/// The picture that a message asks for, as the bytes of a PNG; `url` is the server's, such as `http://127.0.0.1:8080`.
pub fn edit(url: &str, message: &Value) -> Result<Vec<u8>, Box<dyn Error>> {
    let job: Value = serde_json::from_reader(
        ureq::post(format!("{url}/ace/v1/jobs"))
            .header("content-type", "application/json")
            .send(message.to_string())?
            .body_mut()
            .as_reader(),
    )?;
    let place = format!("{url}/ace/v1/jobs/{}", job["id"].as_str().ok_or("no id")?);
    // The stream ends with the job.
    let mut events = ureq::get(format!("{place}/events")).call()?;
    for line in BufReader::new(events.body_mut().as_reader()).lines() {
        let line = line?;
        if line.starts_with("event:") {
            println!("{line}");
        }
    }
    Ok(ureq::get(format!("{place}/pictures/0")).call()?.body_mut().read_to_vec()?)
}

// Tests call the function.
#[allow(dead_code)]
fn main() -> Result<(), Box<dyn Error>> {
    let message = serde_json::json!({ "instruction": "a big red circle on a gray background", "seed": 1 });
    std::fs::write("circle.png", edit("http://127.0.0.1:8080", &message)?)?;
    Ok(())
}
