//! From indices to encoded examples: out of memory, out of the cache, or encoded now.
//!
//! The networks that encode are loaded when something must be encoded, and not before. Which examples a step gets follows
//! from what it drew and from which examples are bad; how many threads there are, what is cached, and what was drawn
//! before change nothing.

use super::{
    cache::Cache,
    encode::{Encoded, EncodedPictures, EncodedText, Encoders, TextEncoders, WordEmbeddings, encode_pictures},
    example::{Dataset, Example, ExampleError},
    notices::{Notice, Notices},
    plain::Plain,
};
use crate::Error;
use ace_nn::autoencoder::AutoEncoder;
use ace_plus::{
    Card,
    text::{TokenIds, Tokenizers},
};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Examples that are worked on at once, for each core.
const AT_ONCE: usize = 4;
/// Memory for encoded examples that are in the cache too, in bytes; the rest is read again when it is drawn.
const IN_MEMORY: usize = 2 << 30;

/// What happens to an example that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadExample {
    /// The run stops and says which it is.
    #[default]
    Stop,
    /// The next one that can be used takes its place; it is said and counted.
    Skip,
}

/// Something that is loaded when it is first needed.
pub struct Lazy<'a, T> {
    value: Option<T>,
    load: Option<Box<dyn Fn() -> Result<T, Error> + Send + Sync + 'a>>,
}

impl<'a, T> Lazy<'a, T> {
    /// Loaded by `load`, as often as it was released before.
    pub fn new(load: impl Fn() -> Result<T, Error> + Send + Sync + 'a) -> Self {
        Self { value: None, load: Some(Box::new(load)) }
    }

    /// Here already; it cannot come back once it is released.
    pub fn loaded(value: T) -> Self {
        Self { value: Some(value), load: None }
    }

    /// # Panics
    /// If it was released and cannot be loaded again.
    fn get(&mut self) -> Result<&T, Error> {
        if self.value.is_none() {
            // Documented above.
            let load = self.load.as_ref().expect("it is still here, or can be loaded again");
            self.value = Some(load()?);
        }
        // Filled two lines above.
        Ok(self.value.as_ref().expect("loaded"))
    }
}

/// What is known of an example once it was looked at.
struct Known {
    ids: TokenIds,
    /// Its name in the cache.
    key: Option<String>,
    encoded: Option<Arc<Encoded>>,
}

/// An example that was looked at and, if it was not cached, read.
struct Looked {
    ids: TokenIds,
    key: Option<String>,
    found: Result<EncodedPictures, Box<Example>>,
}

/// Examples of a dataset as the transformer sees them.
pub struct Supply<'a> {
    data: &'a dyn Dataset,
    card: Card,
    tokenizers: Tokenizers,
    autoencoder: Lazy<'a, AutoEncoder>,
    /// `None` if the text encoders learn: their outputs then change with every step.
    text: Option<Lazy<'a, TextEncoders>>,
    device: Device,
    pool: Option<u64>,
    cache: Option<Cache>,
    on_bad: OnBadExample,
    notices: Notices,
    known: HashMap<u64, Known>,
    /// What instructions became, as long as an example has it: the same words are in memory once.
    words: HashMap<TokenIds, Weak<WordEmbeddings>>,
    /// Those in memory that could be read again, the oldest first, and how many bytes they take.
    order: VecDeque<u64>,
    held: usize,
    bad: HashSet<u64>,
    plain: Plain,
}

impl<'a> Supply<'a> {
    /// Examples of `data`, encoded by networks that are loaded when they are needed. `text` is `None` if the text encoders
    /// learn. Of the examples, `pool` are drawn from; `None` if there is no end to them, and none comes a second time.
    pub fn new(
        data: &'a dyn Dataset,
        (card, tokenizers): (Card, Tokenizers),
        autoencoder: Lazy<'a, AutoEncoder>,
        text: Option<Lazy<'a, TextEncoders>>,
        pool: Option<u64>,
        device: &Device,
    ) -> Self {
        Self {
            data,
            card,
            tokenizers,
            autoencoder,
            text,
            device: device.clone(),
            pool,
            cache: None,
            on_bad: OnBadExample::Stop,
            notices: Notices::default(),
            known: HashMap::new(),
            words: HashMap::new(),
            order: VecDeque::new(),
            held: 0,
            bad: HashSet::new(),
            plain: Plain::default(),
        }
    }

