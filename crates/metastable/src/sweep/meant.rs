//! A sweep as it is meant: axes, seeds and columns, and the config of every point.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::axis::{Axis, axes};
use super::keep::{Kept, kept};
use super::overlay::overlays;
use super::report::Overlay;
use super::written::{Rows, Seeds, SweepConfig};
use crate::document::{from_tree, read_tree, set_key};
use crate::error::LabError;
use crate::simulate::{self, SimulateConfig};

/// More points than this are refused: they would be a typing error, and their table would not fit into memory.
const MOST_POINTS: u64 = 10_000_000;

/// A validated sweep.
#[derive(Debug)]
pub struct Sweep {
    /// The config as resolved: title filled in, base inline with absolute file names.
    pub config: SweepConfig,
    /// What varies, the first slowest.
    pub axes: Vec<Axis>,
    /// The seeds, which vary fastest.
    pub seeds: Vec<u64>,
    /// What is kept.
    pub kept: Vec<Kept>,
    overlays: Vec<Overlay>,
    /// Files that the points read: the name that the config gives, and where that is.
    pub inputs: Vec<(String, PathBuf)>,
    /// The config file.
    file: PathBuf,
    /// The file that errors about the simulation name.
    base_file: PathBuf,
    base: Table,
}

/// The coordinates of a point: a value of every axis, and a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which value of every axis.
    pub at: Vec<usize>,
    /// The seed.
    pub seed: u64,
}

impl Sweep {
    /// Reads and validates a sweep: everything that can be said without running a point is said here.
    ///
    /// # Errors
    /// [`LabError`] naming the key and what was expected, and, where no point of the sweep is a valid simulation, the
    /// first point's error.
    pub fn read(file: &Path, overrides: &[String], seed: Option<u64>) -> Result<Self, LabError> {
        let config: SweepConfig = from_tree(file, read_tree(file, overrides)?)?;
        Self::new(config, file, seed)
    }

    /// As [`Sweep::read`], for a config that was read already.
    ///
    /// # Errors
    /// As [`Sweep::read`].
    pub fn new(mut config: SweepConfig, file: &Path, seed: Option<u64>) -> Result<Self, LabError> {
        let wrong =
            |key: &str, expected: &str, found: String| LabError::wrong_value(file, key, expected.to_owned(), found);
        if config.title.is_none() {
            config.title = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        }
        if !(config.confidence > 0.0 && config.confidence < 1.0) {
            return Err(wrong("confidence", "a number between 0 and 1", config.confidence.to_string()));
        }
        let (mut base, base_file) = base(&config, file)?;
        for (key, value) in &config.set {
            set_key(&mut base, key, value.clone())
                .map_err(|(expected, found)| wrong(&format!("set.{key}"), &expected, found))?;
        }
        if let Some(seed) = seed {
            base.insert("seed".into(), integer(seed, "--seed")?);
        }
        let axes = axes(&config.vary, file)?;
        let seeds = seeds(config.seeds.as_ref(), &base, file)?;
        let kept = kept(&config.keep, config.rows, &base, file)?;
        let points = axes.iter().try_fold(seeds.len() as u64, |all, axis| all.checked_mul(axis.values.len() as u64));
        if points.is_none_or(|points| points > MOST_POINTS) {
            let sizes: Vec<String> = axes.iter().map(|axis| axis.values.len().to_string()).collect();
            let found = format!("{} x {} seeds", sizes.join(" x "), seeds.len());
            return Err(wrong("vary", &format!("at most {MOST_POINTS} points"), found));
        }
        let inputs = super::inputs::files(&base, &axes, &base_file);
        (config.base, config.set) = (Value::Table(base.clone()), Table::new());
        let overlays = overlays(&config.overlay, &axes, &base, file)?;
        let sweep = Self { config, axes, seeds, kept, overlays, inputs, file: file.to_owned(), base_file, base };
        sweep.require_a_valid_point()?;
        Ok(sweep)
    }

    /// The number of points.
    pub fn points(&self) -> usize {
        // At most `MOST_POINTS`.
        self.axes.iter().map(|axis| axis.values.len()).product::<usize>() * self.seeds.len()
    }

