//! Pictures among the words of an edit.

use super::{Ace, Weights};
use crate::{
    Edit, Error, Result,
    prompt::{self, Prompter},
    sample::{Event, Observer, uncancelled},
    text::TextConditioning,
};

impl Ace {
    /// Embedded words with the edit's picture prompts behind them; the words as they are if it has none.
    ///
    /// # Errors
    /// If the card takes no pictures as prompts, a file cannot be read, or the observer cancels.
    pub fn with_pictures(
        &self,
        edit: &Edit,
        text: TextConditioning,
        observer: Observer<'_>,
    ) -> Result<TextConditioning> {
        let prompts = edit.picture_prompts();
        if prompts.is_empty() {
            return Ok(text);
        }
        let read;
        let prompter: &Prompter = match (&self.prompter, &self.weights) {
            (Some(resident), _) => resident,
            (None, Weights::Read(apart)) => {
                read = self.loader(&apart.files, apart.holding).prompter()?;
                &read
            }
            (None, Weights::Resident(_)) => {
                let what = "what reads pictures as prompts was not loaded with this model";
                return Err(Error::input(what, "use a model with Redux on top"));
            }
        };
        let mut tokens = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let poll = &mut || observer(Event::Tick);
            tokens.push(uncancelled(prompter.read(&prompt.picture, self.dtype, &self.device, poll))?);
        }
        let text = prompt::combine(&text, prompts, tokens);
        // What was read for the moment makes room for the transformer.
        self.settle(self.prompter.is_none())?;
        Ok(text)
    }
}
