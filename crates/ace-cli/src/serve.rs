//! `ace serve`: [`ace_serve`] with the models, the device and the folders of this program.

use crate::{
    args::{MakingArgs, ModelsArgs, ServeArgs, dtype_name},
    device, mask, miniature, model,
    report::{self, Failure},
};
use ace_plus::{
    Card, Placement,
    request::{LoraRequest, ModelRequest},
};
use ace_serve::{Config, Example, Limits, Place, Room, Served, ServedLora, Server, Workshop};
use ace_weights::WeightFile;
use anyhow::Context;
use std::{
    env, fs,
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tokio::{net::TcpListener, runtime::Builder, signal, sync::oneshot};
use tracing_subscriber::EnvFilter;

/// Threads for connections; pictures are read and written on others.
const THREADS: usize = 2;
/// Jobs that are over and kept, at most.
const KEPT: usize = 1000;
/// Pictures that a card makes together, at most.
const BATCH: usize = 4;
/// Where the token stands if it is not said.
const TOKEN: &str = "ACE_TOKEN";
/// Adapters of the miniature, in a clone.
const MINIATURES: &str = "models/tiny/lora";

/// Serves until it is told to stop.
///
/// # Errors
/// If a model cannot be found or loaded, the address is taken, or it is open to others without a token.
pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    listen_to_log(args.making.log_json);
    let tokens = tokens(args)?;
    let making = &args.making;
    // A front reads no weight: they need not be on its machine.
    let files = if args.queue.is_none() { Files::Here } else { Files::Elsewhere };
    let served = served(&args.models, making, files)?;
    let (place, how) = match &args.queue {
        Some(url) => (far(url)?, format!("through workers (queue in {})", crate::worker::without_words(url))),
        None => {
            let workshop = workshop(making)?;
            let how = format!("on {} (queue in {})", workshop.device_name, args.state.display());
            (Place::Folder(args.state.clone(), workshop), how)
        }
    };
    let ids: Vec<_> = served.iter().map(|served| served.id.clone()).collect();
    let config = Config {
        example: example(&served),
        segmenter: args
            .segmenter
            .as_deref()
            .map(|file| mask::open(Some(file), making.backend.as_deref()))
            .transpose()?,
        hosts: hosts(args, &tokens),
        served,
        place,
        room: Room { waiting: args.max_queue, kept_for: Duration::from_secs(60 * args.keep_for), kept: KEPT },
        limits: Limits {
            max_pixels: args.max_pixels,
            max_body: args.max_body << 20,
            max_time: making.max_seconds.map(Duration::from_secs),
        },
        tokens,
        grace: Duration::from_secs(making.grace),
    };
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    runtime
        .context("no threads for connections")?
        .block_on(async {
            // The address first: loading may take minutes.
            let listener = TcpListener::bind(args.listen).await.map_err(|error| taken(args.listen, &error))?;
            let address = listener.local_addr().context("the listener has no address")?;
            let server = Server::open(config, &mut |note| report::note(&note)).await;
            let mut server = match &args.queue {
                Some(url) => server.with_context(|| crate::worker::without_words(url))?,
                None => server?,
            };
            server.warm()?;
            report::print(&format!("serving {} at http://{address} {how}; Ctrl-C stops", ids.join(", ")));
            Ok(server.run(listener, stop()).await?)
        })
        .map(|()| ExitCode::SUCCESS)
}

/// A queue in NATS.
#[cfg(feature = "nats")]
fn far(url: &str) -> anyhow::Result<Place> {
    crate::worker::check(url)?;
    Ok(Place::Nats(url.to_owned()))
}

/// A queue in NATS, which this build does not know.
#[cfg(not(feature = "nats"))]
fn far(url: &str) -> anyhow::Result<Place> {
    crate::worker::check(url)?;
    Err(crate::worker::without().into())
}

/// What pictures are made with.
///
/// # Errors
/// If there is no such backend.
pub fn workshop(making: &MakingArgs) -> anyhow::Result<Workshop> {
    let device = device::open(making.backend.as_deref())?;
    let device_name = device::name(&device);
    // A processor gains little, and who makes a picture again from its PNG wants the same bytes.
    let batch = making.batch.unwrap_or(if device::is_cpu(&device) { 1 } else { BATCH });
    Ok(Workshop { device, device_name, kept_models: making.keep_models, batch })
}