    /// The coordinates of a point.
    pub fn place(&self, point: usize) -> Place {
        let mut rest = point / self.seeds.len();
        let mut at = vec![0; self.axes.len()];
        for (place, axis) in at.iter_mut().zip(&self.axes).rev() {
            *place = rest % axis.values.len();
            rest /= axis.values.len();
        }
        Place { at, seed: self.seeds[point % self.seeds.len()] }
    }

    /// The simulation of a point, as written.
    ///
    /// # Errors
    /// [`LabError`] naming the key of the simulation.
    pub fn simulation(&self, point: usize) -> Result<SimulateConfig, LabError> {
        let place = self.place(point);
        let mut tree = self.base.clone();
        for (axis, at) in self.axes.iter().zip(&place.at) {
            for (key, value) in &axis.values[*at].set {
                set_key(&mut tree, key, value.clone())
                    .map_err(|(expected, found)| LabError::wrong_value(&self.base_file, key, expected, found))?;
            }
        }
        tree.insert("seed".into(), integer(place.seed, "seeds")?);
        from_tree(&self.base_file, tree)
    }

    /// The curves of theory over its figures.
    pub fn overlays(&self) -> &[Overlay] {
        &self.overlays
    }

    /// The config file, for messages.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The file whose folder the simulation's files are relative to.
    pub fn base_file(&self) -> &Path {
        &self.base_file
    }

    /// A sweep none of whose points can be run is a wrong config; one bad point is a result.
    fn require_a_valid_point(&self) -> Result<(), LabError> {
        let mut first = None;
        for point in 0..self.points() {
            match self.simulation(point).and_then(|config| simulate::check(config, &self.base_file)) {
                Ok(()) => return Ok(()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// The resolved config: the sweep again, from anywhere.
    ///
    /// # Errors
    /// [`LabError::Resolve`]; [`LabError::Read`] if the working folder is unknown.
    pub fn resolved(&self) -> Result<String, LabError> {
        super::inputs::resolved(&self.config, &self.base_file)
    }
}

/// The simulation's tree, and the file it stands in.
fn base(config: &SweepConfig, file: &Path) -> Result<(Table, PathBuf), LabError> {
    match &config.base {
        Value::Table(table) => Ok((table.clone(), file.to_owned())),
        Value::String(name) => {
            let path = file.parent().unwrap_or(Path::new("")).join(name);
            Ok((read_tree(&path, &[])?, path))
        }
        other => {
            let expected = "the name of a config of simulate, or such a config as a table".to_owned();
            Err(LabError::wrong_value(file, "base", expected, other.type_str().to_owned()))
        }
    }
}

fn integer(seed: u64, name: &str) -> Result<Value, LabError> {
    i64::try_from(seed).map(Value::Integer).map_err(|_| LabError::Setting {
        name: name.into(),
        expected: "at most 9223372036854775807, the largest integer of TOML".into(),
        found: seed.to_string(),
    })
}

fn seeds(written: Option<&Seeds>, base: &Table, file: &Path) -> Result<Vec<u64>, LabError> {
    let wrong = |expected: &str, found: String| Err(LabError::wrong_value(file, "seeds", expected.to_owned(), found));
    // What is no seed is said when the first point is read.
    let own = base.get("seed").and_then(Value::as_integer).and_then(|seed| u64::try_from(seed).ok()).unwrap_or(0);
    match written {
        None => Ok(vec![own]),
        Some(Seeds::Count(0)) => wrong("at least one seed", "0".into()),
        Some(Seeds::Count(count)) if *count > MOST_POINTS => {
            wrong(&format!("at most {MOST_POINTS} seeds"), count.to_string())
        }
        Some(Seeds::Count(count)) => match own.checked_add(*count) {
            Some(end) => Ok((own..end).collect()),
            None => wrong("seeds that fit into 64 bits", format!("{count} from {own}")),
        },
        Some(Seeds::List(list)) => match list.iter().enumerate().find(|(k, seed)| list[..*k].contains(seed)) {
            _ if list.is_empty() => wrong("at least one seed", "an empty list".into()),
            Some((_, twice)) => wrong("every seed once", format!("{twice} twice")),
            None => Ok(list.clone()),
        },
    }
}

/// Whether rows are saved times.
pub(super) fn is_by_time(config: &SweepConfig) -> bool {
    config.rows == Rows::Time
}
