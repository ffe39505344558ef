//! An edit inside a browser: the same networks, the same request and the same seed give the same picture.
//!
//! [`Engine`] is a model whose files lie in memory, and what can be asked of it, as the HTTP server has it but with nobody
//! between. It is plain Rust, and is tested as that. `page` hands it to JavaScript: the worker of `page/worker.js` holds it,
//! and `page/engine.js` stands between the worker and the painting page.

mod engine;
mod page;

pub use engine::{Engine, Files, Made, Progress};