    /// As [`Supply::new`], with networks that are loaded.
    pub fn of(data: &'a dyn Dataset, encoders: Encoders, pool: Option<u64>) -> Self {
        let Encoders { card, autoencoder, tokenizers, text, device } = encoders;
        let (autoencoder, text) = (Lazy::loaded(autoencoder), text.map(Lazy::loaded));
        Self::new(data, (card, tokenizers), autoencoder, text, pool, &device)
    }

    /// Keeps what is encoded, and takes what is kept. Without an end to the examples there is nothing to keep.
    pub fn cached(mut self, cache: Cache) -> Self {
        self.cache = Some(cache).filter(|_| self.pool.is_some());
        self
    }

    /// What to do with examples that cannot be used, and where it is said.
    pub fn on_bad(mut self, on_bad: OnBadExample, notices: Notices) -> Self {
        (self.on_bad, self.notices) = (on_bad, notices);
        self
    }

    /// How many distinct examples are drawn from; `None` if there is no end to them.
    pub fn pool(&self) -> Option<u64> {
        self.pool
    }

    /// What is known about the model.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// The network that encodes pictures.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn autoencoder(&mut self) -> Result<&AutoEncoder, Error> {
        self.autoencoder.get()
    }

    /// An instruction, with its embeddings if the text encoders are frozen.
    ///
    /// # Errors
    /// If the text encoders cannot be loaded.
    pub fn text(&mut self, instruction: &str) -> Result<EncodedText, Error> {
        let ids = self.tokenizers.ids(instruction);
        self.text_of(&ids)
    }

    /// In the place of an instruction that nothing will read: without embeddings.
    pub fn unread_text(&self) -> EncodedText {
        EncodedText { ids: self.tokenizers.ids(""), embeds: None }
    }

    fn text_of(&mut self, ids: &TokenIds) -> Result<EncodedText, Error> {
        Ok(self.texts_of(std::slice::from_ref(ids))?.remove(0))
    }

    /// Instructions with their embeddings, each that is not known read or encoded once, on all cores.
    fn texts_of(&mut self, all: &[TokenIds]) -> Result<Vec<EncodedText>, Error> {
        let Some(text) = &mut self.text else {
            return Ok(all.iter().map(|ids| EncodedText { ids: ids.clone(), embeds: None }).collect());
        };
        let mut known: HashMap<TokenIds, Arc<WordEmbeddings>> = HashMap::new();
        let mut missing = Vec::new();
        for ids in all.iter().collect::<HashSet<_>>() {
            match self.words.get(ids).and_then(Weak::upgrade) {
                Some(words) => drop(known.insert(ids.clone(), words)),
                None => missing.push(ids.clone()),
            }
        }
        let cache = self.cache.as_ref();
        let cached = on_all_cores(&missing, |ids| cache.and_then(|cache| cache.words(ids)));
        let mut unknown = Vec::new();
        for (ids, words) in missing.into_iter().zip(cached) {
            match words {
                Some(words) => drop(known.insert(ids, Arc::new(words))),
                None => unknown.push(ids),
            }
        }
        if !unknown.is_empty() {
            let (text, device) = (text.get()?, &self.device);
            let encoded = on_all_cores(&unknown, |ids| {
                let words = text.encode(ids, device);
                if let Some(cache) = cache {
                    cache.keep_words(ids, &words);
                }
                Arc::new(words)
            });
            known.extend(unknown.into_iter().zip(encoded));
        }
        self.words.extend(known.iter().map(|(ids, words)| (ids.clone(), Arc::downgrade(words))));
        Ok(all.iter().map(|ids| EncodedText { ids: ids.clone(), embeds: known.get(ids).cloned() }).collect())
    }

    /// Makes sure that the examples of a step can be [taken](Supply::get). The answer has another index in the place of
    /// each that cannot be used: the next that can.
    ///
    /// # Errors
    /// If an example cannot be used and the run is to stop then, if none can, or if the networks cannot be loaded.
    pub fn ensure(&mut self, indices: &[u64]) -> Result<Vec<u64>, Error> {
        if self.pool.is_none() {
            let wanted: HashSet<u64> = indices.iter().copied().collect();
            self.known.retain(|index, _| wanted.contains(index));
            self.words.retain(|_, words| words.strong_count() > 0);
        }
        let resolved = self.resolve(indices, true, &mut |_, _| true)?;
        // Nobody was asked whether to go on.
        Ok(resolved.unwrap_or_default())
    }

    /// Encodes all of these examples and what takes the place of bad ones, so that nothing is left to encode when they are
    /// drawn. `progress` hears how many are done and how many there are, and answers whether to go on; so does the result.
    ///
    /// # Errors
    /// As [`Supply::ensure`].
    pub fn ensure_all(
        &mut self,
        indices: &BTreeSet<u64>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<bool, Error> {
        let indices: Vec<u64> = indices.iter().copied().collect();
        Ok(self.resolve(&indices, false, progress)?.is_some())
    }

    /// Fills in what is missing, and what takes the place of bad ones, until nothing changes. `stay` says whether all of
    /// them must then be in memory. `None` if `progress` broke off.
    fn resolve(
        &mut self,
        indices: &[u64],
        stay: bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Option<Vec<u64>>, Error> {
        let mut resolved = indices.to_vec();
        let (mut done, mut of) = (0, 0);
        let mut seen = HashSet::new();
        loop {
            let is_missing = |index: &u64| !self.is_here(*index) && !seen.contains(index);
            let missing: BTreeSet<u64> = resolved.iter().copied().filter(is_missing).collect();
            let missing: Vec<u64> = missing.into_iter().collect();
            seen.extend(missing.iter().copied());
            of += missing.len() as u64;
            for some in missing.chunks(AT_ONCE * cores()) {
                self.fill(some)?;
                self.forget(if stay { &resolved } else { &[] });
                done += some.len() as u64;
                if !progress(done, of) {
                    return Ok(None);
                }
            }
            let mut is_settled = true;
            for index in &mut resolved {
                if self.bad.contains(index) {
                    *index = self.after(*index)?;
                    is_settled = false;
                }
            }
            if is_settled {
                return Ok(Some(resolved));
            }
        }
    }

    /// The first index after a bad one that is not known to be bad.
    fn after(&self, index: u64) -> Result<u64, Error> {
        let next = |index: u64| (index + 1) % self.pool.unwrap_or(u64::MAX);
        let mut candidate = next(index);
        while self.bad.contains(&candidate) {
            if candidate == index {
                let first = self.data.example(0).err().unwrap_or_else(|| self.data.place(0).bad("it is bad"));
                return Err(ExampleError::AllBad { first: Box::new(first) }.into());
            }
            candidate = next(candidate);
        }
        Ok(candidate)
    }

    /// An example that [`Supply::ensure`] answered last.
    ///
    /// # Panics
    /// If it was not ensured.
    pub fn get(&self, index: u64) -> &Arc<Encoded> {
        // Documented above.
        self.known.get(&index).and_then(|known| known.encoded.as_ref()).expect("the example was ensured")
    }

    /// Whether it can be taken, or is known to be bad.
    fn is_here(&self, index: u64) -> bool {
        self.bad.contains(&index) || self.known.get(&index).is_some_and(|known| known.encoded.is_some())
    }

    /// Drops the networks; those that can be loaded come back when they are needed.
    pub fn release(&mut self) {
        self.autoencoder.value = None;
        if let Some(text) = &mut self.text {
            text.value = None;
        }
        // A device that works ahead would still hold them when the transformer comes.
        drop(self.device.sync());
    }

    /// Takes examples into memory.
    fn fill(&mut self, indices: &[u64]) -> Result<(), Error> {
        let looked = on_all_cores(indices, |index| self.look(*index));
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for (index, looked) in indices.iter().copied().zip(looked) {
            match looked {
                Err(error) => self.refuse(index, error)?,
                Ok(Looked { ids, key, found: Ok(pictures) }) => found.push((index, ids, key, pictures)),
                Ok(Looked { ids, key, found: Err(example) }) => missing.push((index, ids, key, example)),
            }
        }
        if !missing.is_empty() {
            let (card, cache, device, plain) = (&self.card, self.cache.as_ref(), &self.device, &self.plain);
            let autoencoder = self.autoencoder.get()?;
            let encoded = on_all_cores(&missing, |(_, _, key, example)| {
                let pictures = encode_pictures(card, autoencoder, plain, example, device)?;
                if let (Some(cache), Some(key)) = (cache, key) {
                    cache.keep_pictures(key, &pictures);
                }
                Ok::<_, ace_plus::Error>(pictures)
            });
            for ((index, ids, key, _), encoded) in missing.into_iter().zip(encoded) {
                match encoded {
                    Ok(pictures) => found.push((index, ids, key, pictures)),
                    Err(error) => self.refuse(index, self.data.place(index).bad(error.to_string()))?,
                }
            }
        }
        let ids: Vec<TokenIds> = found.iter().map(|(_, ids, ..)| ids.clone()).collect();
        let texts = self.texts_of(&ids)?;
        for ((index, ids, key, pictures), text) in found.into_iter().zip(texts) {
            self.hold(index, ids, key, Encoded { pictures: Arc::new(pictures), text });
        }
        Ok(())
    }

    /// What the cache has of an example, or else the example.
    fn look(&self, index: u64) -> Result<Looked, ExampleError> {
        let cached =
            |key: &Option<String>| self.cache.as_ref().zip(key.as_ref()).and_then(|(cache, key)| cache.pictures(key));
        if let Some(Known { ids, key, .. }) = self.known.get(&index)
            && let Some(pictures) = cached(key)
        {
            return Ok(Looked { ids: ids.clone(), key: key.clone(), found: Ok(pictures) });
        }
        let example = self.data.example(index)?;
        let ids = self.tokenizers.ids(&example.instruction);
        let key = self.cache.as_ref().map(|cache| cache.key(&example));
        let found = cached(&key).ok_or_else(|| Box::new(example));
        Ok(Looked { ids, key, found })
    }

    fn refuse(&mut self, index: u64, error: ExampleError) -> Result<(), Error> {
        let reason = match (self.on_bad, error) {
            (OnBadExample::Skip, ExampleError::Bad { reason, .. }) => reason,
            (_, error) => return Err(error.into()),
        };
        if self.bad.insert(index) {
            let (place, count) = (self.data.place(index), self.bad.len());
            self.notices.push(Notice::Skipped { place, reason, count });
        }
        Ok(())
    }

    fn hold(&mut self, index: u64, ids: TokenIds, key: Option<String>, encoded: Encoded) {
        let can_come_back = key.is_some() && self.cache.as_ref().is_some_and(Cache::is_writable);
        let known = Known { ids, key, encoded: Some(Arc::new(encoded)) };
        if can_come_back {
            self.held += known.bytes();
            self.order.push_back(index);
        }
        self.known.insert(index, known);
    }

    /// Lets go of the oldest ones that the cache has, until the rest fits into memory; `needed` stay.
    fn forget(&mut self, needed: &[u64]) {
        let mut kept = VecDeque::new();
        while self.held > IN_MEMORY
            && let Some(index) = self.order.pop_front()
        {
            if needed.contains(&index) {
                kept.push_back(index);
            } else if let Some(known) = self.known.get_mut(&index) {
                self.held -= known.bytes();
                known.encoded = None;
            }
        }
        kept.append(&mut self.order);
        self.order = kept;
    }
}

impl Known {
    fn bytes(&self) -> usize {
        self.encoded.as_ref().map_or(0, |encoded| encoded.pictures.bytes() + encoded.text.bytes())
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What `work` makes of every item, in their order, on all cores.
///
/// # Panics
/// If one of the threads panicked; it has then said why.
pub(super) fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            let result = work(item);
            // No other thread looks into this slot.
            *results[index].lock().expect("not poisoned") = Some(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..cores().min(items.len()) {
            scope.spawn(run);
        }
        run();
    });
    // The scope has ended: every item was worked on.
    results.into_iter().map(|slot| slot.into_inner().expect("not poisoned").expect("worked on")).collect()
}
