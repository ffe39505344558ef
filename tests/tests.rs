//! The one test binary: what every crate promises, asked from outside. `tests/README.md` says what each module proves.

// The device, random modules, folders that clean up after themselves, the program. Whatever two modules need.
mod support;

// Numbers recorded from the reference implementations: the program itself compares them, here it is watched doing so.
mod parity;

// Published key lists: names and shapes of the real checkpoints against our modules, nothing allocated.
mod keys;

// Laws that hold for any weights and any pictures.
mod property;

// Cheaper steps: caches, and steps for what is under the mask alone.
mod course;

// Several edits as one batch.
mod together;

// Files: strict loading, whole or no writing, errors that name the key.
mod checkpoint;

// LoRA files in every trainer's spelling, beside PEFT and beside the product written out.
mod adapter;

// Other formats and spellings of weights: in, out and there and back.
mod convert;

// A folder as diffusers writes it, and an edit that diffusers made with it.
mod fill;

// The same of FLUX.1 and its Kontext and Control models, and pictures fitted as diffusers does it.
mod family;

// Pictures as prompts.
mod redux;

// Cards and the files they name: built in, on top of each other, found, fetched, looked over.
mod cards;

// The official programs' way from pixels to canvases and back.
mod official;

// Networks that draw of a picture what an edit keeps, and the files that they are published in.
mod annotate;

// Picture after picture: turns, branches, replay.
mod session;

// The autoencoder in tiles.
mod tiling;

// What is learned from: bad examples, the cache of encoded ones, looking before training.
mod data;

// Examples of different sizes on one sequence.
mod packing;

// Learning: exact resumption, adapters, widening, clipping.
mod train;

// What a recipe may ask for: weights of tokens, held-out examples, kept checkpoints, branches of chosen layers and of files.
mod learning;

// What goes wrong while learning: a full disk, a damaged checkpoint, numbers that are none.
mod surviving;

// Several processes that learn together.
mod group;

// The shipped miniature: a recorded edit and the first losses of a recipe.
mod golden;

// The program: help, messages, hints, exit codes, files written.
mod cli;

// Pictures made again from what stands in them, several at once, torch's noise.
mod sample;

// Pictures in shares, for several machines.
mod shard;

// The examples of the libraries.
mod examples;

// The planner of a training beside the memory that is counted, and the bench.
mod plan;

// Holding a model so that an edit fits: predictions, T5 layer by layer, words that are kept embedded.
mod hold;

// An edit inside a browser beside the same edit here.
mod web;

// The server: what it answers, refuses and survives.
mod serve;

// The same through programs of others, and as the documentation says.
mod clients;

// Several servers and workers on one queue, with a real NATS server.
#[cfg(feature = "nats")]
mod nats;

// The page in a real browser: painting, editing, turns, a server that is killed.
mod page;
