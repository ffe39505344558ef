//! Where a result goes: nothing is overwritten unasked, nothing is left half-written.

use crate::{Error, Result, checkpoint::WeightFile};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Refuses a place that is taken, or that the input is in.
pub(super) fn check(input: &Path, file: &WeightFile, output: &Path, force: bool) -> Result<()> {
    if output.file_name().is_none() {
        return Err(Error::input(
            format!("{} cannot be written", output.display()),
            "name the file or folder to write",
        ));
    }
    let Ok(place) = output.canonicalize() else { return Ok(()) };
    let is_same = |path: &Path| path.canonicalize().is_ok_and(|path| path == place);
    // The whole folder would be replaced.
    let is_inside = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&place));
    if is_same(input) || is_same(file.path()) || file.files().any(is_inside) {
        let what = format!("{} is what is to be converted", output.display());
        return Err(Error::input(what, "write to another place, then move it"));
    }
    if !force {
        return Err(Error::input(format!("{} is there already", output.display()), "replace it with --force"));
    }
    if place.is_dir() {
        only_weights(output)?;
    }
    Ok(())
}

/// Refuses a folder with more in it than a network.
fn only_weights(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned();
        if name != "config.json" && !name.ends_with(".safetensors") && !name.ends_with(crate::checkpoint::INDEX) {
            let what = format!("{} has {name} in it, which is not of a network alone", folder.display());
            return Err(Error::input(what, "name a folder that does not exist yet"));
        }
    }
    Ok(())
}

/// Makes the folder that a file goes into.
pub(super) fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::create_dir_all(parent).map_err(Error::io(parent)),
        _ => Ok(()),
    }
}

/// Puts what `write` makes in a folder into the place of `output`, once it is whole.
pub(super) fn folder(output: &Path, write: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let beside = |ending: &str| -> PathBuf {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.{ending}", std::process::id()));
        output.with_file_name(name)
    };
    let (part, old) = (beside("part"), beside("old"));
    make_parent(output)?;
    fs::create_dir(&part).map_err(Error::io(&part))?;
    let mut replace = || {
        write(&part)?;
        if output.exists() {
            fs::rename(output, &old).map_err(Error::io(output))?;
        }
        fs::rename(&part, output).map_err(Error::io(output))
    };
    let done = replace();
    if done.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_dir_all(&part);
        if old.exists() && !output.exists() {
            let _ = fs::rename(&old, output);
        }
        return done;
    }
    // It was checked to be a network's, or a file; what is not removed is at least out of the way.
    let _ = if old.is_dir() { fs::remove_dir_all(&old) } else { fs::remove_file(&old) };
    Ok(())
}