/// What is written down goes to stderr: `RUST_LOG` says how much of it.
pub fn listen_to_log(is_json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("ace_serve=info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Only a second log could fail, and there is none.
    let _ = match is_json {
        true => log.json().flatten_event(true).try_init(),
        false => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}

/// Who may ask.
fn tokens(args: &ServeArgs) -> anyhow::Result<Vec<String>> {
    let mut tokens = args.token.clone();
    if tokens.is_empty() {
        tokens.extend(env::var(TOKEN).ok());
    }
    if tokens.iter().any(|token| token.trim().is_empty()) {
        return Err(
            Failure::misuse("the token is empty", "choose one that nobody guesses: openssl rand -hex 24").into()
        );
    }
    if tokens.is_empty() && !args.listen.ip().is_loopback() {
        let what = format!("{} can be reached from other machines, and there is no token", args.listen.ip());
        let hint = format!("say one with --token or {TOKEN}, or listen on 127.0.0.1");
        return Err(Failure::misuse(what, hint).into());
    }
    Ok(tokens)
}

/// What the server is called. Who must know a token may call it anything.
fn hosts(args: &ServeArgs, tokens: &[String]) -> Option<Vec<String>> {
    if args.host.is_empty() && !tokens.is_empty() {
        return None;
    }
    let own = ["localhost".to_owned(), args.listen.ip().to_string()];
    let loopback = ["127.0.0.1".to_owned(), "::1".to_owned()];
    Some(own.into_iter().chain(loopback).chain(args.host.iter().cloned()).collect())
}

/// Where the weights are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// In this process: they must be there.
    Here,
    /// By workers.
    Elsewhere,
}

/// Every model that clients can ask for.
///
/// # Errors
/// If one cannot be found.
pub fn served(models: &ModelsArgs, making: &MakingArgs, files: Files) -> anyhow::Result<Vec<Served>> {
    let held = |request: ModelRequest| ModelRequest {
        dtype: making.dtype.map(|dtype| dtype_name(dtype).to_owned()),
        quantize: making.quantize.map(|packing| packing.name().to_owned()),
        placement: making.low_memory.then_some(Placement::OneAtATime),
        ..request
    };
    let mut all = vec![one(held(models.model.request()), &models.lora, files)?];
    for name in &models.also {
        let request = ModelRequest { name: Some(name.clone()), ..ModelRequest::default() };
        all.push(one(held(request), &[], files)?);
    }
    for (at, served) in all.iter().enumerate() {
        if all[..at].iter().any(|before| before.id == served.id) {
            let what = format!("{} is served twice", served.id);
            return Err(Failure::misuse(what, "clients ask for a model by its card's name").into());
        }
    }
    Ok(all)
}

fn one(mut request: ModelRequest, loras: &[String], files: Files) -> anyhow::Result<Served> {
    let base = Path::new("");
    let model = model::keeping_text(model::find(&request, base)?);
    if files == Files::Here {
        model.files()?;
    }
    let id = model.card().name.clone();
    let here = env::current_dir().context("there is no current folder")?;
    request.name.get_or_insert_with(|| id.clone());
    request.weights = request.weights.map(|folder| here.join(folder));
    let mut loras = loras.iter().map(|text| lora(text, files)).collect::<anyhow::Result<Vec<_>>>()?;
    if Card::builtin(&id).is_ok_and(|card| card.name == ace_plus::model::DEFAULT) {
        loras.extend(shipped());
    }
    Ok(Served { id, model, request, loras })
}

/// `FILE`, `NAME=FILE`, either with `:WEIGHT`; without a name the file's.
fn lora(text: &str, files: Files) -> anyhow::Result<ServedLora> {
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) => (Some(name.to_owned()), rest),
        None => (None, text),
    };
    let LoraRequest { file, weight } = model::Lora::parse(rest)
        .map_err(|problem| Failure::misuse(format!("--lora {text}: {problem}"), "say NAME=FILE"))?
        .request();
    if files == Files::Here {
        WeightFile::open(&file.path)?;
    }
    let stem = || file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ServedLora { name: name.unwrap_or_else(stem), path: file.path.clone(), weight })
}

/// The miniature's own adapters, where a clone has them.
fn shipped() -> Vec<ServedLora> {
    let folder = model::shipped(Path::new(MINIATURES));
    let mut paths: Vec<PathBuf> = (fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "safetensors"))
        .collect();
    paths.sort();
    let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    paths.into_iter().map(|path| ServedLora { name: name(&path), path, weight: 1.0 }).collect()
}

/// The shipped example, if the miniature is what is served first.
fn example(served: &[Served]) -> Option<Example> {
    served.first().filter(|served| served.id == ace_plus::model::DEFAULT)?;
    let [(_, image), (_, mask)] = miniature::EXAMPLE;
    Some(Example {
        image: image.to_vec(),
        mask: mask.to_vec(),
        instruction: miniature::INSTRUCTION.trim().to_owned(),
        task: miniature::TASK.to_owned(),
    })
}

fn taken(address: SocketAddr, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot listen on {address}: {error}"), "choose another with --listen; port 0 takes any")
}

/// Ctrl-C, or what a service manager sends. A second Ctrl-C ends at once.
pub async fn stop() {
    let (stopped, told) = oneshot::channel();
    tokio::spawn(async move {
        asked().await;
        report::note(
            "stopping; what is being made is finished, what waits stays in the queue; Ctrl-C again ends at once",
        );
        // The server may have failed meanwhile.
        let _ = stopped.send(());
        asked().await;
        std::process::exit(crate::INTERRUPTED_TWICE);
    });
    // Its sender is dropped only with the runtime.
    let _ = told.await;
}

#[cfg(unix)]
async fn asked() {
    match signal::unix::signal(signal::unix::SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        // Ctrl-C is still heard.
        Err(_) => drop(signal::ctrl_c().await),
    }
}

#[cfg(not(unix))]
async fn asked() {
    // Without a handler Ctrl-C ends the program, which is what is asked.
    let _ = signal::ctrl_c().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_has_a_name_a_file_and_a_weight() {
        let file = model::shipped(Path::new("models/tiny/lora/subject.safetensors"));
        let file = file.display();
        let read = |text: String| lora(&text, Files::Here).map(|lora| (lora.name, lora.weight)).unwrap();
        assert_eq!(read(format!("{file}")), ("subject".to_owned(), 1.0));
        assert_eq!(read(format!("item={file}:0.5")), ("item".to_owned(), 0.5));
        assert!(lora("item=missing.safetensors", Files::Here).is_err());
        // A front does not read it.
        assert_eq!(lora("missing.safetensors:2", Files::Elsewhere).unwrap().name, "missing");
    }
}
