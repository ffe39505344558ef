//! What `log.jsonl` of a run says: a list of steps and values for each name in it.

use ace_plus::Error;
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

/// The numbers of a run by name: `loss`, `grad_norm`, `learning_rate`, the objective's figures, `validation`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    values: BTreeMap<String, BTreeMap<u64, f64>>,
}

impl Record {
    /// Reads the log of a run.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(log: &Path) -> anyhow::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(log).map_err(Error::io(log))?))
    }

    /// A step that was logged twice, before and after a resume, counts as it was last; a line that is cut short does not
    /// count.
    fn parse(log: &str) -> Self {
        let mut record = Self::default();
        for line in log.lines() {
            let Ok(Value::Object(mut line)) = serde_json::from_str(line) else { continue };
            let Some(step) = line.remove("step").and_then(|step| step.as_u64()) else { continue };
            let figures = line.remove("figures");
            let figures = figures.iter().filter_map(Value::as_object).flatten();
            for (name, value) in line.iter().chain(figures) {
                if let Some(value) = value.as_f64() {
                    record.values.entry(name.clone()).or_default().insert(step, value);
                }
            }
        }
        record
    }

    /// Steps and values of a name, in order; nothing if the log has no such name.
    pub fn points(&self, name: &str) -> Vec<(f64, f64)> {
        let values = self.values.get(name).into_iter().flatten();
        values.map(|(step, value)| (*step as f64, *value)).collect()
    }

    /// The last step that was logged.
    pub fn last_step(&self) -> Option<u64> {
        self.values.values().filter_map(|values| values.keys().last()).max().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_counts_once_and_a_broken_line_not_at_all() {
        let log = "{\"step\":10,\"loss\":2.0,\"figures\":{\"tar\":3.0}}\n{\"step\":20,\"loss\":1.0}\n\
                   {\"step\":20,\"loss\":0.5}\n{\"step\":20,\"validation\":0.75}\nnonsense\n{\"step\":30,\"lo";
        let record = Record::parse(log);
        assert_eq!(record.points("loss"), [(10.0, 2.0), (20.0, 0.5)]);
        assert_eq!(record.points("tar"), [(10.0, 3.0)]);
        assert_eq!(record.points("validation"), [(20.0, 0.75)]);
        assert_eq!(record.last_step(), Some(20));
        assert_eq!(Record::parse("{\"step\":1,\"loss\":null}\n").points("loss"), []);
    }
}
